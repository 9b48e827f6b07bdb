"""Text completions: guarded as chats of one message, whole and streamed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from gateway_helpers import LOOPBACK, FakeUpstream, gateway, pieces, served, services
from hypothesis import given
from hypothesis import strategies as st
from integration_helpers import MAIL, MESSAGE, POLICY, SECRET, make_guard
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from safety_kit.chat.text_completion import CompletionStream, check_completion_request, check_completion_response
from safety_kit.errors import ConversationError
from safety_kit.guard import Guard
from safety_kit.policy import Policy

GUARD = make_guard()


def choice(index: int, text: str, finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def answering(fake: FakeUpstream, *texts: str) -> None:
    shell = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "tiny"}

    async def answer(body: dict[str, Any], request: Request) -> Response:
        if not body.get("stream"):
            return JSONResponse({**shell, "choices": [choice(i, text, "stop") for i, text in enumerate(texts)]})
        parts: list[dict[str, Any]] = []
        for i, text in enumerate(texts):
            parts += [*(choice(i, piece) for piece in pieces(text)), choice(i, "", "length")]
        return fake.stream([{**shell, "choices": [part]} for part in parts])

    fake.answer = answer


@pytest.fixture(scope="module")
def address(fake: FakeUpstream) -> Iterator[str]:
    with served(fake.app) as upstream, gateway(services(upstream, GUARD)) as address:
        yield address


@pytest.fixture
def client(address: str, fake: FakeUpstream) -> Iterator[openai.OpenAI]:
    fake.seen.clear()
    with openai.OpenAI(api_key="none", base_url=f"{address}/v1", max_retries=0) as client:
        yield client


def streamed(stream: Any) -> list[str]:
    texts: dict[int, str] = {}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    return [texts[i] for i in sorted(texts)]


@pytest.mark.allow_hosts(LOOPBACK)
def test_prompts_go_on_redacted_and_texts_come_back_redacted(client: openai.OpenAI, fake: FakeUpstream) -> None:
    answering(fake, f"One {MAIL}", "Two")
    reply = client.completions.create(
        model="m", prompt=[f"Say {MAIL}", "Say two"], suffix=f"by {MAIL}", echo=True, extra_body={"odd": f"x {MAIL}"}
    )
    assert fake.seen == [
        {"model": "m", "prompt": ["Say <mail>", "Say two"], "suffix": "by <mail>", "echo": True, "odd": "x <mail>"}
    ]
    assert [choice.text for choice in reply.choices] == ["One <mail>", "Two"]
    assert reply.model_extra is not None
    paths = {place["path"] for place in reply.model_extra["safety"]["request"]["places"]}
    assert paths >= {"odd", "prompt[0]", "suffix"}


@pytest.mark.allow_hosts(LOOPBACK)
def test_a_stream_gives_what_the_whole_gives(client: openai.OpenAI, fake: FakeUpstream) -> None:
    answering(fake, f"One {MAIL}. " + "word " * 30, f"Two {SECRET}", "Three", "Four")
    ask: Any = {"model": "m", "prompt": ["a", "b"], "n": 2}
    whole = [choice.text for choice in client.completions.create(**ask).choices]
    texts = streamed(client.completions.create(**ask, stream=True))
    assert texts == ["One <mail>. " + "word " * 30, f"Two \n\n{MESSAGE}", "Three", "Four"]
    assert whole == [texts[0], MESSAGE, "Three", "Four"]


@pytest.mark.allow_hosts(LOOPBACK)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", [SECRET, ["fine", SECRET], [1, 2, 3], [[1, 2], [3]]])
def test_what_is_blocked_or_cannot_be_read_is_not_sent_on(
    client: openai.OpenAI, fake: FakeUpstream, prompt: Any, stream: bool
) -> None:
    reply: Any = client.completions.create(model="m", prompt=prompt, stream=stream)
    choices = [choice for chunk in reply for choice in chunk.choices] if stream else reply.choices
    several = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    assert [choice.finish_reason for choice in choices] == ["content_filter"] * several
    assert SECRET not in choices[0].text
    assert fake.seen == []


def test_token_ids_pass_where_the_policy_lets_what_it_cannot_read_pass() -> None:
    open_guard = Guard(Policy.parse(POLICY + "uncheckable: flag\n"))
    request = {"model": "m", "prompt": [1, 2, 3]}
    verdict = check_completion_request(open_guard, request, "id")
    assert str(verdict.action) == "flag"
    assert verdict.request is request


@pytest.mark.parametrize(
    "request_", [{}, {"prompt": None}, {"prompt": []}, {"prompt": [1, "a"]}, {"prompt": "a", "messages": []}]
)
def test_a_request_that_is_none(request_: dict[str, Any]) -> None:
    with pytest.raises(ConversationError):
        check_completion_request(GUARD, request_, "id")


def test_a_field_around_the_choices_that_is_blocked_takes_them_all() -> None:
    response = {
        "odd": f"so {SECRET}",
        "choices": [{"index": i, "text": "fine", "finish_reason": "stop"} for i in (0, 1)],
    }
    verdict = check_completion_response(GUARD, response, {"prompt": "a"}, "id")
    assert [choice["text"] for choice in verdict.response["choices"]] == [MESSAGE, MESSAGE]
    assert "odd" not in verdict.response


@given(st.lists(st.sampled_from(["fine ", MAIL, " ana@", "example.com", SECRET[:9], SECRET[9:], "é"]), max_size=12))
def test_however_it_is_cut_a_stream_releases_what_the_whole_passes(parts: list[str]) -> None:
    request = {"prompt": "a"}
    stream = CompletionStream(GUARD, request)
    out = [chunk for part in parts for chunk in stream.feed({"choices": [choice(0, part)]})]
    out += stream.feed({"choices": [choice(0, "", "stop")]})
    text = "".join(choice["text"] for chunk in out for choice in chunk["choices"])
    whole = check_completion_response(
        GUARD, {"choices": [{"index": 0, "text": "".join(parts), "finish_reason": "stop"}]}, request, "id"
    )
    assert stream.verdicts.action == whole.action
    if whole.blocked:
        assert text.endswith(MESSAGE)
        assert not re.search(rf"\b{SECRET}\b", text)
    else:
        assert text == whole.response["choices"][0]["text"]
