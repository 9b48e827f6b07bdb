"""Chat completions through the gateway: the real `openai` package as the client, a fake upstream behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from gateway_helpers import LOOPBACK, FakeUpstream, Memory, gateway, services
from integration_helpers import MAIL, MESSAGE, SECRET, chunks, completion
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from safety_kit.gateway.settings import Settings
from safety_kit.guard import Guard
from safety_kit.policy import Policy

pytestmark = pytest.mark.allow_hosts(LOOPBACK)

TOOLS: Any = [{"type": "function", "function": {"name": "send", "parameters": {"type": "object", "properties": {}}}}]
PSEUDONYMS = """
version: 1
name: pseudonyms
checks:
  pii: {type: pii, countries: [us]}
rules:
  - {category: pii.email, action: redact, form: pseudonymise}
"""


@pytest.fixture(scope="module")
def address(upstream: str, memory: Memory) -> Iterator[str]:
    with gateway(services(upstream, audit=memory)) as address:
        yield address


@pytest.fixture
def client(address: str, fake: FakeUpstream, memory: Memory) -> Iterator[openai.OpenAI]:
    fake.seen.clear()
    memory.records.clear()
    with openai.OpenAI(api_key="none", base_url=f"{address}/v1", max_retries=0) as client:
        yield client


def ask(text: str) -> Any:
    return [{"role": "user", "content": text}]


def read(stream: Any) -> tuple[list[str], list[str | None], Any]:
    """A stream's text and last finish reason by choice, and its last chunk."""
    texts: dict[int, list[str]] = {}
    finish: dict[int, str | None] = {}
    chunk = None
    for chunk in stream:
        for choice in chunk.choices:
            texts.setdefault(choice.index, []).append(choice.delta.content or "")
            finish[choice.index] = choice.finish_reason
    return ["".join(texts[i]) for i in sorted(texts)], [finish[i] for i in sorted(finish)], chunk


def test_a_request_goes_on_redacted_and_its_reply_comes_back_redacted(
    client: openai.OpenAI, fake: FakeUpstream, memory: Memory
) -> None:
    fake.says(f"Write to {MAIL}.")
    odd = {"min_p": 0.1, "odd": {"a": [1]}}
    reply = client.chat.completions.create(
        model="m", messages=ask(f"Who is {MAIL}?"), temperature=0.5, stop=["x"], extra_body=odd
    )
    assert fake.seen == [
        {"model": "m", "messages": ask("Who is <mail>?"), "temperature": 0.5, "stop": ["x"], **odd},
    ]
    assert reply.choices[0].message.content == "Write to <mail>."
    assert reply.usage is not None
    assert reply.usage.total_tokens == 7
    assert reply.model_extra is not None
    safety = reply.model_extra["safety"]
    assert (safety["action"], safety["code"]) == ("redact", None)
    assert [place["path"] for place in safety["request"]["places"]] == ["messages[0].content"]
    assert MAIL not in json.dumps(safety)
    (record,) = memory.records
    assert (record.outcome, record.status, record.route, record.model) == ("redact", 200, "/v1/chat/completions", "m")
    assert record.texts is None


def test_the_headers_tell_of_the_verdict_and_the_request(client: openai.OpenAI, fake: FakeUpstream) -> None:
    fake.says("About project bluebird.")
    raw = client.chat.completions.with_raw_response.create(
        model="m", messages=ask("Hi"), extra_headers={"x-request-id": "mine-1"}
    )
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.headers["x-safety-action"] == "block"
    assert raw.headers["x-safety-code"] == "blocked.code_names"
    assert fake.headers[-1]["x-request-id"] == "mine-1"
    assert "authorization" not in fake.headers[-1]  # the caller's key is passed on only where the settings say so


@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_request_is_not_sent_on(
    client: openai.OpenAI, fake: FakeUpstream, memory: Memory, stream: bool
) -> None:
    fake.says("never")
    reply: Any = client.chat.completions.create(model="m", messages=ask(SECRET), n=2, stream=stream)
    choices = [choice for chunk in reply for choice in chunk.choices] if stream else reply.choices
    assert fake.seen == []
    assert [(c.index, c.finish_reason) for c in choices] == [(0, "content_filter"), (1, "content_filter")]
    assert [(c.delta if stream else c.message).content for c in choices] == [MESSAGE, MESSAGE]
    (record,) = memory.records
    assert (record.outcome, record.code) == ("block", "blocked.code_names")


def test_a_stream_gives_what_the_whole_gives(client: openai.OpenAI, fake: FakeUpstream, memory: Memory) -> None:
    texts = [f"First {MAIL} — Größe, 中文. " + "word " * 60, f"Then {SECRET}.", "Last."]
    fake.says(*texts)
    whole = client.chat.completions.create(model="m", messages=ask("Hi"), n=3)
    stream = client.chat.completions.create(model="m", messages=ask("Hi"), n=3, stream=True)
    streamed, finish, last = read(stream)
    assert streamed == [whole.choices[0].message.content, f"Then \n\n{MESSAGE}", "Last."]
    assert whole.choices[1].message.content == MESSAGE  # of a whole reply nothing is shown beside the message
    assert finish == [choice.finish_reason for choice in whole.choices] == ["stop", "content_filter", "stop"]
    assert last.model_extra["safety"]["code"] == "blocked.code_names"
    assert [record.outcome for record in memory.records] == ["block", "block"]
    assert memory.records[1].first_byte is not None
    assert memory.records[1].held


def test_a_stream_that_is_blocked_needs_no_more_of_the_upstream(client: openai.OpenAI, fake: FakeUpstream) -> None:
    async def answer(body: dict[str, Any], request: Request) -> Response:
        return fake.stream([*chunks([f"{SECRET}. "]), *chunks(["x"] * 50)])

    fake.answer = answer
    texts, finish, _ = read(client.chat.completions.create(model="m", messages=ask("Hi"), stream=True))
    assert (texts, finish) == ([MESSAGE], ["content_filter"])


def test_the_usage_of_a_stream_comes_with_its_last_chunk(client: openai.OpenAI, fake: FakeUpstream) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}

    async def answer(body: dict[str, Any], request: Request) -> Response:
        assert body["stream_options"] == {"include_usage": True}
        return fake.stream(
            [*chunks(["fine"]), {"id": "1", "object": "chat.completion.chunk", "choices": [], "usage": usage}]
        )

    fake.answer = answer
    stream = client.chat.completions.create(
        model="m", messages=ask("Hi"), stream=True, stream_options={"include_usage": True}
    )
    texts, finish, last = read(stream)
    assert (texts, finish) == (["fine"], ["stop"])
    assert last.usage.total_tokens == 3
    assert last.model_extra["safety"]["action"] == "allow"


@pytest.mark.parametrize("stream", [False, True])
def test_arguments_of_calls_are_read(client: openai.OpenAI, fake: FakeUpstream, stream: bool) -> None:
    fake.says(None, tool=json.dumps({"to": MAIL}))
    reply: Any = client.chat.completions.create(model="m", messages=ask("Hi"), tools=TOOLS, stream=stream)
    if stream:
        calls = [call for chunk in reply for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    else:
        calls = reply.choices[0].message.tool_calls
    (call,) = calls
    assert json.loads(call.function.arguments) == {"to": "<mail>"}
    assert fake.seen[-1]["tools"] == TOOLS


def test_logprobs_pass_where_nothing_was_changed(client: openai.OpenAI, fake: FakeUpstream) -> None:
    logprobs = {"content": [{"token": "x", "logprob": -0.5, "bytes": None, "top_logprobs": []}], "refusal": None}

    async def answer(body: dict[str, Any], request: Request) -> Response:
        reply = completion("fine", f"See {MAIL}")
        for choice in reply["choices"]:
            choice["logprobs"] = logprobs
        return JSONResponse(reply)

    fake.answer = answer
    fine, changed = client.chat.completions.create(model="m", messages=ask("Hi"), logprobs=True, n=2).choices
    assert fine.logprobs is not None
    assert fine.logprobs.model_dump() == logprobs
    assert changed.logprobs is None


def test_the_async_client_and_many_at_once(address: str, fake: FakeUpstream) -> None:
    async def answer(body: dict[str, Any], request: Request) -> Response:
        name = body["messages"][0]["content"]
        return fake.stream(list(chunks([f"You are {name}, ", "ana@exam", "ple.com"])))

    async def run() -> list[str]:
        async with openai.AsyncOpenAI(api_key="none", base_url=f"{address}/v1", max_retries=0) as client:

            async def one(number: int) -> str:
                stream = await client.chat.completions.create(model="m", messages=ask(f"n{number}"), stream=True)
                return "".join([c.delta.content or "" async for chunk in stream for c in chunk.choices])

            return await asyncio.gather(*map(one, range(24)))

    fake.answer = answer
    assert asyncio.run(run()) == [f"You are n{number}, <mail>" for number in range(24)]


@pytest.mark.parametrize("stream", [False, True])
def test_a_user_reads_again_what_the_model_never_saw(fake: FakeUpstream, upstream: str, stream: bool) -> None:
    async def answer(body: dict[str, Any], request: Request) -> Response:
        hidden = body["messages"][0]["content"].split()[-1]
        arguments = json.dumps({"to": hidden})
        if not body.get("stream"):
            return JSONResponse(completion(f"Wrote to {hidden}, not to cy@example.org <EMAIL_", tool=arguments))
        text = f"Wrote to {hidden}, not to cy@example.org <EMAIL_"
        return fake.stream(list(chunks([text[i : i + 2] for i in range(0, len(text), 2)], tool=[arguments])))

    fake.answer = answer
    with (
        gateway(services(upstream, Guard(Policy.parse(PSEUDONYMS)))) as address,
        openai.OpenAI(api_key="none", base_url=f"{address}/v1", max_retries=0) as client,
    ):
        reply: Any = client.chat.completions.create(model="m", messages=ask(f"Mail {MAIL}"), stream=stream)
        if stream:
            deltas = [choice.delta for chunk in reply for choice in chunk.choices]
            text = "".join(delta.content or "" for delta in deltas)
            (call,) = [call for delta in deltas for call in delta.tool_calls or ()]
        else:
            text, (call,) = reply.choices[0].message.content, reply.choices[0].message.tool_calls
    assert MAIL not in json.dumps(fake.seen[-1])
    assert text.startswith(f"Wrote to {MAIL}, not to ")
    assert "cy@example.org" not in text
    assert text.endswith(" <EMAIL_")
    assert json.loads(call.function.arguments) == {"to": MAIL}


def test_blocks_are_errors_by_option(fake: FakeUpstream, upstream: str) -> None:
    fake.seen.clear()
    memory = Memory()
    with (
        gateway(services(upstream, audit=memory), Settings(blocked="error")) as address,
        openai.OpenAI(api_key="none", base_url=f"{address}/v1", max_retries=0) as client,
    ):
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match=MESSAGE) as caught:
                client.chat.completions.create(model="m", messages=ask(SECRET), stream=stream)
            assert caught.value.code == "content_filter"
        assert fake.seen == []
        fake.says(f"It is {SECRET}.")
        with pytest.raises(openai.BadRequestError, match=MESSAGE):
            client.chat.completions.create(model="m", messages=ask("Hi"))
        with pytest.raises(openai.APIError, match=MESSAGE):
            read(client.chat.completions.create(model="m", messages=ask("Hi"), stream=True))
    assert [(record.outcome, record.code) for record in memory.records] == [("block", "blocked.code_names")] * 4


def test_what_is_streamed_is_not_kept_by_proxies(address: str, fake: FakeUpstream) -> None:
    fake.says("fine")
    reply = httpx.post(f"{address}/v1/chat/completions", json={"model": "m", "messages": ask("Hi"), "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-store"
    assert reply.text.endswith("data: [DONE]\n\n")
