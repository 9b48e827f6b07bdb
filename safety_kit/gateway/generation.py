"""Replies that the gateway's own Gemma writes: all that run take each step together, on the model's thread."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from safety_kit.gateway.model_thread import plain
from safety_kit.gemma.decoding import Decoding, Step, step_together
from safety_kit.gemma.steps import Prefill, reading

if TYPE_CHECKING:
    from concurrent.futures import Future

    from safety_kit.gateway.admission import Admission
    from safety_kit.gateway.model_thread import ModelThread
    from safety_kit.gemma import Capture, Gemma, Prompt, Sampling

AHEAD: Final = 4
"""Steps that a reply may be ahead of its reader; then it sits out."""

_Next: TypeAlias = "Step | Exception"


@dataclass(eq=False, slots=True)
class _Reply:
    """One reply: its state on the model's thread, and the steps that its reader has not taken yet."""

    prompt: Prompt
    sampling: Sampling
    likeliest: int
    loop: asyncio.AbstractEventLoop
    reads: Generator[None, None, Prefill] | None = None
    decoding: Decoding | None = None
    made: int = 0
    taken: int = 0
    steps: deque[_Next] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def waits(self) -> bool:
        """Whether it is far enough ahead of its reader."""
        return self.made - self.taken >= AHEAD

    def deliver(self, item: _Next) -> None:
        """Hand a step to the reader's loop."""
        self.made += 1
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._put, item)

    def _put(self, item: _Next) -> None:
        self.steps.append(item)
        self.arrived.set()


class Generations:
    """The replies that are being written.

    A turn on the model's thread is a chunk of one new prompt or, alternating with that, one token of every reply whose
    reader has kept up. A reply whose reader leaves is out at once, and its cache with it.

    Attributes:
        capture: Activations that each step brings; it may grow at any time.
    """

    def __init__(self, gemma: Gemma, thread: ModelThread, capture: Capture, admission: Admission) -> None:
        """Nothing runs until it is asked for.

        Args:
            gemma: Who writes.
            thread: What calls it.
            capture: See above.
            admission: A place for each reply that runs.
        """
        self._gemma = gemma
        self._thread = thread
        self.capture = capture
        self._admission = admission
        self._lock = threading.Lock()
        self._new: deque[_Reply] = deque()
        self._running: list[_Reply] = []
        self._scheduled = False
        self._read_last = False

    @property
    def running(self) -> int:
        """Replies that are read for or written."""
        return len(self._new) + len(self._running)

    async def steps(self, prompt: Prompt, sampling: Sampling, likeliest: int = 0) -> AsyncGenerator[Step, None]:
        """Write a reply: its steps as they are made. Close the generator to end it before.

        Args:
            prompt: What it answers; it leaves room for a token at least.
            sampling: How tokens are chosen.
            likeliest: How many of the likeliest tokens each step tells.

        Raises:
            Overloaded: There is no place for it.
            Exception: What the model raised.
        """
        async with self._admission.place():
            reply = _Reply(prompt, sampling, likeliest, asyncio.get_running_loop())
            with self._lock:
                self._new.append(reply)
            try:
                while True:
                    self._schedule()
                    while not reply.steps:
                        reply.arrived.clear()
                        await reply.arrived.wait()
                    item = reply.steps.popleft()
                    reply.taken += 1
                    if isinstance(item, Exception):
                        raise item
                    yield item
                    if item.finish:
                        return
            finally:
                self._remove(reply)

    def _remove(self, reply: _Reply) -> None:
        with self._lock:
            if reply in self._new:
                self._new.remove(reply)
            if reply in self._running:
                self._running.remove(reply)

    def _schedule(self) -> None:
        """Ask for a turn, if there is anything to do and none was asked for."""
        with self._lock:
            busy = bool(self._new) or any(not reply.waits for reply in self._running)
            if self._scheduled or not busy:
                return
            self._scheduled = True
        self._thread.call(self._turn).add_done_callback(self._turned)

    def _turned(self, turn: Future[None]) -> None:
        if (error := turn.exception()) is not None:  # the thread was closed, most likely
            with self._lock:
                replies = [*self._new, *self._running]
            self._fail(replies, plain(error))

    def _fail(self, replies: list[_Reply], error: Exception) -> None:
        for reply in replies:
            self._remove(reply)
            reply.deliver(error)

    # --- on the model's thread

    def _turn(self) -> None:
        with self._lock:
            self._scheduled = False
            ready = [reply for reply in self._running if not reply.waits]
            first = self._new[0] if self._new and not (ready and self._read_last) else None
        self._read_last = first is not None
        if first is not None:
            self._read(first)
        elif ready:
            self._step(ready)
        self._schedule()

    def _read(self, reply: _Reply) -> None:
        """The next chunk of its prompt; after the last it runs."""
        try:
            if reply.reads is None:
                reply.reads = reading(self._gemma.trunk, reply.prompt, self.capture)
            next(reply.reads)
        except StopIteration as done:
            reply.decoding = Decoding(self._gemma, done.value, reply.sampling, likeliest=reply.likeliest)
            reply.reads = None
            with self._lock:
                if reply in self._new:  # else its reader has left
                    self._new.remove(reply)
                    self._running.append(reply)
        except BaseException as error:
            self._fail([reply], plain(error))
        else:
            with self._lock:
                self._new.rotate(-1)  # a long prompt takes turns with the others

    def _step(self, ready: list[_Reply]) -> None:
        """A token for each; a fault befalls all of the pass, whose caches are then of no use."""
        running = [(reply, reply.decoding) for reply in ready if reply.decoding is not None]
        try:
            steps = step_together(self._gemma, [decoding for _, decoding in running], self.capture)
        except BaseException as error:
            self._fail([reply for reply, _ in running], plain(error).with_traceback(None))
            return
        for (reply, _), step in zip(running, steps, strict=True):
            if step.finish:
                self._remove(reply)
            reply.deliver(step)
