"""From a complaint to a mended guard: rows, a classifier taught again, what it changes, the policy that reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from classifiers.cache import FeatureCache
from classifiers.compare import compare
from classifiers.data import Examples
from classifiers.features import causal_readings, middle_blocks
from classifiers.fit import SafetyClassifier
from classifiers.teach import CATEGORIES, examples_for
from debugger_app import row_files
from safety_kit import traffic
from safety_kit.checks.probe import Probe, ProbeCheck, load_probes
from safety_kit.commands.calibrate import calibration_of
from safety_kit.commands.demo_figures import Rate
from safety_kit.errors import DataError, PolicyError
from safety_kit.guard import Guard
from safety_kit.types import Action, Finding, Sample, Stage

if TYPE_CHECKING:
    from safety_kit.gemma import Gemma
    from safety_kit.policy import Policy

Progress = Callable[[int, int], None]

HARMLESS: Final = 100
"""Ordinary texts that a shipped category is taught with here, besides its own set: it shall take seconds."""

_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Correction:
    """A text and what it really is: 1 of the category, 0 not; for a reply with the message that it answers."""

    text: str
    label: int
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Lesson:
    """A classifier taught again.

    Attributes:
        category: Of what.
        classifier: The new one.
        examples: What it was taught from, corrections included, and the rows held out.
        corrections: What was added.
    """

    category: str
    classifier: SafetyClassifier
    examples: Examples
    corrections: tuple[Correction, ...]


def base_rows(category: str, source: str = "") -> Examples:
    """The rows that a category is taught from, with those held out.

    Args:
        category: Of what.
        source: A file of rows; empty for a category that ships: its own set and some ordinary texts.

    Raises:
        DataError: The file cannot be taught from, or none is named for a category that does not ship.
    """
    if source:
        return row_files.labelled(source, category)
    if category not in CATEGORIES:
        raise DataError(f"The kit has no rows for {category!r}; name the file that it was taught from.")
    return examples_for(category, harmless=HARMLESS, others=0)


def corrected(examples: Examples, category: str, corrections: Sequence[Correction]) -> Examples:
    """Rows with corrections, which go before what the rows said of the same texts and are never held out.

    All corrections are of one group, so that no fold tests on a variant of what it was taught.

    Raises:
        DataError: Two corrections contradict each other, or there is none.
    """
    if not corrections:
        raise DataError("There is nothing to teach: write at least one text and what it is.")
    pairs = {(one.prompt, one.text): one.label for one in corrections}
    if any(pairs[one.prompt, one.text] != one.label for one in corrections):
        raise DataError("One text is labelled both 0 and 1; decide.")
    kept = examples.select([pair not in pairs for pair in examples.pairs()])
    group = hashlib.sha256("\0".join(text for _, text in pairs).encode("utf-8", "surrogatepass")).hexdigest()
    n = len(pairs)
    new = Examples(
        texts=tuple(text for _, text in pairs),
        prompts=tuple(prompt for prompt, _ in pairs),
        categories=(category,),
        labels=np.array(list(pairs.values()), dtype=np.float64).reshape(n, 1),
        held_out=np.zeros(n, dtype=bool),
        groups=(group,) * n,
        slices={},
    )
    return Examples.concat(kept, new)


def retrain(
    gemma: Gemma,
    category: str,
    examples: Examples,
    corrections: Sequence[Correction],
    *,
    cache: FeatureCache | bool = True,
    progress: Progress = lambda done, of: None,
) -> Lesson:
    """Teach a category again, with corrections. Texts that were read before are not read again.

    Args:
        gemma: The model.
        category: Of what.
        examples: The rows so far, with those held out.
        corrections: What is new.
        cache: Where readings are kept; True for the kit's own folder.
        progress: Called with the texts read so far and all of them.

    Raises:
        DataError: The rows cannot be taught from.
    """
    whole = corrected(examples, category, corrections) if corrections else examples
    taught = whole.teach()
    kept = cache if isinstance(cache, FeatureCache) else FeatureCache()
    for done in _read(gemma, taught.pairs(), kept):
        progress(done, len(taught))
    known = None if category in CATEGORIES else "kit"  # a category's own old classifier must not teach its new one
    classifier = SafetyClassifier(gemma, categories=category, known=known, cache=kept)
    classifier.fit(taught.pairs(), taught.labels, groups=taught.groups)
    return Lesson(category, classifier, whole, tuple(corrections))


def _read(gemma: Gemma, texts: Sequence[tuple[str | None, str]], cache: FeatureCache) -> Iterator[int]:
    blocks = middle_blocks(gemma.n_blocks)
    for start in range(0, len(texts), _AT_ONCE):
        part = texts[start : start + _AT_ONCE]
        causal_readings(gemma, part, blocks, varied=True, cache=cache)
        yield start + len(part)


def against(old: SafetyClassifier, lesson: Lesson) -> dict[str, Any]:
    """The new classifier beside the old one on the rows held out from both: see `classifiers.compare.compare`.

    Raises:
        DataError: No row is held out, or all of them have one label.
    """
    held = lesson.examples.test()
    if not len(held):
        raise DataError("No row is held out; mark some of the file's rows with “split”: “test”.")
    report: dict[str, Any] = compare(old, lesson.classifier, held)[lesson.category]
    return report


def on_rows(classifier: SafetyClassifier, category: str, rows: Sequence[Correction]) -> list[float]:
    """The probability that a classifier gives each text."""
    column = list(classifier.categories_).index(category)
    scores = classifier.category_probabilities([(row.prompt, row.text) for row in rows])[:, column]
    return [float(score) for score in scores]


class KeptProbes(ProbeCheck):
    """Probes that read a text once: what a log was calibrated by is what its verdicts are then decided by."""

    def __init__(self, probes: Sequence[Probe], gemma: Gemma) -> None:
        super().__init__(probes, gemma)
        self._kept: dict[tuple[str, str, str | None, Stage], list[Finding]] = {}

    def run(self, samples: Sequence[Sample]) -> list[list[Finding]]:
        keys = [(sample.text, sample.role, sample.prompt, sample.stage) for sample in samples]
        new = {key: sample for key, sample in zip(keys, samples, strict=True) if key not in self._kept}
        self._kept.update(zip(new, super().run(list(new.values())), strict=True))
        return [self._kept[key] for key in keys]


def guard_on_log(
    policy: Policy,
    gemma: Gemma,
    log: Sequence[Sample],
    digest: str,
    progress: Progress = lambda done, of: None,
) -> Guard:
    """The guard of a policy, calibrated on a log first where its calibration file is not there yet.

    Args:
        policy: The policy.
        gemma: The model.
        log: The traffic.
        digest: SHA-256 of the log.
        progress: Called with the texts read and all of them.

    Raises:
        PolicyError: It has no probe.
        DataError: The log is too small for its budget.
    """
    probes, loaded = load_probes(policy, gemma, {})
    if not probes:
        raise PolicyError("The policy has no taught category, so a log changes nothing.")
    check = KeptProbes(probes, gemma)
    if policy.calibration is not None and not policy.calibration.exists():
        scores = traffic.read_log(check, policy, log, _reporting(len(log), progress))
        heads = {probe.head.category: probe.head for probe in probes}
        digests = {name: artifact.digest for name, artifact in loaded.items()}
        calibration_of(policy, heads, digests, scores, digest).save(policy.calibration)
    guard = Guard(policy, gemma)
    guard.probes = check
    return guard


def _reporting(total: int, progress: Progress) -> Callable[[Sequence[int]], Iterator[int]]:
    def wrapped(batches: Sequence[int]) -> Iterator[int]:
        for start in batches:
            progress(start, total)
            yield start

    return wrapped


def recall(guard: Guard, category: str, examples: Examples) -> tuple[Rate, Rate]:
    """Of rows of a category, how many its rule blocks, and of those that only look like it, how many it blocks."""
    labels = examples.labels[:, examples.categories.index(category)]
    samples = [
        Sample.at(text, Stage.INPUT if prompt is None else Stage.OUTPUT, prompt) for prompt, text in examples.pairs()
    ]
    hits = [
        any(
            finding.category == category
            and (rule := guard.policy.rule_for(finding, verdict.stage)) is not None
            and rule.action is Action.BLOCK
            for finding in verdict.findings
        )
        for verdict in guard.check(samples)
    ]
    yes = [hit for hit, label in zip(hits, labels, strict=True) if label == 1]
    no = [hit for hit, label in zip(hits, labels, strict=True) if label == 0]
    return Rate(sum(yes), len(yes)), Rate(sum(no), len(no))


def digest_of(log: Sequence[Sample]) -> str:
    """SHA-256 over the texts of a log, in order."""
    total = hashlib.sha256()
    for sample in log:
        total.update(f"{sample.stage.value}\0{sample.prompt!r}\0{sample.text!r}\0".encode("utf-8", "surrogatepass"))
    return total.hexdigest()


@dataclass(frozen=True, slots=True)
class Held:
    """The classifier that a policy has for a category: the check that reads it, its folder, and itself."""

    check: str
    folder: Path
    classifier: SafetyClassifier


def held_by(policy: Policy, category: str, gemma: Gemma) -> Held | None:
    """The classifier that a policy has for a category; None where it has none.

    Raises:
        PolicyError: It scores other categories, too, which a new one would not.
    """
    _, loaded = load_probes(policy, gemma, {})
    for check, artifact in loaded.items():
        if category in artifact.heads:
            if len(artifact.heads) > 1:
                raise PolicyError(
                    f"checks.{check} scores {', '.join(artifact.heads)} by one classifier; teach all of them again "
                    "with safety-kit train."
                )
            return Held(check, artifact.path, SafetyClassifier.load(artifact.path, gemma))
    return None
