"""A streamed reply: chunks of a backend in, chunks for the client out, the last of them kept until all is decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safety_kit.chat.exchange import Verdicts
from safety_kit.chat.restore import DeltaRestorer
from safety_kit.gateway.backends import Chunk
from safety_kit.gateway.dialects import ReplyChunks
from safety_kit.types import Verdict

Json = dict[str, Any]


class Reply:
    """The state of one reply. Its methods compute; call them in a thread, one after the other.

    Attributes:
        blocked: Why a choice was blocked by the guard; None while none is.
        done: Every choice that was asked for is blocked: the rest need not be generated.
        held: The most characters that were held back at once.
    """

    def __init__(self, stream: ReplyChunks, restorer: DeltaRestorer | None, choices: int) -> None:
        """Begin.

        Args:
            stream: The reply under the guard.
            restorer: Of the conversation's placeholders; None where it has none.
            choices: How many were asked for.
        """
        self._stream = stream
        self._restorer = restorer
        self._open = choices
        self._last: Json | None = None
        self.blocked: Verdict | None = None
        self.held = 0

    @property
    def done(self) -> bool:
        return self._open <= 0

    @property
    def verdicts(self) -> Verdicts:
        """What was decided so far; all of it once it is closed."""
        return self._stream.verdicts

    def feed(self, chunks: Sequence[Chunk]) -> list[Json]:
        """Read on: the chunks that may be sent now.

        Raises:
            ConversationError: What came is no chunk; nothing more may be sent.
        """
        out: list[Json] = []
        for chunk in chunks:
            out += self._stream.feed(chunk.body, chunk.hidden)
            self.held = max(self.held, self._stream.held)
        return self._pass(out)

    def close(self) -> list[Json]:
        """The backend has no more: the rest, without the last chunk."""
        return self._pass(self._stream.close(), final=True)

    def last(self, told: Json) -> Json:
        """The last chunk, with what is told of the verdicts."""
        return {**(self._last or {"object": "chat.completion.chunk", "choices": []}), **told}

    def _pass(self, chunks: list[Json], *, final: bool = False) -> list[Json]:
        filtered = sum(c["finish_reason"] == "content_filter" for chunk in chunks for c in chunk["choices"])
        if filtered:  # by this guard, or by the backend's own filter
            self._open -= filtered
            blocking = self._stream.verdicts.blocking
            self.blocked = blocking.verdict if blocking else None
        if self._restorer is not None:
            chunks = [self._restorer.feed(chunk) for chunk in chunks]
            chunks += self._restorer.close() if final else []
        out: list[Json] = []
        for chunk in chunks:
            if self._last is not None:
                out.append(self._last)
            ends = all(choice["finish_reason"] is not None for choice in chunk["choices"])
            self._last = chunk if ends else None
            if not ends:
                out.append(chunk)
        return out
