"""A learning curve: quality against the number of examples, and whether more of them would help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from classifiers.evaluate import known_rows
from classifiers.fit import SafetyClassifier
from classifiers.metrics import HEADINGS, METRICS, Figure, bootstrap, figure, scores
from safety_kit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifiers.data import Examples
    from safety_kit.gemma import Gemma

    Rows = NDArray[np.intp]
    Drawn = list[dict[str, NDArray[np.float64]]]

SMALLEST = 8
"""Examples a class that the curve begins with; each further size has twice as many."""

HELD_OUT = 4
"""One in so many texts is held out where the rows mark none as test."""

LAST = 3
"""Sizes whose slope says what a further doubling would bring."""

WORTH = 0.01
"""A gain a doubling that is too small to be worth the labelling."""


@dataclass(frozen=True, slots=True)
class Size:
    """Quality with so many examples.

    Attributes:
        positives: Examples of label 1.
        negatives: Examples of label 0.
        figures: By metric the mean over the draws and its 95 % interval.
    """

    positives: int
    negatives: int
    figures: dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Curve:
    """A learning curve.

    Attributes:
        category: What was taught.
        metric: What the advice is about.
        sizes: The smallest first.
        held_out: Texts that every point is measured on.
        positives: Of these, label 1.
        marked: Whether the rows themselves marked them as test.
        draws: Random choices of examples a size.
        gain: What one of the last doublings brought in `metric`, with its 95 % interval.
        answer: Whether more examples would help: `yes`, `hardly`, or `unclear` where the interval allows both.
    """

    category: str
    metric: str
    sizes: tuple[Size, ...]
    held_out: int
    positives: int
    marked: bool
    draws: int
    gain: Figure
    answer: Literal["yes", "hardly", "unclear"]

    @property
    def sentence(self) -> str:
        """The answer in words, with what it rests on."""
        gain = (
            f"{self.gain['value']:+.3f} {HEADINGS[self.metric]} ({self.gain['low']:+.3f} to {self.gain['high']:+.3f})"
        )
        basis = f"Each of the last doublings brought {gain} on {self.held_out} held-out texts"
        return {
            "yes": f"{basis}: more examples like these would help.",
            "hardly": f"{basis}: more examples like these would hardly help; other kinds of texts may.",
            "unclear": f"{basis}: that is too wide to say whether more examples would help; hold out more texts.",
        }[self.answer]


def learning_curve(
    gemma: Gemma,
    examples: Examples,
    *,
    metric: str = "auroc",
    reading: Literal["causal", "alone"] = "causal",
    draws: int = 5,
    folds: int = 3,
    seed: int = 0,
    progress: bool = False,
) -> Curve:
    """Teach with 8, 16, 32, … examples of each label, several times each, and measure on the same held-out texts.

    The rows marked as test are the held-out ones where both labels are among them; else a quarter is held out, by
    group. The intervals cover the choice of the examples and of the held-out texts: draws and held-out groups are
    resampled, the latter alike for every size, so that the gain is a paired difference.

    Args:
        gemma: The model.
        examples: Rows of one category.
        metric: What the advice is about, of `classifiers.metrics.METRICS`; higher must be better.
        reading: As in `SafetyClassifier`.
        draws: Random choices of examples a size.
        folds: Of each fit's cross-validation.
        seed: Of the split, the draws and the resamples.
        progress: Show progress bars on stderr.

    Raises:
        DataError: The rows have several categories, or too few examples for two sizes.
    """
    if len(examples.categories) != 1:
        raise DataError(f"The rows have several categories ({', '.join(examples.categories)}); choose one.")
    [category] = examples.categories
    rows, y = known_rows(examples, category)
    some = examples.select(rows)
    teach, held, marked = _split(some, y, seed)
    counts = _sizes(y[teach])
    pairs, groups = some.pairs(), np.array(some.groups, dtype=object)
    drawn: list[Drawn] = [[] for _ in counts]
    values: list[list[dict[str, float]]] = [[] for _ in counts]
    with tqdm(total=draws * len(counts), desc="curve", unit="fit", disable=None if progress else True) as bar:
        for draw in range(draws):
            order = _order(groups[teach], np.random.default_rng([seed, draw]))
            for place in reversed(range(len(counts))):  # the largest first: it reads what the others are made of
                chosen = teach[_first(order, y[teach], counts[place])]
                classifier = SafetyClassifier(
                    gemma, reading=reading, categories=category, folds=folds, seed=seed, progress=progress
                )
                classifier.fit([pairs[row] for row in chosen], y[chosen], groups=groups[chosen].tolist())
                p = np.nan_to_num(classifier.category_probabilities([pairs[row] for row in held])[:, 0])
                values[place].append(scores(y[held], p))
                [resampled] = bootstrap(y[held], [p], groups[held].tolist(), seed=seed)
                drawn[place].append(resampled)
                bar.update()
    means = _means(drawn, seed)
    sizes = tuple(
        Size(*counts[i], {m: figure(float(np.mean([v[m] for v in values[i]])), means[i][m]) for m in METRICS})
        for i in range(len(counts))
    )
    slope = _slope([size.figures[metric]["value"] for size in sizes], [mean[metric] for mean in means], counts)
    return Curve(category, metric, sizes, len(held), int(y[held].sum()), marked, draws, slope, _answer(slope))


def _split(examples: Examples, y: NDArray[np.int64], seed: int) -> tuple[Rows, Rows, bool]:
    """Rows to teach from and rows held out, and whether these were marked."""
    marked = np.flatnonzero(examples.held_out)
    if len(set(y[marked].tolist())) == 2:
        return np.flatnonzero(~examples.held_out), marked, True
    _, codes = np.unique(np.array(examples.groups, dtype=object), return_inverse=True)
    smallest = min(len(set(codes[y == label].tolist())) for label in (0, 1))
    if smallest < HELD_OUT:
        raise DataError(_too_few(int(y.sum()), int((y == 0).sum())))
    splitter = StratifiedGroupKFold(HELD_OUT, shuffle=True, random_state=seed)
    teach, held = next(iter(splitter.split(np.zeros(len(y)), y, codes)))
    return teach, held, False


def _sizes(y: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Positives and negatives of each size: doublings while both classes last, then all there are.

    Raises:
        DataError: There are fewer than two sizes.
    """
    positives, negatives = int(y.sum()), int((y == 0).sum())
    least = min(positives, negatives)
    sizes = []
    size = SMALLEST
    while size <= least:
        sizes.append((size, size))
        size *= 2
    if len(sizes) < 2:
        raise DataError(_too_few(positives, negatives))
    return sizes


def _too_few(positives: int, negatives: int) -> str:
    return (
        f"A curve needs at least {2 * SMALLEST} examples of each label to teach from, beside the held-out texts; "
        f"there are {positives} of label 1 and {negatives} of label 0."
    )


def _order(groups: NDArray[Any], rng: np.random.Generator) -> Rows:
    """The rows in a random order that keeps groups together."""
    _, codes = np.unique(groups, return_inverse=True)
    rank = rng.permutation(int(codes.max()) + 1)
    return np.argsort(rank[codes], kind="stable")


def _first(order: Rows, y: NDArray[np.int64], count: tuple[int, int]) -> Rows:
    """The first so many positives and negatives: a larger size holds all of a smaller one."""
    positives, negatives = count
    return np.concatenate([order[y[order] == 1][:positives], order[y[order] == 0][:negatives]])


def _means(drawn: Sequence[Drawn], seed: int) -> list[dict[str, NDArray[np.float64]]]:
    """For each size and metric, resamples of the mean over draws: draws drawn anew, held-out rows as in each draw."""
    draws, resamples = len(drawn[0]), len(drawn[0][0]["auroc"])
    again = np.random.default_rng([seed, 1]).integers(draws, size=(resamples, draws))
    at = np.arange(resamples)[:, None]
    return [{m: np.stack([one[m] for one in size], axis=1)[at, again].mean(1) for m in METRICS} for size in drawn]


def _slope(values: Sequence[float], means: Sequence[NDArray[np.float64]], counts: Sequence[tuple[int, int]]) -> Figure:
    """Least-squares gain a doubling over the last sizes."""
    x = np.log2([positives for positives, _ in counts[-LAST:]])
    lever = (x - x.mean()) / np.sum((x - x.mean()) ** 2)
    return figure(float(lever @ np.array(values[-LAST:])), lever @ np.stack(means[-LAST:]))


def _answer(gain: Figure) -> Literal["yes", "hardly", "unclear"]:
    if gain["low"] > 0 and gain["value"] >= WORTH:
        return "yes"
    return "hardly" if gain["high"] < WORTH else "unclear"
