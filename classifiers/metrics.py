"""Figures of labels and probabilities, each with a bootstrap interval; nothing here knows a model.

Every figure is computed for many resamples at once, from how often each row was drawn: a resample is a row of counts,
and the rows as they are a resample of ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from scipy.stats import binomtest

from safety_kit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Labels = NDArray[np.int64]
    Doubles = NDArray[np.float64]

RESAMPLES = 1000
THRESHOLD = 0.5
FPR = 0.01
BINS = 10
_CELLS = 2**21  # of one block of resamples × rows: some 16 MB a table


class Figure(TypedDict):
    """A metric's value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ranked:
    """R resamples of n rows, ranked by probability: what the metrics are made of.

    Attributes:
        y: n labels 0/1.
        p: n probabilities.
        counts: R × n, how often each row was drawn.
        levels: The k distinct probabilities, the highest first.
        hits: R × (k + 1) positives at or above each level, after a column of zeros.
        alarms: The same of the negatives.
    """

    y: Labels
    p: Doubles
    counts: Doubles
    levels: Doubles
    hits: Doubles
    alarms: Doubles

    @classmethod
    def of(cls, y: Labels, p: Doubles, counts: Doubles) -> Ranked:
        order = np.argsort(-p, kind="stable")
        levels, sizes = np.unique(-p, return_counts=True)
        ends = np.cumsum(sizes) - 1
        drawn, positive = counts[:, order], y[order] == 1

        def above(of: NDArray[np.bool_]) -> Doubles:
            total = np.cumsum(drawn * of, axis=1)[:, ends]
            return np.concatenate([np.zeros((len(counts), 1)), total], axis=1)

        return cls(y, p, counts, -levels, above(positive), above(~positive))

    @property
    def positives(self) -> Doubles:
        return self.hits[:, -1]

    @property
    def negatives(self) -> Doubles:
        return self.alarms[:, -1]

    def at(self, threshold: float) -> tuple[Doubles, Doubles]:
        """True and false positives of calling rows with p >= threshold positive."""
        column = int(np.sum(self.levels >= threshold))
        return self.hits[:, column], self.alarms[:, column]


def _auroc(rows: Ranked) -> Doubles:
    """Area under the ROC curve: chance that a positive ranks above a negative, a tie counting half."""
    middle = (rows.hits[:, 1:] + rows.hits[:, :-1]) / 2
    return np.asarray((np.diff(rows.alarms) * middle).sum(1) / (rows.positives * rows.negatives))


def _au_prc(rows: Ranked) -> Doubles:
    """Average precision: the step-wise area under the precision-recall curve."""
    precision = rows.hits[:, 1:] / np.maximum(rows.hits[:, 1:] + rows.alarms[:, 1:], 1)
    return np.asarray((np.diff(rows.hits) * precision).sum(1) / rows.positives)


def _f1(rows: Ranked) -> Doubles:
    hits, alarms = rows.at(THRESHOLD)
    return 2 * hits / (hits + alarms + rows.positives)


def _macro_f1(rows: Ranked) -> Doubles:
    """Mean of the F1 of either class."""
    hits, alarms = rows.at(THRESHOLD)
    passed, missed = rows.negatives - alarms, rows.positives - hits
    return (_f1(rows) + 2 * passed / (passed + missed + rows.negatives)) / 2


def _recall_at(rows: Ranked, fpr: float) -> Doubles:
    allowed = np.minimum(np.floor(fpr * rows.negatives), rows.negatives - 1)
    return np.asarray(np.where(rows.alarms <= allowed[:, None], rows.hits, 0).max(1) / rows.positives)


def _brier(rows: Ranked) -> Doubles:
    return np.asarray(rows.counts @ (rows.p - rows.y) ** 2 / rows.counts.sum(1))


def _ece(rows: Ranked, bins: int = BINS) -> Doubles:
    inside = _bins(rows.p, bins)[:, None] == np.arange(bins)
    gaps = np.abs(rows.counts @ (inside * (rows.y - rows.p)[:, None]))
    return np.asarray(gaps.sum(1) / rows.counts.sum(1))


METRICS: dict[str, Callable[[Ranked], Doubles]] = {
    "auroc": _auroc,
    "au_prc": _au_prc,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "recall_at_1pct_fpr": lambda rows: _recall_at(rows, FPR),
    "brier": _brier,
    "ece": _ece,
}
"""Name → metric of ranked rows; `f1` and `macro_f1` are at probability .5."""

HEADINGS = {
    "auroc": "AUROC",
    "au_prc": "AU-PRC",
    "f1": "F1 at .5",
    "macro_f1": "macro-F1 at .5",
    "recall_at_1pct_fpr": "recall at 1 % FPR",
    "brier": "Brier",
    "ece": "ECE",
}
"""What people call them."""

LOWER_IS_BETTER = frozenset({"brier", "ece"})


def scores(y: Labels, p: Doubles) -> dict[str, float]:
    """Every metric's value.

    Args:
        y: n labels 0/1, both there.
        p: n probabilities.

    Raises:
        DataError: The labels are of one class only.
    """
    return {name: float(values[0]) for name, values in _measure(y, p, np.ones((1, len(y)))).items()}


def recall_at_fpr(y: Labels, p: Doubles, fpr: float) -> float:
    """Share of positives above the lowest threshold that at most `fpr` of the negatives exceed."""
    return float(_recall_at(_ones(y, p), fpr)[0])


def calibration_error(y: Labels, p: Doubles, bins: int = BINS) -> float:
    """Expected calibration error over equal-width bins (Naeini et al. 2015)."""
    return float(_ece(_ones(y, p), bins)[0])


def at_prevalence(p: Doubles, share: float) -> Doubles:
    """Probabilities for a prevalence of one half, moved to `share`: the odds times share / (1 - share)."""
    return np.asarray(p * share / (p * share + (1 - p) * (1 - share)))


def f1_threshold(p: Doubles) -> float:
    """The threshold at which calibrated probabilities expect the best F1 of the texts that they were given to.

    No label is seen: expected F1 at t is 2 Σ_{p ≥ t} p / (|{p ≥ t}| + Σ p); the best t is half the best F1 (Lipton,
    Elkan and Naryanaswamy 2014), so below .5.

    Args:
        p: n calibrated probabilities, n at least 1.
    """
    ordered = np.sort(np.asarray(p, dtype=np.float64))[::-1]
    expected = 2 * np.cumsum(ordered) / (np.arange(1, len(ordered) + 1) + ordered.sum())
    return float(ordered[np.argmax(expected)])


def reliability(y: Labels, p: Doubles, bins: int = BINS) -> list[dict[str, float]]:
    """The reliability curve: what share of the rows was positive where the classifier said p.

    Args:
        y: n labels 0/1.
        p: n probabilities.
        bins: Of equal width.

    Returns:
        For each bin that has rows: its bounds `from` and `to`, `n`, `said` (mean probability), `was` (share of
        positives) and that share's 95 % interval `low` to `high` (Wilson 1927).
    """
    place = _bins(p, bins)
    curve = []
    for b in sorted(set(place.tolist())):
        inside = place == b
        hits, n = int(y[inside].sum()), int(inside.sum())
        interval = binomtest(hits, n).proportion_ci(method="wilson")
        said = float(p[inside].mean())
        curve.append(
            {
                "from": b / bins,
                "to": (b + 1) / bins,
                "n": n,
                "said": said,
                "was": hits / n,
                "low": float(interval.low),
                "high": float(interval.high),
            }
        )
    return curve


def with_intervals(y: Labels, p: Doubles, groups: Sequence[str] | None = None, *, seed: int = 0) -> dict[str, Figure]:
    """Every metric with its 95 % bootstrap interval (percentiles).

    Args:
        y: n labels 0/1, both there.
        p: n probabilities.
        groups: n names; rows of one group are drawn together. None: each row for itself.
        seed: Of the resamples.

    Raises:
        DataError: The labels are of one class only.
    """
    [drawn] = bootstrap(y, [p], groups, seed=seed)
    return {name: figure(value, drawn[name]) for name, value in scores(y, p).items()}


def figure(value: float, drawn: Doubles) -> Figure:
    """A value with the central 95 % of what the resamples gave, stretched to the value where it lies outside.

    That happens to the calibration error: resampling adds noise, and noise only ever adds to it.
    """
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": value, "low": min(float(low), value), "high": max(float(high), value)}


def bootstrap(
    y: Labels, ps: Sequence[Doubles], groups: Sequence[str] | None = None, *, seed: int = 0, resamples: int = RESAMPLES
) -> list[dict[str, Doubles]]:
    """Every metric of each of several probabilities on the same resamples of rows: they can be compared in pairs.

    Groups are resampled within those that hold positives only, negatives only, or both, so that no resample lacks a
    class.

    Args:
        y: n labels 0/1, both there.
        ps: Each n probabilities.
        groups: n names; rows of one group are drawn together. None: each row for itself.
        seed: Of the resamples.
        resamples: Their number.

    Returns:
        For each of `ps`, `resamples` values by metric.

    Raises:
        DataError: The labels are of one class only.
    """
    parts: list[list[dict[str, Doubles]]] = [[] for _ in ps]
    for counts in _resamples(y, groups, seed, resamples):
        for part, p in zip(parts, ps, strict=True):
            part.append(_measure(y, p, counts))
    return [{name: np.concatenate([block[name] for block in part]) for name in METRICS} for part in parts]


def _resamples(y: Labels, groups: Sequence[str] | None, seed: int, resamples: int) -> Iterator[Doubles]:
    """Blocks of resamples × n counts."""
    names = np.arange(len(y)) if groups is None else np.unique(np.asarray(groups, dtype=object), return_inverse=True)[1]
    # 1: only negatives, 2: only positives, 3: both.
    holds = np.zeros(int(names.max()) + 1, dtype=np.int64)
    np.bitwise_or.at(holds, names, np.where(y == 1, 2, 1))
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // len(y))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = np.zeros((size, len(holds)))
        for kind in (1, 2, 3):
            alike = np.flatnonzero(holds == kind)
            if len(alike):
                drawn[:, alike] = rng.multinomial(len(alike), np.full(len(alike), 1 / len(alike)), size=size)
        yield drawn[:, names]


def _measure(y: Labels, p: Doubles, counts: Doubles) -> dict[str, Doubles]:
    if len(set(y.tolist())) < 2:
        raise DataError("The rows are of one class only; measuring needs both, label 1 and label 0.")
    rows = Ranked.of(y, p, counts)
    return {name: metric(rows) for name, metric in METRICS.items()}


def _ones(y: Labels, p: Doubles) -> Ranked:
    return Ranked.of(y, p, np.ones((1, len(y))))


def _bins(p: Doubles, bins: int) -> NDArray[np.int64]:
    place: NDArray[Any] = np.minimum((p * bins).astype(np.int64), bins - 1)
    return place
