"""Two classifiers on the same rows: the paired difference of every figure, and whether it is more than noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from classifiers.evaluate import known_rows, shared_categories
from classifiers.metrics import LOWER_IS_BETTER, METRICS, bootstrap, figure, scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifiers.data import Examples
    from classifiers.evaluate import Scorer


def compare(a: Scorer, b: Scorer, examples: Examples, *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Hold two classifiers against the same rows; their readings and category lists may differ.

    Args:
        a: Fitted or loaded.
        b: The other one.
        examples: Rows with labels for a category that both know.
        seed: Of the resamples.

    Returns:
        By category `n`, `positives`, and by metric what `paired_differences` says.

    Raises:
        DataError: No category is shared, or one has rows of one class only.
    """
    shared = shared_categories(examples, a, b)
    known = {category: known_rows(examples, category) for category in shared}  # told before anything is scored
    p_a, p_b = (np.nan_to_num(one.category_probabilities(examples.pairs())) for one in (a, b))
    report = {}
    for category, (column_a, column_b) in shared.items():
        rows, y = known[category]
        groups = [examples.groups[row] for row in rows]
        differences = paired_differences(y, p_a[rows, column_a], p_b[rows, column_b], groups, seed=seed)
        report[category] = {"n": len(y), "positives": int(y.sum()), "metrics": differences}
    return report


def paired_differences(
    y: NDArray[np.int64],
    p_a: NDArray[np.float64],
    p_b: NDArray[np.float64],
    groups: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """B less A in every metric, with the 95 % interval of a paired bootstrap: both are measured on the same resamples.

    Args:
        y: n labels 0/1, both there.
        p_a: A's n probabilities.
        p_b: B's.
        groups: n names; rows of one group are drawn together. None: each row for itself.
        seed: Of the resamples.

    Returns:
        By metric `a`, `b`, `difference` as {value, low, high}, and `verdict`: `noise` where the interval holds 0, else
        which of the two is better, `a` or `b`. Each metric is judged for itself: of several that differ in nothing,
        one in twenty is called better.
    """
    drawn_a, drawn_b = bootstrap(y, [p_a, p_b], groups, seed=seed)
    of_a, of_b = scores(y, p_a), scores(y, p_b)
    report = {}
    for name in METRICS:
        difference = figure(of_b[name] - of_a[name], drawn_b[name] - drawn_a[name])
        verdict = "noise"
        if difference["low"] > 0 or difference["high"] < 0:
            verdict = "b" if (difference["low"] > 0) != (name in LOWER_IS_BETTER) else "a"
        report[name] = {"a": of_a[name], "b": of_b[name], "difference": difference, "verdict": verdict}
    return report
