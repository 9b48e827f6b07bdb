"""What the gateway's tests share: a real server on loopback, and raw connections to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn

from safety_kit.gateway.connection import server_options
from safety_kit.gateway.intake import TurnedAway, in_front
from safety_kit.gateway.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp


@dataclass(frozen=True)
class Served:
    """A gateway that listens."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def raw(self, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which something was sent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        await writer.drain()
        return reader, writer


@asynccontextmanager
async def served(app: ASGIApp, turned_away: TurnedAway = lambda *_: None, **overrides: Any) -> AsyncIterator[Served]:
    """An application behind the doors, under uvicorn on a free port; `overrides` as for `Settings.load`."""
    settings = Settings.load(None, {"port": 0, **overrides}, {})
    doors = in_front(app, settings, turned_away)
    server = uvicorn.Server(uvicorn.Config(doors, **server_options(settings, turned_away)))
    running = asyncio.create_task(server.serve())
    while not server.started and not running.done():
        await asyncio.sleep(0.005)
    try:
        yield Served(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = server.force_exit = True
        await running
