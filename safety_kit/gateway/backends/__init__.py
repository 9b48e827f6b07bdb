"""Who generates: an upstream server, or a Gemma in this process. A backend judges nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Call:
    """What a backend may know of its caller.

    Attributes:
        request_id: Of the request.
        caller_key: The caller's own key, for a backend that passes it on; None where there is none.
        headers: More to send on; none by default.
    """

    request_id: str
    caller_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed reply.

    Attributes:
        body: A ``chat.completion.chunk``, or a ``text_completion`` chunk.
        hidden: Where the backend is the guard's own Gemma: activations of this chunk's one token, 1 × d, by block.
    """

    body: dict[str, Any]
    hidden: Mapping[int, Any] | None = field(default=None, repr=False)


class BackendError(Exception):
    """A backend could not answer.

    Attributes:
        status: HTTP status for the client.
        code: For programs.
        message: Safe to show: nothing of texts, keys or what the backend said in its own words.
        retry_after: Seconds until it is worth another try, where that is known.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after


class Backend(Protocol):
    """Generates what is asked for. A call that is cancelled, or a stream that is closed, ends its generation.

    Every method may raise `BackendError`; a stream may do so in its middle.

    Attributes:
        name: For people.
        brings_activations: Its streams bring what the guard's probes read; a whole answer is then a drained stream.
    """

    name: str
    brings_activations: bool

    async def models(self) -> list[dict[str, Any]]:
        """The models as ``/v1/models`` lists them."""
        ...

    async def chat(self, request: Mapping[str, Any], call: Call) -> dict[str, Any]:
        """A whole chat completion."""
        ...

    def stream_chat(self, request: Mapping[str, Any], call: Call) -> AsyncIterator[Chunk]:
        """The chunks of one. An end without an error means that the reply is complete."""
        ...

    async def complete(self, request: Mapping[str, Any], call: Call) -> dict[str, Any]:
        """A whole text completion."""
        ...

    def stream_complete(self, request: Mapping[str, Any], call: Call) -> AsyncIterator[Chunk]:
        """The chunks of one."""
        ...

    async def ready(self) -> bool:
        """Whether it can be asked now."""
        ...

    async def close(self) -> None:
        """Let go of everything; nothing is asked afterwards."""
        ...
