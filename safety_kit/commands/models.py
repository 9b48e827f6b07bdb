"""Which Gemma and policy a command uses: the options, and the one place that loads them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_kit import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safety_kit.gemma import Gemma
    from safety_kit.guard import Guard
    from safety_kit.policy import Policy

PANEL = "Model"

Model = Annotated[
    str, typer.Option("--model", help="embedded (Gemma 3 270M, offline), a hub id or a folder.", rich_help_panel=PANEL)
]
Revision = Annotated[str | None, typer.Option("--revision", help="Of a hub model.", rich_help_panel=PANEL)]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps …", rich_help_panel=PANEL)]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32 or bfloat16.", rich_help_panel=PANEL)]
PolicyName = Annotated[str, typer.Option("--policy", help="A YAML file, or a shipped policy's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, all else on stderr.")]


def load(model: str, revision: str | None, device: str, dtype: str) -> Gemma:
    """Load a Gemma, with a line on a terminal's stderr while it takes its seconds."""
    if sys.stderr.isatty():
        console.note(f"loading {model} …")
    from safety_kit.gemma import Gemma

    choice: Any = dtype  # Gemma.load refuses what it does not know
    return Gemma.load(model, revision=revision, device=device, dtype=choice)


def gemma_for(policies: Sequence[Policy], model: str, revision: str | None, device: str, dtype: str) -> Gemma | None:
    """The Gemma that guards of these policies read; None where none has probes, or judges that name no other."""
    return load(model, revision, device, dtype) if any(policy.needs_model for policy in policies) else None


def guard_for(policy: str, model: str, revision: str | None, device: str, dtype: str) -> Guard:
    """The guard of a policy; a Gemma is loaded only where the policy has probes, or judges that name no other."""
    from safety_kit.guard import Guard
    from safety_kit.policy import Policy

    loaded = Policy.load(policy)
    return Guard(loaded, gemma_for([loaded], model, revision, device, dtype))
