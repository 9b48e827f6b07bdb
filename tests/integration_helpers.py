"""What the tests of the wrappers share: a policy, an upstream that notes, its replies as JSON and as events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx2

from safety_kit.guard import Guard
from safety_kit.policy import Policy

MESSAGE = "I cannot talk about that yet."
POLICY = f"""
version: 1
name: wrappers
checks:
  pii: {{type: pii, countries: [us]}}
  names: {{type: patterns, category: code_names, keywords: [project bluebird]}}
rules:
  - {{category: pii.email, action: redact, form: {{replace: "<mail>"}}}}
  - {{category: code_names, action: block}}
messages: {{code_names: {MESSAGE}}}
"""
MAIL, SECRET = "ana@example.com", "project bluebird"


def make_guard() -> Guard:
    return Guard(Policy.parse(POLICY))


def completion(*texts: str | None, tool: str | None = None) -> dict[str, Any]:
    """A completion with a choice a text; `tool`: the arguments of a tool call in each."""
    message: dict[str, Any] = {"role": "assistant"}
    if tool is not None:
        message["tool_calls"] = [
            {"id": "call_1", "type": "function", "function": {"name": "send", "arguments": tool}},
        ]
    finish = "stop" if tool is None else "tool_calls"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "tiny",
        "choices": [
            {"index": i, "message": {**message, "content": text}, "finish_reason": finish}
            for i, text in enumerate(texts)
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }


def chunks(pieces: Sequence[str], tool: Sequence[str] = (), index: int = 0) -> Iterator[dict[str, Any]]:
    """The chunks of one choice: its role, its text, a tool call, its end."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
    for i, part in enumerate(tool):
        call: dict[str, Any] = {"index": 0, "function": {"arguments": part}}
        if i == 0:
            call |= {"id": "call_1", "type": "function", "function": {"name": "send", "arguments": part}}
        deltas.append({"tool_calls": [call]})
    shell = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
    for delta in deltas:
        yield {**shell, "choices": [{"index": index, "delta": delta, "finish_reason": None}]}
    finish = "tool_calls" if tool else "stop"
    yield {**shell, "choices": [{"index": index, "delta": {}, "finish_reason": finish}]}


def sse(events: Sequence[dict[str, Any]], *, done: bool = True, newline: str = "\n") -> bytes:
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}{newline}{newline}" for event in events]
    return ("".join(lines) + (f"data: [DONE]{newline}{newline}" if done else "")).encode()


class Upstream:
    """A transport's handler that notes what reaches it."""

    def __init__(self, reply: dict[str, Any] | bytes | Callable[[httpx2.Request], httpx2.Response]) -> None:
        self.reply = reply
        self.seen: list[Any] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.seen.append(json.loads(request.content) if request.content else None)
        if callable(self.reply):
            return self.reply(request)
        if isinstance(self.reply, bytes):
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=self.reply)
        return httpx2.Response(200, json=self.reply)

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        return self(request)
