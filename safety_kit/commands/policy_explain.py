"""`safety-kit policy explain`: why a text has its verdict, rule by rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_kit import console
from safety_kit.commands import models
from safety_kit.commands.inputs import Row, one_text
from safety_kit.types import Action, Stage

if TYPE_CHECKING:
    from safety_kit.policy import Policy
    from safety_kit.reasons import Reason
    from safety_kit.types import Verdict


def explain(
    text: Annotated[str | None, typer.Argument(help="The text, in quotes; - reads standard input.")] = None,
    policy: models.PolicyName = "default",
    stage: Annotated[Stage, typer.Option("--stage", help="input: a user wrote it; output: a model.")] = Stage.INPUT,
    prompt: Annotated[str | None, typer.Option("--prompt", help="The message that an output answers.")] = None,
    as_json: models.Json = False,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Show why a text has its verdict.

    Each rule at its stage: the score of its category, the threshold and where that came from, whether it fired, and
    what decided.
    """
    from safety_kit.policy import Policy
    from safety_kit.reasons import Listening, deciding, reasons_of

    sample = Row(one_text(text, "TEXT"), prompt).sample(stage)
    read = Policy.load(policy)
    guard = Listening(read, models.gemma_for([read], model, revision, device, dtype))
    verdict, reasons = reasons_of(guard, read, sample)
    decided = deciding(verdict, reasons)
    if as_json:
        console.emit(_json(verdict, reasons, decided))
    else:
        _show(read, verdict, reasons, decided)
    return 0


def _json(verdict: Verdict, reasons: list[Reason], decided: Reason | None) -> dict[str, Any]:
    return {
        "stage": verdict.stage.value,
        "action": str(verdict.action),
        "decided_by": _decided_by(verdict, decided),
        "rules": [
            {
                "rule": one.number,
                "category": one.rule.category,
                "action": str(one.rule.action),
                "found": one.best.category if one.best else None,
                "check": one.best.check if one.best else None,
                "score": round(one.best.score, 6) if one.best else None,
                "score_kind": one.best.score_kind if one.best else None,
                "spans": [list(span) for span in one.best.spans] if one.best else [],
                "threshold": None if one.threshold is None else round(one.threshold, 6),
                "threshold_from": one.source,
                "fired": one.fired,
                "asked": one.asked,
            }
            for one in reasons
        ],
        "errors": [{"check": error.check, "message": error.message} for error in verdict.errors],
        "policy_digest": verdict.policy_digest,
    }


def _decided_by(verdict: Verdict, decided: Reason | None) -> str | None:
    if decided is not None:
        return f"rules[{decided.number}]"
    return None if verdict.action is Action.ALLOW else "on_error"


def _show(policy: Policy, verdict: Verdict, reasons: list[Reason], decided: Reason | None) -> None:
    by = _decided_by(verdict, decided)
    why = f"{by}, {decided.rule.category}" if decided else "a check that failed" if by else "no rule that fired"
    print(console.safe(f"{str(verdict.action).upper()} at {verdict.stage.value}, decided by {why}"))
    made = console.table("rule", "category", "action", "score", "above", "threshold from", "", right=["score", "above"])
    for one in reasons:
        found = one.best.category if one.best and one.best.category != one.rule.category else ""
        console.add_row(
            made,
            f"rules[{one.number}]",
            f"{one.rule.category} ({found})" if found else one.rule.category,
            str(one.rule.action),
            f"{one.best.score:.4f}" if one.best else "–",
            f"{one.threshold:.4f}" if one.threshold is not None else "–",
            one.source,
            one.outcome,
            style="bold" if one is decided else None,
        )
    console.show(made)
    if elsewhere := len(policy.rules) - len(reasons):
        print(f"{elsewhere} more rules hold at the other stage only.")
    for error in verdict.errors:
        print(console.safe(f"check {error.check}: {error.message}"))
