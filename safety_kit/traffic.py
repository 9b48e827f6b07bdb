"""Calibrating on the owner's own traffic: a log of mostly harmless, unlabelled texts sets the thresholds.

The texts are read as the guard reads them: the text checks redact first, and what these block never reaches a probe.
Nothing of a text is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from safety_kit.budget import Tail, budget_for, joint_thresholds, unsupported
from safety_kit.check_options import ProbeOptions
from safety_kit.checks.probe import ProbeCheck
from safety_kit.errors import DataError
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.thresholds import Blocked, Calibrated, joint_categories
from safety_kit.types import Action, Sample, Stage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safety_kit.heads import Head

    Doubles = NDArray[np.float64]

BATCH = 32
MARGIN = 1e-3
"""Logits that a threshold stands above its text: the same text, read in another batch, is rounded differently."""

_LOWEST, _HIGHEST = -36.0, 36.0  # beyond these a probability is rounded to 0 or 1

Progress = Callable[[Sequence[int]], Iterable[int]]


@dataclass(frozen=True)
class Scores:
    """What the probes said of a log.

    Attributes:
        categories: The columns.
        logits: Texts × categories: the guard's decision as a logit; −inf where there was nothing to read, NaN for a
            text that never reached the probes or a category that is not read at its stage.
        stages: Of each text.
    """

    categories: tuple[str, ...]
    logits: Doubles
    stages: tuple[Stage, ...]

    def at(self, stage: Stage, categories: Sequence[str]) -> Doubles:
        """Texts × categories at one stage, without those that never reached the probes."""
        here = np.array([s is stage for s in self.stages], dtype=bool)
        picked = self.logits[here][:, [self.categories.index(category) for category in categories]]
        read: Doubles = picked[~np.isnan(picked).any(axis=1)]
        return read


def read_log(check: ProbeCheck, policy: Policy | None, samples: Sequence[Sample], progress: Progress = iter) -> Scores:
    """Score each text once, with all probes.

    Args:
        check: The probes.
        policy: Whose text checks come first; None reads the texts as they are.
        samples: The log.
        progress: Wraps the batches' numbers, for a bar.

    Raises:
        DataError: A text could not be scored.
    """
    categories = tuple(sorted(check.categories))
    stages = {probe.head.category: probe.stages for probe in check.probes}
    logits = np.full((len(samples), len(categories)), np.nan)
    before = _text_guard(policy, check) if policy else None
    for start in progress(range(0, len(samples), BATCH)):
        batch = list(enumerate(samples[start : start + BATCH], start))
        if before:
            verdicts = before.check([sample for _, sample in batch])
            batch = [
                (i, replace(sample, text=verdict.text))
                for (i, sample), verdict in zip(batch, verdicts, strict=True)
                if verdict.text is not None
            ]
        for (i, sample), findings in zip(batch, check.run([sample for _, sample in batch]), strict=True):
            said = {finding.category: finding.score for finding in findings}
            for column, category in enumerate(categories):
                if sample.stage in stages[category]:
                    logits[i, column] = _logit(said.get(category), i)
    return Scores(categories, logits, tuple(sample.stage for sample in samples))


def calibrate(policy: Policy, heads: Mapping[str, Head], scores: Scores) -> list[Calibrated]:
    """The thresholds that a log sets, for each rate and for the joint budget of a policy.

    Stages of which the log has no text are left out: there the classifiers' own negatives go on to decide.

    Args:
        policy: Whose rules are calibrated.
        heads: By category.
        scores: Of the log.

    Raises:
        DataError: The log has too few texts of a stage for a budget, or they score too high for any threshold.
    """
    out: dict[tuple[str, Stage, float | None], Calibrated] = {}
    for stage in Stage:
        for rule in policy.rules:
            if stage in rule.stages and rule.max_fpr is not None and rule.category in heads:
                column = scores.at(stage, [rule.category])[:, 0]
                kept = budget_for(column, rule.max_fpr)
                if kept.n and kept.threshold is None:
                    raise _too_few(stage, kept.n, rule.max_fpr)
                if kept.threshold is not None:
                    out[rule.category, stage, rule.max_fpr] = _calibrated(
                        rule.category, stage, rule.max_fpr, kept.threshold, kept.n
                    )
    for stage, together in joint_categories(policy, heads).items():
        logits = scores.at(stage, together)
        if not len(logits):
            continue
        assert policy.budget is not None
        thresholds = joint_thresholds(logits, [_tail(heads[c], stage) for c in together], policy.budget)
        if thresholds is None:
            raise _too_few(stage, len(logits), policy.budget)
        for category, threshold in zip(together, thresholds, strict=True):
            out[category, stage, None] = _calibrated(category, stage, None, threshold, len(logits))
    return list(out.values())


def blocked(policy: Policy, scores: Scores, thresholds: Sequence[Calibrated]) -> list[Blocked]:
    """How many of a log's texts any probe blocks, a stage.

    Args:
        policy: Whose rules block.
        scores: Of the log.
        thresholds: What the log set.
    """
    calibrated = {(one.category, one.stage, one.max_fpr): one.threshold for one in thresholds}
    found = []
    for stage in Stage:
        limits: dict[str, float] = {}
        for rule in policy.rules:
            threshold = rule.threshold or calibrated.get((rule.category, stage, rule.max_fpr))
            if (
                rule.action is Action.BLOCK
                and stage in rule.stages
                and rule.category in scores.categories
                and threshold
            ):
                limits[rule.category] = min(threshold, limits.get(rule.category, 1.0))
        if not limits or not len(logits := scores.at(stage, list(limits))):
            continue
        over = logits - [np.log(threshold / (1 - threshold)) for threshold in limits.values()]
        any_over = np.max(over, axis=1)
        hits, reached = int(np.sum(any_over > 0)), int(np.sum(any_over > -2 * MARGIN))
        found.append(Blocked(stage=stage, limits=limits, rows=len(logits), blocked=hits, reached=reached))
    return found


def margins(scores: Scores, thresholds: Sequence[Calibrated]) -> list[tuple[float, Calibrated | None]]:
    """How far each text is above the threshold that it is nearest to exceeding, in logits, and which one that is.

    Negative below; −inf and None for a text that nothing was read of.
    """
    found: list[tuple[float, Calibrated | None]] = []
    for row, stage in zip(scores.logits, scores.stages, strict=True):
        best: tuple[float, Calibrated | None] = (-np.inf, None)
        for one in thresholds:
            value = row[scores.categories.index(one.category)] - np.log(one.threshold / (1 - one.threshold))
            if one.stage is stage and value > best[0]:
                best = float(value), one
        found.append(best)
    return found


def _text_guard(policy: Policy, check: ProbeCheck) -> Guard | None:
    checks = {name: options for name, options in policy.checks.items() if not isinstance(options, ProbeOptions)}
    rules = tuple(rule for rule in policy.rules if rule.category not in check.categories)
    return Guard(replace(policy, checks=checks, rules=rules)) if checks else None


def _logit(probability: float | None, row: int) -> float:
    if probability is None:
        return -np.inf
    if not 0 <= probability <= 1:
        raise DataError(f"Row {row + 1} of the log could not be scored; leave it out.")
    return float(np.log(max(probability, 1e-300)) - np.log(max(1 - probability, 2**-53)))


def _tail(head: Head, stage: Stage) -> Tail:
    scale = head.calibration[stage]
    return Tail.of(scale.slope * head.negatives[stage] + scale.intercept)


def _calibrated(category: str, stage: Stage, max_fpr: float | None, logit: float, n: int) -> Calibrated:
    logit = max(logit + MARGIN, _LOWEST)
    if logit > _HIGHEST:
        raise DataError(
            f"{category} at {stage.value}: texts of the log score so high that no threshold keeps the budget; look at "
            "them, and teach the classifier with those that are harmless."
        )
    return Calibrated(category=category, stage=stage, max_fpr=max_fpr, threshold=float(1 / (1 + np.exp(-logit))), n=n)


def _too_few(stage: Stage, n: int, fpr: float) -> DataError:
    return DataError(f"The log's texts at {stage.value} do not support the budget: {unsupported(n, fpr)}.")
