"""Scanning a growing text run by run: prose between the runs is cleared at once, and no part is scanned for nothing.

Every match of a check has a *mark* in it: a digit, an @. A run is the word with the mark, the word before it and the
word after it, and on to the next mark if that stands there. Where a run begins and ends is told by the text alone, and
each is scanned once, with the same characters around it however the text arrived: so a stream finds what a scan of the
whole text finds, whatever the scan does. What was cleared lies before the run, and hits are kept inside it: so nothing
that was cleared is ever found.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from safety_kit.checks.windows import Hit

_HIDDEN = (  # what folding may take away, or read as ASCII
    r"\u00a0\u00ad\u0300-\u036f\u0483-\u0489\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u1ab0-\u1aff\u1dc0-\u1dff"
    r"\u2000-\u200f\u2010\u2011\u2024\u202a-\u202f\u205f-\u209c\u20d0-\u20ff\u2102-\u2149\u2460-\u24ff\u2800\u2c7c\u2c7d"
    r"\u3000\u3164\ua7f8\ua7f9\ufb00-\ufb06\ufe00-\ufe0f\ufe20-\ufe2f\ufe52-\ufe6b\ufeff\uff01-\uff5e\uffa0\ufff9-\ufffb"
    r"\U0001d173-\U0001d17a\U0001d400-\U0001d7ff\U0001f110-\U0001f189\U0001f1e6-\U0001f1ff\U000e0000-\U000e0fff"
)
DISGUISE: Final = (  # what it may begin with is asked first: this is tried at every character
    rf"(?=[%=&\\{_HIDDEN}])"
    rf"(?:%[0-9A-Fa-f]{{2}}|=[0-9A-F]{{2}}|&#|&[A-Za-z]{{2,8}};|\\[ux]|\\[nrt](?=[^\W_])|[{_HIDDEN}])"
    r"|(?=[A-Za-z0-9\u00c0-\u052f])(?:[A-Za-z][A-Za-z+/_-]{19}"
    r"|(?<!\w)(?:(?:[A-Za-z0-9\u00c0-\u052f][\W_]{1,3}){4,256}|(?:[0-9A-Fa-f]{2}[\s:,;-]){4,256})"
    r"|[A-Za-z0-9][\u0370-\u052f]|[\u0370-\u052f][A-Za-z0-9])"
)
"""Marks of a text in disguise: escapes and entities, a long encoded run (a shorter one holds a digit, as a rule),
spaced letters, pairs of hex digits, letters of two scripts side by side, invisible and styled characters."""

_GAP = r"\s\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"  # no word goes through a space, nor through a script without any
_WORD = re.compile(rf"[^{_GAP}]+")
_APART = re.compile(r"(?<!\w)\w{1,2}[\W_]{0,2}\Z|\A\W{1,2}\Z")
"""The end of a word that is one of spaced letters or pairs of hex digits: these belong together."""
_WIDEST_GAP = 4
_PREFIX = 128  # of a word, characters before its mark that may belong to the match
_MARK = 24  # characters after which it is told whether there is a mark at a place


@dataclass(frozen=True, slots=True)
class Held:
    """The stream's state: `text` is what is still needed, from character `base` on; up to `done` all is decided."""

    base: int = 0
    text: str = ""
    done: int = 0


@dataclass(frozen=True, slots=True)
class Runs:
    """What makes a run, and how much around it is seen.

    Attributes:
        mark: What every match holds. Whether it matches at a place must be told by at most 24 characters from there
            on, all in one word but for spaced letters. The check adds `DISGUISE`.
        neighbours: Words before and after a marked word that may belong to a match.
        before: Characters that the scan sees before a run.
        after: Characters that it sees after a run, which waits for them; at least 24.
        longest: Characters after which a run is cut; a match that goes further than `reach` beyond is found in parts.
        reach: Characters that the scan sees beyond such a cut.
    """

    mark: re.Pattern[str]
    neighbours: int = 1
    before: int = 96
    after: int = 24
    longest: int = 256
    reach: int = 96

    @property
    def lookahead(self) -> int:
        """Characters that are held at the most: a run to its cut, and what is seen beyond."""
        return _PREFIX + _MARK + self.longest + self.reach

    def advance(
        self, held: Held, new: str, final: bool, scan: Callable[[str], list[Hit]]
    ) -> tuple[Held, list[Hit], int]:
        """Scan every run whose end can be told now; with `final`, all that are left.

        Returns:
            The new state, the hits with offsets in the whole text, and how many characters are cleared.
        """
        text = held.text + new
        at = held.done - held.base
        hits: list[Hit] = []
        while True:
            mark = self.mark.search(text, at)
            place = mark.start() if mark else len(text)
            if mark is None and final:
                at = place
                break
            start = self._start(text, max(at, place - _PREFIX), place)
            end, sees = self._end(text, start, mark.end()) if mark else (place, place + 1)
            if sees > len(text) and not final:
                # A mark that stands further back may only be told later.
                at = self._start(text, max(at, place - _PREFIX - _MARK), place)
                break
            low = max(0, start - self.before)
            found = [hit for hit in scan(text[low:sees]) if hit.end + low > start and hit.start + low < end]
            base = held.base + low
            hits += [Hit(max(h.start, start - low) + base, h.end + base, h.category, h.score, h.detail) for h in found]
            at = max([min(end, len(text)), *(hit.end + low for hit in found)])
        base = max(0, at - self.before)
        return Held(held.base + base, text[base:], held.base + at), hits, held.base + at

    def _start(self, text: str, low: int, mark: int) -> int:
        """Where a run with its first mark here begins, at `low` or later; a later mark never moves it back."""
        start, left = mark, self.neighbours
        words = [match.span() for match in _WORD.finditer(text, low, mark)]
        if words and words[-1][1] == mark:
            start = words.pop()[0]
        for begin, end in reversed(words):
            left -= _APART.search(text[begin:end]) is None
            if start - end > _WIDEST_GAP or left < 0:
                break
            start = begin
        return start

    def _end(self, text: str, start: int, marked: int) -> tuple[int, int]:
        """Where the run ends, and how far its scan sees: both are final once the text is as long as that."""
        limit = start + self.longest
        while marked < limit:
            word = _WORD.match(text, marked, limit)
            own = end = word.end() if word else marked
            for _ in range(self.neighbours):
                word = _WORD.search(text, end, min(limit, end + _WIDEST_GAP + 1))
                word = word and _WORD.match(text, word.start(), limit)
                if word is None:
                    break
                end = word.end()
            following = self.mark.search(text, own, end + self.after) if end > own else None
            if following is None or following.start() >= end:
                return (end, end + self.after) if end < limit else (limit, limit + self.reach)
            marked = following.end()
        return limit, limit + self.reach
