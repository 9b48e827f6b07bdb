"""LangChain's messages as the OpenAI API writes them, and back."""

from __future__ import annotations

import json
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    convert_to_messages,
    convert_to_openai_messages,
)
from langchain_core.prompt_values import PromptValue

from safety_kit.errors import UserError


def messages_of(value: Any) -> list[BaseMessage]:
    """What a chat model takes, as messages.

    Raises:
        UserError: It is something else.
    """
    if isinstance(value, PromptValue):
        return value.to_messages()
    if isinstance(value, str):
        return [HumanMessage(value)]
    if isinstance(value, list | tuple):
        return convert_to_messages(value)
    raise UserError(f"The input is of type {type(value).__name__}; give messages, a prompt's value or a text.")


def to_json(message: BaseMessage) -> dict[str, Any]:
    """The message as the OpenAI API writes it, with whatever else a model may be shown of it."""
    value: dict[str, Any] = convert_to_openai_messages([message], text_format="block")[0]
    if isinstance(message.content, str):
        value["content"] = message.content
    if message.additional_kwargs:
        value["additional_kwargs"] = message.additional_kwargs
    if isinstance(message, AIMessage) and message.invalid_tool_calls:
        value["invalid_tool_calls"] = message.invalid_tool_calls
    return value


def rewritten(message: BaseMessage, value: dict[str, Any]) -> BaseMessage:
    """The message with what may be passed on of it."""
    if value == to_json(message):
        return message
    update: dict[str, Any] = {key: value[key] for key in ("content", "name") if key in value}
    update |= {key: value[key] for key in ("additional_kwargs", "invalid_tool_calls") if key in value}
    update["response_metadata"] = {k: v for k, v in message.response_metadata.items() if k != "logprobs"}
    if isinstance(message, AIMessage) and message.tool_calls:
        update["tool_calls"] = [
            {**call, "name": new["function"]["name"], "args": json.loads(new["function"]["arguments"])}
            for call, new in zip(message.tool_calls, value["tool_calls"], strict=True)
        ]
    return message.model_copy(update=update)


def chunk_of(message: Any) -> dict[str, Any]:
    """A piece of a streamed message as a chunk of the OpenAI API.

    Raises:
        UserError: It is no such piece, or holds what is no text.
    """
    if not isinstance(message, AIMessageChunk):
        raise UserError(f"The model gave {type(message).__name__}; GuardedChat wraps chat models, not chains.")
    blocks = [message.content] if isinstance(message.content, str) else message.content
    if any(isinstance(b, dict) and b.get("type") not in ("text", "tool_use", "tool_call_chunk") for b in blocks):
        raise UserError("The model streams blocks that are no text, which the guard cannot read; do not stream it.")
    delta: dict[str, Any] = {"content": str(message.text)}
    if reasoning := message.additional_kwargs.get("reasoning_content"):
        delta["reasoning_content"] = reasoning
    if message.tool_call_chunks:
        delta["tool_calls"] = [
            {"index": c["index"] or 0, "id": c["id"], "function": {"name": c["name"], "arguments": c["args"] or ""}}
            for c in message.tool_call_chunks
        ]
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
