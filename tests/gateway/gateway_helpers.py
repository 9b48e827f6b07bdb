"""What the tests of the gateway share: a fake upstream and a gateway, each served on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from integration_helpers import POLICY, chunks, completion
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from safety_kit.errors import PolicyError
from safety_kit.gateway.app import create_app
from safety_kit.gateway.backends.upstream import UpstreamBackend
from safety_kit.gateway.intake import in_front
from safety_kit.gateway.record import Record
from safety_kit.gateway.services import Services
from safety_kit.gateway.settings import Settings, Upstream
from safety_kit.gateway.workers import Workers
from safety_kit.guard import Guard
from safety_kit.policy import Policy

LOOPBACK = ["127.0.0.1"]


@contextmanager
def served(app: Any, **options: Any) -> Iterator[str]:
    """An application on a free port of loopback: its address, while it is served."""
    config = uvicorn.Config(app, port=0, log_level="critical", ws="none", timeout_graceful_shutdown=2, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    started = threading.Event()
    startup = server.startup

    async def start(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = start  # type: ignore[method-assign]
    thread.start()
    try:
        assert started.wait(20)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


Answer = Callable[[dict[str, Any], Request], Awaitable[Response]]


@dataclass
class FakeUpstream:
    """An OpenAI-compatible server that notes what it is asked, and answers as a test wants."""

    answer: Answer | None = None
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models),
            ]
        )

    def says(self, *texts: str | None, tool: str | None = None) -> None:
        """Answer with these choices, whole or as a stream of three characters a chunk."""

        async def answer(body: dict[str, Any], request: Request) -> Response:
            if not body.get("stream"):
                return JSONResponse(completion(*texts, tool=tool))
            return self.stream(
                [
                    chunk
                    for i, text in enumerate(texts)
                    for chunk in chunks(pieces(text or ""), pieces(tool) if tool else (), i)
                ]
            )

        self.answer = answer

    def stream(self, events: Sequence[Any], *, done: bool = True) -> Response:
        """A stream of these events; bytes are sent as they are."""

        async def body() -> AsyncIterator[bytes]:
            for event in events:
                yield event if isinstance(event, bytes) else f"data: {json.dumps(event)}\n\n".encode()
            if done:
                yield b"data: [DONE]\n\n"

        return StreamingResponse(body(), media_type="text/event-stream")

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body)
        self.headers.append(dict(request.headers))
        assert self.answer is not None
        return await self.answer(body, request)

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "tiny", "owned_by": "two words"}, {"id": "a b"}]})


def pieces(text: str, size: int = 3) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


@dataclass
class Memory:
    """A recorder that keeps records in memory, or fails."""

    records: list[Record] = field(default_factory=list)
    fails: bool = False
    written: threading.Event = field(default_factory=threading.Event)

    def write(self, record: Record) -> None:
        if self.fails:
            raise OSError(28, "No space left on device")
        self.records.append(record)
        self.written.set()

    def check(self) -> None:
        if self.fails:
            raise OSError(28, "No space left on device")

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class OneGuard:
    """One policy for all."""

    one: Guard

    def guard(self, policy: str | None = None) -> Guard:
        if policy is not None and policy != self.one.policy.name:
            raise PolicyError(f"There is no policy {policy!r}.")
        return self.one


def services(upstream: str, guard: Guard | None = None, *, settings: Upstream | None = None, **more: Any) -> Services:
    backend = UpstreamBackend(settings or Upstream(url=f"{upstream}/v1"))
    return Services(OneGuard(guard or Guard(Policy.parse(POLICY))), backend, Workers(4), **more)


@contextmanager
def gateway(made: Services, settings: Settings | None = None) -> Iterator[str]:
    """A gateway of these parts, served."""
    told = settings or Settings()
    app = create_app(told, made)
    with served(in_front(app, told, app.state.turned_away, app.state.known), lifespan="on") as address:
        yield address
