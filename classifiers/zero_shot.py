"""The policy-only rung: no examples, a guideline put to the model as a question; and what labelled rows say of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from classifiers.calibrate import platt
from classifiers.evaluate import with_intervals
from classifiers.model import NeedsGemma
from safety_kit import __version__
from safety_kit.errors import DataError
from safety_kit.evidence import ENOUGH, Evidence, Guideline, Interval, JudgeModel, Measured
from safety_kit.gemma import Gemma
from safety_kit.gemma.judge import log_odds, probability, yes_probability
from safety_kit.types import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifiers.data import Examples, Labels
    from classifiers.features import Text


class PolicyOnly(NeedsGemma, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of 0 examples: P(Yes) against P(No) after a prompt that states the guideline and the text.

    Args:
        gemma: The model, or what `Gemma.load` takes.
        guideline: What a text must not do; its name is the category.
        progress: Show progress bars on stderr.
    """

    def __init__(self, gemma: Gemma | str = "embedded", *, guideline: Guideline, progress: bool = False) -> None:
        self.gemma = gemma
        self.guideline = guideline
        self.progress = progress

    def fit(self, X: object = None, y: object = None) -> PolicyOnly:
        """Itself: there is nothing to learn."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    @property
    def classes_(self) -> NDArray[np.int64]:
        return np.array([0, 1])

    @property
    def categories_(self) -> tuple[str, ...]:
        return (self.guideline.name,)

    def category_probabilities(self, X: Sequence[Text]) -> NDArray[np.float64]:
        """n x 1 probabilities of Yes, not calibrated; of texts, or of (message, reply) pairs."""
        label = "asking" if self.progress else None
        return np.array(yes_probability(self.model_, list(X), self.guideline, label)).reshape(-1, 1)

    def predict_proba(self, X: Sequence[Text]) -> NDArray[np.float64]:
        """n x 2 (no, yes)."""
        p = self.category_probabilities(X)
        return np.hstack([1 - p, p])

    def predict(self, X: Sequence[Text]) -> NDArray[np.int64]:
        """n labels, at probability .5."""
        return (self.predict_proba(X)[:, 1] >= 0.5).astype(np.int64)


def evidence(gemma: Gemma, guideline: Guideline, examples: Examples, *, progress: str | None = None) -> dict[str, Any]:
    """Measure a guideline on labelled rows: what an evidence file holds.

    By stage (texts are input, replies with their message output): the AUROC with its 95 % bootstrap interval, and Platt
    scaling of the log-odds of Yes, fitted on the same rows.

    Args:
        gemma: The model that is asked.
        guideline: What label 1 violates.
        examples: Rows of the guideline's category, or of one category only.
        progress: Label of a progress bar on stderr.

    Raises:
        DataError: The rows label another category, or no stage has `ENOUGH` rows of each label.
    """
    labels = _labels(guideline, examples)
    rows = examples.select(~np.isnan(labels))
    y = labels[~np.isnan(labels)].astype(np.int64)
    replies = np.array([prompt is not None for prompt in rows.prompts], dtype=bool)
    wanted = {
        stage: mask
        for stage, mask in ((Stage.INPUT, ~replies), (Stage.OUTPUT, replies))
        if min(np.sum(y[mask] == 1), np.sum(y[mask] == 0)) >= ENOUGH
    }
    if not wanted:
        raise DataError(
            f"Evidence needs at least {ENOUGH} rows of label 1 and {ENOUGH} of label 0, all of them texts, or all of "
            f"them replies with a prompt; these are {int(y.sum())} and {int((1 - y).sum())}."
        )
    odds = np.clip(log_odds(gemma, rows.pairs(), guideline, progress=progress), -60, 60)
    measured = {stage: _measure(y[mask], odds[mask]) for stage, mask in wanted.items()}
    return Evidence(
        guideline=guideline.text.strip(),
        guideline_digest=guideline.digest,
        model=JudgeModel(name=gemma.name, digest=gemma.digest),
        stages=measured,
        data_digest=rows.digest,
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
        kit_version=__version__,
    ).model_dump(mode="json")


def _labels(guideline: Guideline, examples: Examples) -> Labels:
    if guideline.name in examples.categories:
        return examples.labels[:, examples.categories.index(guideline.name)]
    if len(examples.categories) == 1:
        return examples.labels[:, 0]
    raise DataError(f"The rows label {', '.join(examples.categories)}; name one of them as the category.")


def _measure(y: NDArray[np.int64], odds: NDArray[np.float64]) -> Measured:
    p = np.array([probability(value) for value in odds])
    return Measured(
        auroc=Interval.model_validate(with_intervals(y, p)["auroc"]),
        positives=int(y.sum()),
        negatives=int((1 - y).sum()),
        calibration=platt(y, odds),
    )
