"""Which unlabelled texts are worth labelling next: those the classifier doubts, and no two alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from classifiers.features import Text

THRESHOLD = 0.5
CANDIDATES = 50
"""For each text asked for, so many of the most doubtful are looked at: what keeps a pool of any size quick."""

ALIKE = 1e-3
"""A cosine distance below which two texts count as the same."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A text of a pool and the classifier's probability for it."""

    row: int
    score: float


def choose(
    texts: Sequence[Text], p: ArrayLike, n: int, *, threshold: float = THRESHOLD, features: ArrayLike | None = None
) -> list[Choice]:
    """Pick n texts by doubt and difference.

    Doubt is 1 at the threshold and 0 at probability 0 or 1. The most doubtful text is taken first, then again and again
    the one with the largest product of doubt and cosine distance to the nearest one taken (greedy k-centre, Gonzalez
    1985, weighted by doubt).

    Args:
        texts: N texts or (prompt, text) pairs.
        p: N probabilities; NaN (no tokens) is never picked.
        n: How many; fewer come back where the pool has no more that differ.
        threshold: Above 0, below 1: where the decision is.
        features: N × F to tell texts apart by; None takes TF-IDF of their letters.

    Returns:
        In the order picked.
    """
    scores = np.asarray(p, dtype=np.float64)
    doubt = np.where(scores < threshold, scores / threshold, (1 - scores) / (1 - threshold))
    order = np.argsort(-np.nan_to_num(doubt, nan=-1.0), kind="stable")
    candidates = order[~np.isnan(doubt[order])][: CANDIDATES * n]
    if not len(candidates) or n < 1:
        return []
    if features is None:
        made = _letters([texts[row] for row in candidates])
    else:
        made = normalize(np.asarray(features, dtype=np.float64)[candidates])
    picked = _spread(made, doubt[candidates], n)
    return [Choice(int(candidates[i]), float(scores[candidates[i]])) for i in picked]


def _letters(texts: Sequence[Text]) -> Any:
    """Sparse unit rows of letter n-grams: near-copies are near whatever the language."""
    whole = [text if isinstance(text, str) else "\n".join(part for part in text if part) for text in texts]
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True).fit_transform(whole)


def _spread(features: Any, doubt: NDArray[np.float64], n: int) -> list[int]:
    """Rows of unit features, the most doubtful first."""
    picked = [0]
    distance = _distance(features, 0)
    while len(picked) < n:
        gain = np.where(distance > ALIKE, doubt * distance, -1.0)
        best = int(np.argmax(gain))
        if gain[best] < 0:
            break
        picked.append(best)
        distance = np.minimum(distance, _distance(features, best))
    return picked


def _distance(features: Any, row: int) -> NDArray[np.float64]:
    """Cosine distances of all rows to one."""
    product = features @ features[row].T
    return 1.0 - np.asarray(product.todense() if hasattr(product, "todense") else product).reshape(-1)
