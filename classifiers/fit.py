"""`SafetyClassifier`: from example texts to a calibrated linear head on Gemma's activations."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from classifiers.calibrate import platt
from classifiers.cards import artifact_card
from classifiers.evaluate import scores as metric_scores
from classifiers.features import (
    STRIDE,
    WINDOW,
    Reading,
    alone_readings,
    causal_readings,
    default_question,
    split_text,
)
from classifiers.heads import REGULARISATION, Linear, fit_path, make_folds, rank_quality
from safety_kit import __version__, artifacts
from safety_kit.artifacts import Artifact, Head
from safety_kit.errors import DataError, UserError
from safety_kit.gemma import Gemma
from safety_kit.types import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from classifiers.features import Memo, Text

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


class SafetyClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A calibrated few-shot classifier on frozen Gemma activations.

    Args:
        gemma: The model, or what `Gemma.load` takes.
        reading: ``causal``: a text's own tokens where they stand in a prompt (what a guard reads for next to nothing);
            ``alone``: a forward of its own, with the question.
        categories: Names of the columns of y; for one category its name.
        blocks: Candidate sets of neighbouring blocks to pool; None takes two around the middle of the model.
        question: For ``alone``; None asks after the category by name.
        folds: Of the cross-validation.
        seed: Of the folds.
        progress: Show progress bars on stderr.

    After `fit`: `classes_`, `categories_`, `heads_`, `report_` (by category the metrics on held-out folds, for the
    blocks and regularisation that the same folds chose) and `seconds_`.
    """

    def __init__(
        self,
        gemma: Gemma | str = "embedded",
        *,
        reading: Literal["causal", "alone"] = "causal",
        categories: Sequence[str] | str = "unsafe",
        blocks: Sequence[Sequence[int]] | None = None,
        question: str | None = None,
        folds: int = 5,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.gemma = gemma
        self.reading = reading
        self.categories = categories
        self.blocks = blocks
        self.question = question
        self.folds = folds
        self.seed = seed
        self.progress = progress
        self.memo: Memo | None = None  # readings shared between fits on one model; not a parameter

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
        texts = list(X)
        names = [self.categories] if isinstance(self.categories, str) else list(self.categories)
        labels = _labels(y, len(texts), names)
        model = self.model_
        readings, candidates = self._readings(model, texts)
        if groups is None:
            groups = [_digest([text]) for text in texts]
        fitted = [
            self._fit_category(name, labels[:, column], readings, candidates, groups)
            for column, name in enumerate(names)
        ]
        best = int(np.argmax(np.mean([[rank for rank, _ in by_blocks] for by_blocks in fitted], axis=0)))
        outcome = [by_blocks[best][1] for by_blocks in fitted]
        self.classes_ = np.array([0, 1])
        self.categories_ = tuple(names)
        self.blocks_ = tuple(candidates[best])
        self.heads_ = {one.head.category: one.head for one in outcome}
        self.fitted_ = {one.head.category: one for one in outcome}
        self.report_ = {one.head.category: one.metrics for one in outcome}
        self.data_digest_ = _digest([*texts, labels.tobytes().hex()])
        self.seconds_ = time.perf_counter() - begin
        return self

    @property
    def model_(self) -> Gemma:
        """The model, loaded when it was named."""
        if not isinstance(self.gemma, Gemma):
            self.gemma = Gemma.load(self.gemma)
        return self.gemma

    def category_probabilities(self, X: Sequence[Text]) -> NDArray[np.float64]:
        """n x categories calibrated probabilities: at input for texts, at output for (prompt, text) pairs.

        A text without tokens has NaN.
        """
        check_is_fitted(self, "heads_")
        texts = list(X)
        if self.reading == "causal":
            readings = causal_readings(self.model_, texts, self.blocks_, varied=False, progress=self._label("scoring"))
        else:
            readings = alone_readings(self.model_, texts, self.blocks_, self.question_, progress=self._label("scoring"))
        out = np.full((len(texts), len(self.categories_)), np.nan)
        for reading in readings:
            for column, category in enumerate(self.categories_):
                head = self.heads_[category]
                score = float(np.max(_flat(reading.windows) @ head.weight)) + head.bias
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
        tensors = {}
        records: dict[str, Any] = {}
        for category, one in self.fitted_.items():
            tensors[f"weight.{category}"] = one.head.weight
            for stage, negatives in one.head.negatives.items():
                tensors[f"negatives.{stage}.{category}"] = negatives
            records[category] = {
                "bias": one.head.bias,
                "calibration": {stage: scale.model_dump() for stage, scale in one.head.calibration.items()},
                "regularisation": one.regularisation,
                "positives": one.positives,
                "negatives": one.negatives,
                "metrics": {name: round(value, 4) for name, value in one.metrics.items()},
            }
        manifest = {
            "reading": self.reading,
            "question": self.question_ if self.reading == "alone" else None,
            "model": {
                "name": model.name,
                "family": model.family,
                "digest": model.digest,
                "dtype": model.dtype,
                "blocks": model.n_blocks,
                "hidden_size": model.hidden_size,
            },
            "blocks": list(self.blocks_),
            "window": WINDOW,
            "stride": STRIDE,
            "categories": records,
            "data_digest": self.data_digest_,
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
        artifact.check_model(self.model_.name, self.model_.digest)
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
                artifact.heads[name], record.regularisation, self.report_[name], record.positives, record.negatives
            )
            for name, record in manifest.categories.items()
        }
        self.data_digest_ = manifest.data_digest
        return self

    @property
    def question_(self) -> str:
        names = [self.categories] if isinstance(self.categories, str) else list(self.categories)
        return self.question or default_question(names)

    def _label(self, text: str) -> str | None:
        return text if self.progress else None

    def _readings(self, model: Gemma, texts: list[Text]) -> tuple[list[Reading], list[tuple[int, ...]]]:
        """Readings of all candidate blocks, and the candidates."""
        candidates = [tuple(blocks) for blocks in self.blocks] if self.blocks else candidate_blocks(model.n_blocks)
        union = sorted({block for blocks in candidates for block in blocks})
        if self.reading == "alone":
            readings = alone_readings(model, texts, union, self.question_, progress=self._label("reading"))
        elif self.reading == "causal":
            readings = causal_readings(
                model, texts, union, varied=True, progress=self._label("reading"), memo=self.memo
            )
        else:
            raise UserError(f"reading is 'causal' or 'alone', not {self.reading!r}.")
        self._union = union
        return readings, candidates

    def _fit_category(
        self,
        category: str,
        labels: NDArray[np.float64],
        readings: list[Reading],
        candidates: list[tuple[int, ...]],
        groups: Sequence[str],
    ) -> list[tuple[float, Fitted]]:
        """For each candidate set of blocks: its cross-validated quality, and what was fitted."""
        known = [reading for reading in readings if not np.isnan(labels[reading.row])]
        rows = sorted({reading.row for reading in known})
        y = labels[rows].astype(np.int64)
        if len(set(y.tolist())) < 2:
            raise DataError(f"{category} has examples of one class only; it needs both, label 1 and label 0.")
        held = [{rows[i] for i in part} for part in make_folds(y, [groups[row] for row in rows], self.folds, self.seed)]
        outcome = []
        for blocks in candidates:
            pick = [self._union.index(block) for block in blocks]
            outcome.append(_fit_blocks(category, blocks, known, pick, labels, held))
        return outcome


def candidate_blocks(n_blocks: int) -> list[tuple[int, ...]]:
    """Two choices of four blocks around the middle of the model, neighbours or spread, where meaning is read best."""
    middle, step = n_blocks // 2, max(1, n_blocks // 9)
    near = range(middle - 1, middle + 3)
    spread = range(middle - 3 * step // 2, middle + 3 * step, step)
    inside = [tuple(b for b in blocks if 0 <= b < n_blocks)[:4] for blocks in (near, spread)]
    return list(dict.fromkeys(blocks for blocks in inside if blocks))


def _fit_blocks(
    category: str,
    blocks: tuple[int, ...],
    readings: list[Reading],
    pick: list[int],
    labels: NDArray[np.float64],
    held: list[set[int]],
) -> tuple[float, Fitted]:
    features = np.stack([reading.whole[pick].reshape(-1) for reading in readings])
    windows = [_flat(reading.windows[:, pick]) for reading in readings]
    text = np.array([reading.row for reading in readings])
    y = labels[text].astype(np.int64)
    weights = 1.0 / np.bincount(text)[text]
    # Each C's score of every reading, from the fold that held its text out.
    unseen = np.zeros((len(REGULARISATION), len(readings)))
    for part in held:
        out = np.isin(text, list(part))
        for path, fold in enumerate(fit_path(features[~out], y[~out], weights[~out], REGULARISATION)):
            unseen[path, out] = [np.max(fold(windows[i])) for i in np.flatnonzero(out)]
    quality = [rank_quality(y, scores) for scores in unseen]
    best = int(np.argmax(quality))
    final = fit_path(features, y, weights, [REGULARISATION[best]])[0]
    head = _calibrated(category, blocks, final, readings, windows, y, unseen[best])
    p = np.array([head.probability(score, r.stage) for score, r in zip(unseen[best], readings, strict=True)])
    own = _one_per_text(text)
    count = labels[sorted(set(text.tolist()))]
    return quality[best], Fitted(
        head,
        REGULARISATION[best],
        metric_scores(y[own], p[own]),
        int(np.sum(count == 1)),
        int(np.sum(count == 0)),
    )


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
    calibration, negatives = {}, {}
    for stage in Stage:
        mine = np.flatnonzero(stages == stage)
        chosen = mine[_one_per_text(text[mine])]
        if np.sum(y[chosen] == 1) < ENOUGH[0] or np.sum(y[chosen] == 0) < ENOUGH[1]:
            chosen = _one_per_text(text)
        calibration[stage] = platt(y[chosen], unseen[chosen])
        negatives[stage] = np.sort(unseen[chosen][y[chosen] == 0]).astype(np.float32)
    return Head(category, blocks, final.weight, final.bias, calibration, negatives, WINDOW, STRIDE)


def _one_per_text(text: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of one reading a text, its own place for even rows and the varied one for odd: texts count once."""
    _, first = np.unique(text, return_index=True)
    last = len(text) - 1 - np.unique(text[::-1], return_index=True)[1]
    chosen: NDArray[np.int64] = np.where(text[first] % 2 == 0, first, last)
    return chosen


def _flat(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    return windows.reshape(len(windows), -1)


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
