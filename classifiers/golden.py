"""Golden texts in both readings: recorded when a classifier is saved, replayed when it is loaded."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from classifiers.features import alone_readings
from safety_kit.golden import TEXTS, Text, causal_scores, check_models

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from safety_kit.artifacts import Artifact
    from safety_kit.gemma import Gemma
    from safety_kit.golden import Scorer, Scores
    from safety_kit.heads import Head


def record_golden(
    gemma: Gemma, heads: Mapping[str, Head], reading: Literal["causal", "alone"], question: str | None
) -> dict[str, Any]:
    """The manifest's field `golden`: the texts and their decision scores.

    Args:
        gemma: The model that was taught on.
        heads: By category.
        reading: Where the heads read.
        question: For ``alone``.
    """
    return golden_record(heads, _scorer(reading, question)(gemma, list(heads.values()), TEXTS))


def golden_record(categories: Iterable[str], rows: Scores) -> dict[str, Any]:
    """The same from scores of `TEXTS`, a row a category."""
    scores = [[round(float(score), 6) for score in row] for row in rows]
    return {"texts": TEXTS, "scores": dict(zip(categories, scores, strict=True))}


def check_model(artifact: Artifact, gemma: Gemma) -> None:
    """Refuse a model that reads a text differently from the one that was taught on; see `safety_kit.golden`.

    Raises:
        ArtifactError: It does.
    """
    check_models([artifact], gemma, _scorer(artifact.manifest.reading, artifact.manifest.question))


def _scorer(reading: Literal["causal", "alone"], question: str | None) -> Scorer:
    return causal_scores if reading == "causal" else partial(_alone_scores, question or "")


def _alone_scores(question: str, gemma: Gemma, heads: Sequence[Head], texts: Sequence[Text]) -> Scores:
    """Decision scores in the alone reading; the heads of one artifact share their blocks."""
    readings = alone_readings(gemma, texts, heads[0].blocks, question)
    return [[float(reading.whole.reshape(-1) @ head.weight) + head.bias for reading in readings] for head in heads]
