"""Decoders: each finds its encoded runs in a text and says what they decode to, where that is text.

A run may have been cut anywhere, because streams are read in pieces: base64 and hexadecimal are tried in every
alignment, and what a cut left of an escape stays as it is.
"""

from __future__ import annotations

import binascii
import html
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from safety_kit.types import Span
from safety_kit.views.language import break_gain, is_common, is_language
from safety_kit.views.mapped import Edit, without_overlaps

LONG: Final = 12
"""Bytes, all of them printable, that are taken for text even if they do not read as language: a key, a number."""


@dataclass(slots=True)
class Work:
    """Counts the characters that were visited: each time that a function reads one counts."""

    characters: int = 0


# Text in UTF-8, found in bytes by its form.
_SHOWN = (
    rb"[\t\n\r\x20-\x7e]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|\xf0[\x90-\xbf][\x80-\xbf]{2}|"
    rb"\xf3\xa0[\x80-\x81][\x80-\xbf]"
)
_SEGMENT: Final = re.compile(rb"(?:" + _SHOWN + rb"){4,}")

_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{40,}(?:\r?\n[A-Za-z0-9+/_-]{4,})*|[A-Za-z0-9+/_-]{8,}")
_PADDING: Final = re.compile(r"={1,2}")
_BASE64_MIX: Final = re.compile(r"[a-z0-9+/_-][A-Z]")
_USUAL: Final = re.compile(r"[A-Za-z0-9 \n@.:/&#;%=\\_-]")
"""Of a text, an address, a key, or what is encoded once more."""
_LATIN: Final = re.compile(r"[A-Za-z]")
_URLSAFE: Final = str.maketrans("-_", "+/")
_LINE_END: Final = re.compile(r"[\r\n]+")

_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2}(?:[ :,-](?=[0-9A-Fa-f]{2}(?![0-9A-Za-z])))?){5,}[0-9A-Fa-f]?")
_HEX_PAIRS: Final = re.compile(r"[0-9A-Fa-f]{2}")

_HEX_LETTER: Final = re.compile(r"[A-Fa-f]")

_PERCENT: Final = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,11}://\S*")
_QUOTED: Final = re.compile(r"(?:=[0-9A-F]{2}|=\r?\n)+")
_QUOTED_PART: Final = re.compile(r"=([0-9A-F]{2})|=\r?\n")
_LEFT: Final = re.compile(r"[A-Za-z]+\Z")
_RIGHT: Final = re.compile(r"[A-Za-z]+")
_ENTITY: Final = re.compile(r"&(?:#(?:0*\d{1,7}|[xX]0*[0-9A-Fa-f]{1,6});?|[A-Za-z][A-Za-z0-9]{1,30};)")
_ZEROS: Final = re.compile(r"\A(&#[xX]?)0+(?=[0-9A-Fa-f])")
_ENTITY_BODY: Final = re.compile(r"(?:#[xX]?[0-9A-Fa-f]{1,16}|[A-Za-z]{2,30});")
_ESCAPE: Final = re.compile(
    r"\\{1,2}u[dD][89abAB][0-9A-Fa-f]{2}\\{1,2}u[dD][c-fC-F][0-9A-Fa-f]{2}|\\{1,2}u[0-9A-Fa-f]{4}"
    r"|\\{1,2}x[0-9A-Fa-f]{2}|\\{1,2}U[0-9A-Fa-f]{8}|\\{1,2}u\{[0-9A-Fa-f]{1,6}\}"
    r"|\\{1,2}[nrt]|\\{1,3}[\"/]"
)
_CODE: Final = re.compile(r"[0-9A-Fa-f]{1,8}")
_SHORT: Final = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "/": "/"}
_BREAK: Final = re.compile(r"\\{1,2}([nrt])(?=([^\W_])([a-z]*))")
"""Escaped white space whose letter seems to belong to the word, or the number, behind it."""
_FORMULA: Final = re.compile(r"r(?:floor|ceil|vert|brace|brack|group|ho)|t(?:frac|binom)|n(?:mid|parallel|prec|succ)")
"""Commands of formulas that would read better without their first letter."""
_BREAK_GAIN: Final = 1.5
"""Nats that a text must gain."""
_JSON: Final = re.compile(r"\"\s{0,8}:\s{0,8}\\{0,3}[\"\[{]|\[\s{0,8}\\{0,3}\"")
_MARKUP: Final = "&<>\"'/"
_JOINERS: Final = "\u200c\u200d\u200e\u200f"


def _entities(text: str, work: Work) -> Iterator[Edit]:
    edits = [Edit(m.start(), m.end(), char) for m in _ENTITY.finditer(text) if (char := _named(m[0])) != m[0] and char]
    work.characters += sum(edit.end - edit.start for edit in edits)
    letters = sum(edit.text.isalpha() for edit in edits)
    if any(_needless(edit.text) or _opens_another(text, edit) for edit in edits) or letters >= 8:
        yield from edits


def _named(entity: str) -> str:
    """What an entity stands for; zeros before its number, of which there may be any number, left out."""
    return html.unescape(_ZEROS.sub(r"\1", entity))


def _needless(char: str) -> bool:
    """Whether a character had no need to be an entity; markup's own, and what is not ASCII, had."""
    if char.isascii():
        return char not in _MARKUP
    plain = unicodedata.normalize("NFKC", char[0])
    return (plain.isascii() and plain.isalnum()) or (unicodedata.category(char[0]) == "Cf" and char not in _JOINERS)


def _opens_another(text: str, edit: Edit) -> bool:
    """`&amp;#102;` is an entity in an entity."""
    return edit.text == "&" and _ENTITY_BODY.match(text, edit.end) is not None


def _percent(text: str, work: Work) -> Iterator[Edit]:
    urls = [m.span() for m in _URL.finditer(text)] if "://" in text else []
    work.characters += len(text)
    edits = [edit for m in _PERCENT.finditer(text) for edit in _utf8(_escaped_bytes(m.start(), m[0], 3))]
    spans = iter(urls)
    url = next(spans, None)
    needless = False
    for edit in edits:
        while url is not None and url[1] <= edit.start:
            url = next(spans, None)
        within = url is not None and url[0] <= edit.start
        # Within a URL, what must be escaped there is no disguise: a space, a separator, what is not ASCII.
        if not within or (edit.text.isascii() and (edit.text.isalnum() or edit.text == "@")):
            needless = True
            break
    if needless:
        work.characters += sum(edit.end - edit.start for edit in edits)
        yield from edits


def _quoted(text: str, work: Work) -> Iterator[Edit]:
    for match in _QUOTED.finditer(text):
        work.characters += len(match[0]) + 48
        octets: list[tuple[int, int, int]] = []
        breaks: list[Edit] = []
        for part in _QUOTED_PART.finditer(text, match.start(), match.end()):
            if part[1]:
                octets.append((int(part[1], 16), part.start(), part.end()))
            else:
                breaks.append(Edit(part.start(), part.end(), ""))
        edits = sorted([*_utf8(octets), *breaks], key=lambda edit: edit.start)
        if len(octets) >= 3 or _within_a_word(text, match, "".join(edit.text for edit in edits)):
            yield from edits


def _within_a_word(text: str, match: re.Match[str], inner: str) -> bool:
    """Whether an escape makes a word with the letters around it, which `size=20` does not."""
    left = _LEFT.search(text, max(0, match.start() - 24), match.start())
    right = _RIGHT.match(text, match.end(), match.end() + 24)
    plain = inner == "" or inner.isalpha() or inner.isspace()
    return bool(left and right and plain and is_language(left[0] + inner + right[0], 0.0))


def _escapes(text: str, work: Work) -> Iterator[Edit]:
    edits, short = [], []
    for match in _ESCAPE.finditer(text):
        work.characters += len(match[0])
        if (char := _SHORT.get(match[0].lstrip("\\"))) is not None:
            short.append(Edit(match.start(), match.end(), char))
            continue
        codes = [int(digits, 16) for digits in _CODE.findall(match[0])]
        code = codes[0] if len(codes) == 1 else 0x10000 + ((codes[0] - 0xD800) << 10) + (codes[1] - 0xDC00)
        if code <= 0x10FFFF and _shows(chr(code)):
            edits.append(Edit(match.start(), match.end(), chr(code)))
    # Source code escapes what is not ASCII, and a single sign; it does not escape letters.
    if len(edits) >= 4 or any(edit.text.isascii() and edit.text not in _MARKUP for edit in edits):
        yield from without_overlaps(edits + short)
    elif short and _hides_breaks(text, work):
        yield from short


def _hides_breaks(text: str, work: Work) -> bool:
    """Whether the letters of `\\n`, `\\r` and `\\t` read better as breaks between words: not in a path or a formula."""
    work.characters += 3 * len(text)
    breaks = list(_BREAK.finditer(text))
    if breaks and _JSON.search(text):
        return True
    gain = 0.0
    for letter, first, rest in (match.groups() for match in breaks):
        if not "a" <= first <= "z" or is_common(first + rest):  # a figure, a capital, another script; a word
            gain += _BREAK_GAIN
        elif len(rest) > 1 and not _FORMULA.fullmatch(letter + first + rest):
            gain += break_gain(letter, first)
    return gain >= _BREAK_GAIN


def _shows(char: str) -> bool:
    return char.isprintable() or char in "\t\n\r" or unicodedata.category(char) in ("Cf", "Zs", "Zl", "Zp")


def _hexadecimal(text: str, work: Work) -> Iterator[Edit]:
    for match in _HEX.finditer(text):
        run = match[0]
        weak = _HEX_LETTER.search(run) is None
        packed = run.isalnum()
        for shift in (0, 1) if packed else (0,):  # spaced pairs say themselves where they begin
            work.characters += len(run)
            body = run[shift : len(run) - (len(run) - shift) % 2] if packed else run
            raw = bytes.fromhex(body if packed else "".join(_HEX_PAIRS.findall(run)))
            spans = (
                _Pairs(match.start() + shift)
                if packed
                else [m.span() for m in _HEX_PAIRS.finditer(text, *match.span())]
            )
            edits = list(_segments(raw, spans, weak))
            if edits:
                yield from edits
                break


def _base64(text: str, work: Work) -> Iterator[Edit]:
    for match in _BASE64.finditer(text):
        work.characters += len(match[0])
        if not _BASE64_MIX.search(match[0]):  # a word, a number, a constant
            continue
        run, places = _unwrapped(match)
        for shift in range(4):
            body = run[shift:].translate(_URLSAFE)
            if len(body) % 4 == 1:
                body = body[:-1]
            work.characters += len(body)
            raw = binascii.a2b_base64(body + "=" * (-len(body) % 4))
            spans = _Sextets(places, shift, len(body))
            edits = list(_segments(raw, spans, False))
            if edits:
                yield from edits
                if edits[-1].end == match.end() and (padding := _PADDING.match(text, match.end())):
                    yield Edit(*padding.span(), "")
                break


def _unwrapped(match: re.Match[str]) -> tuple[str, Callable[[int], int]]:
    """The run without its line ends, and where each of its characters stands."""
    run, start = match[0], match.start()
    if "\n" not in run:
        return run, lambda i: start + i
    places = [start + i for i, char in enumerate(run) if char not in "\r\n"]
    return _LINE_END.sub("", run), places.__getitem__


class _Sextets:
    """The span of each byte of a base64 run, made when asked for: most runs are no text, and have no need of it."""

    def __init__(self, place: Callable[[int], int], shift: int, length: int) -> None:
        self._place, self._shift, self._length = place, shift, length

    def __getitem__(self, number: int) -> Span:
        first, last = self._shift + number * 8 // 6, self._shift + (number * 8 + 7) // 6
        return self._place(first), self._place(last) + 1


class _Pairs:
    """The same of a hexadecimal run."""

    def __init__(self, start: int) -> None:
        self._start = start

    def __getitem__(self, number: int) -> Span:
        return self._start + 2 * number, self._start + 2 * number + 2


def _segments(raw: bytes, spans: list[Span] | _Sextets | _Pairs, weak: bool) -> Iterator[Edit]:
    """The stretches of decoded bytes that are text.

    Args:
        raw: What a run decodes to.
        spans: For each byte, where it stands.
        weak: Half of all such runs look like text by chance (numbers): ask for length and language.
    """
    for match in _SEGMENT.finditer(raw):
        size = len(match[0])
        if size < 16 and (weak or size * 4 < len(raw) * 3 or (size < 8 and size < len(raw))):
            continue
        text = match[0].decode("utf-8", "replace")
        if size < LONG and not text.isascii() and _LATIN.search(text):  # a few bytes are two alphabets by chance only
            continue
        plain = len(_USUAL.findall(text)) * 5 >= len(text) * 4 or not text.isascii() or size >= 2 * LONG
        whole = size + 3 >= len(raw) and size >= LONG and plain
        if (whole and not weak) or is_language(text, 0.2 if weak else -0.3 if size >= 8 else 0.0):
            places: list[Span] = []
            at = match.start()
            for char in text:
                width = len(char.encode("utf-8"))
                places.append((spans[at][0], spans[at + width - 1][1]))
                at += width
            yield Edit(places[0][0], places[-1][1], text, places)


def _escaped_bytes(start: int, run: str, width: int) -> list[tuple[int, int, int]]:
    return [(int(run[i + 1 : i + 3], 16), start + i, start + i + width) for i in range(0, len(run), width)]


def _utf8(octets: list[tuple[int, int, int]]) -> Iterator[Edit]:
    """The printable characters that a row of escaped bytes spells; the others stay escaped."""
    i = 0
    while i < len(octets):
        lead = octets[i][0]
        width = 1 if lead < 0xC2 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        char = bytes(octet for octet, _, _ in octets[i : i + width]).decode("utf-8", "ignore")
        if len(char) == 1 and _shows(char):
            yield Edit(octets[i][1], octets[i + width - 1][2], char)
            i += width
        else:
            i += 1


DECODERS: Final[Mapping[str, Callable[[str, Work], Iterator[Edit]]]] = {
    "entities": _entities,
    "url": _percent,
    "escapes": _escapes,
    "quoted-printable": _quoted,
    "hex": _hexadecimal,
    "base64": _base64,
}
"""In the order of preference where two find the same run."""

GATES: Final = {
    "entities": r"&[#A-Za-z]",
    "url": r"%[0-9A-Fa-f]{2}",
    "escapes": r"\\[uxUnrt]",
    "quoted-printable": r"=(?:[0-9A-F]{2}|\r?\n)",
    "hex": r"(?:[0-9A-Fa-f]{2}[ :,-]?){5}",
    "base64": r"[a-z0-9+/_-][A-Z]",
}
"""What a text must have to be decoded so: RE2, over the text in ASCII with `?` for all else."""
