"""`AdapterClassifier`: from some hundred example texts to a LoRA adapter with calibrated probabilities."""

from __future__ import annotations

import hashlib
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from classifiers import hub, lora_artifact
from classifiers.calibrate import platt, probabilities
from classifiers.evaluate import scores as metric_scores
from classifiers.features import ALONE_OVERLAP, default_question, texts_of
from classifiers.golden import golden_record
from classifiers.heads import make_folds
from classifiers.lora_artifact import AdapterHead
from classifiers.lora_examples import as_labels
from classifiers.lora_objectives import HeadObjective, WordObjective, all_scores, encode, set_tensors
from classifiers.lora_train import Plan, Training
from classifiers.model import NeedsGemma
from safety_kit import __version__
from safety_kit.artifacts import public_name
from safety_kit.errors import ArtifactError, DataError, UserError
from safety_kit.gemma import Gemma
from safety_kit.gemma.adapted import AdaptedGemma
from safety_kit.golden import TEXTS, check_models, check_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from classifiers.features import Text
    from classifiers.lora_objectives import Encoded, Objective

DROPOUT = 0.1


class AdapterClassifier(hub.OnHub, NeedsGemma, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A LoRA adapter on a Gemma's lower blocks, early stopped and calibrated on a held-out part of its examples.

    The Gemma stays as it is. A text is read alone, in a question, after the prompt that it answers.

    Args:
        gemma: The model, or what `Gemma.load` takes.
        category: What label 1 means.
        question: None asks after the category by name.
        objective: ``head``: a linear head on pooled activations; ``generative``: write the word Yes or No.
        blocks: Kept from the bottom. None: two thirds for ``head``, all for ``generative``, which needs them.
        rank: Of the adapter's matrices. None: 8 for ``head``, 4 for ``generative``, so that either stays small.
        epochs: At most so many.
        learning_rate: After a short rise.
        batch: Texts a step.
        folds: One of so many parts of the examples is held out.
        seed: Of the parts, the order, the start and dropout.
        checkpoint: A folder that keeps each finished epoch; a killed `fit` with the same arguments goes on from there.
        progress: Show progress bars on stderr.

    After `fit`: `classes_`, `held_out_` (rows), `scores_` (their decision scores), `report_` (metrics on them),
    `heads_` (by category, what the harmless ones among them say of thresholds and budgets), `losses_` (held-out loss by
    epoch, the start's first), `best_epoch_` and `seconds_`.
    """

    def __init__(
        self,
        gemma: Gemma | str = "embedded",
        *,
        category: str = "unsafe",
        question: str | None = None,
        objective: Literal["head", "generative"] = "head",
        blocks: int | None = None,
        rank: int | None = None,
        epochs: int = 6,
        learning_rate: float = 5e-4,
        batch: int = 16,
        folds: int = 5,
        seed: int = 0,
        checkpoint: Path | str | None = None,
        progress: bool = False,
    ) -> None:
        self.gemma = gemma
        self.category = category
        self.question = question
        self.objective = objective
        self.blocks = blocks
        self.rank = rank
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch = batch
        self.folds = folds
        self.seed = seed
        self.checkpoint = checkpoint
        self.progress = progress

    def fit(self, X: Sequence[Text], y: ArrayLike, groups: Sequence[str] | None = None) -> AdapterClassifier:
        """Teach.

        Args:
            X: n texts, or (prompt, text) pairs.
            y: n labels 0/1.
            groups: n names; texts of one group are held out together. None: each text for itself.

        Returns:
            Itself.

        Raises:
            DataError: A text is missing, labels are not 0 or 1, or there are too few of one.
            UserError: An argument is out of range, or the checkpoint belongs to another run.
            MissingExtra: PEFT is not installed.
        """
        begin = time.perf_counter()
        self._check()
        texts = texts_of(X)
        labels = as_labels(y, len(texts))
        parts = self._encode(texts)
        items = [windows[0] if windows else None for windows in parts]
        encoded = [item for item in items if item is not None]
        if len(encoded) < len(items):
            raise DataError(f"Example {items.index(None) + 1} has no text; leave it out.")
        names = list(groups) if groups is not None else list(map(repr, texts))
        held = make_folds(labels, names, self.folds, self.seed)[0]
        left = np.delete(labels, held)
        if len(set(labels[held].tolist())) < 2 or len(set(left.tolist())) < 2:
            raise DataError("The groups are too large to hold a part with both labels out; use smaller ones.")
        self._build()
        self.data_digest_ = _digest([*map(repr, texts), labels.tobytes().hex()])
        checkpoint = None if self.checkpoint is None else Path(self.checkpoint)
        plan = Plan(self.epochs, self.learning_rate, self.batch, self.seed, self._run_digest(groups))
        training = Training(self.adapted_, self.objective_, encoded, labels, held, plan, checkpoint, self.progress)
        training.run()
        y_held = labels[training.held]
        self.classes_ = np.array([0, 1])
        self.calibration_ = platt(y_held, training.scores)
        self.held_out_, self.scores_ = training.held, training.scores
        self.heads_ = {self.category: self._measured([parts[row] for row in training.held[y_held == 0]])}
        self.losses_, self.best_epoch_ = training.state.losses, training.state.best
        self.report_ = metric_scores(y_held, probabilities(self.calibration_, training.scores))
        self.counts_ = int(labels.sum()), int(len(labels) - labels.sum())
        self.seconds_ = time.perf_counter() - begin
        return self

    @property
    def question_(self) -> str:
        return self.question or default_question([self.category])

    @property
    def blocks_(self) -> int:
        depth = self.model_.n_blocks
        return self.blocks or (depth if self.objective == "generative" else max(1, round(depth * 2 / 3)))

    @property
    def rank_(self) -> int:
        return self.rank or (4 if self.objective == "generative" else 8)

    def decision_function(self, X: Sequence[Text]) -> NDArray[np.float64]:
        """n decision scores; -inf for a text without tokens. Of a long text's windows the worst counts."""
        check_is_fitted(self, "calibration_")
        return self._largest(self._encode(texts_of(X)))

    def _largest(self, windows: Sequence[Sequence[Encoded]]) -> NDArray[np.float64]:
        items = [item for parts in windows for item in parts]
        row = np.repeat(np.arange(len(windows)), [len(parts) for parts in windows])
        scores = np.full(len(windows), -np.inf)
        found = all_scores(self.objective_, items, range(len(items)), "scoring" if self.progress else None)
        np.maximum.at(scores, row, found)
        return scores

    @property
    def categories_(self) -> tuple[str, ...]:
        return (self.category,)

    def category_probabilities(self, X: Sequence[Text]) -> NDArray[np.float64]:
        """n x 1 calibrated probabilities."""
        return self.predict_proba(X)[:, 1:]

    def predict_proba(self, X: Sequence[Text]) -> NDArray[np.float64]:
        """n x 2 (no, yes), calibrated, for a prevalence of one half; a text without tokens holds nothing."""
        p = probabilities(self.calibration_, self.decision_function(X))
        return np.column_stack([1 - p, p])

    def predict(self, X: Sequence[Text]) -> NDArray[np.int64]:
        """n labels, at probability .5."""
        return (self.predict_proba(X)[:, 1] >= 0.5).astype(np.int64)

    def save(self, path: Path | str, *, notes: str = "") -> Path:
        """Write the adapter's folder (in one step); PEFT can load the adapter in it, too.

        Args:
            path: The folder.
            notes: Markdown for the card: where the examples came from, what they leave out.

        Raises:
            ArtifactError: `path` is something else than an artifact folder.
        """
        check_is_fitted(self, "calibration_")
        model = self.model_
        manifest = {
            "category": self.category,
            "objective": self.objective,
            "question": self.question_,
            "model": {
                "name": public_name(model.name),
                "family": model.family,
                "digest": model.digest,
                "dtype": model.dtype,
                "attention": model.attention,
                "blocks": model.n_blocks,
                "hidden_size": model.hidden_size,
            },
            "blocks": self.blocks_,
            "rank": self.rank_,
            "calibration": self.calibration_.model_dump(),
            "positives": self.counts_[0],
            "negatives": self.counts_[1],
            "held_out": len(self.held_out_),
            "best_epoch": self.best_epoch_,
            "held_out_losses": [round(loss, 6) for loss in self.losses_],
            "metrics": {name: round(value, 4) for name, value in self.report_.items()},
            "data_digest": self.data_digest_,
            "golden": golden_record(self.heads_, [self.decision_function(TEXTS).tolist()]) if self.heads_ else None,
            "created": datetime.now(UTC).strftime("%Y-%m-%d"),
            "kit_version": __version__,
        }
        head = {name: tensor.detach().cpu() for name, tensor in self._head().items()}
        path = Path(path)
        measured = self.heads_.get(self.category)
        lora_artifact.save(path, manifest, self.adapted_.config_json(), self.adapted_.weights(), head, measured, notes)
        return path

    @classmethod
    def load(cls, path: Path | str, gemma: Gemma | str = "embedded", *, progress: bool = False) -> AdapterClassifier:
        """A fitted classifier from its folder.

        Raises:
            ArtifactError: The folder is missing, changed, or taught on a model that reads its golden texts differently.
            MissingExtra: PEFT is not installed.
        """
        folder = lora_artifact.load(Path(path))
        manifest = folder.manifest
        self = cls(
            gemma,
            category=manifest.category,
            question=manifest.question,
            objective=manifest.objective,
            blocks=manifest.blocks,
            rank=manifest.rank,
            progress=progress,
        )
        check_shape(folder, self.model_)
        self._build()
        self.adapted_.restore(folder.weights)
        mine = self._head()
        if {name: tensor.shape for name, tensor in mine.items()} != {name: t.shape for name, t in folder.head.items()}:
            raise ArtifactError("The head does not fit its manifest; teach or fetch the adapter again.")
        set_tensors(mine, folder.head)
        self.classes_ = np.array([0, 1])
        self.calibration_, self.heads_ = manifest.calibration, folder.heads
        check_models([folder], self.model_, lambda _gemma, _heads, texts: [self.decision_function(texts).tolist()])
        self.report_, self.counts_ = manifest.metrics, (manifest.positives, manifest.negatives)
        self.losses_, self.best_epoch_ = manifest.held_out_losses, manifest.best_epoch
        self.held_out_ = np.arange(manifest.held_out)
        self.data_digest_ = manifest.data_digest
        return self

    def _check(self) -> None:
        if self.objective not in ("head", "generative"):
            raise UserError(f"objective is 'head' or 'generative', not {self.objective!r}.")
        for name in ("rank", "epochs", "batch"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{name} must be at least 1.")
        if self.folds < 2:
            raise UserError("folds must be at least 2: one part of the examples is held out.")
        if not 0 < self.learning_rate < 1:
            raise UserError("learning_rate must lie between 0 and 1.")
        if self.objective == "generative" and self.blocks_ != self.model_.n_blocks:
            raise UserError("The generative objective reads the model's output and needs all blocks; leave blocks out.")

    def _build(self) -> None:
        model = self.model_
        self.adapted_ = AdaptedGemma(model, self.blocks_, rank=self.rank_, dropout=DROPOUT, seed=self.seed)
        self.objective_: Objective = (
            HeadObjective(self.adapted_, model.hidden_size)
            if self.objective == "head"
            else WordObjective(self.adapted_, model)
        )

    def _head(self) -> dict[str, Any]:
        return {**self.objective_.parameters(), **self.objective_.fixed}

    def _encode(self, texts: Sequence[Text]) -> list[list[Encoded]]:
        return [encode(self.model_, text, self.question_) for text in texts]

    def _measured(self, windows: Sequence[Sequence[Encoded]]) -> AdapterHead:
        """What harmless texts that were held out say, read as a text is when it is scored: by all its windows."""
        counts = [sum(part.stop - part.start for part in parts) - ALONE_OVERLAP * (len(parts) - 1) for parts in windows]
        return AdapterHead.of(self.category, self.calibration_, self._largest(windows), np.array(counts))

    def _run_digest(self, groups: Sequence[str] | None) -> str:
        settings = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name not in ("gemma", "checkpoint", "progress")
        } | {"rank": self.rank_}
        parts = [self.data_digest_, self.model_.digest, self.question_, str(self.blocks_), json.dumps(settings)]
        return _digest([*parts, *(groups or [])])


def _digest(items: Sequence[str]) -> str:
    total = hashlib.sha256()
    for item in items:
        total.update(f"{item!r}\0".encode("utf-8", "surrogatepass"))
    return total.hexdigest()
