"""The gateway's own Gemma: the replies that it would write alone, on the wire; bounded, fair, and gone when left."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from gateway_helpers import OneGuard
from model_helpers import BLOCKS, tiny_guard
from test_gemma_forward import close
from test_gemma_load import one_thread as one_thread
from test_gemma_load import tiny

from safety_kit.chat.response_stream import ResponseStream
from safety_kit.gateway import generation
from safety_kit.gateway.app import create_app
from safety_kit.gateway.backends import BackendError, Call, Chunk
from safety_kit.gateway.backends.local import LocalBackend
from safety_kit.gateway.batching import ModelQueue
from safety_kit.gateway.services import Services
from safety_kit.gateway.settings import Settings
from safety_kit.gateway.workers import Workers
from safety_kit.gemma import Capture, Gemma, Sampling, Step
from safety_kit.generate import GuardedGemma
from safety_kit.types import Action, Message

CALL = Call("r1")
CAPTURE = Capture(BLOCKS)
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "the cat in a hat"}], "temperature": 0}


def asking(content: str = "the cat in a hat", **more: Any) -> dict[str, Any]:
    return {**ASKED, "messages": [{"role": "user", "content": content}], **more}


@pytest.fixture
def queue() -> Iterator[ModelQueue]:
    made = ModelQueue(tiny())
    yield made
    made.close()


@pytest.fixture
def backend(queue: ModelQueue) -> LocalBackend:
    return LocalBackend(queue, CAPTURE)


def run(scene: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(scene(), 120)

    return asyncio.run(bounded())


async def chunks_of(backend: LocalBackend, request: dict[str, Any]) -> list[Chunk]:
    return [chunk async for chunk in backend.stream_chat(request, CALL)]


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0)


def alone(content: str, many: int) -> list[Step]:
    start = tiny().prefill(tiny().render([Message("user", content)]), CAPTURE)
    return list(tiny().steps(start, Sampling(max_tokens=many), CAPTURE))


# --- what it writes


def test_concurrent_replies_are_those_written_alone(backend: LocalBackend) -> None:
    asked = {f"the cat number {n} " * (1 + 9 * n): 6 + 7 * n for n in range(6)}

    async def scene() -> list[list[Chunk]]:
        return await asyncio.gather(
            *(chunks_of(backend, asking(text, max_tokens=many)) for text, many in asked.items())
        )

    for chunks, (text, many) in zip(run(scene), asked.items(), strict=True):
        expected = alone(text, many)
        told = [chunk.body["choices"][0] for chunk in chunks]
        assert told[0]["delta"] == {"role": "assistant", "content": ""}
        assert [choice["delta"]["content"] for choice in told[1:]] == [step.text for step in expected]
        assert [choice["finish_reason"] for choice in told[1:]] == [step.finish for step in expected]
        assert chunks[0].hidden is None
        for chunk, step in zip(chunks[1:], expected, strict=True):
            assert chunk.hidden is not None
            assert all(close(chunk.hidden[block], step.hidden[block][None], 1e-3) for block in step.hidden)
        assert len({chunk.body["id"] for chunk in chunks}) == 1


def test_a_whole_reply_is_the_drained_stream(backend: LocalBackend) -> None:
    body = run(lambda: backend.chat(asking(max_completion_tokens=9), CALL))
    expected = alone("the cat in a hat", 9)
    (choice,) = body["choices"]
    assert choice["message"]["content"] == "".join(step.text for step in expected)
    assert (choice["finish_reason"], body["object"]) == (expected[-1].finish, "chat.completion")
    assert body["usage"]["completion_tokens"] == len(expected)
    assert body["usage"]["prompt_tokens"] == len(tiny().render([Message("user", "the cat in a hat")]).tokens)


def test_choices_seeds_and_stops(backend: LocalBackend) -> None:
    request = asking(n=3, seed=5, temperature=1.5, max_tokens=12)
    first, again = (run(lambda: backend.chat(request, CALL)) for _ in range(2))
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert len(set(texts)) == 3
    stop = texts[0][3:5]
    stopped = run(lambda: backend.chat({**request, "n": 1, "stop": [stop]}, CALL))["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == (texts[0][: texts[0].index(stop)], "stop")


def test_usage_and_probabilities_are_told_when_asked_for(backend: LocalBackend) -> None:
    request = asking(max_tokens=4, stream_options={"include_usage": True}, logprobs=True, top_logprobs=2)
    chunks = [chunk.body for chunk in run(lambda: chunks_of(backend, request))]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 4
    for chunk in chunks[1:-1]:
        (told,) = chunk["choices"][0]["logprobs"]["content"]
        assert told["top_logprobs"][0]["logprob"] == pytest.approx(told["logprob"], abs=1e-5)  # greedy
        assert len(told["top_logprobs"]) == 2
    whole = run(lambda: backend.chat(request, CALL))
    assert len(whole["choices"][0]["logprobs"]["content"]) == 4


def test_a_plain_completion_goes_on_from_the_text(backend: LocalBackend) -> None:
    request = {"prompt": "the cat", "max_tokens": 5, "temperature": 0}
    body = run(lambda: backend.complete(request, CALL))
    reference = tiny()
    ids = reference.encode("the cat").ids
    with torch.no_grad():
        made = reference.model.generate(torch.tensor([ids]), max_new_tokens=5, do_sample=False)[0, len(ids) :]
    assert body["choices"][0]["text"] == reference.vocabulary.decode(made.tolist())
    assert (body["object"], body["usage"]["prompt_tokens"]) == ("text_completion", len(ids))


@pytest.mark.parametrize(("threshold", "action"), [(0.99, Action.ALLOW), (0.3, Action.BLOCK)])
def test_its_chunks_feed_the_output_probes(queue: ModelQueue, tmp_path: Path, threshold: float, action: Action) -> None:
    guard = tiny_guard(tmp_path / "hate", queue, threshold, stages="[output]")
    backend = LocalBackend(queue, guard.capture)
    request = asking(max_tokens=40)
    flow = ResponseStream(guard, request)
    told = []
    for chunk in run(lambda: chunks_of(backend, request)):
        told += flow.feed(chunk.body, chunk.hidden)
    released = len(told)
    told += flow.close()
    text = "".join(choice["delta"].get("content") or "" for chunk in told for choice in chunk["choices"])
    beside = tiny_guard(tmp_path / "hate", tiny(), threshold, stages="[output]")
    expected = GuardedGemma(tiny(), beside).generate("the cat in a hat", Sampling(max_tokens=40))
    assert text == expected.reply
    assert flow.verdicts.action is action
    assert action is Action.BLOCK or released > 5  # text went out as it came


@pytest.mark.parametrize(("threshold", "finish"), [(0.99, "length"), (0.6, "content_filter")])
@pytest.mark.parametrize(
    ("path", "asked"),
    [("chat/completions", asking(temperature=1)), ("completions", {"prompt": "the cat", "temperature": 1})],
)
def test_who_waits_gets_what_one_who_reads_along_reads(
    queue: ModelQueue, tmp_path: Path, path: str, asked: dict[str, Any], threshold: float, finish: str
) -> None:
    """Through the gateway, with its probes: the same text, the same end, whether the reply is blocked or not."""
    guard = tiny_guard(tmp_path / "hate", queue, threshold, stages="[output]")
    parts = Services(OneGuard(guard), LocalBackend(queue, guard.capture), Workers(4))
    body = {**asked, "max_tokens": 40, "seed": 5, "n": 2}

    async def scene() -> tuple[Any, list[Any]]:
        transport = httpx.ASGITransport(create_app(Settings(), parts))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            whole = await client.post(f"/v1/{path}", json={**body, "model": queue.name.rpartition("/")[2]})
            streamed = await client.post(f"/v1/{path}", json={**body, "stream": True})
        events = [line.removeprefix("data: ") for line in streamed.text.split("\n") if line.startswith("data: {")]
        return whole.json(), list(map(json.loads, events))

    whole, events = run(scene)
    texts, ends = ["", ""], ["", ""]
    for choice in (choice for event in events for choice in event["choices"]):
        texts[choice["index"]] += choice.get("text") or choice.get("delta", {}).get("content") or ""
        ends[choice["index"]] += choice["finish_reason"] or ""
    assert [choice.get("text") or choice["message"]["content"] for choice in whole["choices"]] == texts
    assert [choice["finish_reason"] for choice in whole["choices"]] == ends
    assert finish in ends
    if finish == "content_filter" and "messages" in asked:
        late, at_once = texts  # one choice was blocked on its way: what was cleared before stands in both answers
        assert late.endswith(f"\n\n{at_once}")
    assert whole["safety"]["action"] == events[-1]["safety"]["action"]
    assert finish == "content_filter" or whole["usage"]["completion_tokens"] == 80
    assert whole["object"] == ("chat.completion" if "messages" in asked else "text_completion")


@pytest.mark.parametrize(("threshold", "told"), [(0.99, 4), (0.3, None)])
def test_probabilities_come_with_a_whole_reply_that_nothing_changed(
    queue: ModelQueue, tmp_path: Path, threshold: float, told: int | None
) -> None:
    guard = tiny_guard(tmp_path / "hate", queue, threshold, stages="[output]")
    parts = Services(OneGuard(guard), LocalBackend(queue, guard.capture), Workers(4))

    async def scene() -> Any:
        transport = httpx.ASGITransport(create_app(Settings(), parts))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.post("/v1/chat/completions", json=asking(max_tokens=4, logprobs=True))).json()

    (choice,) = run(scene)["choices"]
    assert (choice["logprobs"] and len(choice["logprobs"]["content"])) == told


# --- what it cannot do


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "unsupported_parameter"),
        ({"functions": [{"name": "f"}]}, 400, "unsupported_parameter"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, 400, "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, 400, "unsupported_parameter"),
        ({"logit_bias": {"5": 3}}, 400, "unsupported_parameter"),
        ({"frequency_penalty": 0.5}, 400, "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, 400, "unsupported_parameter"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "unsupported_content"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, 400, "unsupported_content"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "unsupported_content"),
        ({"messages": [{"role": "nobody", "content": "hi"}]}, 400, "invalid_value"),
        ({"messages": []}, 400, "invalid_value"),
        ({"max_tokens": -1}, 400, "invalid_value"),
        ({"temperature": float("nan")}, 400, "invalid_value"),
        ({"top_p": "secret words"}, 400, "invalid_value"),
        ({"n": 1000}, 400, "invalid_value"),
        ({"stop": ["x" * 5000]}, 400, "invalid_value"),
        ({"model": "gpt-4o"}, 404, "model_not_found"),
        ({"messages": [{"role": "user", "content": "the cat " * 4000}]}, 400, "context_length_exceeded"),
    ],
)
def test_what_it_cannot_do_is_told(backend: LocalBackend, more: dict[str, Any], status: int, code: str) -> None:
    for ask in (backend.chat, chunks_of):
        with pytest.raises(BackendError) as refused:
            run(lambda ask=ask: ask(backend, asking(**more)) if ask is chunks_of else ask(asking(**more), CALL))  # type: ignore[misc]
        assert (refused.value.status, refused.value.code) == (status, code)
        assert "secret" not in refused.value.message
    assert backend._generations.running == 0


def test_fields_that_ask_for_nothing_are_let_be(backend: LocalBackend) -> None:
    request = asking(
        max_tokens=1, tools=[], user="u", metadata={}, presence_penalty=0, response_format={"type": "text"}
    )
    assert run(lambda: backend.chat(request, CALL))["choices"]


# --- how it behaves


def test_a_reader_that_leaves_frees_place_and_cache(queue: ModelQueue) -> None:
    backend = LocalBackend(queue, running=1, overload="slow")

    async def scene() -> None:
        stream = backend.stream_chat(asking(max_tokens=2000), CALL)
        for _ in range(3):
            await anext(stream)
        (reply,) = backend._generations._running
        assert reply.decoding is not None
        cache = weakref.ref(reply.decoding.cache)
        del reply
        waits = asyncio.create_task(backend.chat(asking(max_tokens=2), CALL))
        await until(lambda: backend._generations._admission.waiting == 1)
        await stream.aclose()  # type: ignore[attr-defined]
        assert (await waits)["choices"]
        assert backend._generations.running == 0
        await until(lambda: not queue.thread.busy)
        gc.collect()
        assert cache() is None

    run(scene)


def test_a_cancelled_reply_frees_its_place(queue: ModelQueue) -> None:
    backend = LocalBackend(queue, running=1)

    async def scene() -> None:
        task = asyncio.create_task(backend.chat(asking(max_tokens=3000), CALL))
        await until(lambda: backend._generations.running == 1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert backend._generations.running == backend._generations._admission.in_use == 0

    run(scene)


def test_past_its_places_the_next_is_told(queue: ModelQueue) -> None:
    backend = LocalBackend(queue, running=1, overload="refuse")

    async def scene() -> None:
        stream = backend.stream_chat(asking(max_tokens=2000), CALL)
        await anext(stream)
        with pytest.raises(BackendError) as refused:
            await backend.chat(asking(), CALL)
        assert (refused.value.status, refused.value.code) == (503, "overloaded")
        assert refused.value.retry_after is not None
        await stream.aclose()  # type: ignore[attr-defined]

    run(scene)


def test_a_slow_reader_is_not_written_ahead_of(backend: LocalBackend, queue: ModelQueue) -> None:
    async def scene() -> None:
        slow = backend.stream_chat(asking(max_tokens=2000), CALL)
        await anext(slow)
        (reply,) = backend._generations._running
        quick = await backend.chat(asking(max_tokens=50), CALL)  # others go on
        assert quick["usage"]["completion_tokens"] == 50
        assert reply.made <= reply.taken + generation.AHEAD
        await slow.aclose()  # type: ignore[attr-defined]

    run(scene)


def test_checks_are_read_while_replies_are_written(backend: LocalBackend, queue: ModelQueue, tmp_path: Path) -> None:
    guard = tiny_guard(tmp_path / "hate", queue)

    async def scene() -> None:
        stream = backend.stream_chat(asking(max_tokens=2000), CALL)
        await anext(stream)
        assert (await asyncio.to_thread(guard.check_text, "the cat")).action is Action.ALLOW
        assert backend._generations.running == 1
        await stream.aclose()  # type: ignore[attr-defined]

    run(scene)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room for: secret"), SystemExit(3)])
@pytest.mark.parametrize("broken", ["reading", "step_together", "Decoding"])
def test_a_fault_ends_its_replies_and_no_other(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, broken: str, error: BaseException
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(generation, broken, fail)
        with pytest.raises(BackendError) as failed:
            run(lambda: backend.chat(asking(n=2), CALL))
    assert (failed.value.status, failed.value.code) == (500, "model_failed")
    assert "secret" not in failed.value.message
    assert run(lambda: backend.chat(asking(max_tokens=2), CALL))["choices"]
    assert run(backend.ready)


def test_a_stopped_model_ends_its_streams_with_an_error(backend: LocalBackend, queue: ModelQueue) -> None:
    async def scene() -> None:
        stream = backend.stream_chat(asking(max_tokens=2000), CALL)
        await anext(stream)
        await asyncio.to_thread(queue.close)
        with pytest.raises(BackendError):
            async for _ in stream:
                pass
        assert not await backend.ready()

    run(scene)


@pytest.mark.slow
def test_the_embedded_gemma_answers(embedded: Gemma) -> None:
    queue = ModelQueue(embedded)
    request = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 8, "temperature": 0}
    body = run(lambda: LocalBackend(queue).chat(request, CALL))
    expected = embedded.generate(embedded.render([Message("user", "Name a colour.")]), Sampling(max_tokens=8))
    assert body["choices"][0]["message"]["content"] == expected.text
    queue.close()
