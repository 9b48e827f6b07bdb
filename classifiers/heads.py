"""A linear head on pooled activations: logistic regression, chosen by cross-validation inside the examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from safety_kit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

TRUST = 10.0
"""How many times a standardised feature's size the score of a classifier already taught is given.

Fixed: choosing it by cross-validation inside few examples did worse on the sets tried (docs/decisions/0006)."""

REGULARISATION = (1e-4, 1e-3, 1e-2)
"""Candidate C on standardised features, the strongest first: few examples in many dimensions want a strong one."""


@dataclass(frozen=True, slots=True)
class Linear:
    """score = features · weight + bias, on raw activations: the standardisation is folded in."""

    weight: Floats
    bias: float

    def __call__(self, features: Floats) -> Doubles:
        return features.astype(np.float64) @ self.weight.astype(np.float64) + self.bias


def make_folds(y: NDArray[np.int64], groups: Sequence[str], folds: int, seed: int) -> list[NDArray[np.int64]]:
    """Texts held out in each fold, stratified by label; texts of one group stay together.

    Raises:
        DataError: A class is too small to be split.
    """
    _, codes = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
    smallest = min(len(set(codes[y == label].tolist())) for label in (0, 1))
    if smallest < 2:
        raise DataError("Each label needs at least 2 different examples, better 20; add some.")
    splitter = StratifiedGroupKFold(min(folds, smallest), shuffle=True, random_state=seed)
    parts = [held for _, held in splitter.split(np.zeros(len(y)), y, codes)]
    return [held for held in parts if len(held)]


def fit_path(
    features: Floats,
    y: NDArray[np.int64],
    weights: Doubles,
    regularisation: Sequence[float],
    known: Floats | None = None,
) -> list[Linear]:
    """One head for each C.

    The fit runs in the rows' own span: with an L2 penalty the solution lies there, and it is as small as the number of
    rows. What is known before the first example, directions of classifiers already taught, joins as features that
    are `TRUST` times as large and so that much less regularised; the head stays linear in the activations.

    Args:
        features: n x F raw activations.
        y: n labels 0/1, both there.
        weights: n weights of the rows; the classes are balanced on top.
        regularisation: Values of C.
        known: F x k directions, or None.
    """
    mean = features.mean(0, dtype=np.float64)
    scale = features.std(0, dtype=np.float64) + 1e-6
    standard = ((features - mean) / scale).astype(np.float32)
    with threadpool_limits(1, "blas"):  # on matrices of this size threads cost more than they save
        prior = np.zeros((features.shape[1], 0))
        if known is not None:
            spread = (features @ known).std(0, dtype=np.float64) + 1e-6
            prior = known * (TRUST / spread)
            standard = np.hstack([standard, ((features - mean) @ prior).astype(np.float32)])
        inside, back = _span(standard)
        heads = []
        for c in regularisation:
            model = LogisticRegression(C=c, class_weight="balanced", max_iter=500).fit(inside, y, sample_weight=weights)
            coefficients = back @ model.coef_[0]
            weight = coefficients[: len(scale)] / scale + prior @ coefficients[len(scale) :]
            heads.append(Linear(weight.astype(np.float32), float(model.intercept_[0] - mean @ weight)))
    return heads


def _span(rows: Floats) -> tuple[Doubles, Doubles]:
    """Coordinates of n rows in their own span, and the F x r matrix that takes coefficients there back to features."""
    if len(rows) >= rows.shape[1]:
        return rows.astype(np.float64), np.eye(rows.shape[1])
    values, vectors = np.linalg.eigh((rows @ rows.T).astype(np.float64))
    kept = values > values[-1] * 1e-6
    length = np.sqrt(values[kept])
    return vectors[:, kept] * length, rows.T.astype(np.float64) @ (vectors[:, kept] / length)


def rank_quality(y: NDArray[np.int64], scores: Doubles) -> float:
    """Area under the ROC curve: what the regularisation and the blocks are chosen by."""
    return float(roc_auc_score(y, scores))
