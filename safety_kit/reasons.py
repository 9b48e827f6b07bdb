"""Why a text has its verdict: what became of each rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from safety_kit.guard import Guard
from safety_kit.policy import Policy, Rule
from safety_kit.policy_schema import covers
from safety_kit.thresholds import Thresholds
from safety_kit.types import Finding, Sample, Stage, Verdict


class Listening(Guard):
    """A guard that remembers what its checks found, before the policy leaves out what is below its thresholds."""

    heard: tuple[Finding, ...] = ()

    def decide(self, stage: Stage, findings: Iterable[Finding], *rest: Any, **more: Any) -> Verdict:
        """As the guard decides; called once a phase."""
        findings = tuple(findings)
        self.heard += findings
        return super().decide(stage, findings, *rest, **more)


@dataclass(frozen=True, slots=True)
class Reason:
    """What became of one rule.

    Attributes:
        number: Of the rule in the file, from 0.
        rule: The rule.
        best: The strongest finding that it covers; None where there is none.
        threshold: The probability above which it fires; None where any finding does.
        source: Where the threshold came from.
        fired: Whether it fired.
        asked: Whether a check that gives its category was asked.
    """

    number: int
    rule: Rule
    best: Finding | None
    threshold: float | None
    source: str
    fired: bool
    asked: bool

    @property
    def outcome(self) -> str:
        if self.fired:
            return "fired"
        if not self.asked:
            return "not asked: blocked before"
        return "nothing found" if self.best is None else "below its threshold"


def reasons_of(guard: Listening, policy: Policy, sample: Sample) -> tuple[Verdict, list[Reason]]:
    """The verdict on a text, and what became of each rule at its stage.

    Args:
        guard: A guard of the policy that has checked nothing yet.
        policy: The policy as its file has it.
        sample: The text.
    """
    (verdict,) = guard.check([sample])
    heads = {probe.head.category: probe.head for probe in guard.probes.probes} if guard.probes else {}
    thresholds = Thresholds(policy, heads, {}) if heads else None
    asked = {
        category
        for check in guard.checks_at(sample.stage)
        if check.name in verdict.timings
        for category in check.categories
    }
    reasons = []
    for number, rule in enumerate(policy.rules):
        if sample.stage not in rule.stages:
            continue
        threshold, source = rule.threshold, "any finding fires" if rule.threshold is None else "the policy's file"
        if thresholds and (rule.max_fpr is not None or policy.budgets(rule, heads)):
            found = thresholds.of(rule.category, rule.max_fpr, sample.stage)
            rate = f"max_fpr {rule.max_fpr:g}" if rule.max_fpr is not None else f"the budget of {policy.budget:g}"
            on = "rows of your traffic" if found.source == "traffic" else "held-out examples"
            threshold, source = found.threshold, f"{rate}, on {found.n} {on}"
        covered = [finding for finding in guard.heard if covers(rule.category, finding.category)]
        held = replace(rule, threshold=threshold)
        fired = [finding for finding in covered if held.fires(finding, sample.stage)]
        best = max(fired or covered, key=lambda finding: finding.score, default=None)
        given = any(covers(rule.category, category) for category in asked)
        reasons.append(Reason(number, rule, best, threshold, source, bool(fired), given))
    return verdict, reasons


def deciding(verdict: Verdict, reasons: list[Reason]) -> Reason | None:
    """The rule that decided, the first of equals; None where none fired, or a fault decided."""
    strongest = max((one for one in reasons if one.fired), key=lambda one: one.rule.action, default=None)
    return strongest if strongest is not None and strongest.rule.action is verdict.action else None
