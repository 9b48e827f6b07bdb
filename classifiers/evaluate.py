"""How good a classifier is on rows that it was not taught from: every figure with its interval, beside the floor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from safety_kit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from classifiers.data import Examples
    from classifiers.fit import SafetyClassifier

    Metric = Callable[[NDArray[np.int64], NDArray[np.float64]], float]

RESAMPLES = 500


def recall_at_fpr(y: NDArray[np.int64], p: NDArray[np.float64], fpr: float) -> float:
    """Share of positives above the lowest threshold that at most `fpr` of the negatives exceed."""
    negatives = np.sort(p[y == 0])[::-1]
    threshold = negatives[min(int(fpr * len(negatives)), len(negatives) - 1)]
    return float(np.mean(p[y == 1] > threshold))


def calibration_error(y: NDArray[np.int64], p: NDArray[np.float64], bins: int = 10) -> float:
    """Expected calibration error over equal-width bins (Naeini et al. 2015)."""
    place = np.minimum((p * bins).astype(int), bins - 1)
    gaps = [abs(y[place == b].mean() - p[place == b].mean()) * np.mean(place == b) for b in set(place.tolist())]
    return float(sum(gaps))


METRICS: dict[str, Metric] = {
    "auroc": lambda y, p: float(roc_auc_score(y, p)),
    "au_prc": lambda y, p: float(average_precision_score(y, p)),
    "f1": lambda y, p: float(f1_score(y, p >= 0.5)),
    "recall_at_1pct_fpr": lambda y, p: recall_at_fpr(y, p, 0.01),
    "brier": lambda y, p: float(np.mean((p - y) ** 2)),
    "ece": calibration_error,
}
"""Name → metric of labels 0/1 and probabilities; `f1` is at probability .5."""


def scores(y: NDArray[np.int64], p: NDArray[np.float64]) -> dict[str, float]:
    """Every metric's value; both classes must be there."""
    return {name: metric(y, p) for name, metric in METRICS.items()}


def with_intervals(y: NDArray[np.int64], p: NDArray[np.float64], seed: int = 0) -> dict[str, dict[str, float]]:
    """Every metric with a 95 % bootstrap interval over rows, resampled within each class."""
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(y == label) for label in (0, 1)]
    draws = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([rng.choice(rows, len(rows)) for rows in classes])
        draws.append(scores(y[rows], p[rows]))
    report = {}
    for name, value in scores(y, p).items():
        low, high = np.quantile([draw[name] for draw in draws], [0.025, 0.975])
        report[name] = {"value": value, "low": float(low), "high": float(high)}
    return report


def evaluate(classifier: SafetyClassifier, examples: Examples) -> dict[str, dict[str, object]]:
    """Score rows with a fitted classifier.

    Args:
        classifier: Fitted or loaded.
        examples: Rows with labels for at least one of its categories.

    Returns:
        By category: each metric as {value, low, high}, n, positives, and floors (F1 of calling every row positive,
        AU-PRC of chance).

    Raises:
        DataError: No category is shared, or one has rows of one class only.
    """
    shared = [category for category in classifier.categories_ if category in examples.categories]
    if not shared and len(classifier.categories_) == len(examples.categories) == 1:
        shared = list(classifier.categories_)  # one taught, one labelled: the file's name is not the category's
    if not shared:
        raise DataError(
            f"The rows label {', '.join(examples.categories)}, the classifier knows "
            f"{', '.join(classifier.categories_)}; name the category with --category."
        )
    probabilities = classifier.category_probabilities(examples.pairs())
    report: dict[str, dict[str, object]] = {}
    for category in shared:
        column = examples.categories.index(category) if category in examples.categories else 0
        labels = examples.labels[:, column]
        known = ~np.isnan(labels)
        y = labels[known].astype(np.int64)
        if len(set(y.tolist())) < 2:
            raise DataError(f"The rows for {category} are of one class only; evaluation needs both labels.")
        p = probabilities[known, classifier.categories_.index(category)]
        share = float(y.mean())
        report[category] = {
            **with_intervals(y, p),
            "n": len(y),
            "positives": int(y.sum()),
            "floors": {"constant_positive_f1": 2 * share / (1 + share), "chance_au_prc": share},
        }
    return report
