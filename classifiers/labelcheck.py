"""Labels that are likely wrong: those that a model taught from the other rows is sure against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from classifiers.heads import fit_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]
    Doubles = NDArray[np.float64]
    Text = str | tuple[str | None, str]

_REGULARISATION = 1e-3  # the middle one of those that teaching chooses from


def word_confidence(texts: Sequence[str], y: Ints, folds: Sequence[Ints]) -> Doubles:
    """n probabilities of label 1, each by a logistic regression on the other folds' words and pairs of words (TF-IDF).

    Args:
        texts: n texts.
        y: n labels 0/1, both in every fold's rest.
        folds: Rows held out in each fold.
    """
    p = np.zeros(len(y))
    for held in folds:
        rest = np.setdiff1d(np.arange(len(y)), held)
        reader = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
        model = LogisticRegression(C=10, class_weight="balanced", max_iter=500)
        with threadpool_limits(1, "blas"):
            model.fit(reader.fit_transform([texts[i] for i in rest]), y[rest])
        p[held] = model.predict_proba(reader.transform([texts[i] for i in held]))[:, 1]
    return p


def feature_confidence(features: Floats, y: Ints, folds: Sequence[Ints]) -> Doubles:
    """n probabilities of label 1, each by a head taught on the other folds' features."""
    p = np.zeros(len(y))
    for held in folds:
        rest = np.setdiff1d(np.arange(len(y)), held)
        head = fit_path(features[rest], y[rest], np.ones(len(rest)), [_REGULARISATION])[0]
        p[held] = expit(head(features[held]))
    return p


def likely_errors(y: Ints, p: Doubles) -> list[tuple[int, float]]:
    """Rows whose other label is at least as likely as it is, on average, for the rows that have that label.

    The rule of confident learning (Northcutt et al. 2021).

    Args:
        y: n labels 0/1.
        p: n probabilities of label 1, out of fold.

    Returns:
        (row, probability of the other label), the surest first; at least .5 each.
    """
    other = np.where(y == 1, 1 - p, p)
    usual = np.where(y == 1, (1 - p)[y == 0].mean(), p[y == 1].mean())
    found = np.flatnonzero((other >= usual) & (other > 0.5))
    return sorted(((int(row), float(other[row])) for row in found), key=lambda one: -one[1])
