"""A text made of another, with each of its characters mapped back to a span of the raw one."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from safety_kit.types import Span


@dataclass(frozen=True, slots=True)
class Edit:
    """A stretch of a text and what is written in its place.

    Attributes:
        start: Where the stretch begins.
        end: Where it ends; half-open.
        text: The replacement.
        spans: For each character of the replacement, the characters of the source that it came from; None: all of them.
    """

    start: int
    end: int
    text: str
    spans: Sequence[Span] | None = None


def one_for_one(start: int, text: str) -> Edit:
    """An edit that replaces each character by one."""
    end = start + len(text)
    return Edit(start, end, text, [(i, i + 1) for i in range(start, end)])


@dataclass(frozen=True, slots=True)
class View:
    """A text as someone, or a model, may read it.

    Attributes:
        kind: What was done to get it, in order: ``folded``, ``base64``, ``base64+url`` …
        text: The view itself.
    """

    kind: str
    text: str
    _starts: array[int]
    _ends: array[int]

    def to_raw(self, start: int, end: int) -> Span:
        """The smallest raw span that covers this span of the view.

        Args:
            start: First character, from 0.
            end: One past the last.

        Raises:
            ValueError: The span is empty or leaves the view.
        """
        if not 0 <= start < end <= len(self.text):
            raise ValueError(f"({start}, {end}) is no span of a view of {len(self.text)} characters.")
        return min(self._starts[start:end]), max(self._ends[start:end])


def identity(text: str) -> View:
    """The raw text as a view of itself."""
    return View("", text, array("I", range(len(text))), array("I", range(1, len(text) + 1)))


def edited(source: View, edits: Iterable[Edit], kind: str) -> View:
    """The source with some stretches replaced.

    Args:
        source: What the edits' offsets point into.
        edits: In order, without overlaps.
        kind: What to call the step; joined to the source's own kind.
    """
    parts: list[str] = []
    starts, ends = array("I"), array("I")
    at = 0
    for edit in edits:
        parts += source.text[at : edit.start], edit.text
        starts += source._starts[at : edit.start]
        ends += source._ends[at : edit.start]
        spans = edit.spans if edit.spans is not None else [(edit.start, edit.end)] * len(edit.text)
        # A source may run backwards (a bidirectional override), so a stretch begins at its least character.
        starts.extend(min(source._starts[first:last]) for first, last in spans)
        ends.extend(max(source._ends[first:last]) for first, last in spans)
        at = edit.end
    parts.append(source.text[at:])
    starts += source._starts[at:]
    ends += source._ends[at:]
    return View(f"{source.kind}+{kind}".strip("+"), "".join(parts), starts, ends)


def without_overlaps(edits: Iterable[Edit]) -> list[Edit]:
    """The edits in order of their start; of two that overlap, the one that begins first, then the one given first."""
    taken: list[Edit] = []
    for edit in sorted(edits, key=lambda edit: edit.start):  # stable: what comes first stays first
        if not taken or edit.start >= taken[-1].end:
            taken.append(edit)
    return taken
