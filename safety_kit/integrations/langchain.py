"""A guard around a LangChain chat model, as a Runnable: alone, or as a step of a chain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from safety_kit.errors import MissingExtra, UserError
from safety_kit.guard import Guard
from safety_kit.integrations import Blocked, OnBlock
from safety_kit.integrations._chat import Checked, ReplyStream, check_request, check_response

try:
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
    from langchain_core.messages.tool import tool_call_chunk
    from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, run_in_executor

    from safety_kit.integrations._langchain_messages import chunk_of, messages_of, rewritten, to_json
except ImportError as error:
    raise MissingExtra("langchain-core", "integrations") from error

_BOUND = ("tools", "functions", "response_format")
"""What a model may be bound to that it reads, beside the messages."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the model may see, the same as a request, and the reply if it may see nothing."""

    messages: list[BaseMessage]
    kwargs: dict[str, Any]
    request: dict[str, Any]
    refusal: AIMessage | None = None


class GuardedChat(Runnable[LanguageModelInput, BaseMessage]):
    """A chat model inside a policy.

    Messages and bound tools are checked before the model sees them, and passed on redacted; its reply is checked after,
    a stream as it comes, the arguments of tool calls too. At a block the reply is the policy's message, with
    ``content_filter`` as its finish reason. Callbacks and traces of the model see what the model sees.
    """

    def __init__(self, model: Runnable[LanguageModelInput, Any], guard: Guard, on_block: OnBlock = "message") -> None:
        """Wrap.

        Args:
            model: A chat model, or one bound to tools; a chain goes before or after, not inside.
            guard: What to hold messages against; its own model serves its probes.
            on_block: ``message``, or ``raise``: `Blocked`, where the reply is read.
        """
        self.model = model
        self.guard = guard
        self._raises = on_block == "raise"

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> BaseMessage:
        asked = self._ask(input, kwargs)
        return asked.refusal or self._reply(asked, self.model.invoke(asked.messages, config, **asked.kwargs))

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> BaseMessage:
        asked = await run_in_executor(config, self._ask, input, kwargs)
        if asked.refusal is not None:
            return asked.refusal
        reply = await self.model.ainvoke(asked.messages, config, **asked.kwargs)
        return await run_in_executor(config, self._reply, asked, reply)

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[BaseMessage]:
        asked = self._ask(input, kwargs)
        if asked.refusal is not None:
            yield AIMessageChunk(**asked.refusal.model_dump(exclude={"type"}))
            return
        flow = ReplyStream(self.guard, asked.request)
        for chunk in self.model.stream(asked.messages, config, **asked.kwargs):
            yield from self._passed(flow.feed(chunk_of(chunk)), flow, chunk)
            if flow.done:
                return
        yield from self._passed(flow.close(), flow)

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[BaseMessage]:
        asked = await run_in_executor(config, self._ask, input, kwargs)
        if asked.refusal is not None:
            yield AIMessageChunk(**asked.refusal.model_dump(exclude={"type"}))
            return
        flow = ReplyStream(self.guard, asked.request)
        async for chunk in self.model.astream(asked.messages, config, **asked.kwargs):
            for passed in self._passed(await run_in_executor(config, flow.feed, chunk_of(chunk)), flow, chunk):
                yield passed
            if flow.done:
                return
        for passed in self._passed(await run_in_executor(config, flow.close), flow):
            yield passed

    def _ask(self, input: LanguageModelInput, kwargs: dict[str, Any]) -> _Asked:
        messages = messages_of(input)
        bound: dict[str, Any] = {}
        model = self.model
        while isinstance(model, RunnableBinding):
            bound, model = {**model.kwargs, **bound}, model.bound
        read = {k: v for k, v in {**bound, **kwargs}.items() if k in _BOUND and isinstance(v, dict | list)}
        checked = check_request(self.guard, {"messages": list(map(to_json, messages)), **read})
        if checked.message is not None:
            return _Asked([], {}, {}, self._refusal(checked))
        passed = [rewritten(*pair) for pair in zip(messages, checked.value["messages"], strict=True)]
        return _Asked(passed, {**kwargs, **{key: checked.value[key] for key in read}}, checked.value)

    def _reply(self, asked: _Asked, reply: Any) -> BaseMessage:
        if not isinstance(reply, AIMessage):
            raise UserError(f"The model gave {type(reply).__name__}; GuardedChat wraps chat models, not chains.")
        choice = {"index": 0, "message": to_json(reply), "finish_reason": "stop"}
        checked = check_response(self.guard, {"choices": [choice]}, asked.request)
        if checked.message is not None:
            return self._refusal(checked)
        return rewritten(reply, checked.value["choices"][0]["message"])

    def _refusal(self, checked: Checked) -> AIMessage:
        if self._raises:
            raise Blocked(str(checked.message), checked.blocked)
        return AIMessage(str(checked.message), response_metadata={"finish_reason": "content_filter"})

    def _passed(
        self, chunks: list[dict[str, Any]], flow: ReplyStream, source: BaseMessage | None = None
    ) -> Iterator[BaseMessage]:
        if flow.message is not None and self._raises:
            raise Blocked(flow.message, flow.blocked)
        for choice in (choice for chunk in chunks for choice in chunk["choices"]):
            delta = choice["delta"]
            calls = [
                tool_call_chunk(
                    name=call["function"].get("name"),
                    args=call["function"].get("arguments"),
                    id=call.get("id"),
                    index=call["index"],
                )
                for call in delta.get("tool_calls") or []
            ]
            metadata = {"finish_reason": choice["finish_reason"]} if choice.get("finish_reason") else {}
            extra = {"reasoning_content": delta["reasoning_content"]} if delta.get("reasoning_content") else {}
            yield AIMessageChunk(
                content=delta.get("content") or "",
                tool_call_chunks=calls,
                response_metadata=metadata,
                additional_kwargs=extra,
            )
        if isinstance(source, AIMessageChunk) and source.usage_metadata:
            yield AIMessageChunk(content="", id=source.id, usage_metadata=source.usage_metadata)
