"""Many texts at once: each scored as a single run scores it, in batches that bound the memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from classifiers.rows import BadRow, parse_row
from safety_kit.analysis.probabilities import CAPTURE, probabilities
from safety_kit.gemma.model import WINDOW
from safety_kit.gemma.trace import Capture
from safety_kit.types import Message, Sample

if TYPE_CHECKING:
    from debugger_app.row_files import Row
    from safety_kit.gemma import Gemma, Prompt
    from safety_kit.gemma.trace import Trace
    from safety_kit.guard import Guard

AT_ONCE: Final = 2048
"""Tokens whose activations are in memory at a time; a longer text comes alone."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One row.

    Attributes:
        place: Its line or row, from 1.
        sample: Its text.
        labels: 0 or 1 by category, as far as the row says.
        kept: Its other columns.
        action: What the policy does.
        fired: Categories whose rule fired.
        scores: Calibrated probabilities by category, those below their threshold too.
        surprisal: Mean bits a token of the text; None where nobody asked or the text was read in windows.
        tokens: Of the text.
        windows: Whether it was too long for one pass, and read as a guard reads it, in overlapping windows.
        errors: Checks that failed.
    """

    place: int
    sample: Sample
    labels: Mapping[str, float]
    kept: Mapping[str, Any]
    action: str
    fired: tuple[str, ...]
    scores: Mapping[str, float]
    surprisal: float | None
    tokens: int
    windows: bool
    errors: tuple[str, ...]

    def disagreement(self, category: str) -> float | None:
        """|label − probability| in [0, 1]; None without a label or a score."""
        if category not in self.labels or category not in self.scores:
            return None
        return abs(self.labels[category] - self.scores[category])


def score(
    gemma: Gemma, guard: Guard, rows: Sequence[Row], *, category: str = "", surprisal: bool = False
) -> Iterator[list[Scored]]:
    """Score rows, a batch at a time, the shortest first.

    Each is read once, where it would stand in a prompt, and everything is read from that pass. What a text hides in
    other letters costs one of its own, as in a guard.

    Args:
        gemma: The model.
        guard: Of the policy.
        rows: The rows.
        category: What a plain `label` is about, in rows without a `category`.
        surprisal: Also say how unexpected each text is: all blocks and the output matrix, several times the work.
    """
    batch: list[tuple[Row, Prompt]] = []
    room = AT_ONCE
    for row in sorted(rows, key=lambda row: len(row.sample.text)):
        prompt = gemma.render(_messages(row.sample))
        if batch and len(prompt.tokens) > room:
            yield _batch(gemma, guard, batch, category, surprisal)
            batch, room = [], AT_ONCE
        batch.append((row, prompt))
        room -= len(prompt.tokens)
    if batch:
        yield _batch(gemma, guard, batch, category, surprisal)


def _batch(
    gemma: Gemma, guard: Guard, rows: Sequence[tuple[Row, Prompt]], category: str, surprisal: bool
) -> list[Scored]:
    whole = [i for i, (_, prompt) in enumerate(rows) if _fits(prompt)]
    capture = (guard.capture or Capture()) | (CAPTURE if surprisal else Capture())
    reads = capture != Capture()
    passed = gemma.forward([rows[i][1].tokens for i in whole], capture) if reads else []
    traces: dict[int, Trace] = dict(zip(whole, passed, strict=bool(passed)))
    samples = [_sample(row, prompt, traces.get(i)) for i, (row, prompt) in enumerate(rows)]
    said = guard.probes.run(samples) if guard.probes else [[] for _ in samples]
    verdicts = guard.check(samples)
    return [
        Scored(
            row.place,
            row.sample,
            _labels(row, category),
            row.kept,
            str(verdicts[i].action),
            tuple(dict.fromkeys(finding.category for finding in verdicts[i].findings)),
            {finding.category: finding.score for finding in said[i]},
            _bits(traces[i], prompt) if surprisal and i in traces else None,
            _length(prompt),
            i not in whole,
            tuple(error.check for error in verdicts[i].errors),
        )
        for i, (row, prompt) in enumerate(rows)
    ]


def _messages(sample: Sample) -> list[Message]:
    asked = [Message("user", sample.prompt)] if sample.prompt is not None else []
    return [*asked, Message(sample.role, sample.text)]


def _sample(row: Row, prompt: Prompt, trace: Trace | None) -> Sample:
    view = trace.view(*prompt.ranges[-1]) if trace is not None and trace.hidden and _length(prompt) else None
    return replace(row.sample, trace=view)


def _length(prompt: Prompt) -> int:
    start, stop = prompt.ranges[-1]
    return stop - start


def _fits(prompt: Prompt) -> bool:
    """Whether a guard reads the text in one pass, with all that stands before it."""
    return _length(prompt) <= WINDOW and len(prompt.tokens) - _length(prompt) <= WINDOW


def _bits(trace: Trace, prompt: Prompt) -> float | None:
    bits = probabilities(trace, top_k=1).raw.surprisals[slice(*prompt.ranges[-1])]
    return float(np.nanmean(bits)) if len(bits) and not np.isnan(bits).all() else None


def _labels(row: Row, category: str) -> dict[str, float]:
    record = {"text": "-", "label": row.kept.get("label"), "labels": row.kept.get("labels")}
    named = row.kept.get("category")
    try:
        return parse_row(row.place, record, named if isinstance(named, str) and named else category or None).labels
    except BadRow:
        return {}
