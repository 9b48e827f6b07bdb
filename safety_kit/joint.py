"""How many harmless texts a policy's probes block together: counted where the texts are known, bounded where not.

A classifier keeps the sorted scores of its own held-out negatives and nothing of the texts. Two classifiers may share
texts, but which ones cannot be told: of their rates the joint one is at least the largest and at most the sum
(Fréchet). A calibration on a log reads every text with every probe, so there it is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import betaincinv

from safety_kit.budget import CONFIDENCE
from safety_kit.heads import Head
from safety_kit.policy import Policy
from safety_kit.thresholds import Thresholds
from safety_kit.types import Action, Stage


@dataclass(frozen=True, slots=True)
class Joint:
    """The share of harmless texts that at least one rule blocks at a stage.

    Attributes:
        stage: Where.
        source: ``examples``: the classifiers' held-out negatives; ``traffic``: the log of the policy's calibration;
            ``texts``: rows that were read for this.
        n: Texts; for ``examples`` those of the category that has fewest.
        low: The measured share, or the least that it can be.
        high: The same, or the most that it can be.
        bound: What the true share is at most, at 95 % confidence.
    """

    stage: Stage
    source: Literal["examples", "traffic", "texts"]
    n: int
    low: float
    high: float
    bound: float


def joint_rates(policy: Policy, heads: Mapping[str, Head], thresholds: Thresholds) -> list[Joint]:
    """The joint rate at each stage where a probe blocks.

    Args:
        policy: Whose rules block.
        heads: By category.
        thresholds: The policy's.
    """
    counted = {one.stage: one for one in thresholds.blocked}
    found = []
    for stage in Stage:
        above = _thresholds(policy, heads, thresholds, stage)
        if not above:
            continue
        if (one := counted.get(stage)) and one.limits == above:
            rate = one.blocked / one.rows
            found.append(Joint(stage, "traffic", one.rows, rate, rate, _upper(one.reached, one.rows)))
        else:
            found.append(_from_examples(heads, above, stage))
    return found


def counted(stage: Stage, n: int, blocked: int) -> Joint:
    """The joint rate on n ≥ 1 harmless texts that had no part in setting a threshold."""
    return Joint(stage, "texts", n, blocked / n, blocked / n, upper_bound(n, blocked))


def upper_bound(n: int, hits: int, confidence: float = CONFIDENCE) -> float:
    """The one-sided upper bound of a share of which `hits` of n were seen (Clopper and Pearson 1934)."""
    return 1.0 if hits >= n else float(betaincinv(hits + 1, n - hits, confidence))


def _thresholds(policy: Policy, heads: Mapping[str, Head], thresholds: Thresholds, stage: Stage) -> dict[str, float]:
    """By category, the lowest probability above which a probe blocks."""
    lowest: dict[str, float] = {}
    for rule in policy.rules:
        if rule.action is Action.BLOCK and stage in rule.stages and rule.category in heads:
            threshold = rule.threshold
            if threshold is None:
                threshold = thresholds(rule.category, rule.max_fpr, stage)
            lowest[rule.category] = min(threshold, lowest.get(rule.category, 1.0))
    return lowest


def _from_examples(heads: Mapping[str, Head], above: Mapping[str, float], stage: Stage) -> Joint:
    hits, n = [], []
    for category, threshold in above.items():
        head = heads[category]
        scores = head.negatives[stage]
        hits.append(sum(head.probability(float(score), stage) > threshold for score in scores))
        n.append(len(scores))
    rates = np.divide(hits, n)
    part = 1 - (1 - CONFIDENCE) / len(above)  # all bounds hold together (Bonferroni)
    bounds = [upper_bound(m, k, part) for k, m in zip(hits, n, strict=True)]
    return Joint(stage, "examples", min(n), float(max(rates)), min(1.0, float(sum(rates))), min(1.0, sum(bounds)))


def _upper(reached: int, n: int) -> float:
    """The bound where the texts set the thresholds themselves: those at a threshold count as above it (Wilks 1941).

    Exact for one category. For several it takes the number of texts that reach any threshold as fixed beforehand.
    """
    return 1.0 if reached >= n else float(betaincinv(max(reached, 1), n - max(reached, 1) + 1, CONFIDENCE))
