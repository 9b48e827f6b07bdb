"""A chat completion held against a guard, as wrappers need it: what may go on, or the message that stands instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safety_kit.chat.exchange import Verdicts
from safety_kit.chat.response_stream import ResponseStream
from safety_kit.guard import Guard
from safety_kit.types import Verdict


@dataclass(frozen=True, slots=True)
class Checked:
    """A request or a response that was checked.

    Attributes:
        value: What may be passed on; of a blocked request nothing, of a response each choice's own message.
        blocked: Why something was blocked, or None.
        message: The policy's message if something was blocked.
    """

    value: dict[str, Any]
    blocked: Verdict | None = None
    message: str | None = None


def check_request(guard: Guard, request: Mapping[str, Any]) -> Checked:
    """Hold a request against the guard; see `Guard.check_request`."""
    verdict = guard.check_request(request)
    return Checked(verdict.request or {}, *_why(guard, verdict))


def check_response(guard: Guard, response: Mapping[str, Any], request: Mapping[str, Any] | None) -> Checked:
    """Hold a response against the guard; see `Guard.check_response`."""
    verdict = guard.check_response(response, request)
    return Checked(verdict.response, *_why(guard, verdict))


class ReplyStream:
    """Holds a streamed response against the guard, and knows when the rest of it is no longer needed.

    Attributes:
        blocked: Why a choice was blocked, or None.
        message: The policy's message if one was.
        done: Every choice that was asked for is blocked.
    """

    def __init__(self, guard: Guard, request: Mapping[str, Any] | None = None) -> None:
        self._guard = guard
        self._stream = ResponseStream(guard, request)
        count = request.get("n") if request else None
        self._open = count if isinstance(count, int) else 1
        self.blocked: Verdict | None = None
        self.message: str | None = None

    @property
    def done(self) -> bool:
        return self._open <= 0

    def feed(self, chunk: Mapping[str, Any]) -> list[dict[str, Any]]:
        """See `ResponseStream.feed`."""
        return self._note(self._stream.feed(chunk))

    def close(self) -> list[dict[str, Any]]:
        """See `ResponseStream.close`."""
        return self._note(self._stream.close())

    def _note(self, chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        filtered = sum(c.get("finish_reason") == "content_filter" for chunk in chunks for c in chunk["choices"])
        if filtered:  # by this guard, or by the upstream's own filter
            self._open -= filtered
            self.blocked, self.message = _why(self._guard, self._stream.verdicts)
        return chunks


def _why(guard: Guard, verdicts: Verdicts) -> tuple[Verdict | None, str | None]:
    blocking = verdicts.blocking
    return (None, None) if blocking is None else (blocking.verdict, guard.message(blocking.verdict))
