"""A balancer as small as can be: each connection goes to the next replica in turn that takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

PIECE = 65_536


@dataclass
class Balancer:
    """Copies bytes between its clients and replicas on the loopback.

    Attributes:
        ports: Of the replicas.
        url: Where it listens; set by `running`.
        went: By the client's port, the number of the replica that its connection went to.
        open: Ports of the clients whose connections are open, by replica.
    """

    ports: Sequence[int]
    url: str = ""
    went: dict[int, int] = field(default_factory=dict)
    open: dict[int, set[int]] = field(default_factory=dict)
    _turn: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its beginning to its end."""
        client = writer.get_extra_info("peername")[1]
        self._turn = turn = self._turn + 1
        for i in range(len(self.ports)):
            number = (turn + i) % len(self.ports)
            try:
                there, back = await asyncio.open_connection("127.0.0.1", self.ports[number])
                break
            except OSError:
                continue
        else:
            writer.close()
            return
        self.went[client] = number
        here = self.open.setdefault(number, set())
        here.add(client)
        asking = asyncio.ensure_future(_copy(reader, back))
        try:
            broke = await _copy(there, writer)
        finally:
            asking.cancel()
            here.discard(client)
            back.close()
        if broke:
            writer.transport.abort()
        else:
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether it ended because a side broke."""
    try:
        while piece := await reader.read(PIECE):
            writer.write(piece)
            await writer.drain()
        with suppress(OSError):
            if writer.can_write_eof():
                writer.write_eof()
    except OSError:
        return True
    return False


@asynccontextmanager
async def running(ports: Sequence[int]) -> AsyncIterator[Balancer]:
    """A balancer in this event loop, in front of replicas at these ports."""
    balancer = Balancer(ports)
    server = await asyncio.start_server(balancer.serve, "127.0.0.1", 0)
    balancer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield balancer
