"""Who may come in: places for work that shares one machine, given in the order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final, Literal, TypeAlias

from safety_kit.errors import Overloaded

Overload: TypeAlias = Literal["queue", "slow", "refuse"]
"""What becomes of one that finds no place: it waits for a time, for as long as it takes, or not at all."""

LONGEST_HINT: Final = 60.0
"""Seconds that a caller is told to wait, at most."""


class Admission:
    """A bounded room of one event loop.

    A place is had before any work is done, so a full room is known before there is a check that could fail. Whoever
    leaves while waiting is out of the line at once.

    Attributes:
        in_use: The sizes of all that are in.
    """

    def __init__(
        self, capacity: int, max_waiting: int, overload: Overload = "queue", patience: float = 30.0, what: str = "model"
    ) -> None:
        """Open a room.

        Args:
            capacity: What all that are in may measure together; one that is larger comes in alone.
            max_waiting: How many may wait.
            overload: What becomes of the next one when it is full.
            patience: Seconds that one waits under ``queue``.
            what: What it is that has no room, for the message.
        """
        self.in_use = 0
        self._capacity = capacity
        self._max_waiting = max_waiting
        self._overload = overload
        self._patience = patience
        self._what = what
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._held = 1.0  # seconds that a place was held, on average

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._line)

    @asynccontextmanager
    async def place(self, size: int = 1) -> AsyncIterator[None]:
        """A place, for as long as the block lasts.

        Args:
            size: What it measures: characters to be read, or 1.

        Raises:
            Overloaded: There is none.
        """
        await self._enter(size)
        begin = monotonic()
        try:
            yield
        finally:
            self._held += 0.1 * (monotonic() - begin - self._held)
            self._leave(size)

    async def _enter(self, size: int) -> None:
        if not self._line and self._fits(size):
            self.in_use += size
            return
        if self._overload == "refuse" or len(self._line) >= self._max_waiting:
            raise self._full()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((size, turn))
        try:
            await asyncio.wait_for(turn, self._patience if self._overload == "queue" else None)
        except BaseException as error:
            if (size, turn) in self._line:
                self._line.remove((size, turn))
            elif not turn.cancelled():  # it was called in at the moment at which it left
                self._leave(size)
            self._call_in()  # who stood behind it may be smaller
            if isinstance(error, TimeoutError):
                raise self._full() from None
            raise

    def _fits(self, size: int) -> bool:
        return self.in_use == 0 or self.in_use + size <= self._capacity

    def _leave(self, size: int) -> None:
        self.in_use -= size
        self._call_in()

    def _call_in(self) -> None:
        while self._line and self._fits(self._line[0][0]):
            size, turn = self._line.popleft()
            if not turn.done():  # else it is leaving
                self.in_use += size
                turn.set_result(None)

    def _full(self) -> Overloaded:
        hint = min(LONGEST_HINT, max(1.0, round(self._held)))
        return Overloaded(f"The {self._what} has no room for more requests now; try again in {hint:.0f} s.", hint)
