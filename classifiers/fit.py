"""`SafetyClassifier`: from example texts to a calibrated linear head on Gemma's activations."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from classifiers import hub
from classifiers.cache import FeatureCache, cache_for
from classifiers.cards import artifact_card
from classifiers.category import Fitted, fit_category, flat
from classifiers.features import (
    REPLY_WINDOW,
    STRIDE,
    WINDOW,
    Reading,
    alone_readings,
    causal_readings,
    default_question,
    middle_blocks,
    split_text,
    texts_of,
)
from classifiers.golden import check_model, record_golden
from classifiers.model import NeedsGemma
from safety_kit import __version__, artifacts
from safety_kit.artifacts import Artifact
from safety_kit.data import classifiers_dir
from safety_kit.errors import DataError, UserError
from safety_kit.gemma import Gemma

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from classifiers.features import Floats, Text


class SafetyClassifier(hub.OnHub, NeedsGemma, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A calibrated few-shot classifier on frozen Gemma activations.

    Args:
        gemma: The model, or what `Gemma.load` takes.
        reading: ``causal``: a text's own tokens where they stand in a prompt (what a guard reads for next to nothing);
            ``alone``: a forward of its own, with the question.
        categories: Names of the columns of y; for one category its name.
        blocks: Blocks to pool; None takes eight around the middle of the model.
        question: For ``alone``; None asks after the category by name.
        known: Classifiers already taught on this model, whose scores join as features: ``kit`` takes those that ship
            or were prepared, a list names folders, None takes none.
        cache: Keep readings on disk: True in the kit's cache folder, or a `FeatureCache`.
        folds: Of the cross-validation.
        seed: Of the folds.
        progress: Show progress bars on stderr.

    After `fit`: `classes_`, `categories_`, `heads_`, `report_` (by category the metrics on held-out folds, each
    with the regularisation and calibration of the others), `sources_` (digests of the known classifiers used) and
    `seconds_`.
    """

    def __init__(
        self,
        gemma: Gemma | str = "embedded",
        *,
        reading: Literal["causal", "alone"] = "causal",
        categories: Sequence[str] | str = "unsafe",
        blocks: Sequence[int] | None = None,
        question: str | None = None,
        known: Sequence[Path | str] | Literal["kit"] | None = "kit",
        cache: FeatureCache | bool = True,
        folds: int = 5,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.gemma = gemma
        self.reading = reading
        self.categories = categories
        self.blocks = blocks
        self.question = question
        self.known = known
        self.cache = cache
        self.folds = folds
        self.seed = seed
        self.progress = progress

    def fit(self, X: Sequence[Text], y: ArrayLike, groups: Sequence[str] | None = None) -> SafetyClassifier:
        """Teach.

        Args:
            X: n texts, or (prompt, text) pairs where the text is a reply.
            y: n labels 0/1, or n x categories with NaN where a label is unknown.
            groups: n names; texts of one group are never split between folds. None: each text for itself.

        Returns:
            Itself.

        Raises:
            DataError: Labels are missing, of one class only, or not 0, 1 or NaN.
        """
        begin = time.perf_counter()
        texts = texts_of(X)
        names = [self.categories] if isinstance(self.categories, str) else list(self.categories)
        labels = _labels(y, len(texts), names)
        model = self.model_
        self.blocks_ = middle_blocks(model.n_blocks) if self.blocks is None else tuple(self.blocks)
        known = self._known(model)
        directions = self._directions(known, model)
        readings = self._readings(model, texts)
        if groups is None:
            groups = [_digest([text]) for text in texts]
        outcome = [
            fit_category(name, self.blocks_, readings, labels[:, column], groups, directions, self.folds, self.seed)
            for column, name in enumerate(names)
        ]
        self.classes_ = np.array([0, 1])
        self.categories_ = tuple(names)
        self.sources_ = {category: artifact.digest for artifact in known for category in artifact.heads}
        self.heads_ = {one.head.category: one.head for one in outcome}
        self.fitted_ = {one.head.category: one for one in outcome}
        self.report_ = {one.head.category: one.metrics for one in outcome}
        self.data_digest_ = _digest([*texts, labels.tobytes().hex()])
        self.seconds_ = time.perf_counter() - begin
        return self

    def category_probabilities(self, X: Sequence[Text]) -> NDArray[np.float64]:
        """n x categories calibrated probabilities: at input for texts, at output for (prompt, text) pairs.

        A text without tokens has NaN.
        """
        check_is_fitted(self, "heads_")
        texts = texts_of(X)
        label, cache = "scoring" if self.progress else None, cache_for(self.cache)
        if self.reading == "causal":
            readings = causal_readings(self.model_, texts, self.blocks_, varied=False, progress=label, cache=cache)
        else:
            readings = alone_readings(self.model_, texts, self.blocks_, self.question_, progress=label, cache=cache)
        out = np.full((len(texts), len(self.categories_)), np.nan)
        for reading in readings:
            for column, category in enumerate(self.categories_):
                head = self.heads_[category]
                score = float(np.max(flat(reading.windows) @ head.weight)) + head.bias
                out[reading.row, column] = head.probability(score, reading.stage)
        return out

    def predict_proba(self, X: Sequence[Text]) -> NDArray[np.float64]:
        """n x 2 (no, yes) for one category, n x categories for several; calibrated, for a prevalence of one half."""
        p = np.nan_to_num(self.category_probabilities(X))  # a text without tokens holds nothing
        return np.column_stack([1 - p[:, 0], p[:, 0]]) if p.shape[1] == 1 else p

    def predict(self, X: Sequence[Text]) -> NDArray[np.int64]:
        """n labels, or n x categories, at probability .5."""
        p = self.predict_proba(X)
        return (p[:, 1] >= 0.5).astype(np.int64) if len(self.categories_) == 1 else (p >= 0.5).astype(np.int64)

    def save(self, path: Path | str, *, notes: str = "") -> Artifact:
        """Write the artifact folder (in one step).

        Args:
            path: The folder.
            notes: Markdown for the card: where the examples came from, what they leave out.
        """
        check_is_fitted(self, "heads_")
        model = self.model_
        tensors: dict[str, Any] = {}
        records: dict[str, Any] = {}
        for category, one in self.fitted_.items():
            tensors[f"weight.{category}"] = one.head.weight
            for stage, negatives in one.head.negatives.items():
                tensors[f"negatives.{stage}.{category}"] = negatives
            for stage, lengths in one.head.lengths.items():
                tensors[f"lengths.{stage}.{category}"] = lengths
            records[category] = {
                "bias": one.head.bias,
                "calibration": {stage: scale.model_dump() for stage, scale in one.head.calibration.items()},
                "regularisation": one.regularisation,
                "positives": one.positives,
                "negatives": one.negatives,
                "metrics": {name: round(value, 4) for name, value in one.metrics.items()},
            }
        question = self.question_ if self.reading == "alone" else None
        manifest = {
            "reading": self.reading,
            "question": question,
            "model": {
                "name": artifacts.public_name(model.name),
                "family": model.family,
                "digest": model.digest,
                "dtype": model.dtype,
                "attention": model.attention,
                "blocks": model.n_blocks,
                "hidden_size": model.hidden_size,
            },
            "blocks": list(self.blocks_),
            "window": WINDOW,
            "reply_window": REPLY_WINDOW,
            "stride": STRIDE,
            "categories": records,
            "data_digest": self.data_digest_,
            "golden": record_golden(model, self.heads_, self.reading, question),
            "sources": [{"category": name, "digest": digest} for name, digest in self.sources_.items()],
            "created": datetime.now(UTC).strftime("%Y-%m-%d"),
            "kit_version": __version__,
        }
        return artifacts.save(Path(path), manifest, tensors, artifact_card(manifest, notes))

    @classmethod
    def load(cls, path: Path | str, gemma: Gemma | str = "embedded", *, progress: bool = False) -> SafetyClassifier:
        """A fitted classifier from its folder.

        Raises:
            ArtifactError: The folder is missing, changed, or taught on another model.
        """
        artifact = artifacts.load(path)
        manifest = artifact.manifest
        self = cls(
            gemma,
            reading=manifest.reading,
            categories=list(manifest.categories),
            question=manifest.question,
            progress=progress,
        )
        check_model(artifact, self.model_)
        self.classes_ = np.array([0, 1])
        self.categories_ = tuple(manifest.categories)
        self.blocks_ = tuple(manifest.blocks)
        self.heads_ = artifact.heads
        self.report_ = {
            name: {metric: value for metric, value in record.metrics.items() if value is not None}
            for name, record in manifest.categories.items()
        }
        self.fitted_ = {
            name: Fitted(
                artifact.heads[name],
                record.regularisation,
                self.report_[name],
                record.positives,
                record.negatives,
            )
            for name, record in manifest.categories.items()
        }
        self.data_digest_ = manifest.data_digest
        self.sources_ = {source.category: source.digest for source in manifest.sources}
        return self

    @property
    def question_(self) -> str:
        names = [self.categories] if isinstance(self.categories, str) else list(self.categories)
        return self.question or default_question(names)

    def _readings(self, model: Gemma, texts: list[Text]) -> list[Reading]:
        label = "reading" if self.progress else None
        if self.reading == "alone":
            return alone_readings(
                model, texts, self.blocks_, self.question_, progress=label, cache=cache_for(self.cache)
            )
        if self.reading == "causal":
            return causal_readings(model, texts, self.blocks_, varied=True, progress=label, cache=cache_for(self.cache))
        raise UserError(f"reading is 'causal' or 'alone', not {self.reading!r}.")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        tags.target_tags.multi_output = not isinstance(self.categories, str)
        tags.classifier_tags.multi_class = False
        return tags

    def _known(self, model: Gemma) -> list[Artifact]:
        """The classifiers whose scores join the features: those that read this model at blocks that are read here."""
        if self.known is None:
            return []
        folders = sorted(classifiers_dir(model.name, model.digest).glob("*/")) if self.known == "kit" else self.known
        found = [artifacts.load(folder) for folder in folders if (Path(folder) / "manifest.json").is_file()]
        return [
            artifact
            for artifact in found
            if artifact.manifest.model.digest == model.digest
            and artifact.manifest.reading == "causal"
            and set(artifact.manifest.blocks) <= set(self.blocks_)
        ]

    def _directions(self, known: Sequence[Artifact], model: Gemma) -> Floats | None:
        """F x k weights of the known heads, laid over the slots: they read the means over the text's own tokens."""
        slots = len(self.blocks_) * (2 if self.reading == "alone" else 1)
        directions = []
        for head in (head for artifact in known for head in artifact.heads.values()):
            laid = np.zeros((slots, model.hidden_size), np.float32)
            laid[[self.blocks_.index(block) for block in head.blocks]] = head.weight.reshape(len(head.blocks), -1)
            directions.append(laid.reshape(-1))
        return np.stack(directions, axis=1) if directions else None


def _labels(y: ArrayLike, n: int, names: list[str]) -> NDArray[np.float64]:
    try:
        labels = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError("Labels are 0, 1 or NaN (unknown).") from error
    if labels.ndim == 1:
        labels = labels[:, None]
    if labels.shape != (n, len(names)):
        raise DataError(f"There are {n} texts and {len(names)} categories, but labels of shape {labels.shape}.")
    if not np.isin(labels[~np.isnan(labels)], (0, 1)).all():
        raise DataError("Labels are 0, 1 or NaN (unknown).")
    return labels


def _digest(items: Sequence[Any]) -> str:
    total = hashlib.sha256()
    for item in items:
        prompt, text = split_text(item)
        total.update(f"{prompt!r}\0{text!r}\0".encode("utf-8", "surrogatepass"))
    return total.hexdigest()
