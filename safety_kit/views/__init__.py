"""A text as its reader's model may see it: what is hidden in it, with the way back to the raw characters.

Three rounds: what was folded is decoded, and what was decoded is folded and decoded once more. Two lines of views
come of it. The exact line undoes what has one reading only (escapes, encodings, letters spaced out). The loose line
also guesses at leet and ROT13, and would make words of the figures in a key or an address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import re2

from safety_kit.views import decoding, spelling
from safety_kit.views.decoding import Work
from safety_kit.views.folding import fold, fold_lookalikes, reversed_runs
from safety_kit.views.language import ROT13
from safety_kit.views.mapped import Edit, View, edited, identity, without_overlaps

__all__ = ["DEPTH", "GROWTH", "LOOSE", "View", "Work", "views"]

DEPTH: Final = 2
"""How often a decoded text is decoded again, the first time included."""

GROWTH: Final = 4
"""A view has at most so many characters for each raw one."""

LOOSE: Final = frozenset({"leet", "rot13"})
"""Steps that guess."""

_Step: TypeAlias = Callable[[str, Work], Iterable[Edit]]
_Found: TypeAlias = tuple[list[Edit], list[str]]
"""Edits, and the names of the steps that they come from."""

_EXACT: Final[dict[str, _Step]] = {**decoding.DECODERS, "spaced": spelling.unspace}
_GUESSES: Final[dict[str, _Step]] = {"rot13": spelling.unrotate, "leet": spelling.unleet}
_ALL_GATES: Final = decoding.GATES | spelling.GATES
_ANY_GATE: Final = re2.compile("|".join(f"(?:{gate})" for gate in _ALL_GATES.values()).encode())
"""Most texts pass none, which one search tells."""
_GATES: Final = {name: re2.compile(gate.encode()) for name, gate in _ALL_GATES.items()}


def views(text: str, *, loose: bool = True, work: Work | None = None) -> tuple[View, ...]:
    """The views of a text, all different from it and from each other; none for ordinary text.

    Args:
        text: Any text: empty, long, with lone surrogates.
        loose: Also undo leet and ROT13.
        work: Counts the characters read, which grow linearly with the text.
    """
    work = work or Work()
    raw = _Source(text)
    made: dict[str, View] = {}
    readings = [raw]
    if turned := reversed_runs(text, work):
        readings.append(_edited(raw, turned, "reversed"))
    for source in (_folded(reading, work) for reading in readings):
        exact: dict[str, _Found] = {}
        for guess in (False, True) if loose else (False,):
            _decode(source, guess, made, exact, work)
    made.pop(text, None)
    made.pop("", None)  # nothing but invisible characters
    return tuple(made.values())


@dataclass(frozen=True, slots=True)
class _Source:
    """A text to go on from; the map back is only made once something was changed."""

    text: str
    view: View | None = None


def _edited(source: _Source, edits: Sequence[Edit], kind: str) -> _Source:
    if not edits:
        return source
    view = edited(source.view or identity(source.text), edits, kind)
    return _Source(view.text, view)


def _folded(source: _Source, work: Work) -> _Source:
    folded = _edited(source, fold(source.text, work), "folded")
    return _edited(folded, fold_lookalikes(folded.text, work), "folded" if folded is source else "")


def _decode(source: _Source, loose: bool, made: dict[str, View], exact: dict[str, _Found], work: Work) -> None:
    """Add the views of one line: the source itself, and what each round of decoding makes of it.

    What the exact line found in a text is kept in `exact` for the loose one.
    """
    for depth in range(DEPTH + 1):
        if source.view is not None:
            made.setdefault(source.text, source.view)
        if depth == DEPTH:
            return
        if source.text not in exact:
            exact[source.text] = _apply(_EXACT, "", source.text, work)
        edits, steps = exact[source.text]
        if loose:
            guessed = _guess(source.text, work)
            edits, steps = edits + guessed[0], steps + guessed[1]
        if not edits:
            return
        edits = without_overlaps(edits)
        source = _folded(_edited(source, edits, "+".join(steps)), work)


def _guess(text: str, work: Work) -> _Found:
    edits, steps = _apply(_GUESSES, "", text, work)
    # ROT13 replaces letter by letter, so what is encoded under it stands where it stood.
    turned, under = _apply(decoding.DECODERS, "rot13+", text.translate(ROT13), work)
    return edits + turned, steps + under


def _apply(tried: Mapping[str, _Step], before: str, text: str, work: Work) -> _Found:
    edits: list[Edit] = []
    steps: list[str] = []
    plain = text.encode("ascii", "replace")
    work.characters += len(plain)
    passed = _ANY_GATE.search(plain) is not None
    for name, step in tried.items():
        if name in _GATES:
            work.characters += len(plain) if passed else 0
            if not passed or not _GATES[name].search(plain):
                continue
        if found := list(step(text, work)):
            edits += found
            steps.append(before + name)
    return edits, steps
