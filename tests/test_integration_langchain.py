"""The guarded LangChain model: alone and in chains, whole, streamed and in batches, with tools."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from integration_helpers import MAIL, MESSAGE, SECRET, make_guard
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

from safety_kit.errors import UserError
from safety_kit.integrations import Blocked
from safety_kit.integrations.langchain import GuardedChat

GUARD = make_guard()


class Model(BaseChatModel):
    """Answers with these chunks, and notes what it was asked."""

    chunks: list[AIMessageChunk]
    asked: list[list[BaseMessage]] = []  # noqa: RUF012 - pydantic copies it
    bound: list[dict[str, Any]] = []  # noqa: RUF012
    made: list[int] = []  # noqa: RUF012

    @property
    def _llm_type(self) -> str:
        return "told"

    def _note(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> None:
        self.asked.append(messages)
        self.bound.append(kwargs)

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self._note(messages, kwargs)
        whole = self.chunks[0]
        for chunk in self.chunks[1:]:
            whole += chunk
        message = AIMessage(
            whole.content,
            tool_calls=whole.tool_calls,
            usage_metadata=whole.usage_metadata,
            additional_kwargs=whole.additional_kwargs,
            response_metadata={"logprobs": [str(whole.content)], "model_name": "told"},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        self._note(messages, kwargs)
        for number, chunk in enumerate(self.chunks):
            self.made.append(number)
            yield ChatGenerationChunk(message=chunk.model_copy())


def says(*pieces: str) -> Model:
    return Model(chunks=[AIMessageChunk(content=piece) for piece in pieces])


def drained(guarded: GuardedChat, value: Any, how: str) -> AIMessage:
    """The reply, by any of the four ways."""

    async def pieces() -> list[Any]:
        return [chunk async for chunk in guarded.astream(value)]

    if how == "invoke":
        reply: Any = guarded.invoke(value)
    elif how == "ainvoke":
        reply = asyncio.run(guarded.ainvoke(value))
    else:
        first, *rest = list(guarded.stream(value)) if how == "stream" else asyncio.run(pieces())
        for chunk in rest:
            first = first + chunk
        reply = first
    assert isinstance(reply, AIMessage)
    return reply


WAYS = ("invoke", "ainvoke", "stream", "astream")


@pytest.mark.parametrize("how", WAYS)
def test_messages_and_reply_are_redacted(how: str) -> None:
    model = says("Write to ana@ex", "ample.com", ".")
    system = SystemMessage("Be brief.", id="s")
    reply = drained(GuardedChat(model, GUARD), [system, HumanMessage(f"Who is {MAIL}?", id="h")], how)
    assert reply.content == "Write to <mail>."
    assert model.asked == [[system, HumanMessage("Who is <mail>?", id="h")]]
    assert MAIL not in str(reply)


@pytest.mark.parametrize("how", WAYS)
def test_a_blocked_request_does_not_reach_the_model(how: str) -> None:
    model = says("never")
    reply = drained(GuardedChat(model, GUARD), f"Tell me of {SECRET}", how)
    assert reply.content == MESSAGE
    assert reply.response_metadata["finish_reason"] == "content_filter"
    with pytest.raises(Blocked, match=MESSAGE):
        drained(GuardedChat(model, GUARD, "raise"), SECRET, how)
    assert model.asked == []


@pytest.mark.parametrize("how", WAYS)
def test_a_blocked_reply_is_not_shown(how: str) -> None:
    model = says("All is well. " * 60, "About project ", "bluebird: ", *["more words. "] * 50)
    reply = drained(GuardedChat(model, GUARD), "Hi", how)
    assert str(reply.content).endswith(MESSAGE)
    assert "bluebird" not in str(reply)
    assert reply.response_metadata["finish_reason"] == "content_filter"
    assert len(model.made) < 20
    with pytest.raises(Blocked, match=MESSAGE):
        drained(GuardedChat(model, GUARD, "raise"), "Hi", how)


@pytest.mark.parametrize("how", WAYS)
def test_arguments_of_tool_calls_are_read(how: str) -> None:
    parts = [("send", '{"to": "', "c1"), (None, "ana@exam", None), (None, 'ple.com"}', None)]
    calls = [
        AIMessageChunk(content="", tool_call_chunks=[tool_call_chunk(name=n, args=a, id=i, index=0)])
        for n, a, i in parts
    ]
    reply = drained(GuardedChat(Model(chunks=calls), GUARD), "Hi", how)
    assert [(call["name"], call["args"], call["id"]) for call in reply.tool_calls] == [("send", {"to": "<mail>"}, "c1")]


def test_results_of_tools_and_earlier_calls_are_read() -> None:
    model = says("ok")
    call = AIMessage("", tool_calls=[{"name": "send", "args": {"to": MAIL}, "id": "c1"}])
    history = [HumanMessage("Hi"), call, ToolMessage(f"sent to {MAIL}", tool_call_id="c1", artifact={"kept": 1})]
    GuardedChat(model, GUARD).invoke(history)
    _, made, result = model.asked[0]
    assert isinstance(made, AIMessage)
    assert made.tool_calls[0]["args"] == {"to": "<mail>"}
    assert (result.content, getattr(result, "artifact", None)) == ("sent to <mail>", {"kept": 1})
    history[2] = ToolMessage(f"about {SECRET}", tool_call_id="c1")
    assert GuardedChat(model, GUARD).invoke(history).content == MESSAGE


def test_it_is_a_step_of_a_chain_and_takes_batches() -> None:
    model = says("Write to ana@ex", "ample.com.")
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{question}")])
    chain = prompt | GuardedChat(model, GUARD) | StrOutputParser()
    assert chain.invoke({"question": "Hi"}) == "Write to <mail>."
    assert "".join(chain.stream({"question": "Hi"})) == "Write to <mail>."
    questions = [{"question": text} for text in ("Hi", f"About {SECRET}", "Bye")]
    assert chain.batch(questions) == ["Write to <mail>.", MESSAGE, "Write to <mail>."]
    assert asyncio.run(chain.abatch(questions)) == ["Write to <mail>.", MESSAGE, "Write to <mail>."]


def test_a_model_bound_to_tools_keeps_them() -> None:
    model = says("ok")
    tools = [{"type": "function", "function": {"name": "send", "description": "Sends.", "parameters": {}}}]
    guarded = GuardedChat(model.bind(tools=tools).with_config(tags=["x"]), GUARD)
    assert guarded.invoke("Hi").content == "ok"
    assert model.bound[0]["tools"] == tools


def test_usage_is_kept() -> None:
    usage: Any = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    model = Model(chunks=[AIMessageChunk(content="fine"), AIMessageChunk(content="", usage_metadata=usage)])
    for how in WAYS:
        assert drained(GuardedChat(model, GUARD), "Hi", how).usage_metadata == usage


def test_what_is_no_chat_model_is_refused() -> None:
    other: Any = RunnableLambda(lambda _: "text")
    with pytest.raises(UserError, match="wraps chat models"):
        GuardedChat(other, GUARD).invoke("Hi")
    with pytest.raises(UserError, match="wraps chat models"):
        list(GuardedChat(other, GUARD).stream("Hi"))
    wrong: Any = {"question": "Hi"}
    with pytest.raises(UserError, match="give messages"):
        GuardedChat(says("ok"), GUARD).invoke(wrong)


def test_streamed_blocks_that_are_no_text_are_refused() -> None:
    model = Model(chunks=[AIMessageChunk(content=[{"type": "image", "url": "u"}])])
    with pytest.raises(UserError, match="no text"):
        list(GuardedChat(model, GUARD).stream("Hi"))
