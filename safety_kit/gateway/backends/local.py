"""The gateway's own Gemma as a backend: each token comes with the activations that the guard's probes read."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from safety_kit.errors import Overloaded, UserError
from safety_kit.gateway.admission import Admission, Overload
from safety_kit.gateway.backends import BackendError, Call, Chunk
from safety_kit.gateway.backends.local_request import Asked, AskedChat, AskedText, read
from safety_kit.gateway.backends.local_wire import Chat, Form, Text
from safety_kit.gateway.generation import Generations
from safety_kit.gateway.whole import Whole
from safety_kit.gemma import Capture, Prompt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safety_kit.gateway.batching import ModelQueue
    from safety_kit.gemma import Step

log = logging.getLogger("safety_kit.gateway")

RUNNING: Final = 8
"""Replies that are written at once: a step of eight costs two cores little more than a step of one."""

STUCK: Final = 60.0
"""Seconds of one pass after which the model does not count as ready."""

_WITH_USAGE: Final = {"stream_options": {"include_usage": True}}


@dataclass(frozen=True, slots=True)
class _Reply:
    """One request, ready to be answered."""

    asked: Asked
    prompt: Prompt
    form: Form


class LocalBackend:
    """Replies by a Gemma in this process.

    Attributes:
        name: ``local``.
        brings_activations: See `Backend`.
    """

    name = "local"
    brings_activations = True

    def __init__(
        self,
        queue: ModelQueue,
        capture: Capture | None = None,
        *,
        running: int = RUNNING,
        waiting: int = 64,
        overload: Overload = "queue",
        patience: float = 30.0,
    ) -> None:
        """Set it up; nothing runs until it is asked.

        Args:
            queue: The model, shared with the guards; who made it closes it.
            capture: The guard's `capture`: chunks bring these activations; `bring` adds more.
            running: Replies that are written at once.
            waiting: Replies that may wait for a place.
            overload: What becomes of one that finds none.
            patience: Seconds that it waits under ``queue``.
        """
        self._queue = queue
        self._gemma = queue.gemma
        folder = Path(queue.name)
        self._model = folder.name if folder.is_dir() else queue.name  # no client needs to know where it lies
        room = Admission(running, waiting, overload, patience)
        self._generations = Generations(self._gemma, queue.thread, capture or Capture(), room)
        self._since = int(time.time())

    def bring(self, capture: Capture) -> None:
        """From the next step on, bring these activations too: those of a policy that is about to be served."""
        self._generations.capture |= capture

    async def models(self) -> list[dict[str, Any]]:
        """The one model."""
        return [{"id": self._model, "object": "model", "created": self._since, "owned_by": "safety-kit"}]

    async def chat(self, request: Mapping[str, Any], call: Call) -> dict[str, Any]:
        """See `Backend.chat`."""
        return await _whole("delta", self.stream_chat({**request, **_WITH_USAGE}, call))

    async def stream_chat(self, request: Mapping[str, Any], call: Call) -> AsyncGenerator[Chunk, None]:
        """See `Backend.stream_chat`; a chunk is one token, the last of a choice names its finish_reason."""
        async with aclosing(self._chunks(await self._chat(request))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def complete(self, request: Mapping[str, Any], call: Call) -> dict[str, Any]:
        """See `Backend.complete`."""
        return await _whole("text", self.stream_complete({**request, **_WITH_USAGE}, call))

    async def stream_complete(self, request: Mapping[str, Any], call: Call) -> AsyncGenerator[Chunk, None]:
        """See `Backend.stream_complete`."""
        async with aclosing(self._chunks(await self._text(request))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def ready(self) -> bool:
        """Whether the model's thread runs and is not stuck in a pass."""
        return self._queue.thread.alive and self._queue.thread.busy < STUCK

    async def close(self) -> None:
        """Nothing of its own is left open."""

    # --- what is asked for

    async def _chat(self, request: Mapping[str, Any]) -> _Reply:
        asked = read(request, AskedChat)
        messages = asked.conversation()
        prompt = await asyncio.to_thread(self._gemma.render, messages)  # a long text takes its time
        return self._reply(asked, prompt, Chat(self._gemma))

    async def _text(self, request: Mapping[str, Any]) -> _Reply:
        asked = read(request, AskedText)
        text = asked.prompt if isinstance(asked.prompt, str) else asked.prompt[0]
        tokens = await asyncio.to_thread(self._gemma.encode, text)
        return self._reply(asked, Prompt(tokens, ((1, len(tokens)),)), Text(self._gemma))

    def _reply(self, asked: Asked, prompt: Prompt, form: Form) -> _Reply:
        room = self._gemma.context_length
        if asked.model not in (None, self._model):
            raise BackendError(404, "model_not_found", f"There is no such model here; ask for {self._model!r}.")
        if len(prompt.tokens) >= room:
            message = f"The prompt has {len(prompt.tokens)} tokens, and the model's context {room}; shorten it."
            raise BackendError(400, "context_length_exceeded", message)
        return _Reply(asked, prompt, form)

    # --- what is answered

    async def _chunks(self, reply: _Reply) -> AsyncGenerator[Chunk, None]:
        head = self._head(reply)
        beside = {"usage": None} if reply.asked.tells_usage else {}
        opened: set[int] = set()
        count = 0
        async with aclosing(self._steps(reply)) as made:
            async for choice, step in made:
                if choice not in opened and (first := reply.form.first(choice)) is not None:
                    yield Chunk({**head, "choices": [first], **beside})
                opened.add(choice)
                count += 1
                told = reply.form.chunk(choice, step, told=reply.asked.likeliest, top=reply.asked.top_logprobs or 0)
                yield Chunk({**head, "choices": [told], **beside}, self._activations(step))
        if reply.asked.tells_usage:
            yield Chunk({**head, "choices": [], "usage": self._usage(reply, count)})

    async def _steps(self, reply: _Reply) -> AsyncGenerator[tuple[int, Step], None]:
        """The steps of all choices, each with its number, as they are made."""
        made: asyncio.Queue[tuple[int, Step]] = asyncio.Queue(1)

        async def write(choice: int) -> None:
            sampling = reply.asked.sampling(choice)
            async with aclosing(self._generations.steps(reply.prompt, sampling, reply.asked.likeliest)) as steps:
                async for step in steps:
                    await made.put((choice, step))

        writers = [asyncio.create_task(write(choice)) for choice in range(reply.asked.choices)]
        try:
            with _faults():
                async for item in _drained(made, writers):
                    yield item
        finally:
            for writer in writers:
                writer.cancel()
            await asyncio.gather(*writers, return_exceptions=True)

    def _activations(self, step: Step) -> Mapping[int, torch.Tensor] | None:
        if step.hidden:
            return {block: hidden[None] for block, hidden in step.hidden.items()}
        # The token that ends a reply has no text of its own: what comes out with it was held back before.
        none = torch.empty(0, self._gemma.hidden_size)
        return dict.fromkeys(self._generations.capture.blocks, none) or None

    def _head(self, reply: _Reply) -> dict[str, Any]:
        form = reply.form
        return {
            "id": f"{form.prefix}-{uuid.uuid4().hex}",
            "object": form.chunk_object,
            "created": int(time.time()),
            "model": self._model,
        }

    def _usage(self, reply: _Reply, made: int) -> dict[str, int]:
        read = len(reply.prompt.tokens)
        return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}


async def _whole(text_key: str, chunks: AsyncGenerator[Chunk, None]) -> dict[str, Any]:
    """A whole completion is its drained stream."""
    whole = Whole(text_key)
    async with aclosing(chunks):
        async for chunk in chunks:
            whole.add([chunk.body])
    return whole.body(whole)


async def _drained(
    made: asyncio.Queue[tuple[int, Step]], writers: list[asyncio.Task[None]]
) -> AsyncIterator[tuple[int, Step]]:
    """What the writers put in, until all are done; the first fault is raised."""
    running: set[asyncio.Future[Any]] = set(writers)
    getting = asyncio.ensure_future(made.get())
    try:
        while True:
            await asyncio.wait({getting, *running}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                yield getting.result()
                getting = asyncio.ensure_future(made.get())
                continue
            for task in [task for task in running if task.done()]:
                running.discard(task)
                task.result()
            if not running and made.empty():
                return
    finally:
        getting.cancel()


@contextmanager
def _faults() -> Iterator[None]:
    """The model's faults as a backend's; their messages may quote a text."""
    try:
        yield
    except Overloaded as error:
        raise BackendError(503, "overloaded", str(error), error.retry_after) from None
    except UserError as error:
        raise BackendError(400, "invalid_value", str(error)) from None
    except BackendError:
        raise
    except Exception as error:
        log.error("the model failed with %s", type(error).__name__)
        raise BackendError(500, "model_failed", "The gateway's own model failed on this request.") from None
