"""`safety-kit policy test` and `new`: a policy's own examples, and a policy to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_kit import console
from safety_kit.commands import models
from safety_kit.errors import PolicyError, UserError
from safety_kit.types import Sample

if TYPE_CHECKING:
    from safety_kit.policy import Example
    from safety_kit.types import Verdict

WIDTH = 50
"""Characters of an example that the table shows."""


def run(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="A YAML file, or a shipped policy's name.")],
    as_json: models.Json = False,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Run the examples in a policy.

    Exit 0 where each has the action that it expects, and finds the category that it names; 1 where not.
    """
    guard = models.guard_for(policy, model, revision, device, dtype)
    examples = guard.policy.examples
    if not examples:
        raise PolicyError(
            f"{policy} has no examples; add some to its file, as in: examples: [{{text: hello, expect: allow}}]"
        )
    verdicts = guard.check([Sample.at(example.text, example.stage, example.prompt) for example in examples])
    failed = [
        (number, example, verdict, why)
        for number, (example, verdict) in enumerate(zip(examples, verdicts, strict=True))
        if (why := _missed(example, verdict))
    ]
    if as_json:
        listed = [_failure(*one) for one in failed]
        console.emit({"policy": guard.policy.name, "examples": len(examples), "failed": listed, "digest": guard.digest})
        return int(bool(failed))
    if failed:
        made = console.table("example", "at", "expected", "got", "why", "text")
        for number, example, verdict, why in failed:
            cells = [f"examples[{number}]", example.stage.value, str(example.expect), str(verdict.action), why]
            console.add_row(made, *cells, console.one_line(example.text, WIDTH))
        console.show(made)
    print(console.safe(f"{guard.policy.name}: {len(examples) - len(failed)} of {len(examples)} examples hold"))
    return int(bool(failed))


def new(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML file to write.")],
    template: Annotated[str, typer.Option("--template", help="A shipped policy's name.")] = "default",
) -> int:
    """Start a policy from a shipped one."""
    from safety_kit import files
    from safety_kit.data import policy_names, shipped_policy

    source = shipped_policy(template)
    if source is None:
        raise UserError(f"--template {template}: there is no such policy; use one of {', '.join(policy_names())}.")
    if path.exists():
        raise UserError(f"{path} is there already; name another file.")
    files.write(path, source.read_bytes())
    print(console.safe(f"{path}: change it, then try: safety-kit policy test {path}"))
    return 0


def _missed(example: Example, verdict: Verdict) -> str:
    """Why an example does not hold; empty where it does."""
    from safety_kit.policy_schema import covers

    if verdict.errors:  # a fault that blocks is not the block that was expected
        return f"error: {', '.join(error.check for error in verdict.errors)}"
    found = sorted({finding.category for finding in verdict.findings})
    if verdict.action is not example.expect:
        return f"found {', '.join(found)}" if found else "nothing found"
    if example.category is not None and not any(covers(example.category, category) for category in found):
        return f"{example.category} not found, but {', '.join(found)}"
    return ""


def _failure(number: int, example: Example, verdict: Verdict, why: str) -> dict[str, Any]:
    return {
        "example": number,
        "stage": example.stage.value,
        "expected": str(example.expect),
        "category": example.category,
        "got": str(verdict.action),
        "found": sorted({finding.category for finding in verdict.findings}),
        "errors": [error.check for error in verdict.errors],
        "why": why,
    }
