"""What the API answers where a model does not: an error, or a completion that holds the policy's message."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

MAX_CHOICES: Final = 128
"""Choices of one request; a stream with more is refused."""


def error_body(
    message: str, code: str | None, kind: str = "invalid_request_error", param: str | None = None
) -> dict[str, Any]:
    """An error in the API's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def choices_of(request: Mapping[str, Any]) -> int:
    """How many choices a request asks for."""
    count = request.get("n")
    return count if type(count) is int and 1 <= count <= MAX_CHOICES else 1


def blocked_chat(request: Mapping[str, Any], message: str) -> dict[str, Any]:
    """The completion of a chat that was blocked before a model read it; a chunk where it asks for a stream."""
    stream = bool(request.get("stream"))
    key = "delta" if stream else "message"
    reply: dict[str, Any] = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk" if stream else "chat.completion",
        "created": int(time.time()),
        "model": request.get("model"),
        "choices": [
            {"index": i, key: {"role": "assistant", "content": message}, "finish_reason": "content_filter"}
            for i in range(choices_of(request))
        ],
    }
    if not stream:
        reply["usage"] = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return reply
