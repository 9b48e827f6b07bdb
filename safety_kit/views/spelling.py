"""Words written in other letters: spaced out, in leet, in ROT13. Undone where the result reads more like language."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from safety_kit.views.decoding import Work
from safety_kit.views.language import ROT13, is_language, odds, rot13_gain, word_gain, word_odds
from safety_kit.views.mapped import Edit, one_for_one

# Single characters with one separator between them, repeated or with a space where words end.
_BY_SPACE: Final = re.compile(r"(?<![^\s\"'(:>=|\[{\u00ab])\S(?:\s{1,4}\S(?![^\s.,;:!?\"')]))+")
_BY_SIGN: Final = re.compile(
    r"(?<![A-Za-z0-9])[\w@.$]([.\-_*|,/~+\u00b7\u2022])[\w@.$](?:\1[\w@.$])*"
    r"(?:(?:\1[ \n]\1|[ \n]{1,3})[\w@.$](?:\1[\w@.$])+)*"
    r"(?![A-Za-z0-9])"
)
_SIGNS: Final = "".join(
    rf"|\S{sign}\S{sign}\S{sign}" for sign in (r"\.", "-", "_", r"\*", r"\|", ",", "/", "~", r"\+", r"\?")
)
GATES: Final = {
    "spaced": rf"\S\s{{1,4}}\S\s{{1,4}}\S\s{{1,4}}\S{_SIGNS}",
    "leet": r"[A-Za-z][013456789@$!]+[A-Za-z]|(?:^|[^A-Za-z0-9@$!])[0134578][A-Za-z]{3}",
}
"""What a text must have to be looked at: RE2, over the text in ASCII with `?` for all else."""
_LEAST_SPACED: Final = 4
_PADDED: Final = re.compile(r"\W+\Z")
_LEAST_ENCODED: Final = 10
_OTHERS: Final = re.compile(r"[\u3040-\u9fff\uac00-\ud7af]")  # written without spaces, or spaced by tokenisers

_LEET: Final = str.maketrans("0123456789@$!", "oizeasbtbgasi")
_LEET_ELL: Final = str.maketrans("1!", "ll")
_LEET_WORD: Final = re.compile(r"[A-Za-z0-9@$!]+")
_LEET_CORE: Final = re.compile(
    r"[A-Za-z](?:[013456789@$]|!(?=[A-Za-z]{2}))+[a-z]|[A-Z](?:[013456789@$]|!(?=[A-Z]{2}))+[A-Z]"
    r"|(?<![A-Za-z0-9@$!])[0134578](?:[a-z]{3}|[A-Z]{3})"
)
_CAMEL: Final = re.compile(r"[a-z][^A-Za-z]*[A-Z]")  # no word, but an identifier or what is encoded
_LONG_RUN: Final = re.compile(r"[A-Za-z0-9+/=_-]{25,}")
_DASHED_HEX: Final = re.compile(r"[0-9A-Fa-f-]+")
_LEET_MIXED: Final = re.compile(r"(?=.*[A-Za-z])(?=.*[013456789@$!])")
_LEET_LONGEST: Final = 24
_MEASURE: Final = re.compile(
    r"\d*1st|\d*2nd|\d*3rd|\d+(?:th|s|x|k|m|g|b|kb|mb|gb|tb|ms|am|pm|px|em|kg|cm|mm|km|hz|d|p)", re.IGNORECASE
)
_HASHED: Final = re.compile(r"[0-9a-f]{7,}|[0-9A-F]{7,}")

_WORD: Final = re.compile(r"(?<![A-Za-z0-9#])[A-Za-z]+(?![A-Za-z0-9])")
_ROT13_GAIN: Final = 15.0
"""Nats by which a row of words must read better as ROT13."""
_ROT13_FIRST: Final = 2.0
"""Nats that its first word must gain."""
_ROT13_DROP: Final = 10.0
"""A row of words ends where it has lost so many nats."""


def unspace(text: str, work: Work) -> Iterator[Edit]:
    """``p a s s`` and ``p.a.s.s`` joined; a longer gap is a space between words."""
    work.characters += 2 * len(text)
    for match in (*_BY_SPACE.finditer(text), *_BY_SIGN.finditer(text)):
        work.characters += len(match[0])
        edits = _gaps(match)
        joined: list[str] = []
        at = match.start()
        for edit in edits:
            joined += text[at : edit.start], edit.text
            at = edit.end
        word = "".join(joined) + text[at : match.end()]
        if _reads(word):
            yield from edits


def _gaps(match: re.Match[str]) -> list[Edit]:
    """Edits that take the separators out."""
    run, sign = match[0], match.re.groups == 1
    gaps = []
    i = 1
    while i < len(run):
        j = i
        if sign and run[i] == match[1] and run[i + 1] not in " \n":
            j += 1
        else:
            while j < len(run) - 1 and (run[j] in (match[1], " ", "\n") if sign else run[j].isspace()):
                j += 1
        gaps.append((i, j))
        i = j + 1
    least = min(j - i for i, j in gaps)
    wide = [(" " in run[i:j] or "\n" in run[i:j]) if sign else j - i > least for i, j in gaps]
    return [
        Edit(match.start() + i, match.start() + j, " " if is_wide else "")
        for (i, j), is_wide in zip(gaps, wide, strict=True)
    ]


def _reads(word: str) -> bool:
    letters = sum(char.isalpha() for char in word)
    if letters < _LEAST_SPACED or _OTHERS.search(word):
        return False
    if is_language(word, 0.0):
        return True
    # An address, a key, what is encoded: taken apart too, and no language.
    if letters < _LEAST_ENCODED or letters * 2 < len(word):
        return False
    mixed = not word.isupper() and not word.islower() and "=" not in _PADDED.sub("", word)
    return "@" in word or mixed or any(char.isdigit() for char in word) or rot13_gain(word) >= _ROT13_GAIN


def unleet(text: str, work: Work) -> Iterator[Edit]:
    """``p4ssw0rd`` written in letters; figures that stand for themselves (``mp3``, ``x86``, ``2nd``) stay."""
    work.characters += len(text)
    weak: list[Edit] = []
    strong = False
    encoded = [
        m.span() for m in _LONG_RUN.finditer(text) if _CAMEL.search(m[0]) or _DASHED_HEX.fullmatch(m[0])
    ]  # images, keys, hashes, identifiers
    runs = iter(encoded)
    run = next(runs, None)
    for match in _LEET_WORD.finditer(text):
        while run is not None and run[1] <= match.start():
            run = next(runs, None)
        if run is not None and run[0] <= match.start():
            continue
        word = match[0].rstrip("!")
        work.characters += len(match[0])
        if len(word) > _LEET_LONGEST or not _LEET_MIXED.match(word) or _MEASURE.fullmatch(word):
            continue
        if _HASHED.fullmatch(word) or text[match.end() : match.end() + 1] == "@" or _is_address(text, match):
            continue
        plain = word.translate(_LEET)
        if "1" in word or "!" in word:
            plain = max(plain, word.translate(_LEET_ELL).translate(_LEET), key=odds)
        weak.append(one_for_one(match.start(), plain))
        core = len(word) >= 4 and _LEET_CORE.search(word) is not None and _CAMEL.search(word) is None
        strong = strong or (core and _is_word(plain.lower()))
    if strong:
        yield from weak


def _is_word(word: str) -> bool:
    """Whether letters make a word, as they stand or as ROT13."""
    pairs = len(word) + 1
    return max(word_odds(word), word_odds(word, rot13=True) - pairs / 4) >= pairs / 5


def _is_address(text: str, match: re.Match[str]) -> bool:
    """Whether the sign is the one of an e-mail address or a handle."""
    at = match[0].find("@")
    after = text[match.end() : match.end() + 1]
    return at == 0 or (at > 0 and after != "" and after in ".-_\\/:")


def unrotate(text: str, work: Work) -> Iterator[Edit]:
    """Rows of words that read as language in ROT13 and not as they stand."""
    work.characters += 2 * len(text)
    if rot13_gain(text) < _ROT13_GAIN:
        return
    work.characters += 2 * len(text)
    row: list[re.Match[str]] = []
    gain = best = 0.0
    length = 0  # words of the row up to its best
    for match in _WORD.finditer(text):
        score = word_gain(match[0]) if len(match[0]) > 1 else 0.0
        if gain + score <= 0 or gain + score < best - _ROT13_DROP:
            yield from _rotated(text, row[:length], best)
            row, gain, best, length = [], 0.0, 0.0, 0
        if not row and score < _ROT13_FIRST:
            continue
        row.append(match)
        gain += score
        if gain > best:
            best, length = gain, len(row)
    yield from _rotated(text, row[:length], best)


def _rotated(text: str, row: list[re.Match[str]], gain: float) -> Iterator[Edit]:
    if gain < _ROT13_GAIN or max(len(match[0]) for match in row) < 4:  # initials are no language
        return
    start, end = row[0].start(), row[-1].end()
    plain = text[start:end].translate(ROT13)
    if odds(plain) >= -0.2 and odds(plain) - odds(text[start:end]) >= 0.8:
        yield one_for_one(start, plain)
