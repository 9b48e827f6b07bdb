"""Texts that are read together: a message's parts, neighbouring turns. Cuts of the whole become cuts of its pieces."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from safety_kit.chat.places import Path
from safety_kit.policy import Form
from safety_kit.redact import Cut

WIDTH: Final = 2000
"""Characters of neighbouring turns that are read together."""

STEP: Final = WIDTH // 2
"""Windows begin every so many characters from the conversation's start, so that a longer one has the same windows."""

REACH: Final = 200
"""Characters to either side of a seam, where a word was split in two."""

_SNAP: Final = 64


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of one string: `text` begins at character `start` of the string at `path`."""

    path: Path
    text: str
    start: int = 0


@dataclass(frozen=True, slots=True)
class Joined:
    """Pieces, and what stands between them."""

    pieces: tuple[Piece, ...]
    separator: str = "\n"

    @property
    def text(self) -> str:
        return self.separator.join(piece.text for piece in self.pieces)

    def cuts(self, whole: Iterable[Cut]) -> Iterator[tuple[Path, Cut]]:
        """Cuts of the joined text as cuts of the strings; of one over several, the first piece has the replacement."""
        starts = list(accumulate((len(p.text) + len(self.separator) for p in self.pieces), initial=0))
        for cut in whole:
            form = cut.form
            for number in range(
                bisect_right(starts, cut.start) - 1, min(bisect_left(starts, cut.end), len(self.pieces))
            ):
                piece, at = self.pieces[number], starts[number]
                low, high = max(cut.start - at, 0), min(cut.end - at, len(piece.text))
                if low < high:
                    yield piece.path, Cut(piece.start + low, piece.start + high, cut.finding, form)
                    form = Form("replace", "")


def windows(pieces: Sequence[Piece]) -> list[Joined]:
    """All windows over the pieces, line after line, in which two of them meet: work linear in the text."""
    pieces = [piece for piece in pieces if piece.text]
    starts = list(accumulate((len(piece.text) + 1 for piece in pieces), initial=0))[:-1]
    numbers: set[int] = set()
    for start in starts[1:]:
        numbers.update(range(max(0, (start - WIDTH) // STEP + 1), (start - 2) // STEP + 1))
    found = []
    for number in sorted(numbers):
        low, high = number * STEP, number * STEP + WIDTH
        inside = range(bisect_right(starts, low) - 1, bisect_left(starts, high))
        cut = [_within(pieces[i], low - starts[i], high - starts[i]) for i in inside]
        found.append(Joined(tuple(piece for piece in cut if piece.text)))
    return [joined for joined in found if len(joined.pieces) > 1]


def seams(pieces: Sequence[Piece]) -> Iterator[Joined]:
    """Two and three neighbours, and the last of all, written without a gap: a word may have been split over them."""
    pieces = [piece for piece in pieces if piece.text]
    for end in range(1, len(pieces)):
        head = _within(pieces[end], 0, REACH)
        for start in (end - 1, end - 2):
            between = pieces[start + 1 : end]
            if start >= 0 and all(len(piece.text) <= REACH for piece in between):
                size = len(pieces[start].text)
                yield Joined((_within(pieces[start], size - REACH, size), *between, head), "")
    room = WIDTH
    last: list[Piece] = []
    for piece in reversed(pieces):
        size = len(piece.text)
        last.append(_within(piece, size - room, size))
        room -= size
        if room <= 0:
            break
    if len(last) > 3:
        yield Joined(tuple(reversed(last)), "")


def _within(piece: Piece, low: int, high: int) -> Piece:
    """The part from `low` to `high`, moved outwards to the ends of words."""
    text = piece.text
    low, high = max(low, 0), min(high, len(text))
    if low >= high:
        return Piece(piece.path, "", piece.start)
    least, most = max(0, low - _SNAP), min(len(text), high + _SNAP)
    while low > least and not text[low - 1].isspace():
        low -= 1
    while high < most and not text[high].isspace():
        high += 1
    return Piece(piece.path, text[low:high], piece.start + low)
