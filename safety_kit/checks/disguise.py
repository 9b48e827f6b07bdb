"""Checks that read what a text hides: the scan of a piece goes through its views, and hits come back as raw spans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from safety_kit.checks.windows import Hit
from safety_kit.types import Finding, Sample, Stage

if TYPE_CHECKING:  # a tenth of the command's start, which a text without any mark of a disguise is spared
    from safety_kit.views import View

Scan: TypeAlias = Callable[[str], list[Hit]]


def through_views(scan: Scan, hidden: Scan | None = None, *, loose: bool = True) -> Scan:
    """The same scan, over a piece of text and over all its views.

    A hit in a view counts where the view, up to the characters beside the hit, differs from the raw text: of the rest,
    the scan of the raw text has decided.

    Args:
        scan: Finds hits in a piece.
        hidden: What to scan a view with, if not the same.
        loose: Also read views that guess at leet and ROT13; a scan for figures and signs had better not.
    """
    hidden = hidden or scan

    def scan_all(piece: str) -> list[Hit]:
        from safety_kit.views import views

        hits = scan(piece)
        for view in views(piece, loose=loose):
            for hit in hidden(view.text):
                found = _mapped(hit, view, piece)
                if found is not None and not any(_within(found, other) for other in hits):
                    hits.append(found)
        return hits

    return scan_all


def _mapped(hit: Hit, view: View, piece: str) -> Hit | None:
    low, high = max(0, hit.start - 1), min(len(view.text), hit.end + 1)
    start, end = view.to_raw(low, high)
    if piece[start:end] == view.text[low:high]:
        return None
    start, end = view.to_raw(hit.start, hit.end)
    return Hit(start, end, hit.category, hit.score, f"{hit.detail}, {view.kind}".removeprefix(", "))


def _within(hit: Hit, other: Hit) -> bool:
    return hit.category == other.category and other.start <= hit.start and hit.end <= other.end


def with_views(samples: Sequence[Sample]) -> tuple[list[Sample], list[tuple[int, View | None]]]:
    """The samples and their views, each view a sample of its own.

    Only texts at input have views here: a reply is read as the model writes it.

    Returns:
        All samples, and for each the number of the one it belongs to and the view, or None for the sample itself.
    """
    from safety_kit.views import views

    texts: list[Sample] = []
    owners: list[tuple[int, View | None]] = []
    for number, sample in enumerate(samples):
        texts.append(sample)
        owners.append((number, None))
        if sample.stage is Stage.INPUT:
            for view in views(sample.text):
                texts.append(replace(sample, text=view.text, trace=None))
                owners.append((number, view))
    return texts, owners


def worst(
    found: Sequence[Sequence[Finding]], owners: Sequence[tuple[int, View | None]], count: int
) -> list[list[Finding]]:
    """For each sample the worst finding of a check and category, of its own and its views' findings.

    Args:
        found: What was found in each of the samples of `with_views`.
        owners: Theirs.
        count: How many samples there were at first.
    """
    results: list[dict[tuple[str, str], Finding]] = [{} for _ in range(count)]
    for findings, (number, view) in zip(found, owners, strict=True):
        for finding in findings:
            key = finding.check, finding.category
            before = results[number].get(key)
            # A score that is no number is kept, for the guard to refuse.
            if before is None or not (finding.score <= before.score or before.score != before.score):
                results[number][key] = finding if view is None else _of_raw(finding, view)
    return [list(worst.values()) for worst in results]


def _of_raw(finding: Finding, view: View) -> Finding:
    spans = tuple(view.to_raw(start, end) for start, end in finding.spans)
    return replace(finding, spans=spans, detail=f"{finding.detail}; read as {view.kind}".removeprefix("; "))
