"""Teaching the kit's own categories for a model: what `safety-kit prepare` and `make classifiers` do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from classifiers.data import read_examples
from classifiers.features import causal_readings
from classifiers.fit import SafetyClassifier, candidate_blocks
from safety_kit.data import classifiers_dir, data_dir
from safety_kit.errors import UserError
from safety_kit.policy_schema import ProbeOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from classifiers.data import Examples
    from classifiers.features import Memo
    from safety_kit.artifacts import Artifact
    from safety_kit.gemma import Gemma
    from safety_kit.policy import Policy

CATEGORIES = ("hate", "harassment", "dangerous_content", "sexual_content", "self_harm", "prompt_injection")
"""What the kit has example sets for."""

_NOTES = (
    "Taught on `{category}.jsonl` and `benign.jsonl` of the kit's example sets, written for this project, not "
    "collected; the rows marked as test were left out. See their cards for what they leave out."
)


def benign_examples() -> Examples:
    """The kit's own harmless texts, a negative for every category."""
    return read_examples(data_dir() / "examples" / "benign.jsonl", one_class=True)


def examples_for(category: str, harmless: int | None = None) -> Examples:
    """A category's example set with the harmless set, or its first texts, as further negatives.

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
    return read_examples(folder / f"{category}.jsonl").with_negatives(chosen)


def teach(
    category: str,
    gemma: Gemma,
    folder: Path,
    *,
    harmless: int | None = None,
    memo: Memo | None = None,
    progress: bool = True,
) -> Artifact:
    """Teach one of the kit's categories and save it.

    Args:
        category: One of `CATEGORIES`.
        gemma: The model.
        folder: Where the artifact goes.
        harmless: Texts of the harmless set to add; None adds all.
        memo: Readings shared by several calls: the harmless texts are then read once.
        progress: Show progress bars on stderr.
    """
    taught = examples_for(category, harmless).teach()
    classifier = SafetyClassifier(gemma, categories=category, progress=progress)
    classifier.memo = memo
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
    blocks = candidate_blocks(gemma.n_blocks)[-1]
    causal_readings(gemma, sample[:2], blocks, varied=True)  # warm up
    begin = time.perf_counter()
    causal_readings(gemma, sample, blocks, varied=True)
    return (time.perf_counter() - begin) / len(sample) * len(distinct)


def teach_missing(
    policy: Policy, gemma: Gemma, *, progress: bool = True, done: Callable[[str], None] | None = None
) -> list[Path]:
    """Teach what a policy needs and this model lacks; a killed run goes on with the next category.

    Args:
        policy: Whose categories are wanted.
        gemma: The model.
        progress: Show progress bars on stderr.
        done: Called with each category when it is saved.

    Returns:
        The folders written.
    """
    memo: Memo = {}
    folders = []
    for category in missing(policy, gemma):
        folder = classifiers_dir(gemma.name, gemma.digest) / category
        teach(category, gemma, folder, memo=memo, progress=progress)
        folders.append(folder)
        if done:
            done(category)
    return folders
