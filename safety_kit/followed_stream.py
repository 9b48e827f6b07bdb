"""A stream whose text comes from elsewhere, released as it goes: a follower reads it with the guard's own model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from safety_kit.errors import Overloaded
from safety_kit.stream import Released, StreamGuard

if TYPE_CHECKING:
    from safety_kit.gemma.trace import TraceView
    from safety_kit.types import Verdict


class TextFollower(Protocol):
    """Reads one growing text; `safety_kit.follow.Follower` is one."""

    def feed(self, text: str) -> Sequence[tuple[str, Mapping[int, Any]]]:
        """The tokens that are now final: their texts, which joined are what was fed, and their activations."""
        ...

    def close(self) -> Sequence[tuple[str, Mapping[int, Any]]]:
        """The last of them."""
        ...

    def trace(self, text: str) -> TraceView:
        """A whole text, read in the same way."""
        ...


Follow: TypeAlias = Callable[[str | None], TextFollower]
"""Makes a follower for a reply to this message."""


class FollowedStream:
    """A `StreamGuard` whose tokens and activations a follower provides.

    Whatever the chunks, the released text is the same, and so is the verdict but for the rounding of its scores; when
    nothing is blocked, they are those of `Guard.check` on the whole with the follower's own trace.
    """

    def __init__(self, stream: StreamGuard, follower: TextFollower) -> None:
        """Join the two.

        Args:
            stream: With activations; nothing was fed to it yet.
            follower: Of the same reply.
        """
        self._stream = stream
        self._follower: TextFollower | None = follower
        self._unread = ""  # what the follower has and did not give back

    @property
    def verdict(self) -> Verdict | None:
        """See `StreamGuard.verdict`."""
        return self._stream.verdict

    @property
    def released(self) -> str:
        """See `StreamGuard.released`."""
        return self._stream.released

    @property
    def held(self) -> int:
        """Characters that came and are not released."""
        return self._stream.held + len(self._unread)

    def feed(self, text: str, hidden: Mapping[int, Any] | None = None) -> Released:
        """Read on; activations that come along are not needed.

        Raises:
            Overloaded: The model has no room, which is no fault of the text.
        """
        return self._read(lambda follower: follower.feed(text), text)

    def close(self) -> Released:
        """The reply is complete: release or withhold the rest, and decide."""
        read = self._read(lambda follower: follower.close())
        last = self._stream.close()
        return Released(read.text + last.text, last.verdict)

    def _read(
        self, read: Callable[[TextFollower], Sequence[tuple[str, Mapping[int, Any]]]], text: str = ""
    ) -> Released:
        if self._stream.verdict is not None:
            return Released("", self._stream.verdict)
        if self._follower is None:
            return self._stream.feed(text)
        self._unread += text
        try:
            tokens = read(self._follower)
        except Overloaded:
            raise
        except Exception as error:
            self._follower = None
            self._stream.lose_activations(error)
            unread, self._unread = self._unread, ""
            return self._stream.feed(unread)
        parts = []
        for piece, hidden in tokens:
            parts.append(self._stream.feed(piece, hidden).text)
            self._unread = self._unread[len(piece) :]
        if self._stream.verdict is not None:
            self._follower = None  # and its cache with it
        return Released("".join(parts), self._stream.verdict)
