"""The ladder: teaching from none, some or hundreds of examples, and which rung that number asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from classifiers.fit import SafetyClassifier
from classifiers.lora import AdapterClassifier
from classifiers.zero_shot import PolicyOnly
from safety_kit import artifacts
from safety_kit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike

    from classifiers.features import Text
    from safety_kit.evidence import Guideline
    from safety_kit.gemma import Gemma

Rung = Literal["policy", "frozen", "adapter"]
Classifier = SafetyClassifier | AdapterClassifier | PolicyOnly

FROZEN = 8
"""Examples of each label from which frozen features are taken instead of the policy's words."""

ADAPTER = 200
"""Examples in all from which an adapter is taken where a GPU makes it cheap."""


@dataclass(frozen=True, slots=True)
class Taught:
    """A fitted classifier, the rung that it stands on, and why."""

    classifier: Classifier
    rung: Rung
    why: str


def choose(positives: int, negatives: int, *, guideline: bool, gpu: bool) -> tuple[Rung, str]:
    """The rung for a number of examples, and the reason in a sentence.

    Args:
        positives: Examples of label 1.
        negatives: Examples of label 0.
        guideline: Whether there is a sentence of policy to ask after.
        gpu: Whether the model is on a GPU.

    Raises:
        DataError: Neither examples of both labels nor a guideline.
    """
    fewest = min(positives, negatives)
    if fewest < FROZEN and guideline:
        return "policy", f"{positives} + {negatives} examples are fewer than {FROZEN} a label: the guideline is asked."
    if fewest < 2:
        raise DataError(
            f"There are {positives} examples of label 1 and {negatives} of label 0; give at least 2 of each, better "
            "20, or a guideline."
        )
    if positives + negatives >= ADAPTER and gpu:
        return "adapter", f"{positives + negatives} examples and a GPU: an adapter is worth its minutes."
    slow = "; an adapter can be asked for, it takes minutes without a GPU" if positives + negatives >= ADAPTER else ""
    return "frozen", f"{positives} + {negatives} examples: a head on frozen activations{slow}."


def fit(
    gemma: Gemma,
    X: Sequence[Text],
    y: ArrayLike,
    *,
    category: str,
    rung: Rung | Literal["auto"] = "auto",
    guideline: Guideline | None = None,
    reading: Literal["causal", "alone"] = "causal",
    groups: Sequence[str] | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: bool = False,
) -> Taught:
    """Teach one category on the rung that the examples ask for, or on the one that is named.

    Args:
        gemma: The model.
        X: n texts, or (prompt, text) pairs where the text is a reply; n may be 0.
        y: n labels 0/1.
        category: What label 1 means.
        rung: ``auto``, or a rung by name.
        guideline: A sentence of policy, for the policy-only rung.
        reading: For ``frozen``.
        groups: n names; texts of one group are never split between folds.
        seed: Of folds, draws and starts.
        checkpoint: For ``adapter``: a folder that lets a killed run go on.
        progress: Show progress bars on stderr.

    Raises:
        DataError: There are too few examples for the rung, or no guideline for the policy-only one.
    """
    labels = np.asarray(y, dtype=float).reshape(-1)
    counts = int(np.sum(labels == 1)), int(np.sum(labels == 0))
    chosen, why = rung, "It was asked for by name."
    if chosen == "auto":
        chosen, why = choose(*counts, guideline=guideline is not None, gpu=gemma.device.type != "cpu")
    if chosen == "policy":
        if guideline is None:
            raise DataError("The policy-only rung asks after a guideline; give one.")
        return Taught(PolicyOnly(gemma, guideline=guideline, progress=progress), "policy", why)
    if chosen == "adapter":
        adapter = AdapterClassifier(gemma, category=category, seed=seed, checkpoint=checkpoint, progress=progress)
        return Taught(adapter.fit(X, labels, groups), "adapter", why)
    frozen = SafetyClassifier(gemma, reading=reading, categories=category, seed=seed, progress=progress)
    return Taught(frozen.fit(X, labels, groups), "frozen", why)


def load(
    path: Path | str, gemma: Gemma | str = "embedded", *, progress: bool = False
) -> SafetyClassifier | AdapterClassifier:
    """A fitted classifier from its folder, whichever rung it stands on.

    Raises:
        ArtifactError: The folder is missing, changed, or taught on another model.
    """
    loader = AdapterClassifier if artifacts.kind_of(path) == "lora" else SafetyClassifier
    return loader.load(path, gemma, progress=progress)
