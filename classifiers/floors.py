"""What a classifier must beat on the same rows: calling every row positive, and word counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from classifiers.heads import make_folds
from safety_kit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FOLDS = 5
WORDS = r"\w+|[^\w\s]+"
"""A token is a word or a run of signs, so that no text that says anything is empty."""


def constant_positive(n: int) -> NDArray[np.float64]:
    """Probability 1 for each of n rows."""
    return np.ones(n)


def tfidf(
    pairs: Sequence[tuple[str | None, str]], y: NDArray[np.int64], groups: Sequence[str], seed: int = 0
) -> NDArray[np.float64] | None:
    """Probabilities of TF-IDF of words and word pairs with a logistic regression, cross-validated on these very rows.

    Args:
        pairs: n (prompt, text).
        y: n labels 0/1.
        groups: n names; rows of one group are held out together.
        seed: Of the folds.

    Returns:
        n probabilities, each from the folds without the row; None where a label has fewer than two groups.
    """
    try:
        folds = make_folds(y, groups, FOLDS, seed)
    except DataError:
        return None
    texts = np.array([text if prompt is None else f"{prompt}\n{text}" for prompt, text in pairs], dtype=object)
    p = np.zeros(len(y))
    for held in folds:
        rest = np.setdiff1d(np.arange(len(y)), held)
        if len(set(y[rest].tolist())) < 2:  # large groups can leave one class to learn from
            return None
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORDS),
            LogisticRegression(C=10, class_weight="balanced", max_iter=500),
        )
        p[held] = model.fit(texts[rest], y[rest]).predict_proba(texts[held])[:, 1]
    return p
