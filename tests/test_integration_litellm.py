"""The LiteLLM guardrail: its hooks with the package's own types, and the SDK's calls that go through them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterator
from datetime import UTC, datetime
from typing import Any

import litellm
import pytest
from integration_helpers import MAIL, MESSAGE, POLICY, SECRET, chunks, completion, make_guard
from litellm.exceptions import GuardrailRaisedException, ModifyResponseException
from litellm.types.utils import EmbeddingResponse, ModelResponse, ModelResponseStream

from safety_kit.errors import UserError
from safety_kit.integrations.litellm import CallError, SafetyKitGuardrail

GUARD = make_guard()
GUARDRAIL = SafetyKitGuardrail(GUARD, default_on=True)
PROXYS_OWN = {"deployment": object(), "start_time": datetime.now(tz=UTC)}
"""A running proxy puts such things beside the call's arguments once it has been sent."""
RAISING = SafetyKitGuardrail(GUARD, on_block="raise", default_on=True)


def run(call: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(call)


def data(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "openai/tiny", "messages": [{"role": "user", "content": text}], **more}


def pre(guardrail: SafetyKitGuardrail, request: dict[str, Any]) -> Any:
    return run(guardrail.async_pre_call_hook(None, None, request, "acompletion"))


def post(guardrail: SafetyKitGuardrail, response: Any) -> Any:
    return run(guardrail.async_post_call_success_hook(data("Hi", **PROXYS_OWN), None, response))


def streamed(guardrail: SafetyKitGuardrail, events: list[dict[str, Any]], **more: Any) -> list[ModelResponseStream]:
    async def upstream() -> AsyncIterator[ModelResponseStream]:
        for event in events:
            yield ModelResponseStream(**event)

    async def drain() -> list[ModelResponseStream]:
        request = data("Hi", **PROXYS_OWN, **more)
        return [c async for c in guardrail.async_post_call_streaming_iterator_hook(None, upstream(), request)]

    read: list[ModelResponseStream] = run(drain())
    return read


def text_of(read: list[ModelResponseStream]) -> str:
    return "".join(choice.delta.content or "" for chunk in read for choice in chunk.choices)


def test_a_request_is_redacted_in_place_and_its_machinery_left_alone() -> None:
    machinery = {"metadata": {"user": MAIL}, "api_key": "sk-1", "litellm_logging_obj": object(), "guardrails": ["x"]}
    tools = [{"type": "function", "function": {"name": "send", "description": f"Ask {MAIL}.", "parameters": {}}}]
    request = data(f"Who is {MAIL}?", tools=tools, prompt_variables={"who": MAIL}, **machinery)
    assert pre(GUARDRAIL, request) is request
    assert request["messages"][0]["content"] == "Who is <mail>?"
    assert request["tools"][0]["function"]["description"] == "Ask <mail>."
    assert request["prompt_variables"] == {"who": "<mail>"}
    assert {name: request[name] for name in machinery} == machinery


def test_a_blocked_request_never_leaves() -> None:
    with pytest.raises(ModifyResponseException) as passed:
        pre(GUARDRAIL, data(SECRET))
    assert (passed.value.message, passed.value.model, passed.value.guardrail_name) == (
        MESSAGE,
        "openai/tiny",
        "safety-kit",
    )
    with pytest.raises(GuardrailRaisedException, match=MESSAGE) as raised:
        pre(RAISING, data(SECRET))
    assert (raised.value.status_code, raised.value.blocked_content) == (400, True)


def test_a_reply_is_redacted_and_a_blocked_choice_replaced() -> None:
    reply = post(GUARDRAIL, ModelResponse(**completion(f"Write to {MAIL}.", f"About {SECRET}.")))
    assert [choice.message.content for choice in reply.choices] == ["Write to <mail>.", MESSAGE]
    assert [choice.finish_reason for choice in reply.choices] == ["stop", "content_filter"]
    assert reply.usage.total_tokens == 7
    called = post(GUARDRAIL, ModelResponse(**completion(None, tool=json.dumps({"to": MAIL}))))
    assert json.loads(called.choices[0].message.tool_calls[0].function.arguments) == {"to": "<mail>"}
    fine = ModelResponse(**completion("fine"))
    assert post(GUARDRAIL, fine) is fine
    with pytest.raises(GuardrailRaisedException, match=MESSAGE):
        post(RAISING, ModelResponse(**completion(SECRET)))


def test_a_stream_is_redacted_and_ends_at_a_block() -> None:
    read = streamed(GUARDRAIL, list(chunks(["Write to ana@ex", "ample.com", "."])))
    assert text_of(read) == "Write to <mail>."
    events = list(chunks(["All is well. " * 60, "About project ", "bluebird: ", *["more. "] * 50]))
    read = streamed(GUARDRAIL, events)
    assert text_of(read).startswith("All is well. ")
    assert text_of(read).endswith(MESSAGE)
    assert "bluebird" not in text_of(read)
    assert read[-1].choices[0].finish_reason == "content_filter"
    with pytest.raises(GuardrailRaisedException, match=MESSAGE):
        streamed(RAISING, events)


def test_streamed_arguments_are_read() -> None:
    read = streamed(GUARDRAIL, list(chunks([], tool=['{"to": "', "ana@exam", 'ple.com"}'])))
    calls = [call for chunk in read for choice in chunk.choices for call in choice.delta.tool_calls or []]
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [("send", {"to": "<mail>"})]


def test_a_stream_that_asks_for_no_guardrail_is_left_alone() -> None:
    optional = SafetyKitGuardrail(GUARD, default_on=False)
    events = list(chunks([SECRET]))
    assert text_of(streamed(optional, events)) == SECRET
    assert text_of(streamed(optional, events, metadata={"guardrails": ["safety-kit"]})) == MESSAGE


def test_what_is_no_chat_completion_is_refused() -> None:
    with pytest.raises(UserError, match="chat completions only") as refused:
        pre(GUARDRAIL, {"model": "m", "input": "Hi"})
    assert refused.value.status_code == 400  # type: ignore[attr-defined]
    with pytest.raises(CallError, match=r"messages\[0\].role") as unread:
        pre(GUARDRAIL, {"model": "m", "messages": [{"role": "wizard", "content": "Hi"}]})
    assert unread.value.status_code == 400
    with pytest.raises(UserError, match="chat completions only"):
        post(GUARDRAIL, EmbeddingResponse())


def test_a_subclass_defines_the_hooks_that_the_proxy_looks_for() -> None:
    class Mine(SafetyKitGuardrail):
        async def async_pre_call_hook(self, *args: Any, **kwargs: Any) -> Any:
            return None

    names = ("async_pre_call_hook", "async_post_call_success_hook", "async_post_call_streaming_iterator_hook")
    assert set(names) <= set(vars(Mine))
    assert Mine.async_pre_call_hook is not SafetyKitGuardrail.async_pre_call_hook
    assert Mine.async_post_call_success_hook is SafetyKitGuardrail.async_post_call_success_hook


def test_a_policy_of_text_checks_is_loaded_from_its_file(tmp_path: Any) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY, encoding="utf-8")
    guardrail = SafetyKitGuardrail(policy=str(tmp_path / "policy.yaml"), guardrail_name="mine", default_on=True)
    assert pre(guardrail, data(MAIL))["messages"][0]["content"] == "<mail>"


@pytest.fixture
def registered() -> Iterator[None]:
    before, litellm.callbacks = litellm.callbacks, [GUARDRAIL]
    yield
    litellm.callbacks = before


@pytest.mark.usefixtures("registered")
def test_calls_of_the_sdk_go_through_it() -> None:
    def ask(text: str, reply: str, **more: Any) -> Any:
        return run(litellm.acompletion(**data(text), mock_response=reply, guardrails=["safety-kit"], **more))

    assert ask("Hi", f"Write to {MAIL}.").choices[0].message.content == "Write to <mail>."
    assert ask("Hi", f"About {SECRET}.").choices[0].message.content == MESSAGE
    with pytest.raises(ModifyResponseException, match=MESSAGE):
        ask(SECRET, "never")
    with pytest.raises(UserError, match="do not stream"):
        ask("Hi", SECRET, stream=True)
