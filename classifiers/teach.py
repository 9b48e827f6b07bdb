"""Teaching the kit's own categories for a model: what `safety-kit prepare` and `make classifiers` do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classifiers.data import read_examples
from classifiers.features import causal_readings, middle_blocks
from classifiers.fit import SafetyClassifier
from safety_kit.check_options import ProbeOptions
from safety_kit.data import classifiers_dir, data_dir
from safety_kit.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from classifiers.cache import FeatureCache
    from classifiers.data import Examples
    from safety_kit.artifacts import Artifact
    from safety_kit.gemma import Gemma
    from safety_kit.policy import Policy

CATEGORIES = ("hate", "harassment", "dangerous_content", "sexual_content", "self_harm", "prompt_injection")
"""What the kit has example sets for."""

_NOTES = (
    "Taught on `{category}.jsonl`, `benign.jsonl` and the harmless rows of the kit's other example sets, written for "
    "this project, not collected; the rows marked as test were left out. See their cards for what they leave out."
)


def benign_examples() -> Examples:
    """The kit's own harmless texts, a negative for every category."""
    return read_examples(data_dir() / "examples" / "benign.jsonl", one_class=True)


OTHERS = 80
"""Harmless texts that are taken of each other category's set: what only looks harmful is a negative everywhere."""


def examples_for(category: str, harmless: int | None = None, others: int = OTHERS) -> Examples:
    """A category's example set with further negatives.

    Args:
        category: One of `CATEGORIES`.
        harmless: Texts of the harmless set; None takes all.
        others: Harmless texts of each other category's set.

    Raises:
        UserError: The kit has no examples for it.
    """
    folder = data_dir() / "examples"
    if category not in CATEGORIES:
        raise UserError(
            f"The kit has no examples for {category!r}, only for {', '.join(CATEGORIES)}; teach it from yours with: "
            "safety-kit train DATA --out DIR"
        )
    benign = benign_examples()
    chosen = benign if harmless is None else benign.select(range(min(harmless, len(benign))))
    examples = read_examples(folder / f"{category}.jsonl").with_negatives(chosen)
    for other in CATEGORIES if others else ():
        if other != category:
            rows = read_examples(folder / f"{other}.jsonl", category=other)
            negatives = rows.select(np.flatnonzero((rows.labels[:, 0] == 0) & ~rows.held_out)[:others])
            examples = examples.with_negatives(negatives)
    return examples


def teach(
    category: str,
    gemma: Gemma,
    folder: Path,
    *,
    harmless: int | None = None,
    others: int = OTHERS,
    cache: FeatureCache | None = None,
    progress: bool = True,
) -> Artifact:
    """Teach one of the kit's categories and save it.

    Args:
        category: One of `CATEGORIES`.
        gemma: The model.
        folder: Where the artifact goes.
        harmless: Texts of the harmless set to add; None adds all.
        others: Harmless texts of each other category's set to add.
        cache: Where readings are kept, so that the harmless texts are read once; None takes the kit's own.
        progress: Show progress bars on stderr.
    """
    taught = examples_for(category, harmless, others).teach()
    classifier = SafetyClassifier(gemma, categories=category, progress=progress, known=None, cache=cache or True)
    classifier.fit(taught.pairs(), taught.labels, groups=taught.groups)
    return classifier.save(folder, notes=_NOTES.format(category=category))


def missing(policy: Policy, gemma: Gemma) -> list[str]:
    """The policy's categories of the kit that have no classifier for this model yet."""
    named = [
        options.artifact
        for options in policy.checks.values()
        if isinstance(options, ProbeOptions) and not options.is_folder
    ]
    folder = classifiers_dir(gemma.name, gemma.digest)
    return [name for name in dict.fromkeys(named) if not (folder / name / "manifest.json").is_file()]


def estimate(categories: Sequence[str], gemma: Gemma) -> float:
    """Seconds that teaching will take on this machine, from a timed sample of the texts."""
    texts = [pair for category in categories for pair in examples_for(category).teach().pairs()]
    distinct = sorted(set(texts), key=repr)
    sample = distinct[:: max(1, len(distinct) // 16)]
    blocks = middle_blocks(gemma.n_blocks)
    causal_readings(gemma, sample[:2], blocks, varied=True)  # warm up
    begin = time.perf_counter()
    causal_readings(gemma, sample, blocks, varied=True)
    return (time.perf_counter() - begin) / len(sample) * len(distinct)


def teach_missing(
    policy: Policy, gemma: Gemma, *, progress: bool = True, done: Callable[[str], None] | None = None
) -> list[Path]:
    """Teach what a policy needs and this model lacks; a killed run goes on where it was, for readings are kept.

    Args:
        policy: Whose categories are wanted.
        gemma: The model.
        progress: Show progress bars on stderr.
        done: Called with each category when it is saved.

    Returns:
        The folders written.
    """
    folders = []
    for category in missing(policy, gemma):
        folder = classifiers_dir(gemma.name, gemma.digest) / category
        teach(category, gemma, folder, progress=progress)
        folders.append(folder)
        if done:
            done(category)
    return folders
