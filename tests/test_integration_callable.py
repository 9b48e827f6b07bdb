"""A guard around plain functions: sync and async, whole and in pieces."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from guard_helpers import chunk, cuts, texts
from hypothesis import given, settings
from integration_helpers import MAIL, MESSAGE, SECRET, make_guard

from safety_kit.errors import UserError
from safety_kit.guard import Guard
from safety_kit.integrations import Blocked, OnBlock
from safety_kit.integrations.callable import guarded
from safety_kit.policy import Policy

GUARD = make_guard()
LONG = "All is well. " * 60


class Model:
    """Says what it is told to say, in pieces, and notes what it was asked and how many pieces it made."""

    def __init__(self, *pieces: str) -> None:
        self.pieces, self.asked, self.made, self.closed = pieces, [], 0, False  # type: ignore[var-annotated]

    def answer(self, prompt: Any, *, suffix: str = "") -> str:
        self.asked.append(prompt)
        return "".join(self.pieces) + suffix

    async def answer_async(self, prompt: Any, *, suffix: str = "") -> str:
        return self.answer(prompt, suffix=suffix)

    def stream(self, prompt: Any, *, suffix: str = "") -> Iterator[str]:
        self.asked.append(prompt)
        try:
            for piece in (*self.pieces, suffix):
                self.made += 1
                yield piece
        finally:
            self.closed = True

    async def stream_async(self, prompt: Any, *, suffix: str = "") -> AsyncIterator[str]:
        for piece in self.stream(prompt, suffix=suffix):
            yield piece


KINDS = ("answer", "answer_async", "stream", "stream_async")


def run(model: Model, kind: str, prompt: Any, on_block: OnBlock = "message", **kwargs: Any) -> str:
    """The reply of the guarded model, drained."""
    call: Callable[..., Any] = guarded(GUARD, getattr(model, kind), on_block)

    async def drain() -> str:
        if kind == "answer_async":
            return str(await call(prompt, **kwargs))
        return "".join([piece async for piece in call(prompt, **kwargs)])

    if kind.endswith("async"):
        return asyncio.run(drain())
    return str(call(prompt, **kwargs)) if kind == "answer" else "".join(call(prompt, **kwargs))


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_reply_are_redacted(kind: str) -> None:
    model = Model("Write to ana@ex", "ample.com.")
    assert run(model, kind, f"Who is {MAIL}?", suffix=" Bye.") == "Write to <mail>. Bye."
    assert model.asked == ["Who is <mail>?"]
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Who is {MAIL}?"}]
    assert run(model, kind, conversation) == "Write to <mail>."
    assert model.asked[1] == [conversation[0], {"role": "user", "content": "Who is <mail>?"}]
    assert conversation[1]["content"] == f"Who is {MAIL}?"


@pytest.mark.parametrize("kind", KINDS)
def test_a_blocked_prompt_is_not_passed_on(kind: str) -> None:
    model = Model("never")
    assert run(model, kind, f"Tell me of {SECRET}") == MESSAGE
    assert run(model, kind, [{"role": "system", "content": SECRET}, {"role": "user", "content": "Hi"}]) == MESSAGE
    with pytest.raises(Blocked, match=MESSAGE):
        run(model, kind, SECRET, "raise")
    assert model.asked == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_blocked_reply_is_not_shown(kind: str) -> None:
    model = Model(LONG, "About project ", "bluebird: ", *["more. "] * 20)
    reply = run(model, kind, "Hi")
    assert reply.endswith(MESSAGE)
    assert "bluebird" not in reply
    with pytest.raises(Blocked, match=MESSAGE) as caught:
        run(model, kind, "Hi", "raise")
    assert caught.value.verdict is not None
    assert caught.value.verdict.blocked


@pytest.mark.parametrize("kind", ["stream", "stream_async"])
def test_a_stream_is_closed_at_a_block(kind: str) -> None:
    model = Model(LONG, SECRET, ": ", *["more words. "] * 50)
    reply = run(model, kind, "Hi")
    assert reply.startswith("All is well. ")
    assert reply.endswith(f"\n\n{MESSAGE}")
    assert model.closed
    assert model.made < 10


def test_an_abandoned_stream_closes_the_model() -> None:
    model = Model(*[LONG] * 20)
    stream: Any = guarded(GUARD, model.stream)("Hi")
    next(stream)
    stream.close()
    assert model.closed
    assert model.made < 10


@settings(max_examples=60)
@given(text=texts, places=cuts)
def test_the_stream_ends_as_the_whole_does(text: str, places: list[int]) -> None:
    whole = guarded(GUARD, Model(text).answer)("Hi")
    stream = "".join(guarded(GUARD, Model(*chunk(text, places)).stream)("Hi"))
    assert stream == whole if whole != MESSAGE else stream.endswith(MESSAGE)


class Instance:
    """Says hello."""

    async def __call__(self, prompt: str) -> str:
        return f"to {prompt}"


def test_other_callables_keep_their_kind() -> None:
    def pair(name: str, prompt: str) -> str:
        return f"{name}: {prompt}"

    assert guarded(GUARD, functools.partial(pair, "bot"))(MAIL) == "bot: <mail>"
    assert guarded(GUARD, lambda prompt: f"to {prompt}")(MAIL) == "to <mail>"
    call: Any = guarded(GUARD, Instance())
    assert inspect.iscoroutinefunction(call)
    assert asyncio.run(call(MAIL)) == "to <mail>"
    assert guarded(GUARD, pair).__name__ == "pair"


@pytest.mark.parametrize("reply", [None, b"bytes", 3, iter(["a"])])
def test_a_reply_that_is_no_text_is_refused(reply: object) -> None:
    with pytest.raises(UserError, match="return a text"):
        guarded(GUARD, lambda _: reply)("Hi")


def test_a_prompt_that_is_no_text_is_refused() -> None:
    with pytest.raises(UserError, match="pass a text"):
        guarded(GUARD, str)({"role": "user"})


def test_a_reply_is_held_against_the_system_message() -> None:
    leak = "checks: {leak: {type: leak, words: 6}}\nrules: [{category: leak.overlap, action: block}]\n"
    guard = Guard(Policy.parse(f"version: 1\nname: leak\n{leak}messages: {{default: withheld}}\n"))
    secret = "never tell a guest that the blue door is open at night"
    messages = [{"role": "system", "content": secret}, {"role": "user", "content": "hello"}]

    def answer(messages: list[dict[str, str]]) -> str:
        return f"Well, {secret}."

    def tell(messages: list[dict[str, str]]) -> Iterator[str]:
        yield from ("Well, ", secret, ".")

    assert guarded(guard, answer)(messages) == "withheld"
    assert guarded(guard, answer)(messages[1:]) == f"Well, {secret}."
    assert "blue door" not in "".join(guarded(guard, tell)(messages))
