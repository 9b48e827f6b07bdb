"""Tokens as people may read them: their text, and where one character is split into several tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any
from unicodedata import category

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safety_kit.gemma.tokens import Vocabulary

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True, slots=True)
class Piece:
    """One token.

    Attributes:
        id: The token.
        text: Its characters; of a split character all of it, or ``\\xNN`` for a byte that belongs to none.
        control: Whether it is a control token, such as bos or the mark of a turn.
        part: 0 for a whole piece; else which part of a split character it is, from 1.
        parts: Of how many.
    """

    id: int
    text: str
    control: bool = False
    part: int = 0
    parts: int = 0


def pieces(ids: Sequence[int], vocabulary: Vocabulary) -> list[Piece]:
    """One piece a token: bytes that make up a character between them share its text.

    Args:
        ids: Tokens, in a row.
        vocabulary: Of the model.
    """
    tokenizer: Any = vocabulary.tokenizer
    names: list[str | None] = tokenizer.convert_ids_to_tokens(list(ids))
    made: list[Piece] = []
    # A model can have more ids than its tokenizer has names.
    tokens = [(id_, f"[{id_}]" if name is None else name) for id_, name in zip(ids, names, strict=True)]
    for is_byte, group in groupby(tokens, key=lambda token: bool(_BYTE.fullmatch(token[1]))):
        if is_byte:
            made += _characters(list(group))
        else:
            made += [Piece(id_, name.replace("▁", " "), vocabulary.is_control(id_)) for id_, name in group]
    return made


def _characters(tokens: list[tuple[int, str]]) -> list[Piece]:
    """Pieces of a run of byte tokens."""
    raw = bytes(int(name[3:5], 16) for _, name in tokens)
    made: list[Piece] = []
    at = 0
    while at < len(raw):
        for length in range(1, min(4, len(raw) - at) + 1):
            try:
                text = raw[at : at + length].decode()
            except UnicodeDecodeError:
                continue
            parts = length if length > 1 else 0
            made += [Piece(tokens[at + i][0], text, part=i + 1 if parts else 0, parts=parts) for i in range(length)]
            at += length
            break
        else:
            made.append(Piece(tokens[at][0], f"\\x{raw[at]:02x}"))
            at += 1
    return made


def visible(text: str) -> str:
    """A text in which nothing acts: control, format, separator and private characters, and what is no character, are
    written as escapes, so that no direction override, zero-width sign or terminal code reaches a reader's screen."""
    return "".join(char if char == " " or category(char)[0] not in "CZ" else escaped(char) for char in text)


def escaped(char: str) -> str:
    """A character as Python would write it."""
    return char.encode("unicode_escape", "surrogatepass").decode()
