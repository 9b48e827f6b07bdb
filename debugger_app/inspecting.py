"""From a conversation to a run in the history: what it takes is told, or refused, before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from debugger_app import history, preflight
from debugger_app.frame import working
from debugger_app.study import study

if TYPE_CHECKING:
    from debugger_app.frame import Opened
    from safety_kit.gemma import Sampling
    from safety_kit.types import Message


def inspect(here: Opened, messages: list[Message], sampling: Sampling) -> str:
    """Answer and read a conversation, and remember the run: its id.

    Args:
        here: Model and policy.
        messages: The conversation; where the last is an assistant's, that is the reply, and none is decoded.
        sampling: Of the reply.

    Raises:
        UserError: It is not to be run; see `preflight.estimate`.
    """
    decoded = 0 if messages[-1].role == "assistant" else sampling.max_tokens
    expected = preflight.estimate(here.model.gemma, messages, decoded)
    with (
        working(f"{expected}. {'Answering' if decoded else 'Reading'},") as progress,
        here.model.running() as gemma,
        preflight.timed(gemma, expected.tokens, decoded),
    ):
        seen = study(gemma, here.guard, messages, sampling, revision=here.model.revision, progress=progress)
    return history.add(seen)
