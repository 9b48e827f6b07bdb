"""Text to tokens and back: content never becomes a control token, and every token knows its span in the raw text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from tokenizers import AddedToken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from safety_kit.types import Span

_HTML = (
    "a|b|bbox|blockquote|body|caption|code|div|em|footer|h[1-6]|html|i|iframe|img|li|s|span|strong|sub|sup|table|tbody|td"
    "|tfoot|th|thead|tr|u|ul"
)
_CONTENT_TOKEN = re.compile(rf"[ \t\n▁]+|</?(?:{_HTML})>")
"""Added tokens that stand for ordinary text; every other added token is a control token."""

_UNUSED = re.compile(r"<unused\d+>")

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Tokens:
    """An encoded text: ids and, for each, its half-open code-point span in the text."""

    ids: tuple[int, ...]
    offsets: tuple[Span, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.ids + other.ids, self.offsets + other.offsets)

    def slice(self, start: int, stop: int) -> Tokens:
        """Tokens `start` to `stop`."""
        return Tokens(self.ids[start:stop], self.offsets[start:stop])

    @classmethod
    def join(cls, parts: Sequence[Tokens]) -> Tokens:
        """The parts, one after the other."""
        return cls(
            tuple(id_ for part in parts for id_ in part.ids), tuple(span for part in parts for span in part.offsets)
        )

    def shifted(self, by: int) -> Tokens:
        """The same tokens, their spans moved by `by` characters and never before 0."""
        return Tokens(self.ids, tuple((max(0, start + by), max(0, stop + by)) for start, stop in self.offsets))


class Vocabulary:
    """A Gemma tokenizer with its two alphabets kept apart: content and control tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._fast = tokenizer.backend_tokenizer
        added = self._fast.get_added_tokens_decoder()
        self.control = {
            token.content: id_ for id_, token in added.items() if not _CONTENT_TOKEN.fullmatch(token.content)
        }
        """Control token → id: turns, bos, eos, pad, tools, images, unused ones."""
        # The Rust tokenizer reads special tokens as plain text when told so: mark every control token as special.
        unmarked = [t for t in added.values() if t.content in self.control and not t.special]
        if unmarked:
            self._fast.add_special_tokens([AddedToken(t.content, special=True, normalized=False) for t in unmarked])
        self._fast.encode_special_tokens = True
        self._fast.no_truncation()
        self._fast.no_padding()
        self._control_ids = frozenset(self.control.values())
        # One alternative for the 6,000 unused tokens: each in full would take half a second to compile.
        longest_first = sorted((t for t in self.control if not _UNUSED.fullmatch(t)), key=len, reverse=True)
        self._control_pattern = re.compile("|".join([*map(re.escape, longest_first), _UNUSED.pattern]))

    def content(self, text: str) -> Tokens:
        """Encode any str as content: no id in the result is a control token's, whatever the text spells."""
        clean = _SURROGATE.sub("\ufffd", text)
        encoding = self._fast.encode(clean, add_special_tokens=False)
        return Tokens(tuple(encoding.ids), tuple(encoding.offsets))

    def contents(self, texts: Sequence[str]) -> list[Tokens]:
        """`content` of many texts, encoded in parallel."""
        clean = [_SURROGATE.sub("\ufffd", text) for text in texts]
        return [
            Tokens(tuple(encoding.ids), tuple(encoding.offsets))
            for encoding in self._fast.encode_batch(clean, add_special_tokens=False)
        ]

    def template(self, text: str) -> Tokens:
        """Encode a piece of a chat template, in which control tokens are meant; its spans are (0, 0)."""
        ids: list[int] = []
        at = 0
        for match in self._control_pattern.finditer(text):
            if match[0] not in self.control:
                continue
            ids += self.content(text[at : match.start()]).ids
            ids.append(self.control[match[0]])
            at = match.end()
        ids += self.content(text[at:]).ids
        return Tokens(tuple(ids), ((0, 0),) * len(ids))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, control tokens left out."""
        text: str = self._fast.decode([id_ for id_ in ids if id_ not in self._control_ids], skip_special_tokens=False)
        return text

    @cached_property
    def pairs(self) -> frozenset[str]:
        """Characters that stand side by side in some token, ▁ for a space: between any others no token goes."""
        entries = self._fast.get_vocab(with_added_tokens=True)
        return frozenset(entry[at : at + 2] for entry in entries for at in range(len(entry) - 1))

    def is_control(self, id_: int) -> bool:
        return id_ in self._control_ids


class Decoder(Protocol):
    """What turns ids into text."""

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass
class Detokenizer:
    """Text of a growing list of tokens: what comes out is final, and stops before the first stop string.

    A piece is held while its bytes are no whole character, or while it may be the start of a stop string.
    """

    vocabulary: Decoder
    stop: tuple[str, ...] = ()
    strip_start: bool = False
    stopped: bool = False
    _ids: list[int] = field(default_factory=list)
    _decoded: int = 0  # ids before it are out of the window that is decoded again
    _read: int = 0  # ids before it are in `_pending` or out
    _pending: str = ""

    def push(self, id_: int) -> str:
        """Add a token; return the text that is final now."""
        self._ids.append(id_)
        before = self.vocabulary.decode(self._ids[self._decoded : self._read])
        after = self.vocabulary.decode(self._ids[self._decoded :])
        if len(after) <= len(before) or after.endswith("\ufffd"):
            return ""  # no new whole character yet
        self._pending += after[len(before) :]
        self._decoded, self._read = self._read, len(self._ids)
        return self._emit(final=False)

    def finish(self) -> str:
        """The rest, when no token follows."""
        before = self.vocabulary.decode(self._ids[self._decoded : self._read])
        self._pending += self.vocabulary.decode(self._ids[self._decoded :])[len(before) :]
        self._decoded = self._read = len(self._ids)
        return "" if self.stopped else self._emit(final=True)

    def _emit(self, final: bool) -> str:
        # White space at the start may belong to a stop string ("\nUser:"), so it is stripped from what goes out.
        hits = [at for at in (self._pending.find(s) for s in self.stop) if at >= 0]
        if hits:
            self.stopped = True
            cut = min(hits)
        else:
            cut = len(self._pending) - (0 if final else max((self._open(s) for s in self.stop), default=0))
        out, self._pending = self._pending[:cut], "" if hits else self._pending[cut:]
        if self.strip_start:
            out = out.lstrip()
            self.strip_start = not out
        return out

    def _open(self, stop: str) -> int:
        longest = min(len(stop) - 1, len(self._pending))
        return next((n for n in range(longest, 0, -1) if self._pending.endswith(stop[:n])), 0)
