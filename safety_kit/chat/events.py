"""Server-sent events, as chat completions are streamed in: bytes in, the events' data out, and back. No I/O."""

from __future__ import annotations

import json
from typing import Any, Final

from safety_kit.errors import ConversationError

DONE: Final = b"[DONE]"
"""The data of the event that ends a stream."""

MAX_EVENT: Final = 16_000_000
"""Bytes of one event; more are refused."""


class EventReader:
    """Reads events from bytes, however these were cut."""

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._line: list[bytes] = []  # that is not yet whole
        self._data: list[bytes] = []  # of the event that is not yet whole
        self._size = 0

    def feed(self, content: bytes) -> list[bytes]:
        """Read on: the data of the events that are now whole.

        Raises:
            ConversationError: An event is larger than the limit.
        """
        first, *lines = content.split(b"\n")
        self._keep(first)
        events = []
        for line in lines:
            if (data := self._read(b"".join(self._line).removesuffix(b"\r"))) is not None:
                events.append(data)
            self._line = []
            self._keep(line)
        return events

    def end(self) -> list[bytes]:
        """There is no more: the data of an event that was not closed."""
        line, self._line = b"".join(self._line), []
        return [data for data in (self._read(line), self._read(b"")) if data is not None]

    def _keep(self, piece: bytes) -> None:
        self._line.append(piece)
        self._size += len(piece)
        if self._size > self._limit:
            raise ConversationError(f"An event of the stream has more than {self._limit} bytes.")

    def _read(self, line: bytes) -> bytes | None:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        if line:
            return None
        data, self._data, self._size = self._data, [], 0
        return b"\n".join(data) if data else None


def event(data: Any) -> bytes:
    """An event: a JSON value, or bytes as they are."""
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"
