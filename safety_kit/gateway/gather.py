"""Reading a stream ahead: what has come while its reader was busy is handed over at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")

MOST: Final = 64
"""Items that are read ahead; then the source waits, and with it whoever sends."""


class Gathered(Generic[T]):
    """An iterator over lists of what has come since the last one, in order; each has at least one item.

    The source is read in a task of its own, so that a reader that is slow (a check in a thread) gets several items at
    once instead of paying its price for each.
    """

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source = source
        self._items: deque[T] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._error: BaseException | None = None
        self._task = asyncio.create_task(self._read())
        self._task.add_done_callback(lambda _: self._changed.set())

    def __aiter__(self) -> Gathered[T]:
        return self

    async def __anext__(self) -> list[T]:
        await self.begin()
        if not self._items:
            if self._error is not None:
                raise self._error
            raise StopAsyncIteration
        items = list(self._items)
        self._items.clear()
        self._room.set()
        return items

    async def begin(self) -> None:
        """Wait until there is something to hand over, or the source has ended; a fault before that is raised."""
        while not self._items and not self._task.done():
            self._changed.clear()
            await self._changed.wait()
        if not self._items and self._error is not None:
            raise self._error

    async def close(self) -> None:
        """Read no more, and let the source clean up."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _read(self) -> None:
        try:
            async for item in self._source:
                self._items.append(item)
                self._changed.set()
                while len(self._items) >= MOST:
                    self._room.clear()
                    await self._room.wait()
        except Exception as error:
            self._error = error
        except BaseException as error:  # cancelled: whoever reads on shall not take it for the end
            self._error = error
            raise
        finally:
            if (close := getattr(self._source, "aclose", None)) is not None:
                await close()
