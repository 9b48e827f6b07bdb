"""What an adapter is taught from, checked: texts, and enough labels of both kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from classifiers.features import split_text
from safety_kit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from classifiers.features import Text

LEAST = 10
"""Examples of each label that an adapter needs; with about 200 in all it begins to pay."""


def as_texts(X: Sequence[Text]) -> list[str]:
    """The texts themselves; of a (prompt, text) pair the text.

    Raises:
        DataError: One is no text.
    """
    texts = []
    for place, item in enumerate(X, 1):
        text = split_text(item)[1] if isinstance(item, (str, tuple)) and item else item
        if not isinstance(text, str):
            raise DataError(f"Example {place} is not a text; give strings, or pairs of prompt and text.")
        texts.append(text)
    return texts


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
