"""Labels that are likely wrong: those that a model taught from the other rows is sure against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from classifiers.calibrate import platt
from classifiers.heads import fit_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]
    Doubles = NDArray[np.float64]
    Text = str | tuple[str | None, str]

KNOWS = 0.8
"""Out-of-fold AUROC below which a model knows too little of the labels to speak against one."""

SURE = 0.7
"""Confidence below which a label is not doubted."""

_REGULARISATION = 1e-3  # the middle one of those that teaching chooses from


def word_scores(texts: Sequence[str], y: Ints, folds: Sequence[Ints]) -> Doubles:
    """n scores of label 1, each by a logistic regression on the other folds' words and pairs of words (TF-IDF).

    Args:
        texts: n texts.
        y: n labels 0/1, both in every fold's rest.
        folds: Rows held out in each fold.
    """
    scores = np.zeros(len(y))
    for held in folds:
        rest = np.setdiff1d(np.arange(len(y)), held)
        reader = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
        model = LogisticRegression(C=10, class_weight="balanced", max_iter=500)
        with threadpool_limits(1, "blas"):
            model.fit(reader.fit_transform([texts[i] for i in rest]), y[rest])
        scores[held] = model.decision_function(reader.transform([texts[i] for i in held]))
    return scores


def feature_scores(features: Floats, y: Ints, folds: Sequence[Ints]) -> Doubles:
    """n scores of label 1, each by a head taught on the other folds' features."""
    scores = np.zeros(len(y))
    for held in folds:
        rest = np.setdiff1d(np.arange(len(y)), held)
        head = fit_path(features[rest], y[rest], np.ones(len(rest)), [_REGULARISATION])[0]
        scores[held] = head(features[held])
    return scores


def likely_errors(y: Ints, scores: Doubles) -> list[tuple[int, float]]:
    """Rows whose other label is at least as likely as it usually is for the rows that have it, and at least `SURE`.

    The rule of confident learning (Northcutt et al. 2021), with a floor, on Platt-scaled scores.

    Args:
        y: n labels 0/1.
        scores: n scores of label 1, out of fold.

    Returns:
        (row, probability of the other label), the surest first.
    """
    scale = platt(y, scores)
    p = expit(scale.slope * scores + scale.intercept)
    other = np.where(y == 1, 1 - p, p)
    usual = np.where(y == 1, (1 - p)[y == 0].mean(), p[y == 1].mean())
    found = np.flatnonzero((other >= usual) & (other >= SURE))
    return sorted(((int(row), float(other[row])) for row in found), key=lambda one: -one[1])
