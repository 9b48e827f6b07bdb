"""`ModelQueue`: one queue in front of a Gemma, which any number of guards read and ask at once.

A `Guard` takes it in place of the Gemma. What its threads ask for waits here until the model's one thread has read it,
in batches over all requests. A request takes a `place` before it is checked, so that a full house is an `Overloaded`
for its caller and never a failed check; what it still has waiting when it leaves costs nothing.
"""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from safety_kit.errors import CheckTimeout, Overloaded, SafetyKitError
from safety_kit.follow import Follower
from safety_kit.gateway.admission import Admission, Overload
from safety_kit.gateway.model_thread import Left, ModelThread, Owner
from safety_kit.gemma.model import TOKEN_BUDGET
from safety_kit.gemma.ragged import Row
from safety_kit.gemma.windows import own_windows

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache

    from safety_kit.followed_stream import Follow
    from safety_kit.gemma import Capture, Gemma, Prompt, Tokens, Trace, TraceView
    from safety_kit.gemma.tokens import Vocabulary
    from safety_kit.types import Message, Role

CAPACITY: Final = 64_000
"""Characters that are read at once: about 15,000 tokens, which two cores read well inside a check's time."""

STREAMS: Final = 24
"""Replies that are followed at once: what two cores keep up with at 20 tokens a second each."""

READ_TIMEOUT: Final = 60.0

T = TypeVar("T")

_owner: contextvars.ContextVar[Owner | None] = contextvars.ContextVar("owner", default=None)


class ModelQueue:
    """A Gemma that many may read at once; a guard's `Tracer`, and what its judges ask.

    Attributes:
        gemma: The model; whoever calls it beside the queue waits for it, and it for them.
        thread: What calls it.
        admission: The places of requests.
        streams: The places of replies that are followed.
    """

    def __init__(
        self,
        gemma: Gemma,
        *,
        capacity: int = CAPACITY,
        streams: int = STREAMS,
        max_waiting: int = 512,
        overload: Overload = "queue",
        patience: float = 30.0,
        token_budget: int = TOKEN_BUDGET,
    ) -> None:
        """Open a queue and start its thread.

        Args:
            gemma: The model.
            capacity: Characters that all requests with a place may have read at once.
            streams: Replies that may be followed at once.
            max_waiting: Requests that may wait for a place, and texts without a place that may wait for the model.
            overload: What becomes of a request that finds no place.
            patience: Seconds that it waits for one under ``queue``.
            token_budget: Padded tokens of one pass.
        """
        self.gemma = gemma
        self.thread = ModelThread(gemma, token_budget)
        self.admission = Admission(capacity, max_waiting, overload, patience)
        self.streams = Admission(streams, max_waiting, overload, patience)
        self._max_waiting = max_waiting

    # --- places

    @asynccontextmanager
    async def place(self, size: int = 1) -> AsyncIterator[None]:
        """A place; what is checked inside the block, in this task or in threads with its context, belongs to it.

            async with queue.place(len(body)):
                verdict = await workers.run(guard.check_request, request)

        Args:
            size: Characters that will be read.

        Raises:
            Overloaded: There is none, and ``overload`` says not to wait, or it was waited long enough.
        """
        async with self.admission.place(size):
            owner, before = Owner(), _owner.get()
            _owner.set(owner)
            try:
                yield
            finally:
                # Not by a token: a generator may be closed from another context than the one it ran in.
                _owner.set(before)
                self.thread.leave(owner)

    def close(self) -> None:
        """Stop: what waits fails, the pass of this moment ends first."""
        self.thread.close()

    # --- a guard's model

    @property
    def name(self) -> str:
        return self.gemma.name

    @property
    def digest(self) -> str:
        return self.gemma.digest

    @property
    def dtype(self) -> str:
        return self.gemma.dtype

    @property
    def attention(self) -> str:
        return self.gemma.attention

    @property
    def n_blocks(self) -> int:
        return self.gemma.n_blocks

    @property
    def hidden_size(self) -> int:
        return self.gemma.hidden_size

    @property
    def vocabulary(self) -> Vocabulary:
        return self.gemma.vocabulary

    def follower(self, capture: Capture, timeout: float = READ_TIMEOUT) -> Follow:
        """Makes followers of replies that others write: several share the model's passes.

        Args:
            capture: The guard's.
            timeout: Seconds that one may wait for a pass; then its reading has failed.
        """

        def read(
            ids: Sequence[int], cache: DynamicCache, capture: Capture, *, alone: bool
        ) -> Mapping[int, torch.Tensor]:
            done = self.thread.read_on(Row(ids, cache), capture, alone=alone)
            try:
                return done.result(timeout)
            except TimeoutError:
                done.cancel()
                raise CheckTimeout(f"waited longer than {timeout:g} s for the model.") from None
            except Left:
                raise SafetyKitError("The model's queue is closed.") from None

        return lambda prompt: Follower(self.gemma, capture, prompt, read)

    def render(self, messages: Sequence[Message]) -> Prompt:
        """See `Gemma.render`."""
        return self.gemma.render(messages)

    def read_texts(
        self, texts: Sequence[tuple[str | None, str, Role]], capture: Capture, each: Callable[[int, TraceView], T], /
    ) -> list[list[T]]:
        """See `Gemma.read_texts`; this thread waits for the model's."""
        return own_windows(self, texts).read(lambda tokens: self.forward(tokens, capture), each)

    def forward(self, texts: Sequence[Tokens], capture: Capture, /) -> list[Trace]:
        """See `Gemma.forward`; this thread waits for the model's.

        Raises:
            Overloaded: Too much waits already, and this has no place.
            SafetyKitError: The request was left, or the queue is closed.
            Exception: What the model raised on these texts, each tried alone.
        """
        owner = _owner.get()
        if owner is None and self.thread.waiting >= self._max_waiting:
            raise Overloaded("Too many texts wait for the model.")
        try:
            return self.thread.forward(texts, capture, owner).result()
        except Left:
            raise SafetyKitError("The request was left before the model had read it.") from None
