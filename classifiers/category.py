"""One category taught: its head, the regularisation chosen on held-out folds, its calibration on what these said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifiers.calibrate import platt, probabilities
from classifiers.features import REPLY_WINDOW, STRIDE, WINDOW, Reading
from classifiers.heads import REGULARISATION, Linear, fit_path, make_folds, rank_quality
from classifiers.metrics import scores as metric_scores
from safety_kit.errors import DataError
from safety_kit.heads import Head
from safety_kit.types import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifiers.features import Floats

ENOUGH = (20, 100)
"""Positive and negative texts of a stage's own that its calibration needs; with fewer it uses those of both stages."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """One category's outcome: its head and what cross-validation said of it."""

    head: Head
    regularisation: float
    metrics: dict[str, float]
    positives: int
    negatives: int


def fit_category(
    category: str,
    blocks: tuple[int, ...],
    readings: list[Reading],
    labels: NDArray[np.float64],
    groups: Sequence[str],
    known: Floats | None,
    folds: int,
    seed: int,
) -> Fitted:
    """One category's head, its regularisation chosen on folds that were held out."""
    readings = [reading for reading in readings if not np.isnan(labels[reading.row])]
    rows = sorted({reading.row for reading in readings})
    count = labels[rows]
    if len(set(count.tolist())) < 2:
        raise DataError(f"{category} has examples of one class only; it needs both, label 1 and label 0.")
    held = make_folds(count.astype(np.int64), [groups[row] for row in rows], folds, seed)
    features = np.stack([reading.whole.reshape(-1) for reading in readings])
    windows = [flat(reading.windows) for reading in readings]
    text = np.array([reading.row for reading in readings])
    y = labels[text].astype(np.int64)
    weights = 1.0 / np.bincount(text)[text]
    # Each C's score of every reading, from the fold that held its text out.
    unseen = np.zeros((len(REGULARISATION), len(readings)))
    outside = [np.isin(text, [rows[i] for i in part]) for part in held]
    for out in outside:
        for path, fold in enumerate(fit_path(features[~out], y[~out], weights[~out], REGULARISATION, known)):
            unseen[path, out] = [np.max(fold(windows[i])) for i in np.flatnonzero(out)]
    best = int(np.argmax([rank_quality(y, scores) for scores in unseen]))
    final = fit_path(features, y, weights, [REGULARISATION[best]], known)[0]
    head = _calibrated(category, blocks, final, readings, windows, y, unseen[best])
    p = unselected_probabilities(unseen, y, text, np.array([reading.stage for reading in readings]), outside)
    own = _one_per_text(text)
    return Fitted(
        head,
        REGULARISATION[best],
        metric_scores(y[own], p[own]),
        int(np.sum(count == 1)),
        int(np.sum(count == 0)),
    )


def unselected_probabilities(
    unseen: NDArray[np.float64],
    y: NDArray[np.int64],
    text: NDArray[np.int64],
    stages: NDArray[np.str_],
    outside: Sequence[NDArray[np.bool_]],
) -> NDArray[np.float64]:
    """What to report of each reading: the regularisation and the calibration come from the other folds' scores.

    So neither was chosen by the labels that it is measured on. (The other folds' heads were fitted on this fold's
    texts: the selection is left out of the figures, the examples' own likeness is not.)

    Args:
        unseen: candidates × n scores, each from a head that was not fitted on the reading's text.
        y: n labels 0/1.
        text: n, the text that a reading is of.
        stages: n.
        outside: For each fold, which readings it holds out.
    """
    p = np.zeros(len(y))
    for out in outside:
        others = np.flatnonzero(~out)
        best = int(np.argmax([rank_quality(y[others], scores[others]) for scores in unseen]))
        for stage in Stage:
            asked = np.flatnonzero(out & (stages == stage))
            chosen = others[_calibrating(stage, stages[others], text[others], y[others])]
            p[asked] = probabilities(platt(y[chosen], unseen[best, chosen]), unseen[best, asked])
    return p


def _calibrated(
    category: str,
    blocks: tuple[int, ...],
    final: Linear,
    readings: list[Reading],
    windows: list[NDArray[np.float32]],
    y: NDArray[np.int64],
    unseen: NDArray[np.float64],
) -> Head:
    """The head with each stage's calibration on held-out scores of texts read as that stage, where there are enough."""
    stages = np.array([reading.stage for reading in readings])
    text = np.array([reading.row for reading in readings])
    calibration, negatives, lengths = {}, {}, {}
    for stage in Stage:
        chosen = _calibrating(stage, stages, text, y)
        calibration[stage] = platt(y[chosen], unseen[chosen])
        harmless = chosen[y[chosen] == 0]
        harmless = harmless[np.argsort(unseen[harmless])]
        negatives[stage] = unseen[harmless].astype(np.float32)
        lengths[stage] = np.array([readings[i].tokens for i in harmless], np.int32)
    measured = (calibration, negatives, WINDOW, STRIDE, lengths, REPLY_WINDOW)
    return Head(category, blocks, final.weight, final.bias, *measured)


def _calibrating(
    stage: Stage, stages: NDArray[np.str_], text: NDArray[np.int64], y: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Indices of the readings that a stage is calibrated on: its own, one a text, or all where these are too few."""
    mine = np.flatnonzero(stages == stage)
    chosen: NDArray[np.int64] = mine[_one_per_text(text[mine])]
    if np.sum(y[chosen] == 1) < ENOUGH[0] or np.sum(y[chosen] == 0) < ENOUGH[1]:
        chosen = _one_per_text(text)
    return chosen


def _one_per_text(text: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of one reading a text, its own place for even rows and the varied one for odd: texts count once."""
    _, first = np.unique(text, return_index=True)
    last = len(text) - 1 - np.unique(text[::-1], return_index=True)[1]
    chosen: NDArray[np.int64] = np.where(text[first] % 2 == 0, first, last)
    return chosen


def flat(windows: Floats) -> Floats:
    """Readings as rows of features: m × slots × d → m × (slots · d)."""
    return windows.reshape(len(windows), -1)
