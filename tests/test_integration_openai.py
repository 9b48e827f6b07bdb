"""The guarded `openai` client, the real package over a mocked transport: what leaves and what is read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import httpx
import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integration_helpers import MAIL, MESSAGE, SECRET, Upstream, chunks, completion, make_guard, sse

from safety_kit.integrations import OnBlock
from safety_kit.integrations._wire import Exchange
from safety_kit.integrations.openai import guard_openai

GUARD = make_guard()
TOOLS: Any = [{"type": "function", "function": {"name": "send", "parameters": {"type": "object", "properties": {}}}}]


def client(upstream: Upstream, on_block: OnBlock = "message") -> openai.OpenAI:
    http = httpx2.Client(transport=httpx2.MockTransport(upstream))
    return guard_openai(openai.OpenAI(api_key="k", base_url="http://up.test/v1", http_client=http), GUARD, on_block)


def client_async(upstream: Upstream, on_block: OnBlock = "message") -> openai.AsyncOpenAI:
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(upstream.answer))
    real = openai.AsyncOpenAI(api_key="k", base_url="http://up.test/v1", http_client=http)
    return guard_openai(real, GUARD, on_block)


def ask(text: str) -> Any:
    return [{"role": "user", "content": text}]


def texts(stream: Any) -> tuple[str, list[str]]:
    """What a stream of one choice came to: its text, and the finish reasons."""
    read = list(stream)
    choices = [choice for chunk in read for choice in chunk.choices]
    return "".join(c.delta.content or "" for c in choices), [c.finish_reason for c in choices if c.finish_reason]


def test_a_request_is_sent_redacted_and_a_reply_read_redacted() -> None:
    upstream = Upstream(completion(f"Write to {MAIL}."))
    reply = client(upstream).chat.completions.create(model="m", messages=ask(f"Who is {MAIL}?"), temperature=0.5)
    assert upstream.seen == [{"model": "m", "messages": ask("Who is <mail>?"), "temperature": 0.5}]
    assert reply.choices[0].message.content == "Write to <mail>."
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == 7


@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_request_is_not_sent(stream: bool) -> None:
    upstream = Upstream(completion("never"))
    reply: Any = client(upstream).chat.completions.create(model="m", messages=ask(SECRET), n=2, stream=stream)
    choices = [choice for chunk in reply for choice in chunk.choices] if stream else reply.choices
    assert upstream.seen == []
    assert [(choice.index, choice.finish_reason) for choice in choices] == [
        (0, "content_filter"),
        (1, "content_filter"),
    ]
    assert [(choice.delta if stream else choice.message).content for choice in choices] == [MESSAGE, MESSAGE]


def test_a_blocked_request_raises_by_option() -> None:
    upstream = Upstream(completion("never"))
    with pytest.raises(openai.BadRequestError, match=MESSAGE) as caught:
        client(upstream, "raise").chat.completions.create(model="m", messages=ask(SECRET))
    assert caught.value.code == "content_filter"
    assert upstream.seen == []


def test_each_choice_stands_alone() -> None:
    reply = client(Upstream(completion("fine", f"About {SECRET}."))).chat.completions.create(
        model="m", messages=ask("Hi"), n=2
    )
    assert [choice.message.content for choice in reply.choices] == ["fine", MESSAGE]
    assert [choice.finish_reason for choice in reply.choices] == ["stop", "content_filter"]


def test_a_blocked_reply_raises_by_option() -> None:
    with pytest.raises(openai.BadRequestError, match=MESSAGE):
        client(Upstream(completion(SECRET)), "raise").chat.completions.create(model="m", messages=ask("Hi"))


def test_arguments_of_tool_calls_are_read() -> None:
    upstream = Upstream(completion(None, tool=json.dumps({"to": MAIL})))
    reply = client(upstream).chat.completions.create(model="m", messages=ask("Hi"), tools=TOOLS)
    (call,) = reply.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"to": "<mail>"}
    upstream.reply = completion(None, tool=json.dumps({"text": SECRET}))
    reply = client(upstream).chat.completions.create(model="m", messages=ask("Hi"), tools=TOOLS)
    assert not reply.choices[0].message.tool_calls
    assert reply.choices[0].finish_reason == "content_filter"


@settings(max_examples=25)
@given(cut=st.integers(1, 12), newline=st.sampled_from(["\n", "\r\n"]), done=st.booleans())
def test_a_stream_is_read_redacted_however_it_is_cut(cut: int, newline: str, done: bool) -> None:
    text = f"Write to {MAIL} or\u2028to nobody. " + "Lorem ipsum. " * 20
    body = sse(list(chunks([text[i : i + cut] for i in range(0, len(text), cut)])), done=done, newline=newline)
    reply = client(Upstream(body)).chat.completions.create(model="m", messages=ask("Hi"), stream=True)
    assert texts(reply) == (text.replace(MAIL, "<mail>"), ["stop"])


@given(st.lists(st.integers(0, 3000), max_size=8))
def test_where_the_bytes_of_a_stream_are_cut_changes_nothing(places: list[int]) -> None:
    body = sse(list(chunks(["Ask ", "ana@exam", "ple.com — ", "Größe 中文. "], tool=['{"to": "', MAIL, '"}'])))

    def read(pieces: list[bytes]) -> bytes:
        exchange = Exchange(GUARD, raises=False)
        return b"".join([*map(exchange.feed, pieces), exchange.end()])

    bounds = sorted({0, len(body), *(place % len(body) for place in places)})
    whole = read([body])
    assert read([body[a:b] for a, b in pairwise(bounds)]) == whole
    assert MAIL.encode() not in whole


def test_a_stream_stops_at_a_block() -> None:
    body = sse(list(chunks(["All is well. " * 60, "Now ", "project ", "blue", "bird starts in May. " * 9])))
    text, finish = texts(client(Upstream(body)).chat.completions.create(model="m", messages=ask("Hi"), stream=True))
    assert text.startswith("All is well. ")
    assert text.endswith(MESSAGE)
    assert "bird" not in text
    assert "May" not in text
    assert finish == ["content_filter"]


def test_a_stream_raises_at_a_block_by_option() -> None:
    body = sse(list(chunks(["All is well. " * 60, SECRET, " starts in May. " * 9])))
    stream = client(Upstream(body), "raise").chat.completions.create(model="m", messages=ask("Hi"), stream=True)
    read: list[str] = []
    with pytest.raises(openai.APIError, match=MESSAGE) as caught:
        read.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert caught.value.code == "content_filter"
    assert SECRET not in "".join(read)


def test_streamed_arguments_are_read() -> None:
    body = sse(list(chunks([], tool=['{"to": "', "ana@exam", 'ple.com"}'])))
    stream = client(Upstream(body)).chat.completions.create(
        model="m", messages=ask("Hi"), tools=TOOLS, stream=True, stream_options={"include_usage": True}
    )
    calls = [call for chunk in stream for choice in chunk.choices for call in choice.delta.tool_calls or []]
    assert json.loads("".join(c.function.arguments or "" for c in calls if c.function)) == {"to": "<mail>"}
    assert [c.function.name for c in calls if c.function and c.function.name] == ["send"]


def test_streams_of_several_choices_stand_alone() -> None:
    first, second = list(chunks(["fine ", "indeed"])), list(chunks([f"About {SECRET}."], index=1))
    mixed = [event for pair in zip(first, [*second, *second[-1:]], strict=False) for event in pair]
    stream = client(Upstream(sse(mixed))).chat.completions.create(model="m", messages=ask("Hi"), n=2, stream=True)
    said = {0: "", 1: ""}
    for chunk in stream:
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
    assert said[0] == "fine indeed"
    assert said[1].endswith(MESSAGE)
    assert SECRET not in said[1]


def test_the_async_client_does_the_same() -> None:
    async def run() -> None:
        upstream = Upstream(completion(f"Write to {MAIL}."))
        reply = await client_async(upstream).chat.completions.create(model="m", messages=ask(f"Who is {MAIL}?"))
        assert upstream.seen[0]["messages"] == ask("Who is <mail>?")
        assert reply.choices[0].message.content == "Write to <mail>."

        blocked = await client_async(upstream).chat.completions.create(model="m", messages=ask(SECRET))
        assert (blocked.choices[0].message.content, len(upstream.seen)) == (MESSAGE, 1)
        with pytest.raises(openai.BadRequestError, match=MESSAGE):
            await client_async(upstream, "raise").chat.completions.create(model="m", messages=ask(SECRET))

        upstream.reply = sse(
            list(chunks([f"Write to {MAIL}. ", *["All is well. "] * 60, "It is about ", SECRET, ". More. " * 9]))
        )
        stream = await client_async(upstream).chat.completions.create(model="m", messages=ask("Hi"), stream=True)
        said, finish = texts([chunk async for chunk in stream])
        assert said.startswith("Write to <mail>.")
        assert said.endswith(MESSAGE)
        assert "bluebird" not in said
        assert finish == ["content_filter"]

    asyncio.run(run())


def test_helpers_and_copies_are_guarded_too() -> None:
    upstream = Upstream(completion(SECRET))
    guarded = client(upstream)
    for reply in (
        guarded.with_options(max_retries=0).chat.completions.create(model="m", messages=ask("Hi")),
        guarded.chat.completions.with_raw_response.create(model="m", messages=ask("Hi")).parse(),
    ):
        assert reply.choices[0].message.content == MESSAGE
    with pytest.raises(openai.ContentFilterFinishReasonError):
        guarded.chat.completions.parse(model="m", messages=ask("Hi"))
    upstream.reply = sse(list(chunks([f"Mail {MAIL} now"])))
    with guarded.chat.completions.stream(model="m", messages=ask("Hi")) as stream:
        assert stream.get_final_completion().choices[0].message.content == "Mail <mail> now"


def test_a_client_over_the_older_http_library_is_guarded() -> None:
    seen: list[Any] = []

    def reply(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        return httpx.Response(200, json=completion(f"Write to {MAIL}."))

    http: Any = httpx.Client(transport=httpx.MockTransport(reply))
    guarded = guard_openai(openai.OpenAI(api_key="k", base_url="http://up.test/v1", http_client=http), GUARD)
    answer = guarded.chat.completions.create(model="m", messages=ask(MAIL))
    assert seen[0]["messages"] == ask("<mail>")
    assert answer.choices[0].message.content == "Write to <mail>."


def test_what_the_guard_does_not_read_is_refused() -> None:
    upstream = Upstream({"object": "list", "data": []})
    guarded = client(upstream)
    for call in (
        lambda: guarded.responses.create(model="m", input="Hi"),
        lambda: guarded.completions.create(model="m", prompt="Hi"),
        lambda: guarded.embeddings.create(model="m", input="Hi"),
        lambda: guarded.chat.completions.retrieve("chatcmpl-1"),
    ):
        with pytest.raises(openai.BadRequestError, match="use the client itself") as caught:
            call()
        assert caught.value.code == "not_guarded"
    assert upstream.seen == []
    assert list(guarded.models.list()) == []
    assert str(guarded.websocket_base_url) == "wss://not-guarded.invalid"


@pytest.mark.parametrize("content", [b"no JSON", b"[]", b'{"choices": [3]}', b'{"choices": 3}'])
def test_a_reply_that_cannot_be_read_is_withheld(content: bytes) -> None:
    upstream = Upstream(lambda _: httpx2.Response(200, headers={"content-type": "application/json"}, content=content))
    with pytest.raises(openai.BadRequestError, match="cannot read this reply"):
        client(upstream).chat.completions.create(model="m", messages=ask("Hi"))
    upstream.reply = b"data: " + content + b"\n\ndata: [DONE]\n\n"
    stream = client(upstream).chat.completions.create(model="m", messages=ask("Hi"), stream=True)
    with pytest.raises(openai.APIError, match="cannot read this stream"):
        list(stream)


def test_errors_of_the_upstream_stay_what_they_are() -> None:
    error = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
    guarded = client(Upstream(lambda _: httpx2.Response(429, json=error))).with_options(max_retries=0)
    with pytest.raises(openai.RateLimitError, match="slow down"):
        guarded.chat.completions.create(model="m", messages=ask("Hi"))
    broken = client(Upstream(sse([error])))
    with pytest.raises(openai.APIError, match="slow down"):
        list(broken.chat.completions.create(model="m", messages=ask("Hi"), stream=True))


class Closing(httpx2.SyncByteStream):
    def __init__(self, body: list[bytes]) -> None:
        self.body, self.read, self.closed = body, 0, False

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.body:
            self.read += 1
            yield piece

    def close(self) -> None:
        self.closed = True


def test_an_abandoned_stream_closes_its_upstream() -> None:
    body = Closing([sse([event], done=False) for event in chunks(["Lorem ipsum. "] * 50)])
    headers = {"content-type": "text/event-stream"}
    guarded = client(Upstream(lambda _: httpx2.Response(200, headers=headers, stream=body)))
    with guarded.chat.completions.create(model="m", messages=ask("Hi"), stream=True) as stream:
        next(iter(stream))
    assert body.closed
    assert body.read < 30


def test_closing_the_guarded_client_closes_the_other() -> None:
    http = httpx2.Client(transport=httpx2.MockTransport(Upstream({})))
    guard_openai(openai.OpenAI(api_key="k", http_client=http), GUARD).close()
    assert http.is_closed
