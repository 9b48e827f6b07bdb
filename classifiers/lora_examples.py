"""The labels that an adapter is taught from, checked: enough of both kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from safety_kit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LEAST = 10
"""Examples of each label that an adapter needs; with about 200 in all it begins to pay."""


def as_labels(y: ArrayLike, n: int) -> NDArray[np.int64]:
    """n labels 0/1.

    Raises:
        DataError: One is missing or something else, or there are too few of one kind.
    """
    try:
        labels = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("Labels are 0 or 1.") from None
    if labels.shape == (n, 1):
        labels = labels[:, 0]
    if labels.shape != (n,):
        raise DataError(f"There are {n} texts, but labels of shape {labels.shape}.")
    if not np.isin(labels, (0, 1)).all():
        raise DataError("Labels are 0 or 1; leave texts without a label out.")
    positives, negatives = int(labels.sum()), int(n - labels.sum())
    if min(positives, negatives) < LEAST:
        raise DataError(
            f"An adapter needs at least {LEAST} examples of each label, better 100; there are {positives} of label 1 "
            f"and {negatives} of label 0. A frozen probe (SafetyClassifier) does with fewer."
        )
    return labels.astype(np.int64)
