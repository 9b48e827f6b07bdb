"""What a command asks a Gemma to answer, and how the reply is sampled: the options."""

from __future__ import annotations

from typing import Annotated

import typer

PANEL = "Sampling"

Prompt = Annotated[str | None, typer.Argument(help="The user's message, in quotes; - reads standard input.")]
System = Annotated[str | None, typer.Option("--system", help="Instructions that stand before the message.")]
Temperature = Annotated[float, typer.Option("--temperature", help="0 is greedy.", rich_help_panel=PANEL)]
TopK = Annotated[int, typer.Option("--top-k", help="0 keeps all.", rich_help_panel=PANEL)]
TopP = Annotated[float, typer.Option("--top-p", rich_help_panel=PANEL)]
Seed = Annotated[int | None, typer.Option("--seed", help="Repeats a sampling.", rich_help_panel=PANEL)]
