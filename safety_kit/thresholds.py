"""Where a guard's thresholds come from: a calibration on the owner's traffic, else the classifiers' own negatives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safety_kit import files
from safety_kit.budget import CONFIDENCE, budget_for, needed, unsupported
from safety_kit.errors import PolicyError
from safety_kit.heads import Head
from safety_kit.policy import Policy
from safety_kit.types import Stage

Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Calibrated(_Strict):
    """One threshold that a log set: the probability above which a rule fires; `max_fpr` None means the joint budget."""

    category: str
    stage: Stage
    max_fpr: Share | None
    threshold: Share
    n: int = Field(gt=0)


class Blocked(_Strict):
    """Of the log's rows at a stage, how many any probe blocks, and how many reach a threshold or are above it.

    `limits` are the thresholds, by category, for which this holds.
    """

    stage: Stage
    limits: dict[str, Share]
    rows: int = Field(gt=0)
    blocked: int = Field(ge=0)
    reached: int = Field(ge=0)


class Calibration(_Strict):
    """What `calibration.json` holds: thresholds, counts and digests, never a text.

    `policy` is the digest of the policy's content as it was; `artifacts` are the classifiers' digests by check.
    """

    format: Literal[1] = 1
    log: str
    date: str
    policy: str
    budget: Share | None
    confidence: Share
    artifacts: dict[str, str]
    thresholds: tuple[Calibrated, ...]
    blocked: tuple[Blocked, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read the file.

        Raises:
            PolicyError: It is missing or does not hold a calibration.
        """
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise PolicyError(
                f"calibration: {path} is not there; write it with: safety-kit calibrate POLICY LOGS.jsonl"
            ) from None
        except (OSError, ValueError, RecursionError, ValidationError) as error:
            raise PolicyError(
                f"calibration: {path} cannot be read ({type(error).__name__}); write it again with: "
                "safety-kit calibrate POLICY LOGS.jsonl"
            ) from error

    def save(self, path: Path) -> None:
        """Write the file in one step."""
        files.write(path, (self.model_dump_json(indent=1) + "\n").encode())


@dataclass(frozen=True, slots=True)
class Resolved:
    """A rule's threshold at one stage.

    Attributes:
        category: What the rule is about.
        stage: Where it holds.
        max_fpr: Its own rate; None for the joint budget.
        threshold: The probability above which it fires.
        n: Harmless texts that set it.
        source: ``traffic``: the policy's calibration; ``examples``: the classifier's held-out negatives.
    """

    category: str
    stage: Stage
    max_fpr: float | None
    threshold: float
    n: int
    source: Literal["traffic", "examples"]


class Thresholds:
    """The thresholds of one policy; `Policy.resolved` takes it.

    Without a calibration a joint budget is divided among the m categories of a stage (Bonferroni): each gets 1/m of
    the rate at 1 − (1 − confidence)/m, by its own negatives.
    """

    def __init__(self, policy: Policy, heads: Mapping[str, Head], artifacts: Mapping[str, str]) -> None:
        """Read the policy's calibration, if it names one.

        Args:
            policy: Whose rules are resolved.
            heads: By category.
            artifacts: The classifiers' digests by check.

        Raises:
            PolicyError: The calibration is missing, or was made for other classifiers or another budget.
        """
        self._policy = policy
        self._heads = heads
        self._calibration = Calibration.load(policy.calibration) if policy.calibration else None
        if self._calibration:
            changed = [c for c, digest in self._calibration.artifacts.items() if artifacts.get(c, digest) != digest]
            if changed:
                raise self._stale(f"the classifier of checks.{changed[0]} is another one now")
            if self._joint and self._calibration.budget != policy.budget:
                raise self._stale("it is for another budget")

    def __call__(self, category: str, max_fpr: float | None, stage: Stage) -> float:
        return self.of(category, max_fpr, stage).threshold

    @property
    def blocked(self) -> tuple[Blocked, ...]:
        """What the policy's calibration counted, for the thresholds that it then had; empty where it has none."""
        return self._calibration.blocked if self._calibration else ()

    def of(self, category: str, max_fpr: float | None, stage: Stage) -> Resolved:
        """The threshold of a rule at a stage.

        Args:
            category: What the rule is about.
            max_fpr: Its rate; None for the policy's budget.
            stage: Where it holds.

        Raises:
            PolicyError: The calibration lacks a category of the joint budget, or no examples support the budget.
            ArtifactError: The classifier's examples do not support the rate.
        """
        found = {entry.category: entry for entry in self._entries(max_fpr, stage)}
        if category in found:
            entry = found[category]
            return Resolved(category, stage, max_fpr, entry.threshold, entry.n, "traffic")
        if max_fpr is None and found:
            raise self._stale(f"it knows nothing of {category} at {stage.value}")
        head = self._heads[category]
        n = len(head.negatives[stage])
        if max_fpr is not None:
            return Resolved(category, stage, max_fpr, head.threshold_for(max_fpr, stage), n, "examples")
        assert self._policy.budget is not None
        m = len(self._joint[stage])
        rate, confidence = self._policy.budget / m, 1 - (1 - CONFIDENCE) / m
        if not budget_for(head.negatives[stage], rate, confidence).supported:
            raise PolicyError(
                f"{category} at {stage.value}: its part of the budget, 1/{m} of {100 * self._policy.budget:.3g} %, is "
                f"not supported: {unsupported(n, rate, confidence)}. Calibrate on your own traffic, where all "
                f"categories together need {needed(self._policy.budget)} rows: safety-kit calibrate POLICY LOGS.jsonl"
            )
        return Resolved(category, stage, None, head.threshold_for(rate, stage, confidence), n, "examples")

    @cached_property
    def _joint(self) -> dict[Stage, list[str]]:
        return joint_categories(self._policy, self._heads)

    def _entries(self, max_fpr: float | None, stage: Stage) -> list[Calibrated]:
        held = self._calibration.thresholds if self._calibration else ()
        return [entry for entry in held if entry.stage is stage and entry.max_fpr == max_fpr]

    def _stale(self, why: str) -> PolicyError:
        return PolicyError(
            f"calibration: {self._policy.calibration} does not fit the policy: {why}; "
            "calibrate again with: safety-kit calibrate POLICY LOGS.jsonl"
        )


def joint_categories(policy: Policy, heads: Mapping[str, Head]) -> dict[Stage, list[str]]:
    """By stage, the categories that share the policy's budget; stages without any are left out."""
    found: dict[Stage, list[str]] = {}
    for stage in Stage:
        rules = [rule.category for rule in policy.rules if stage in rule.stages and policy.budgets(rule, heads)]
        if rules:
            found[stage] = list(dict.fromkeys(rules))
    return found
