"""Web addresses in a growing text: where each begins and ends, and whether a reader's program loads it by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LONGEST: Final = 2048
"""An address of more characters is given in pieces of this length."""

# What hosts are made of in scripts that have letters drawn like Latin ones.
_ATOM: Final = r"A-Za-z0-9._+\-\u00b5-\u024f\u0370-\u058f\u1e00-\u1fff"
_ATOMS: Final = re.compile(rf"[{_ATOM}]+")
_LONGEST_ATOM: Final = 253
_TAIL: Final = re.compile(rf"[{_ATOM}:/\\!\[\](]*")
_TAIL_LENGTH: Final = 300
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+\-]{1,30}$")
_SCHEME_LENGTH: Final = 31
_LEFT: Final = 80

_BODY: Final = re.compile(r"[^\s<>\"`{}|^\x00-\x1f]*")
_CLOSING: Final = re.compile(r"[()\[\]']")
_PUNCTUATION: Final = ".,;:!?*_~'"
_LINKED: Final = re.compile(r"(?:\]\(\s{0,3}<?|\]:\s{0,3}<?|=\s{0,3}[\"']?|\(\s{0,3}[\"']?|<)$")
_ATTRIBUTE: Final = re.compile(
    r"(?:\b(?:src|srcset|poster|background|data|xlink:href)\s{0,3}=\s{0,3}|\burl\(\s{0,3})[\"']?$", re.IGNORECASE
)
_DEFINITION: Final = re.compile(r"\n {0,3}\[[^\[\]\n]{1,60}\]:\s{0,3}<?$")
_CODE: Final = re.compile(r"[(=%\[;]")
_DATA: Final = re.compile(r"data:(?:[\w.+-]{1,80}/[\w.+-]{1,80})?(?:;[\w.+=-]{1,80}){0,8},", re.IGNORECASE)
_PICTURE: Final = re.compile(r"data:image/(?:png|jpe?g|gif|webp|avif|bmp|x-icon)[;,]", re.IGNORECASE)
_DEEPEST: Final = 32


@dataclass(frozen=True, slots=True)
class Address:
    """One address, or a piece of one.

    Attributes:
        start: Its place in the whole text.
        text: As it is written, without what ends the sentence.
        scheme: In lower case; empty for `www.` and `//`.
        loaded: A reader's program loads it without being asked, as an image.
        cut: It is longer than `LONGEST`.
        rest: It is a further piece of such a one.
    """

    start: int
    text: str
    scheme: str
    loaded: bool = False
    cut: bool = False
    rest: bool = False


@dataclass(frozen=True, slots=True)
class Bare:
    """Something that may be a host, named without a scheme."""

    start: int
    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """The stream's state: `text` is held from character `base` on, and read up to `at`.

    Attributes:
        cleared: No address that is not given yet begins before it.
        brackets: Markdown's open ones; true for that of an image.
        target: Where the address of an image is to begin, or -1.
        rest: The scheme of the address that `at` is within because it is too long; empty for one that is let pass.
    """

    base: int = 0
    text: str = ""
    at: int = 0
    cleared: int = 0
    brackets: tuple[bool, ...] = ()
    target: int = -1
    rest: str | None = None


def openings(schemes: Sequence[str]) -> re.Pattern[str]:
    """What an address begins with, and the brackets of Markdown.

    Args:
        schemes: Those that need no `//`.
    """
    alone = "|".join(map(re.escape, schemes)) or r"(?!)"
    return re.compile(
        r"(?P<web>https?:[\\/]{0,8}(?=[^\s\\/])|(?:ftps?|wss?):[\\/]{2,8}(?=[^\s\\/]))"
        rf"|(?P<alone>(?<![A-Za-z0-9])(?:{alone}):)"
        r"|(?P<other>:[\\/]{2})"
        rf"|(?P<www>(?<![{_ATOM}@/])www\.(?=[{_ATOM}]))"
        r"|(?P<relative>(?<=[(\"'=<])[\\/]{2}(?=[^\s\\/]))"
        r"|(?P<escape>\\[\\\[\]!])"
        r"|(?P<open>!?\[)"
        r"|(?P<close>\]\(?)",
        re.IGNORECASE,
    )


class Reader:
    """Reads on by one step.

    Attributes:
        found: What was decided, in the text's order.
    """

    def __init__(self, seen: Seen, new: str, final: bool, opening: re.Pattern[str], bare: bool) -> None:
        """Begin a step.

        Args:
            seen: The state after the last one.
            new: New characters.
            final: There will be no more.
            opening: What `openings` gave.
            bare: Give hosts without a scheme too.
        """
        self.found: list[Address | Bare] = []
        self._text, self._base, self._final = seen.text + new, seen.base, final
        self._at, self._brackets, self._target, self._rest = seen.at - seen.base, seen.brackets, seen.target, seen.rest
        self._cleared, self._opening, self._bare = seen.cleared, opening, bare
        # The last characters may be the beginning of an opening, or of a host.
        tail = _TAIL.match(self._text[: -_TAIL_LENGTH - 1 : -1])
        held = 0 if final or tail is None else tail.end()
        self._limit = max(self._at, len(self._text) - held)
        self._margin = _SCHEME_LENGTH if held >= _TAIL_LENGTH else 0

    def read(self) -> Seen:
        """Read as far as can be told."""
        while self._go_on():
            pass
        waits = self._rest is not None or self._at < self._limit
        cleared = max(self._cleared, self._base + self._at - (0 if waits else self._margin))
        keep = max(0, min(cleared - self._base, self._at) - _LEFT)
        text = self._text[keep:]
        return Seen(self._base + keep, text, self._base + self._at, cleared, self._brackets, self._target, self._rest)

    def _go_on(self) -> bool:
        """Read one thing; false when the next one cannot be told yet."""
        if self._rest is not None:
            return self._read_rest(self._rest)
        match = self._opening.search(self._text, self._at)
        if match is None or match.start() >= self._limit:
            self._hosts(self._limit)
            self._at = max(self._at, self._limit)
            return False
        kind = match.lastgroup
        if kind in ("open", "close", "escape"):
            self._hosts(match.start())
            self._bracket(match)
            self._at = match.end()
            return True
        start, scheme = match.start(), match[0].rstrip("/\\").removesuffix(":").lower()
        if kind == "other":
            named = _SCHEME.search(self._text[max(0, start - _SCHEME_LENGTH) : start])
            scheme = named[0].lower() if named else ""
            start -= len(scheme)
        elif kind in ("www", "relative"):
            scheme = ""
        self._hosts(start)
        if kind == "other" and not scheme:
            self._at = match.end()
            return True
        return self._read_address(match, start, scheme)

    def _read_address(self, opening: re.Match[str], start: int, scheme: str) -> bool:
        text = self._text
        body = opening.end()
        end = self._body_end(body, start + LONGEST)
        closed = self._closed_at(body, end, quoted=text[start - 1 : start] == "'")
        cut = closed is None and end == start + LONGEST
        if closed is None and not cut and end == len(text) and not self._final:
            self._at = max(self._at, start)
            return False
        end = end if closed is None else closed
        if not cut:
            end = body + len(text[body:end].rstrip(_PUNCTUATION))
        left = ("\n" if self._base == 0 and start <= _LEFT else "") + text[max(0, start - _LEFT) : start]
        linked = _LINKED.search(left) is not None
        if end == body or not (cut or self._is_address(opening, text[start:end], linked)):
            self._at = body
            return True
        self._at = end
        picture = scheme == "data" and _PICTURE.match(text, start) is not None
        if cut:
            self._rest = "" if picture else scheme or "www"
        if not picture:
            loaded = bool(self._is_target(start) or _ATTRIBUTE.search(left) or _DEFINITION.search(left))
            self.found.append(Address(self._base + start, text[start:end], scheme, loaded, cut))
        return True

    def _is_address(self, opening: re.Match[str], text: str, linked: bool) -> bool:
        """Whether what follows an opening makes an address of it; prose about a scheme is none."""
        if opening.lastgroup == "web":
            return linked or opening[0].endswith(("/", "\\"))
        if opening.lastgroup != "alone":
            return True
        if opening[0].lower() == "data:":
            return _DATA.match(text) is not None
        rest = text[len(opening[0]) :]
        return linked or rest.startswith("//") or _CODE.search(rest) is not None

    def _read_rest(self, scheme: str) -> bool:
        """Read on within an address that is too long; its pieces are counted from its start."""
        end = self._body_end(self._at, self._at + LONGEST)
        full = end == self._at + LONGEST
        if not full and end == len(self._text) and not self._final:
            if not scheme:
                self._at = end
            return False
        if scheme and end > self._at:
            self.found.append(Address(self._base + self._at, self._text[self._at : end], scheme, cut=True, rest=True))
        self._at = end
        if not full:
            self._rest = None
        self._limit = max(self._limit, end)
        return True

    def _body_end(self, start: int, stop: int) -> int:
        body = _BODY.match(self._text, start, stop)
        return body.end() if body else start

    def _closed_at(self, start: int, end: int, quoted: bool) -> int | None:
        """The bracket or quotation mark, opened before the address, that closes it."""
        depth = {")": 0, "]": 0}
        for mark in _CLOSING.finditer(self._text, start, end):
            char = mark[0]
            if char in "([":
                depth[")" if char == "(" else "]"] += 1
            elif char == "'":
                if quoted:
                    return mark.start()
            elif depth[char] == 0:
                return mark.start()
            else:
                depth[char] -= 1
        return None

    def _bracket(self, match: re.Match[str]) -> None:
        if match.lastgroup == "open":
            self._brackets = (*self._brackets, match[0] == "![")[-_DEEPEST:]
        elif match.lastgroup == "close":
            image = bool(self._brackets) and self._brackets[-1]
            self._brackets = self._brackets[:-1]
            self._target = self._base + match.end() if image and match[0] == "](" else -1

    def _is_target(self, start: int) -> bool:
        before = self._base + start - self._target
        return self._target >= 0 and 0 <= before <= 8 and not self._text[start - before : start].strip(" \t\r\n<")

    def _hosts(self, end: int) -> None:
        """Give the bare hosts that begin before a place."""
        text, begin = self._text, self._at
        if not self._bare or text.find(".", begin, end) < 0:
            return
        for atom in _ATOMS.finditer(text, begin):
            start = atom.start()
            if start >= end:
                return
            before = text[start - 1 : start]
            if len(atom[0]) > _LONGEST_ATOM or before in ("@", "/", "\\") or (before and _ATOMS.match(before)):
                continue
            host = atom[0].strip("._+-")
            if "." in host:
                self.found.append(Bare(self._base + start + atom[0].index(host), host))
