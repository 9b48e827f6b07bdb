"""Scanning a growing text in canonical windows, so that a stream finds what a scan of the whole text finds.

Window k is responsible for what begins in its core [k·step, (k+1)·step), and always sees `reach` characters to either
side, as far as the text goes: how the text arrived cannot change what it sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hit:
    """A match in a piece of text."""

    start: int
    end: int
    category: str
    score: float = 1.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """The stream's state: `text` is what is still needed, from character `base` on; `window` is the next one."""

    base: int = 0
    text: str = ""
    window: int = 0


@dataclass(frozen=True, slots=True)
class Windows:
    """The geometry: reach at most step."""

    step: int = 128
    reach: int = 96

    @property
    def lookahead(self) -> int:
        return self.step + self.reach

    def advance(
        self, seen: Seen, new: str, final: bool, scan: Callable[[str], list[Hit]]
    ) -> tuple[Seen, list[Hit], int]:
        """Scan every window that can be seen whole now; with `final`, all that are left.

        Returns:
            The new state, the hits with offsets in the whole text, and how many characters are cleared.
        """
        text = seen.text + new
        total = seen.base + len(text)
        window = seen.window
        hits: list[Hit] = []
        while (core := window * self.step) < total:
            if not final and core + self.step + self.reach > total:
                break
            low = max(0, core - self.reach)
            piece = text[low - seen.base : core + self.step + self.reach - seen.base]
            hits += [kept for hit in scan(piece) if (kept := self._own(hit, low, core))]
            window += 1
        cleared = total if final else window * self.step
        base = max(seen.base, cleared - self.reach)
        return Seen(base, text[base - seen.base :], window), hits, cleared

    def _own(self, hit: Hit, low: int, core: int) -> Hit | None:
        start, end = hit.start + low, hit.end + low
        if start < core:
            # The window before this one reports it, unless it could not see it whole: then its rest is ours.
            cut = (start == low and low > 0) or end >= core + self.reach
            if end <= core or not cut:
                return None
            start = core
        elif start >= core + self.step:
            return None
        return Hit(start, end, hit.category, hit.score, hit.detail)
