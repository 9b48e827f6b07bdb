"""Folding: the characters of a text as a reader takes them.

Invisible characters go, tag characters and styled letters become the ASCII they spell, letters of another alphabet
within a Latin word become the Latin ones they look like. What ordinary text needs stays: joiners in the scripts that
join, emoji and flags, marks that make one letter with their base, punctuation of Chinese and Japanese.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Final

from safety_kit.views.confusables import ALIKE, CLOSE
from safety_kit.views.decoding import Work
from safety_kit.views.language import is_language
from safety_kit.views.mapped import Edit, one_for_one, without_overlaps

_GROWTH: Final = 3
"""Characters that one character may become."""

_INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
_TAGS: Final = re.compile("[\U000e0020-\U000e007e]")
_FLAG: Final = re.compile("\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f")
_SELECTOR: Final = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_JOINER: Final = re.compile("[\u200c\u200d]")
_BIDI: Final = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_BREAK: Final = "\u200b"
_JOINING: Final = re.compile(
    "[\u0590-\u109f\u1700-\u18af\u1900-\u1aaf\u1b00-\u1cff\ua840-\ua87f\ua8e0-\uabff\ufb1d-\ufdff\ufe70-\ufefc"
    "\U00010a00-\U00011fff\U0001e900-\U0001efff]"
)
_PICTURE: Final = re.compile(
    "[\u00a9\u00ae\u203c\u2049\u20e3\u2122\u2139\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff]"
)
_UNSPACED: Final = re.compile("[\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff]")

_MARKS: Final = re.compile("[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+")
_REGIONAL: Final = re.compile("[\U0001f1e6-\U0001f1ff]+")
_FOREIGN: Final = re.compile(r"[^\x00-\x7f]")
_STYLED_GATE: Final = re.compile(
    "[\u00a0\u1680\u1d2c-\u1d6a\u1d9c-\u1dbf\u2000-\u200a\u2010\u2011\u2024\u202f\u205f\u2070-\u209c\u2102-\u2138"
    "\u2139\u213c-\u2149\u249c-\u24e9\u2800\u2c7c\u2c7d\u3000\ua7f8\ua7f9\ufb00-\ufb06\ufe52-\ufe6b\uff01-\uff5e\U0001d400-\U0001d7ff"
    "\U0001f110-\U0001f189]"
)
_SPACES: Final = frozenset(
    "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u2800\u3000"
)
_PROSE: Final = frozenset("\uff0c\uff01\uff1f\uff1a\uff1b\uff08\uff09\uff5e\u3000\uff02\uff07")
"""Full-width signs of Chinese and Japanese prose: folded with the rest, but no reason to."""
_KEPT: Final = frozenset(
    "\u2103\u2109\u2114\u2116\u2117\u2120\u2121\u2122\u2126\u212a\u212b\u2135\u2136\u2137\u2138\u213b"
)
_AS_PICTURE: Final = "\ufe0f"
_DRAWN: Final = frozenset("\u2139\u24c2\U0001f170\U0001f171\U0001f17e\U0001f17f")
"""Letters that are emoji too."""
_WORD: Final = re.compile(r"\\[nrt]|\d*[^\W\d_][^\W_]*")  # the letter of an escaped white space is in no word
_LATIN: Final = re.compile(r"[A-Za-z]")
_LOOKALIKE: Final = re.compile(f"[{''.join(ALIKE)}{''.join(CLOSE)}]")
_LEAST_WHOLE: Final = 3
"""Letters of a word that may be read as Latin though none of it is."""


def fold(text: str, work: Work) -> list[Edit]:
    """Edits that fold a text; none where it says the same without.

    Args:
        text: Any text.
        work: Counts the characters read.
    """
    work.characters += 1
    if text.isascii():
        return []
    work.characters += 6 * len(text)
    edits: list[Edit] = []
    reason = False  # what is folded along the way is none: Chinese prose has full-width commas
    for step in (_invisible, _marks, _regional, _styled):
        for edit, needless in step(text):
            edits.append(edit)
            reason = reason or needless
    return without_overlaps(edits) if reason else []


def fold_lookalikes(text: str, work: Work) -> list[Edit]:
    """Edits that read letters of other alphabets as the Latin ones they look like."""
    work.characters += 1
    if text.isascii():
        return []
    work.characters += 2 * len(text)
    if not _LOOKALIKE.search(text):
        return []
    words = [match for match in _WORD.finditer(text) if match[0][0] != "\\"]
    readings = [_reading(match[0]) for match in words]
    edits = []
    for i, (match, reading) in enumerate(zip(words, readings, strict=True)):
        if reading is None or reading == match[0]:
            continue
        foreign = not _has_latin(match[0])
        if foreign and (sum(map(str.isalpha, reading)) < _LEAST_WHOLE or not _among_latin(readings, i)):
            continue
        work.characters += len(reading)
        edits += [
            Edit(match.start() + k, match.start() + k + 1, new)
            for k, (old, new) in enumerate(zip(match[0], reading, strict=True))
            if old != new
        ]
    return edits


def _reading(word: str) -> str | None:
    """The word in Latin letters, character by character; None where it stays what it is."""
    if word.isascii():
        return word
    if _has_latin(word):
        return "".join(ALIKE.get(char) or CLOSE.get(char) or char for char in word)
    letters = [ALIKE.get(char) or (char if char.isdigit() else None) for char in word]
    return None if None in letters else "".join(filter(None, letters))


def _has_latin(word: str) -> bool:
    return _LATIN.search(word) is not None


def _among_latin(readings: list[str | None], i: int) -> bool:
    """Whether no neighbour is in another alphabet for certain: Russian has words of such letters only."""
    return all(readings[k] is not None for k in (i - 1, i + 1) if 0 <= k < len(readings))


def reversed_runs(text: str, work: Work) -> list[Edit]:
    """What a right-to-left override turns round, as it is shown."""
    if "\u202e" not in text:
        return []
    edits = []
    for match in re.finditer("\u202e([^\u202c\u2069\n]*)", text):
        work.characters += len(match[0])
        start, end = match.span(1)
        if start < end:
            edits.append(Edit(start, end, match[1][::-1], [(i, i + 1) for i in reversed(range(start, end))]))
    return edits


def _invisible(text: str) -> Iterator[tuple[Edit, bool]]:
    flags = {match.start() + 1 for match in _FLAG.finditer(text)} if "\U0001f3f4" in text else set()
    for match in _INVISIBLE.finditer(text):
        start, end = match.span()
        if start in flags:
            continue
        run = match[0]
        if _TAGS.search(run):
            spelt = [(chr(ord(char) - 0xE0000), (i, i + 1)) for i, char in enumerate(run, start) if _TAGS.match(char)]
            yield Edit(start, end, "".join(char for char, _ in spelt), [span for _, span in spelt]), True
        elif smuggled := _smuggled(run, start):
            yield smuggled, True
        elif not _ordinary(text[start - 1 : start] if start else "", run, text[end : end + 1]):
            yield Edit(start, end, ""), True


def _smuggled(run: str, start: int) -> Edit | None:
    """Variation selectors number 256: a row of them spells bytes."""
    if len(run) < 4 or not all(map(_SELECTOR.match, run)):
        return None
    codes = [ord(char) for char in run]
    raw = bytes(code - 0xFE00 if code < 0xE0000 else code - 0xE0100 + 16 for code in codes)
    text = raw.decode("ascii", "replace")
    if not (text.isascii() and text.isprintable() and is_language(text, 0.0)):
        return None
    return one_for_one(start, text)


def _ordinary(left: str, run: str, right: str) -> bool:
    """Whether writing of some kind puts these characters between these two."""
    if "\u202e" in run:  # turns the letters after it round
        return False
    if not left or not right or (left.isspace() and right.isspace()):
        return True
    rest = run
    if _SELECTOR.match(rest):  # how the character before it is drawn
        if (left.isascii() and left.isalpha()) or _plain(left) is not None:
            return False
        rest = rest[1:]
    if not rest:
        return True
    if all(map(_JOINER.match, rest)):
        joins = _JOINING.match(left) or _JOINING.match(right)
        return bool(joins) or bool(_PICTURE.match(left) or _PICTURE.match(right))
    if all(map(_BIDI.match, rest)) and "\u202d" not in rest:
        return not (left.isalnum() and right.isalnum()) or bool(_JOINING.match(left) or _JOINING.match(right))
    if set(rest) == {_BREAK}:
        return bool(_UNSPACED.match(left) or _UNSPACED.match(right))
    return False


def _marks(text: str) -> Iterator[tuple[Edit, bool]]:
    """Marks that make no letter with their base: struck through, underlined, piled up."""
    for match in _MARKS.finditer(text):
        base = text[match.start() - 1 : match.start()] if match.start() else ""
        if not base or not base.isascii():
            continue
        if "\u20e3" in match[0] and base.isdigit():  # a keycap
            continue
        composed = unicodedata.normalize("NFC", base + match[0][:4])
        if len(composed) > 1:
            yield Edit(match.start(), match.end(), ""), True


def _regional(text: str) -> Iterator[tuple[Edit, bool]]:
    """Letters that come in pairs are flags; an odd one is a letter."""
    for match in _REGIONAL.finditer(text):
        if len(match[0]) % 2:
            for i, char in enumerate(match[0], match.start()):
                yield Edit(i, i + 1, chr(ord(char) - 0x1F1E6 + 65)), True


def _styled(text: str) -> Iterator[tuple[Edit, bool]]:
    if not _STYLED_GATE.search(text):
        return
    for match in _STYLED_GATE.finditer(text):
        char, start = match[0], match.start()
        if char in _SPACES:
            joined = _is_letter(text, start - 1) and _is_letter(text, start + 1)
            yield Edit(start, start + 1, " "), joined
            continue
        plain = _plain(char)
        if plain is None:
            continue
        if plain.isalnum():
            yield Edit(start, start + 1, plain), char not in _DRAWN or _beside_letter(text, start)
        else:
            inside = char not in _PROSE and _is_letter(text, start - 1) and _is_letter(text, start + 1)
            yield Edit(start, start + 1, plain), inside


def _is_letter(text: str, i: int) -> bool:
    """Whether this is a Latin letter or a figure, styled or not."""
    if not 0 <= i < len(text):
        return False
    char = _plain(text[i]) or text[i]
    return char.isascii() and char.isalnum()


def _beside_letter(text: str, i: int) -> bool:
    """Whether a letter stands next to this one; a selector after a sign is part of it."""
    before, after = i - 1, i + 1
    if before > 0 and text[before] == _AS_PICTURE:
        before -= 1
    if after < len(text) and text[after] == _AS_PICTURE:
        after += 1
    return _is_letter(text, before) or _is_letter(text, after)


@cache
def _plain(char: str) -> str | None:
    """The ASCII that a styled character stands for; None for all others."""
    if char.isascii() or not _STYLED_GATE.match(char) or char in _KEPT:
        return None
    code = ord(char)
    if 0x1F150 <= code <= 0x1F189:  # white on black, for which Unicode has no compatibility form
        letter = (code - 0x1F150) if code <= 0x1F169 else (code - 0x1F170)
        return chr(65 + letter) if 0 <= letter < 26 else None
    if char in "\u2010\u2011":
        return "-"
    plain = unicodedata.normalize("NFKC", char)
    if 0x2070 <= code <= 0x209C and plain.isdigit():  # m² and CO₂ say what they say
        return None
    return plain if plain.isascii() and 0 < len(plain) <= _GROWTH else None
