"""`safety-kit generate`: one guarded reply."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from safety_kit import console
from safety_kit.commands import models, sampling_options
from safety_kit.commands.inputs import one_text
from safety_kit.commands.sampling_options import PANEL
from safety_kit.types import Message


def generate(
    prompt: sampling_options.Prompt = None,
    policy: models.PolicyName = "default",
    system: sampling_options.System = None,
    stream: Annotated[bool, typer.Option("--stream", help="Write the reply as it is cleared.")] = False,
    as_json: models.Json = False,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, rich_help_panel=PANEL)] = 256,
    temperature: sampling_options.Temperature = 0.0,
    top_k: sampling_options.TopK = 0,
    top_p: sampling_options.TopP = 1.0,
    min_p: Annotated[float, typer.Option("--min-p", rich_help_panel=PANEL)] = 0.0,
    repetition_penalty: Annotated[float, typer.Option("--repetition-penalty", rich_help_panel=PANEL)] = 1.0,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="Ends the reply; may be repeated.", rich_help_panel=PANEL)
    ] = None,
    seed: sampling_options.Seed = None,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Answer a prompt inside a policy.

    Exit 0, or 1 where the prompt or the reply is blocked.
    """
    text = one_text(prompt, "PROMPT")

    from safety_kit.gemma import Sampling
    from safety_kit.generate import GuardedGemma
    from safety_kit.guard import Guard
    from safety_kit.policy import Policy

    sampling = Sampling(max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, tuple(stop or ()), seed)
    rules = Policy.load(policy)
    gemma = models.load(model, revision, device, dtype)
    guarded = GuardedGemma(gemma, Guard(rules, gemma))
    before = [Message("system", system)] if system else []
    messages = [*before, Message("user", text)]

    running = guarded.stream(messages, sampling)
    if stream:
        out = sys.stderr if as_json else sys.stdout
        for piece in running:
            print(console.safe(piece), end="", flush=True, file=out)
        print(file=out)
    reply = running.reply
    if not stream and not as_json:
        print(console.safe(reply.reply))
    if as_json:
        console.emit(reply.to_json())
    else:
        for verdict in filter(None, (reply.input, reply.output)):
            if said := console.fired(verdict):
                console.note(f"{verdict.action} at {verdict.stage.value}: {said}")
        console.note(f"{reply.finish_reason} · {reply.completion_tokens} tokens · {reply.seconds:.1f} s")
    return int(reply.blocked)
