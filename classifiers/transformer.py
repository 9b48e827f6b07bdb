"""`GemmaFeatures`: the activations as a scikit-learn transformer, for pipelines of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from classifiers.cache import FeatureCache, cache_for
from classifiers.features import Text, alone_readings, causal_readings, default_question, middle_blocks, texts_of
from classifiers.model import NeedsGemma
from safety_kit.errors import UserError
from safety_kit.gemma import Gemma

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class GemmaFeatures(NeedsGemma, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Texts, or (prompt, text) pairs, to pooled activations.

    Args:
        gemma: The model, or what `Gemma.load` takes.
        reading: ``causal``: the mean over a text's own tokens, where it would stand in a prompt; ``alone``: the text
            in a question, its mean and the question's.
        blocks: Blocks to pool; None takes eight around the middle of the model.
        question: For ``alone``.
        cache: Keep readings on disk: True in the kit's cache folder, or a `FeatureCache`.
        progress: Show a progress bar on stderr.
    """

    def __init__(
        self,
        gemma: Gemma | str = "embedded",
        *,
        reading: Literal["causal", "alone"] = "causal",
        blocks: Sequence[int] | None = None,
        question: str | None = None,
        cache: FeatureCache | bool = True,
        progress: bool = False,
    ) -> None:
        self.gemma = gemma
        self.reading = reading
        self.blocks = blocks
        self.question = question
        self.cache = cache
        self.progress = progress

    def fit(self, X: Sequence[Text], y: object = None) -> GemmaFeatures:
        """Settle what is read; nothing is learnt from the texts.

        Raises:
            UserError: An unknown reading.
        """
        if self.reading not in ("causal", "alone"):
            raise UserError(f"reading is 'causal' or 'alone', not {self.reading!r}.")
        texts_of(X)
        self.blocks_ = middle_blocks(self.model_.n_blocks) if self.blocks is None else tuple(self.blocks)
        slots = len(self.blocks_) * (2 if self.reading == "alone" else 1)
        self.n_features_ = slots * self.model_.hidden_size
        return self

    def transform(self, X: Sequence[Text]) -> NDArray[np.float32]:
        """n x (slots · d): a block after the other, for ``alone`` the text's and then the question's.

        A text without tokens is all zeros.
        """
        check_is_fitted(self, "blocks_")
        texts = texts_of(X)
        label = "reading" if self.progress else None
        cache = cache_for(self.cache)
        if self.reading == "alone":
            question = self.question or default_question(["harmful content"])
            readings = alone_readings(self.model_, texts, self.blocks_, question, progress=label, cache=cache)
        else:
            readings = causal_readings(self.model_, texts, self.blocks_, varied=False, progress=label, cache=cache)
        features = np.zeros((len(texts), self.n_features_), np.float32)
        for reading in readings:
            features[reading.row] = reading.whole.reshape(-1)
        return features

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names such as ``text.block8.17``."""
        check_is_fitted(self, "blocks_")
        parts = ["text", "question"] if self.reading == "alone" else ["text"]
        size = self.model_.hidden_size
        names = [f"{part}.block{block}.{i}" for part in parts for block in self.blocks_ for i in range(size)]
        return np.array(names, dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        tags.requires_fit = False
        return tags
