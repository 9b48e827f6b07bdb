"""Chat completions through the gateway: the real `openai` package as the client, a fake upstream behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from gateway_helpers import LOOPBACK, FakeUpstream, Memory, gateway, served, services
from integration_helpers import MAIL, MESSAGE, SECRET

pytestmark = pytest.mark.allow_hosts(LOOPBACK)


@pytest.fixture(scope="module")
def fake() -> FakeUpstream:
    return FakeUpstream()


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory()


@pytest.fixture(scope="module")
def address(fake: FakeUpstream, memory: Memory) -> Iterator[str]:
    with served(fake.app) as upstream, gateway(services(upstream, audit=memory)) as address:
        yield address


@pytest.fixture
def client(address: str, fake: FakeUpstream, memory: Memory) -> Iterator[openai.OpenAI]:
    fake.seen.clear()
    memory.records.clear()
    with openai.OpenAI(api_key="none", base_url=f"{address}/v1", max_retries=0) as client:
        yield client


def ask(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_a_request_goes_on_redacted_and_its_reply_comes_back_redacted(
    client: openai.OpenAI, fake: FakeUpstream, memory: Memory
) -> None:
    fake.says(f"Write to {MAIL}.")
    reply = client.chat.completions.create(
        model="m", messages=ask(f"Who is {MAIL}?"), temperature=0.5, extra_body={"min_p": 0.1, "odd": {"a": [1]}}
    )
    assert fake.seen == [
        {"model": "m", "messages": ask("Who is <mail>?"), "temperature": 0.5, "min_p": 0.1, "odd": {"a": [1]}}
    ]
    assert reply.choices[0].message.content == "Write to <mail>."
    assert reply.usage is not None
    assert reply.usage.total_tokens == 7
    safety = reply.model_extra["safety"]
    assert (safety["action"], safety["code"]) == ("redact", None)
    assert MAIL not in str(safety)
    (record,) = memory.records
    assert (record.outcome, record.status, record.route, record.model) == ("redact", 200, "/v1/chat/completions", "m")


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
