"""Rules of one policy that contradict each other, and rules that never decide anything."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from safety_kit.errors import PolicyError
from safety_kit.policy_schema import covers
from safety_kit.types import Action, Stage

if TYPE_CHECKING:
    from safety_kit.policy import Rule


def refuse_contradictions(rules: Sequence[Rule]) -> None:
    """Refuse two rules on the same category and stage of which one cannot be meant.

    That is: two actions on the same condition; or two redactions in different forms, the later of which is never
    written, because the earlier one fires wherever it does.

    Raises:
        PolicyError: With both places and the remedy.
    """
    for (i, first), (j, then) in combinations(enumerate(rules), 2):
        shared = sorted(first.stages & then.stages)
        if first.category != then.category or not shared:
            continue
        place = f"rules[{j}] and rules[{i}]: {first.category!r} at {' and '.join(shared)}"
        same = (first.threshold, first.max_fpr) == (then.threshold, then.max_fpr)
        if same and first.action is not then.action:
            raise PolicyError(
                f"{place} is told to {first.action} and to {then.action} under the same condition; remove one, or give "
                "them different stages or thresholds."
            )
        redacts = first.action is then.action is Action.REDACT
        if redacts and first.form != then.form and (same or _fires_wherever(first, then)):
            raise PolicyError(
                f"{place} is redacted in two forms, {first.form.kind} and {then.form.kind}; remove one, or put the one "
                "with the higher threshold first."
            )


def never_decides(rules: Sequence[Rule], budgeted: bool = False) -> list[str]:
    """A sentence for each rule that another one outdoes wherever it fires, at every stage it has.

    Args:
        rules: In the file's order.
        budgeted: The policy has a joint budget, so that a block without a threshold may be a probe's, whose threshold
            is not known yet.
    """
    said = []
    for j, rule in enumerate(rules):
        outdone = {
            stage: i for stage in sorted(rule.stages) if (i := _outdone_by(rules, j, stage, budgeted)) is not None
        }
        if len(outdone) == len(rule.stages):
            by = ", ".join(f"rules[{i}]" for i in sorted(set(outdone.values())))
            said.append(
                f"rules[{j}]: {rule.action} of {rule.category!r} never decides: {by} fires wherever it does and goes "
                "before it; remove it, or change their order or thresholds."
            )
    return said


def _outdone_by(rules: Sequence[Rule], j: int, stage: Stage, budgeted: bool) -> int | None:
    rule = rules[j]
    for i, other in enumerate(rules):
        unknown = budgeted and other.action is Action.BLOCK and other.threshold is None
        stronger = other.action > rule.action or (other.action is rule.action and i < j)
        if i != j and stage in other.stages and stronger and not unknown and covers(other.category, rule.category):
            same = (other.threshold, other.max_fpr) == (rule.threshold, rule.max_fpr)
            if same or _fires_wherever(other, rule):
                return i
    return None


def _fires_wherever(rule: Rule, other: Rule) -> bool:
    """Whether the first fires wherever the second does, as far as can be told before a guard resolves the rates."""
    if rule.max_fpr is not None or other.max_fpr is not None:
        return rule.max_fpr is not None and other.max_fpr is not None and rule.max_fpr >= other.max_fpr
    return rule.threshold is None or (other.threshold is not None and rule.threshold <= other.threshold)
