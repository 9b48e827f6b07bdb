"""How good a classifier is on rows that it was not taught from: every figure with its interval, beside the floors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from classifiers import floors
from classifiers.metrics import (
    METRICS,
    Figure,
    at_prevalence,
    bootstrap,
    calibration_error,
    figure,
    recall_at_fpr,
    reliability,
    scores,
    with_intervals,
)
from safety_kit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifiers.data import Examples
    from classifiers.features import Text

    Labels = NDArray[np.int64]
    Doubles = NDArray[np.float64]

__all__ = [
    "METRICS",
    "Scorer",
    "calibration_error",
    "evaluate",
    "known_rows",
    "measure",
    "recall_at_fpr",
    "reliability",
    "scores",
    "shared_categories",
    "with_intervals",
]

ENOUGH = 10
"""Rows of each class that a slice needs to get figures."""

NAMED = 20
"""Small slices of a column that are named; of a column with more of them only their number is told."""

PREVALENCE = 0.5
"""What the kit's calibrated probabilities are for."""


class Scorer(Protocol):
    """What can be evaluated: a `SafetyClassifier`, or anything that scores texts like one."""

    @property
    def categories_(self) -> Sequence[str]:
        """What its columns are about."""

    def category_probabilities(self, X: Sequence[Text]) -> Doubles:
        """n × categories."""


def evaluate(classifier: Scorer, examples: Examples, *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Score rows with a fitted classifier.

    Args:
        classifier: Fitted or loaded.
        examples: Rows with labels for at least one of its categories.
        seed: Of the resamples and the floor's folds.

    Returns:
        By category what `measure` says.

    Raises:
        DataError: No category is shared, or one has rows of one class only.
    """
    shared = shared_categories(examples, classifier)
    probabilities = np.nan_to_num(classifier.category_probabilities(examples.pairs()))  # no tokens: holds nothing
    report = {}
    for category, columns in shared.items():
        own = columns[0]
        rows, y = known_rows(examples, category)
        report[classifier.categories_[own]] = measure(y, probabilities[rows, own], examples.select(rows), seed=seed)
    return report


def measure(y: Labels, p: Doubles, examples: Examples, *, seed: int = 0) -> dict[str, Any]:
    """Every figure of some probabilities, and of the floors on the same rows.

    Args:
        y: n labels 0/1, both there.
        p: n probabilities.
        examples: The n rows that they belong to.
        seed: Of the resamples and the floor's folds.

    Returns:
        Each metric as {value, low, high}; `n` and `positives`; `floors`, by name the same metrics; `reliability`, the
        curve; `prevalence`, see `_prevalence`; `slices`, by column `values` with figures and floors of their own,
        and `too_few`, what is too small for any.
    """
    methods = {"": p, "constant_positive": floors.constant_positive(len(y))}
    words = floors.tfidf(examples.pairs(), y, examples.groups, seed)
    if words is not None:
        methods["tfidf_logistic_regression"] = words
    return {
        **_beside_floors(y, methods, examples.groups, seed),
        "prevalence": _prevalence(y, p, examples.groups, seed),
        "reliability": reliability(y, p),
        "slices": {
            column: _slices(values, y, methods, examples.groups, seed) for column, values in examples.slices.items()
        },
    }


def shared_categories(examples: Examples, *classifiers: Scorer) -> dict[str, list[int]]:
    """The rows' categories that every classifier knows, with the column of each classifier.

    Where the rows and a classifier have one category each, these are the same: a file's name need not be the
    category's.

    Raises:
        DataError: There are none.
    """
    shared = {}
    for category in examples.categories:
        columns = []
        for classifier in classifiers:
            names = list(classifier.categories_)
            if category in names:
                columns.append(names.index(category))
            elif len(names) == len(examples.categories) == 1:
                columns.append(0)
        if len(columns) == len(classifiers):
            shared[category] = columns
    if not shared:
        known = "; ".join(", ".join(classifier.categories_) for classifier in classifiers)
        raise DataError(
            f"The rows label {', '.join(examples.categories)}, the classifier knows {known}; "
            "name the category with --category."
        )
    return shared


def known_rows(examples: Examples, category: str) -> tuple[NDArray[np.intp], Labels]:
    """Positions and labels of the rows that say something of a category.

    Raises:
        DataError: They are of one class only.
    """
    labels = examples.labels[:, examples.categories.index(category)]
    rows = np.flatnonzero(~np.isnan(labels))
    y = labels[rows].astype(np.int64)
    if len(set(y.tolist())) < 2:
        raise DataError(f"The rows for {category} are of one class only; evaluation needs both labels.")
    return rows, y


def _beside_floors(y: Labels, methods: dict[str, Doubles], groups: Sequence[str], seed: int) -> dict[str, Any]:
    drawn = bootstrap(y, list(methods.values()), groups, seed=seed)
    by_method: dict[str, dict[str, Figure]] = {
        method: {name: figure(value, resampled[name]) for name, value in scores(y, p).items()}
        for (method, p), resampled in zip(methods.items(), drawn, strict=True)
    }
    own = by_method.pop("")
    return {**own, "n": len(y), "positives": int(y.sum()), "floors": by_method}


def _prevalence(y: Labels, p: Doubles, groups: Sequence[str], seed: int) -> dict[str, Any]:
    """The share of positives that the probabilities are for, that of the rows, and the ECE when moved to the latter."""
    share = float(y.mean())
    moved = with_intervals(y, at_prevalence(p, share), groups, seed=seed)
    return {"probabilities": PREVALENCE, "rows": share, "ece_moved_to_rows": moved["ece"]}


def _slices(
    column: Sequence[str | None], y: Labels, methods: dict[str, Doubles], groups: Sequence[str], seed: int
) -> dict[str, Any]:
    places: dict[str, list[int]] = {}
    for row, value in enumerate(column):
        if value is not None:
            places.setdefault(value, []).append(row)
    figures, few = {}, {}
    for value, rows in sorted(places.items()):
        labels = y[rows]
        positives = int(labels.sum())
        if min(positives, len(rows) - positives) < ENOUGH:
            few[value] = {"n": len(rows), "positives": positives}
        else:
            inside = {method: p[rows] for method, p in methods.items()}
            figures[value] = _beside_floors(labels, inside, [groups[row] for row in rows], seed)
    named = few if len(few) <= NAMED else {}
    return {
        "values": figures,
        "too_few": {"values": len(few), "rows": sum(one["n"] for one in few.values()), "named": named},
    }
