"""One prompt under study: what a single pass over prompt and reply gives every page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from safety_kit.analysis.pieces import Piece, pieces
from safety_kit.analysis.probabilities import CAPTURE, Probabilities, probabilities
from safety_kit.analysis.runs import Run, RunTree
from safety_kit.analysis.strip import Strip, strips
from safety_kit.gemma.trace import Capture
from safety_kit.types import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safety_kit.artifacts import Head
    from safety_kit.gemma import Gemma, Sampling
    from safety_kit.gemma.trace import Trace
    from safety_kit.guard import Guard
    from safety_kit.types import Message


@dataclass(frozen=True)
class Part:
    """A message or the reply: a range of tokens, and each classifier's reading of it."""

    name: str
    start: int
    stop: int
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Study:
    """A run and what was seen of it.

    Attributes:
        messages: The conversation.
        tree: The reply, and those that branch off it.
        run: Which of them is looked at.
        trace: Of prompt and reply.
        pieces: One a token.
        probabilities: Of every token.
        parts: Each message, then the reply.
    """

    messages: tuple[Message, ...]
    tree: RunTree
    run: int
    trace: Trace
    pieces: tuple[Piece, ...]
    probabilities: Probabilities
    parts: tuple[Part, ...]

    @property
    def reply(self) -> Run:
        return self.tree.runs[self.run]

    def part_of(self, token: int) -> Part | None:
        """The message or reply that a token belongs to; None for the template's own."""
        return next((part for part in self.parts if part.start <= token < part.stop), None)


def study(gemma: Gemma, guard: Guard, messages: Sequence[Message], sampling: Sampling) -> Study:
    """Answer a conversation, unguarded, and read prompt and reply once.

    Raises:
        UserError: The conversation is empty or longer than the model's context.
    """
    tree = RunTree.start(gemma, gemma.render(messages), sampling)
    return look(gemma, guard, messages, tree, 0)


def look(gemma: Gemma, guard: Guard, messages: Sequence[Message], tree: RunTree, number: int) -> Study:
    """Read one run of a tree: one pass."""
    run = tree.runs[number]
    capture = CAPTURE | (guard.capture or Capture())
    trace = gemma.forward([run.tokens], capture)[0]
    heads = [probe.head for probe in guard.probes.probes] if guard.probes else []
    parts = [
        _part(message.role, trace, *place, heads, Stage.INPUT, guard)
        for message, place in zip(messages, run.prompt.ranges, strict=True)
    ]
    if run.reply:
        parts.append(_part("reply", trace, run.start, len(trace.ids), heads, Stage.OUTPUT, guard))
    return Study(
        tuple(messages),
        tree,
        number,
        trace,
        tuple(pieces(trace.ids, gemma.vocabulary)),
        probabilities(trace, sampling=tree.sampling),
        tuple(parts),
    )


def _part(name: str, trace: Trace, start: int, stop: int, heads: Sequence[Head], stage: Stage, guard: Guard) -> Part:
    able = [head for head in heads if stage in head.calibration]
    seen = strips(trace.view(start, stop), able, stage, guard.policy) if stop > start and able else []
    return Part(name, start, stop, tuple(seen))
