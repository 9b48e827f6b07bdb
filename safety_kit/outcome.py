"""What one check said of one text: its findings, as far as they make sense, and what went wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from safety_kit.checks.base import Check
from safety_kit.errors import CheckTimeout, Overloaded, SafetyKitError
from safety_kit.policy import Policy
from safety_kit.types import Action, CheckError, Finding, ScoreKind, Stage


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check said of one text."""

    findings: tuple[Finding, ...] = ()
    errors: tuple[CheckError, ...] = ()


def vet(policy: Policy, check: Check, findings: Sequence[Finding], stage: Stage, length: int) -> Outcome:
    """The findings that make sense; one that does not is the check's fault.

    Args:
        policy: Whose rules the findings are for.
        check: What found them.
        findings: What it gave, perhaps nonsense.
        stage: Where the text stands.
        length: Of the text, in characters.

    Raises:
        TypeError: It gave no list.
    """
    if not isinstance(findings, list | tuple):
        raise TypeError("no list of findings")
    good = tuple(finding for finding in findings if _makes_sense(policy, check, finding, stage, length))
    wrong = (CheckError(check.name, "gave a finding that makes no sense"),) if len(good) < len(findings) else ()
    return Outcome(good, wrong)


def fault(check: Check, error: Exception) -> CheckError:
    """What is told of an exception: its message only where it is the kit's own, because others may quote the text."""
    if isinstance(error, CheckTimeout):
        return CheckError(check.name, str(error), "timeout")
    if isinstance(error, Overloaded):
        return CheckError(check.name, str(error), "overloaded")
    message = f": {error}" if isinstance(error, SafetyKitError) else ""
    return CheckError(check.name, f"failed with {type(error).__name__}{message}")


def _makes_sense(policy: Policy, check: Check, finding: object, stage: Stage, length: int) -> bool:
    if not isinstance(finding, Finding) or finding.category not in check.categories:
        return False
    if not (isinstance(finding.check, str) and isinstance(finding.detail, str)):
        return False
    if finding.score_kind not in get_args(ScoreKind):
        return False
    if not (math.isfinite(finding.score) and 0 <= finding.score <= 1):
        return False
    if not (isinstance(finding.spans, tuple) and all(_is_span(span, length) for span in finding.spans)):
        return False
    rule = policy.rule_for(finding, stage)
    return bool(finding.spans) or rule is None or rule.action is not Action.REDACT  # nothing to redact


def _is_span(span: object, length: int) -> bool:
    if not (isinstance(span, tuple) and len(span) == 2 and all(type(place) is int for place in span)):
        return False
    start, end = span
    return bool(0 <= start < end <= length)
