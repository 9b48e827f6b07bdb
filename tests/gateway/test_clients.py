"""Other packages as clients of the gateway: what they send is understood, what they get they understand."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from gateway_helpers import LOOPBACK, FakeUpstream, gateway, services
from integration_helpers import MAIL, MESSAGE, SECRET

from safety_kit.gateway.settings import Settings

pytestmark = pytest.mark.allow_hosts(LOOPBACK)


@pytest.fixture(scope="module")
def address(upstream: str) -> Iterator[str]:
    with gateway(services(upstream)) as address:
        yield f"{address}/v1"


def test_litellm(address: str, fake: FakeUpstream) -> None:
    litellm = pytest.importorskip("litellm")

    def ask(text: str, **more: object) -> object:
        messages = [{"role": "user", "content": text}]
        return litellm.completion(
            model="openai/m", api_base=address, api_key="none", messages=messages, num_retries=0, **more
        )

    fake.says(f"Write to {MAIL}.")
    assert ask("Hi").choices[0].message.content == "Write to <mail>."  # type: ignore[attr-defined]
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask("Hi", stream=True)]  # type: ignore[attr-defined]
    assert "".join(pieces) == "Write to <mail>."
    blocked = ask(f"When does {SECRET} start?").choices[0]  # type: ignore[attr-defined]
    assert (blocked.message.content, blocked.finish_reason) == (MESSAGE, "content_filter")
    fake.says(None, tool=f'{{"to": "{MAIL}"}}')
    (call,) = ask("Send it").choices[0].message.tool_calls  # type: ignore[attr-defined]
    assert call.function.arguments == '{"to": "<mail>"}'


def test_litellm_raises_a_block_that_is_an_error(upstream: str) -> None:
    litellm = pytest.importorskip("litellm")
    messages = [{"role": "user", "content": SECRET}]
    with gateway(services(upstream), Settings(blocked="error")) as address:
        told = {"api_base": f"{address}/v1", "api_key": "none", "num_retries": 0}
        with pytest.raises(litellm.BadRequestError):
            litellm.completion(model="openai/m", messages=messages, **told)


def test_langchain(address: str, fake: FakeUpstream) -> None:
    """LangChain's messages, prompt templates and chains; the openai client is what its model for OpenAI calls, too."""
    pytest.importorskip("langchain_core")
    from langchain_core.messages import convert_to_openai_messages
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import RunnableLambda

    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "Who is {who}?")])
    fake.says(f"Ask {MAIL}.")
    with openai.OpenAI(api_key="none", base_url=address) as client:

        def call(value: object) -> str | None:
            messages = convert_to_openai_messages(value.to_messages())  # type: ignore[attr-defined]
            return client.chat.completions.create(model="m", messages=messages).choices[0].message.content  # type: ignore[arg-type]

        chain = prompt | RunnableLambda(call)
        assert chain.batch([{"who": MAIL}, {"who": "Ana"}, {"who": SECRET}]) == ["Ask <mail>."] * 2 + [MESSAGE]
    assert MAIL not in str(fake.seen)
    assert [message["role"] for message in fake.seen[-1]["messages"]] == ["system", "user"]
