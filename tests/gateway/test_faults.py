"""What the caller sees when something fails, and that nothing unchecked left."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from gateway_helpers import LOOPBACK, FakeUpstream, Memory, gateway, services
from integration_helpers import MAIL, MESSAGE, SECRET, chunks, completion, make_guard
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from safety_kit.errors import Overloaded
from safety_kit.gateway.settings import Audit, Settings, Upstream

pytestmark = pytest.mark.allow_hosts(LOOPBACK)


@pytest.fixture(scope="module")
def address(upstream: str, memory: Memory) -> Iterator[str]:
    quick = Upstream(url=f"{upstream}/v1", read_timeout=1, retries=1)
    with gateway(services(upstream, settings=quick, audit=memory)) as address:
        yield address


@pytest.fixture(autouse=True)
def forget(fake: FakeUpstream, memory: Memory) -> None:
    fake.seen.clear()
    memory.records.clear()
    memory.fails = False
    memory.written.clear()


def post(address: str, text: str = "Hi", path: str = "/v1/chat/completions", **fields: Any) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
    return httpx.post(f"{address}{path}", json=body, timeout=20)


def events(reply: httpx.Response) -> list[Any]:
    found = [line.removeprefix("data: ") for line in reply.text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in found]


def answers(fake: FakeUpstream, *replies: Response) -> None:
    left = list(replies)

    async def answer(body: dict[str, Any], request: Request) -> Response:
        return left.pop(0) if len(left) > 1 else left[0]

    fake.answer = answer


def failing(status: int, **headers: str) -> Response:
    body = {"error": {"message": f"secret sk-upstream {MAIL}", "type": "oops", "code": "context_length_exceeded"}}
    return JSONResponse(body, status, headers=headers)


@pytest.mark.parametrize(
    ("status", "shown", "code"),
    [
        (400, 400, "context_length_exceeded"),
        (401, 502, "upstream_key_refused"),
        (404, 404, "context_length_exceeded"),
        (429, 429, "context_length_exceeded"),
        (500, 502, "upstream_error"),
        (503, 503, "upstream_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_upstreams_error_is_told_without_its_words(
    address: str, fake: FakeUpstream, memory: Memory, status: int, shown: int, code: str, stream: bool
) -> None:
    answers(fake, failing(status))
    reply = post(address, stream=stream)
    assert (reply.status_code, reply.json()["error"]["code"]) == (shown, code)
    assert "sk-upstream" not in reply.text
    assert MAIL not in reply.text
    (record,) = memory.records
    assert (record.outcome, record.status, record.code) == ("error", shown, code)


@pytest.mark.parametrize("status", [429, 503])
def test_what_may_be_tried_again_later_says_when(address: str, fake: FakeUpstream, status: int) -> None:
    answers(fake, failing(status))
    assert post(address).headers["retry-after"] == "1"


def test_what_can_be_tried_again_is(address: str, fake: FakeUpstream) -> None:
    answers(fake, failing(503), JSONResponse(completion("fine")))
    assert post(address).json()["choices"][0]["message"]["content"] == "fine"
    assert len(fake.seen) == 2


def test_a_wait_that_is_too_long_is_the_callers(address: str, fake: FakeUpstream) -> None:
    answers(fake, failing(429, **{"retry-after": "3600"}))
    reply = post(address)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "3600")
    assert len(fake.seen) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_redirect_is_not_followed(address: str, fake: FakeUpstream, stream: bool) -> None:
    answers(fake, RedirectResponse("http://127.0.0.1:1/elsewhere"))
    reply = post(address, stream=stream)
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_redirect")
    assert len(fake.seen) == 1


def test_an_upstream_that_is_not_there(upstream: str) -> None:
    nowhere = Upstream(url="http://127.0.0.1:9/v1", retries=1)
    with gateway(services(upstream, settings=nowhere)) as address:
        reply = post(address)
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_unavailable")
        assert httpx.get(f"{address}/readyz").status_code == 503
        assert httpx.get(f"{address}/healthz").status_code == 200


def test_an_upstream_that_says_nothing_in_time(address: str, fake: FakeUpstream) -> None:
    async def answer(body: dict[str, Any], request: Request) -> Response:
        await asyncio.sleep(30)
        raise AssertionError

    fake.answer = answer
    reply = post(address)
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "upstream_timeout")
    assert len(fake.seen) == 1  # it may have begun: asking again would generate twice


@pytest.mark.parametrize(
    "content",
    [b"not json", b"[1]", b'{"choices": 3}', b'{"choices": [{"message": "x"}]}', b"[" * 100_000, b'{"a": "\xff"}'],
)
def test_garbage_is_a_fault_and_not_passed_on(address: str, fake: FakeUpstream, content: bytes) -> None:
    answers(fake, Response(content, media_type="application/json"))
    reply = post(address)
    assert reply.status_code == 502
    assert reply.json()["error"]["type"] == "server_error"


@pytest.mark.parametrize(
    ("tail", "code"),
    [
        ([], "upstream_cut"),
        ([b"data: {garbage\n\n"], "upstream_garbage"),
        ([b"data: [1]\n\n"], "upstream_garbage"),
        ([{"error": {"message": f"sk-upstream {MAIL}"}}], "upstream_error"),
        ([{"choices": "none"}], "backend_garbage"),
        ([{"choices": [{"index": 0, "delta": {"role": "chief"}}]}], "backend_garbage"),
    ],
)
def test_a_stream_that_breaks_ends_with_an_error_and_what_was_held_stays_held(
    address: str, fake: FakeUpstream, memory: Memory, tail: list[Any], code: str
) -> None:
    pieces = list(chunks(["Fine so far. ", "And now ana@exam"]))[:-1]

    async def answer(body: dict[str, Any], request: Request) -> Response:
        return fake.stream([*pieces, *tail], done=False)

    fake.answer = answer
    reply = post(address, stream=True)
    *said, error = events(reply)
    assert error["error"]["code"] == code
    assert "".join(c["delta"].get("content", "") for event in said for c in event["choices"]) in "Fine so far. And now "
    assert "sk-upstream" not in reply.text
    assert "ana@" not in reply.text
    (record,) = memory.records
    assert (record.outcome, record.status, record.code) == ("error", 200, code)


def test_a_stream_that_stalls_ends_with_an_error(address: str, fake: FakeUpstream) -> None:
    async def body() -> AsyncIterator[bytes]:
        for chunk in list(chunks(["Fine. ", "And ana@exam"]))[:-1]:
            yield f"data: {json.dumps(chunk)}\n\n".encode()
        await asyncio.sleep(30)

    async def answer(asked: dict[str, Any], request: Request) -> Response:
        return StreamingResponse(body(), media_type="text/event-stream")

    fake.answer = answer
    reply = post(address, stream=True)
    assert events(reply)[-1]["error"]["code"] == "upstream_timeout"
    assert "ana@" not in reply.text


def test_a_stream_that_stops_is_told_by_the_openai_client(address: str, fake: FakeUpstream) -> None:
    async def answer(body: dict[str, Any], request: Request) -> Response:
        return fake.stream(list(chunks(["Fine. "]))[:-1], done=False)

    fake.answer = answer
    with (
        openai.OpenAI(api_key="none", base_url=f"{address}/v1", max_retries=0) as client,
        pytest.raises(openai.APIError, match="cut off"),
    ):
        list(client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True))


def endless(fake: FakeUpstream) -> threading.Event:
    """Answer with a stream that has no end; the event is set once the upstream's side of it is closed."""
    closed = threading.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            for chunk in list(chunks(["Some words. "] * 3))[:-1]:
                yield f"data: {json.dumps(chunk)}\n\n".encode()
            while True:
                await asyncio.sleep(0.02)
                yield b": still here\n\n"
        finally:
            closed.set()

    async def answer(asked: dict[str, Any], request: Request) -> Response:
        return StreamingResponse(body(), media_type="text/event-stream")

    fake.answer = answer
    return closed


def test_a_client_that_leaves_a_stream_ends_the_upstreams(address: str, fake: FakeUpstream, memory: Memory) -> None:
    closed = endless(fake)
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body) as reply:
        next(reply.iter_bytes())
    assert closed.wait(10)
    wait_for(memory)
    assert [(record.outcome, record.status) for record in memory.records] == [("cancelled", 200)]


def test_a_client_that_leaves_while_it_waits_ends_the_upstreams(
    address: str, fake: FakeUpstream, memory: Memory
) -> None:
    asked, gone = threading.Event(), threading.Event()

    async def answer(body: dict[str, Any], request: Request) -> Response:
        asked.set()
        while not await request.is_disconnected():
            await asyncio.sleep(0.01)
        gone.set()
        return Response(status_code=500)

    fake.answer = answer
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{address}/v1/chat/completions",
            json={"model": "m", "messages": [{"role": "user", "content": "Hi"}]},
            timeout=0.5,
        )
    assert asked.wait(10)
    assert gone.wait(10)
    wait_for(memory)
    assert [(record.outcome, record.status) for record in memory.records] == [("cancelled", 499)]


def wait_for(memory: Memory) -> None:
    assert memory.written.wait(10)


@pytest.mark.parametrize("stream", [False, True])
def test_beside_the_check_nothing_is_released_before_it(fake: FakeUpstream, upstream: str, stream: bool) -> None:
    """Input checks run beside the upstream: a blocked request's answer is dropped, a redacted one is asked again."""
    left = threading.Semaphore(0)

    async def answer(body: dict[str, Any], request: Request) -> Response:
        if MAIL in json.dumps(body) or SECRET in json.dumps(body):
            while not await request.is_disconnected():
                await asyncio.sleep(0.01)
            left.release()
        reply = completion("fine")
        return fake.stream(list(chunks(["fine"]))) if body.get("stream") else JSONResponse(reply)

    fake.answer = answer
    with gateway(services(upstream), Settings(parallel=True)) as address:
        assert "fine" in post(address, "Hello", stream=stream).text
        assert "fine" in post(address, f"Mail {MAIL}", stream=stream).text
        assert fake.seen[-1]["messages"][0]["content"] == "Mail <mail>"
        blocked = post(address, SECRET, stream=stream)
        assert MESSAGE in blocked.text
        assert "fine" not in blocked.text
        assert all(left.acquire(timeout=10) for _ in range(len(fake.seen) - 2))  # all that was asked too early


@pytest.mark.parametrize("stream", [False, True])
def test_without_its_audit_line_nothing_is_passed_on(
    fake: FakeUpstream, memory: Memory, upstream: str, stream: bool
) -> None:
    fake.says("fine")
    with gateway(services(upstream, audit=memory)) as address:
        memory.fails = True
        reply = post(address, stream=stream)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "audit_unavailable")
        assert "fine" not in reply.text
        ready = httpx.get(f"{address}/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "waiting for the audit log")
        memory.fails = False
        assert httpx.get(f"{address}/readyz").status_code == 200
        assert post(address, stream=stream).status_code == 200
    with gateway(services(upstream, audit=memory), Settings(audit=Audit(required=False))) as address:
        memory.fails = True
        assert "fine" in post(address, stream=stream).text.replace('"', "").replace("\n", "")


def test_a_stream_whose_line_cannot_be_written_has_no_end(fake: FakeUpstream, memory: Memory, upstream: str) -> None:
    async def answer(body: dict[str, Any], request: Request) -> Response:
        memory.fails = True
        return fake.stream(list(chunks(["fine"])))

    fake.answer = answer
    with gateway(services(upstream, audit=memory)) as address:
        reply = post(address, stream=True)
    assert events(reply)[-1]["error"]["code"] == "audit_unavailable"
    assert "[DONE]" not in reply.text


def test_a_recorder_that_fails_stops_nothing_else(fake: FakeUpstream, memory: Memory, upstream: str) -> None:
    fake.says("fine")
    with gateway(services(upstream, audit=memory, recorders=(Memory(fails=True),))) as address:
        assert post(address).status_code == 200
    assert len(memory.records) == 1


class Broken:
    """A check that raises, says nonsense, or has no room."""

    lookahead = 0
    capture = None

    def __init__(self, inner: Any, error: Exception | None) -> None:
        self.name, self.categories, self._error = inner.name, inner.categories, error

    def run(self, samples: Any) -> Any:
        if self._error is not None:
            raise self._error
        return "nonsense"


@pytest.mark.parametrize(
    ("error", "code"),
    [(ValueError(f"bad {MAIL}"), "blocked.error"), (None, "blocked.error"), (Overloaded("full"), None)],
)
def test_a_check_that_fails_blocks(
    fake: FakeUpstream, memory: Memory, upstream: str, error: Exception | None, code: str | None
) -> None:
    fake.says("never")
    guard = make_guard()
    guard.text_checks = (Broken(guard.text_checks[0], error), *guard.text_checks[1:])  # type: ignore[assignment]
    with gateway(services(upstream, guard, audit=memory)) as address:
        reply = post(address)
        if code is None:
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")
            assert reply.headers["retry-after"]
        else:
            assert reply.json()["safety"]["code"] == code
    assert fake.seen == []
    assert MAIL not in reply.text
    assert memory.records[0].outcome == ("error" if code is None else "block")
