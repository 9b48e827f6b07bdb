"""A chat completion on the wire, held against a guard: JSON bodies and server-sent events in and out, no I/O."""

from __future__ import annotations

import json
from typing import Any, Final

from safety_kit.chat.answers import blocked_chat, error_body
from safety_kit.chat.events import DONE, EventReader, event
from safety_kit.errors import ConversationError
from safety_kit.guard import Guard
from safety_kit.integrations._chat import ReplyStream, check_request, check_response

_UNREADABLE: Final = (ConversationError, ValueError, RecursionError)
"""What reading a body raises that is no JSON, or no completion."""


class Refused(Exception):
    """What to answer instead of sending the request: a status, the type of the content, and the content."""

    def __init__(self, status: int, kind: str, content: bytes) -> None:
        super().__init__(status)
        self.status, self.kind, self.content = status, kind, content


class Exchange:
    """One request and its reply."""

    def __init__(self, guard: Guard, raises: bool) -> None:
        """Begin.

        Args:
            guard: What to hold both against.
            raises: A block is an error of the API with the code ``content_filter``, instead of a completion.
        """
        self._guard = guard
        self._raises = raises
        self._request: dict[str, Any] | None = None
        self._chunks = ReplyStream(guard)
        self._events = EventReader()
        self.over = False

    def request(self, content: bytes) -> bytes:
        """The body that may be sent.

        Raises:
            Refused: Nothing may be sent.
        """
        try:
            body = json.loads(content)
            checked = check_request(self._guard, body)
        except _UNREADABLE as error:
            raise error_of(f"The guard cannot read this request. {_place(error)}", "not_guarded") from error
        if checked.message is None:
            self._request, self._chunks = checked.value, ReplyStream(self._guard, checked.value)
            return json.dumps(checked.value).encode()
        if self._raises:
            raise error_of(checked.message, "content_filter")
        raise _completion(body, checked.message)

    def response(self, content: bytes) -> bytes:
        """The body of a reply that came whole, as it may be read.

        Raises:
            Refused: It was blocked, or is no completion.
        """
        try:
            checked = check_response(self._guard, json.loads(content), self._request)
        except _UNREADABLE as error:
            raise error_of(f"The guard cannot read this reply. {_place(error)}", "not_guarded") from error
        if checked.message is not None and self._raises:
            raise error_of(checked.message, "content_filter")
        return json.dumps(checked.value).encode()

    def feed(self, content: bytes) -> bytes:
        """More of an event stream; the events that may be read now."""
        try:
            return b"".join([self._read(data) for data in self._events.feed(content)])
        except ConversationError as error:
            return self._fail(f"The guard cannot read this stream. {error}", "not_guarded")

    def end(self) -> bytes:
        """The stream is over, with or without its last mark."""
        return b"".join([*(self._read(data) for data in self._events.end()), self._finish()])

    def _read(self, data: bytes) -> bytes:
        if self.over:
            return b""
        if data == DONE:
            return self._finish()
        try:
            chunk = json.loads(data)
            if isinstance(chunk, dict) and "error" in chunk:  # the upstream's own fault: clients raise it
                self.over = True
                return event({"error": chunk["error"]})
            out = self._pass(self._chunks.feed(chunk))
        except _UNREADABLE as error:
            return self._fail(f"The guard cannot read this stream. {_place(error)}", "not_guarded")
        return out + (self._finish() if self._chunks.done else b"")

    def _finish(self) -> bytes:
        if self.over:
            return b""
        events = self._pass(self._chunks.close())
        self.over = True
        return events + event(DONE)

    def _pass(self, chunks: list[dict[str, Any]]) -> bytes:
        if self._raises and self._chunks.message is not None:
            return self._fail(self._chunks.message, "content_filter")
        return b"".join(map(event, chunks))

    def _fail(self, message: str, code: str) -> bytes:
        self.over = True
        return event(error_body(message, code))


def error_of(message: str, code: str) -> Refused:
    """An answer that clients raise as a bad request, which they do not repeat."""
    return Refused(400, "application/json", json.dumps(error_body(message, code)).encode())


def _place(error: Exception) -> str:
    """Where it went wrong; other messages than the kit's own may quote the text."""
    return str(error) if isinstance(error, ConversationError) else "It is no JSON."


def _completion(request: dict[str, Any], message: str) -> Refused:
    """The completion of a request that was blocked."""
    reply = blocked_chat(request, message)
    if request.get("stream"):
        return Refused(200, "text/event-stream", event(reply) + event(DONE))
    return Refused(200, "application/json", json.dumps(reply).encode())
