"""A reply as it streams through the guard: what was released when, and what was held back meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safety_kit.stream import StreamGuard, withholding
from safety_kit.types import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from safety_kit.gemma import Gemma
    from safety_kit.gemma.trace import TraceView
    from safety_kit.guard import Guard
    from safety_kit.types import Verdict


@dataclass(frozen=True, slots=True)
class Fed:
    """One token fed; after the last, one entry more for the end of the reply, whose text is empty.

    Attributes:
        text: Its characters; empty where they come with a later token.
        read: Characters of the reply read so far.
        released: What it set free.
        shown: Characters released so far; a redacted span may make them more or fewer than were read.
        held: Characters of the reply that stand back: read, and neither released nor redacted.
        ms: What it took.
    """

    text: str
    read: int
    released: str
    shown: int
    held: int
    ms: float


@dataclass(frozen=True, slots=True)
class Flow:
    """A whole reply.

    Attributes:
        fed: Each token, and the end.
        verdict: On the reply.
        withheld: Names of the checks because of which nothing is released before the end.
        activations: Whether each token came with its own activations.
    """

    fed: tuple[Fed, ...]
    verdict: Verdict
    withheld: tuple[str, ...]
    activations: bool

    @property
    def released(self) -> str:
        return "".join(one.released for one in self.fed)

    @property
    def most_held(self) -> int:
        """The most characters that stood back at once."""
        return max((one.held for one in self.fed), default=0)


def flow(guard: Guard, gemma: Gemma, reply: str, prompt: str | None = None, system: str | None = None) -> Flow:
    """Feed a reply token by token, each with its activations where the guard has probes: one pass.

    Args:
        guard: The guard.
        gemma: Its model.
        reply: Read where it stands behind `prompt`, as `Guard.check` reads it.
        prompt: The message that it answers.
        system: The system prompt that it was written under.
    """
    reads = guard.probes is not None and guard.probes in guard.checks_at(Stage.OUTPUT)
    capture = guard.capture if reads else None
    # Of a reply longer than a window there is no one pass that has all of its tokens: it is then read at its end.
    views = gemma.trace_texts([(prompt, reply, "assistant")], capture)[0] if capture and reply else []
    activations = len(views) == 1 or not reads
    stream = StreamGuard(guard, prompt, activations, system=system)
    fed, read = [], 0
    for text, hidden in _pieces(gemma, reply, views[0] if len(views) == 1 else None):
        begin = time.perf_counter()
        released = stream.feed(text, hidden if activations and reads else None).text
        ms = (time.perf_counter() - begin) * 1000
        read += len(text)
        fed.append(_fed(stream, text, read, released, ms))
        if stream.verdict is not None:
            break
    begin = time.perf_counter()
    last = stream.close()
    fed.append(_fed(stream, "", read, last.text, (time.perf_counter() - begin) * 1000))
    assert last.verdict is not None
    return Flow(tuple(fed), last.verdict, withholding(guard, activations), activations)


def _fed(stream: StreamGuard, text: str, read: int, released: str, ms: float) -> Fed:
    return Fed(text, read, released, len(stream.released), stream.held, ms)


def _pieces(gemma: Gemma, reply: str, view: TraceView | None) -> Iterator[tuple[str, Mapping[int, torch.Tensor]]]:
    """The reply cut where its tokens end, each with its 1 × d activations by block."""
    if not reply:
        return
    offsets = view.offsets if view is not None else gemma.encode(reply).offsets[1:]
    at = 0
    for number, (_, end) in enumerate(offsets):
        stop = len(reply) if number == len(offsets) - 1 else max(at, end)
        blocks = view.trace.hidden if view is not None else {}
        yield reply[at:stop], {block: view.hidden(block)[number : number + 1] for block in blocks} if view else {}
        at = stop
    if at < len(reply):  # white space that the prompt's form leaves out
        yield reply[at:], {}
