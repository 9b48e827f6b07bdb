"""One linear pass that says which of many patterns can match in a text at all.

The patterns are made for backtracking engines: each is loosened until RE2 takes it, so that whatever it matches its
loosened form matches too, and all of them become one automaton. What remains is matched by the patterns themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import re2
import regex

_MEMORY: Final = 64 << 20  # what the automaton may take; it starts over, slower but right, when it needs more
_ODD: Final = re.compile(r"[^\t\n\r\x20-\x7e]")
_ASSERTION: Final = re.compile(r"\(\?(?:=|!|<=|<!)")
_CLASS: Final = r"(\\[wdsWDS]|\[[^\]\\^]*(?:\\[wds][^\]\\]*)*\])"
_NOT_BEFORE: Final = re.compile(rf"^\(\?<!{_CLASS}\)")
_NOT_AFTER: Final = re.compile(rf"\(\?!{_CLASS}\)$")
# Characters beyond ASCII that the patterns know: by letter case, as a digit, in a word, as space.
_KNOWN: Final = (
    (regex.compile(r"[\u0130\u0131]"), "i"),
    (regex.compile(r"[\u017f]"), "s"),
    (regex.compile(r"[\u212a]"), "k"),
    (regex.compile(r"[^\D\x00-\x7f]"), "0"),
    (regex.compile(r"[^\W\x00-\x7f]"), "_"),
    (regex.compile(r"[^\S\x00-\x7f]|[\x0b\x0c]"), " "),
    (regex.compile(r"[^\x00-\x7f]"), "\x7f"),
)


def skeleton(text: str) -> str:
    """The text in ASCII, character for character: what was a digit, a word character or a space still is one."""
    if _ODD.search(text):
        for known, char in _KNOWN:
            text = known.sub(char, text)
    return text


def loosened(pattern: str, ignore_case: bool) -> str:
    """An RE2 pattern that matches somewhere in the skeleton of each text in which this one does.

    Assertions are left out, but for those at the pattern's ends that exclude one character.
    """
    if found := _NOT_BEFORE.match(pattern):
        pattern = rf"(?:\A|{_other(found[1])})" + pattern[found.end() :]
    if found := _NOT_AFTER.search(pattern):
        pattern = pattern[: found.start()] + rf"(?:\z|{_other(found[1])})"
    parts = []
    place = 0
    while place < len(pattern):
        if _ASSERTION.match(pattern, place):
            place = _group_end(pattern, place)
        elif pattern[place] == "\\":
            refers = pattern[place + 1] in "123456789"
            parts.append(".*" if refers else pattern[place : place + 2])
            place += 2
        else:
            parts.append(pattern[place] if pattern[place].isascii() else "_")
            place += 1
    return ("(?ims)" if ignore_case else "(?ms)") + "".join(parts)


def _other(one: str) -> str:
    if one.startswith("["):
        return f"[^{one[1:]}"
    return one[0] + one[1].swapcase()


def _group_end(pattern: str, place: int) -> int:
    """Where the group that opens here is closed."""
    depth, in_class = 0, False
    while place < len(pattern):
        char = pattern[place]
        if char == "\\":
            place += 1
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                return place + 1
        place += 1
    return place


class Gate:
    """Many patterns as one automaton."""

    def __init__(self, patterns: Sequence[tuple[str, bool]]) -> None:
        """Compile.

        Args:
            patterns: Each with whether it ignores case. One that RE2 does not take even loosened always passes.
        """
        options = re2.Options()
        options.log_errors = False
        options.max_mem = _MEMORY
        self._set = re2.Set.SearchSet(options)
        self._set.Add("")  # matches anything: without it RE2 gave up
        numbers: list[int | None] = [None]
        always = []
        for number, (pattern, ignore_case) in enumerate(patterns):
            loose = loosened(pattern, ignore_case)
            try:
                re2.compile(loose, options)
            except re2.error:
                always.append(number)
                continue
            self._set.Add(loose)
            numbers.append(number)
        self._set.Compile()
        self._numbers, self._always, self._count = numbers, always, len(patterns)

    def may_match(self, text: str) -> list[int]:
        """Numbers of the patterns that can match, ascending.

        Args:
            text: A skeleton.
        """
        found = self._set.Match(text)
        if found is None:
            return [*range(self._count)]
        return sorted([*(number for i in found if (number := self._numbers[i]) is not None), *self._always])
