"""`safety-kit check`: hold a text, or a file of them, against a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from safety_kit import console
from safety_kit.commands import models, rows_options
from safety_kit.commands.inputs import Row, one_text, read_rows
from safety_kit.errors import UserError
from safety_kit.types import Stage

if TYPE_CHECKING:
    from safety_kit.guard import Guard

BATCH = 32
"""Rows of a file that are checked together: their answers come out as soon as these are done."""


def check(
    text: Annotated[str | None, typer.Argument(help="The text, in quotes; - reads standard input.")] = None,
    policy: models.PolicyName = "default",
    stage: Annotated[Stage, typer.Option("--stage", help="input: a user wrote it; output: a model.")] = Stage.INPUT,
    prompt: Annotated[str | None, typer.Option("--prompt", help="The message that an output answers.")] = None,
    rows: rows_options.Input = None,
    text_column: rows_options.TextColumn = None,
    prompt_column: rows_options.PromptColumn = None,
    as_json: models.Json = False,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Hold a text against a policy.

    Exit 0 where it may pass, 1 where it is blocked.     A Gemma is loaded only where the policy has probes.
    """
    if rows is not None and (text is not None or prompt is not None):
        raise UserError("Give a TEXT or --input FILE, not both; a row has its own prompt.")
    mapping = rows_options.columns(text_column, prompt_column)
    read = read_rows(rows, mapping) if rows is not None else [Row(one_text(text, "TEXT"), prompt)]
    guard = models.guard_for(policy, model, revision, device, dtype)
    if rows is not None:
        return _check_rows(guard, read, stage)
    (verdict,) = guard.check([read[0].sample(stage)])
    if as_json:
        console.emit(verdict.to_json())
    else:
        console.show_verdict(verdict)
    return int(verdict.blocked)


def _check_rows(guard: Guard, rows: list[Row], stage: Stage) -> int:
    blocked = False
    for start in range(0, len(rows), BATCH):
        for verdict in guard.check([row.sample(stage) for row in rows[start : start + BATCH]]):
            console.emit(verdict.to_json())
            blocked |= verdict.blocked
    return int(blocked)
