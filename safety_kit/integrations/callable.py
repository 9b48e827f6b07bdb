"""A guard around any function from a prompt, or a conversation, to text."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast

from safety_kit.chat.conversation import NOTHING, Asked, read_request
from safety_kit.errors import UserError
from safety_kit.guard import Guard
from safety_kit.integrations import Blocked, OnBlock
from safety_kit.integrations._chat import check_request
from safety_kit.stream import StreamGuard
from safety_kit.types import Sample, Stage, Verdict

P = ParamSpec("P")
T = TypeVar("T")


def guarded(guard: Guard, function: Callable[P, T], on_block: OnBlock = "message") -> Callable[P, T]:
    """The same function inside a policy.

    The first argument is what is asked: a text, or messages as the OpenAI API writes them. It is passed on redacted,
    and not at all when it is blocked. The reply is a text, or the pieces of one from a generator function; both may be
    async. A generator is closed at a block, so that no more is made than is read.

    Args:
        guard: What to hold prompt and reply against; its own model serves its probes.
        function: Takes what is asked as its first argument, by position.
        on_block: ``message``: the policy's message is the reply, in a stream its last piece; ``raise``: `Blocked`.

    Raises:
        Blocked: Where the wrapped function is called or, for a stream, read.
        UserError: There too: prompt or reply is of another type.
    """
    call = cast("Callable[..., Any]", function)
    around = _Around(guard, on_block)
    wraps = functools.wraps(call)
    kind = call if inspect.isroutine(call) or isinstance(call, functools.partial) else type(call).__call__

    if inspect.isasyncgenfunction(kind):

        @wraps
        async def stream_async(prompt: Any, /, *args: Any, **kwargs: Any) -> AsyncGenerator[str, None]:
            asked = await asyncio.to_thread(around.ask, prompt)
            if asked.message is not None:
                yield asked.message
                return
            flow = StreamGuard(guard, asked.to.prompt, activations=False, system=asked.to.system)
            async with aclosing(call(asked.passed, *args, **kwargs)) as pieces:
                async for piece in pieces:
                    if text := flow.feed(_text(piece)).text:
                        yield text
                    if flow.verdict is not None:
                        break
            if text := await asyncio.to_thread(around.end, flow):
                yield text
            around.refuse(flow.verdict)

        return cast("Callable[P, T]", stream_async)

    if inspect.iscoroutinefunction(kind):

        @wraps
        async def answer_async(prompt: Any, /, *args: Any, **kwargs: Any) -> str:
            asked = await asyncio.to_thread(around.ask, prompt)
            if asked.message is not None:
                return asked.message
            return await asyncio.to_thread(around.reply, await call(asked.passed, *args, **kwargs), asked.to)

        return cast("Callable[P, T]", answer_async)

    if inspect.isgeneratorfunction(kind):

        @wraps
        def stream(prompt: Any, /, *args: Any, **kwargs: Any) -> Generator[str, None, None]:
            asked = around.ask(prompt)
            if asked.message is not None:
                yield asked.message
                return
            flow = StreamGuard(guard, asked.to.prompt, activations=False, system=asked.to.system)
            with closing(call(asked.passed, *args, **kwargs)) as pieces:
                for piece in pieces:
                    if text := flow.feed(_text(piece)).text:
                        yield text
                    if flow.verdict is not None:
                        break
            if text := around.end(flow):
                yield text
            around.refuse(flow.verdict)

        return cast("Callable[P, T]", stream)

    @wraps
    def answer(prompt: Any, /, *args: Any, **kwargs: Any) -> str:
        asked = around.ask(prompt)
        if asked.message is not None:
            return asked.message
        return around.reply(call(asked.passed, *args, **kwargs), asked.to)

    return cast("Callable[P, T]", answer)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What may be passed on, what is answered, and the reply if nothing may."""

    passed: Any = None
    to: Asked = NOTHING
    message: str | None = None


@dataclass(frozen=True, slots=True)
class _Around:
    guard: Guard
    on_block: OnBlock

    def ask(self, prompt: Any) -> _Asked:
        if not isinstance(prompt, str | list | tuple):
            raise UserError(f"The prompt is of type {type(prompt).__name__}; pass a text or a list of messages.")
        request = {"messages": [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)}
        checked = check_request(self.guard, request)
        if checked.message is not None:
            self.refuse(checked.blocked)
            return _Asked(message=checked.message)
        messages = checked.value["messages"]
        passed = messages[-1]["content"] if isinstance(prompt, str) else messages
        return _Asked(passed, read_request(checked.value).asked)

    def reply(self, text: Any, to: Asked) -> str:
        verdict = self.guard.check([Sample(_text(text), "assistant", Stage.OUTPUT, to.prompt, system=to.system)])[0]
        self.refuse(verdict)
        return self.guard.message(verdict) if verdict.text is None else verdict.text

    def end(self, flow: StreamGuard) -> str:
        """What is left of a stream: its rest, and the policy's message if it was blocked."""
        rest = flow.close()
        if rest.verdict is None or not rest.verdict.blocked or self.on_block == "raise":
            return rest.text
        return rest.text + ("\n\n" if flow.released else "") + self.guard.message(rest.verdict)

    def refuse(self, verdict: Verdict | None) -> None:
        if verdict is not None and verdict.blocked and self.on_block == "raise":
            raise Blocked(self.guard.message(verdict), verdict)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(
            f"A guarded function gave {type(value).__name__}; return a text, or yield pieces of one from a generator."
        )
    return value
