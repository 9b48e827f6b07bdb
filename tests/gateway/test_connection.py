"""Slow, endless and half-closed clients, against uvicorn on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
from gateway_server import Served, served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from safety_kit.gateway import connection
from safety_kit.gateway.intake import TurnedAway

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

HEAD = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
WHOLE = HEAD + b"content-length: 2\r\n\r\n{}"


class App:
    """An application that notes what reaches it and what became of its streams."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.go = asyncio.Event()
        self.streaming = asyncio.Event()
        self.left = asyncio.Event()
        routes = [
            Route("/echo", self.echo, methods=["POST"]),
            Route("/stream", self.stream),
            Route("/slow", self.slow, methods=["POST"]),
        ]
        self.asgi = Starlette(routes=routes)

    async def echo(self, request: Request) -> Response:
        self.bodies.append(await request.body())
        return JSONResponse({"ok": True})

    async def slow(self, request: Request) -> Response:
        await self.go.wait()
        return await self.echo(request)

    async def stream(self, _: Request) -> Response:
        async def endless() -> AsyncIterator[bytes]:
            try:
                while True:
                    self.streaming.set()
                    yield b"x" * 65_536
                    await asyncio.sleep(0)
            finally:
                self.left.set()

        return StreamingResponse(endless())


def run(
    test: Callable[[App, Served], Awaitable[None]], turned_away: TurnedAway = lambda *_: None, **limits: Any
) -> None:
    async def main() -> None:
        app = App()
        options = {f"limits.{name}": value for name, value in {"header_timeout": 0.2, **limits}.items()}
        async with served(app.asgi, turned_away, **options) as server:
            await test(app, server)
            async with httpx.AsyncClient(base_url=server.url) as client:
                assert (await client.post("/echo", json={})).status_code == 200  # whatever came, it is still there

    asyncio.run(main())


async def answer(reader: asyncio.StreamReader) -> tuple[int, str]:
    """Status and error code of all that comes until the server ends the connection."""
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b"server:" not in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]["code"]


async def ended(reader: asyncio.StreamReader) -> None:
    """The connection has come to its end, in whichever way."""
    with suppress(ConnectionResetError):
        await reader.read()


@pytest.mark.parametrize("sent", [b"", b"POST /echo HTT", HEAD, b"\r\n"])
def test_headers_that_do_not_come_have_an_end(sent: bytes) -> None:
    async def test(_: App, server: Served) -> None:
        reader, _writer = await server.raw(sent)
        assert await answer(reader) == (408, "timeout")

    run(test)


@pytest.mark.parametrize(
    ("first", "piece"), [(b"POST /", b"a"), (HEAD + b"x-slow: ", b"a"), (b"", b"\r\n"), (WHOLE, b"\r\n")]
)
def test_a_byte_now_and_then_does_not_prolong_it(first: bytes, piece: bytes) -> None:
    async def test(_: App, server: Served) -> None:
        reader, writer = await server.raw(first)

        async def drip() -> None:
            while True:
                writer.write(piece)
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        await ended(reader)
        dripping.cancel()

    run(test)


def test_a_body_that_does_not_come_is_answered_and_its_connection_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "GRACE", 0.3)

    async def test(app: App, server: Served) -> None:
        reader, _writer = await server.raw(HEAD + b"content-length: 100\r\n\r\n{")
        assert b" 408 " in await reader.readuntil(b"\r\n")
        await ended(reader)
        assert app.bodies == []

    run(test)


def test_headers_without_end_are_refused() -> None:
    async def test(_: App, server: Served) -> None:
        sent = HEAD + b"x-long: "
        reader, writer = await server.raw(sent)
        writer.write(b"a" * (connection.HEAD - len(sent) + 1))
        assert await answer(reader) == (431, "headers_too_large")

    run(test, header_timeout=20)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (HEAD + b"x-long: " + b"a" * connection.HEAD, 431, "headers_too_large"),
        (HEAD, 408, "timeout"),
        (b"\x16\x03\x01 hello\r\n\r\n", 400, "invalid_http"),
    ],
)
def test_what_is_refused_before_it_is_a_request_is_told(sent: bytes, status: int, code: str) -> None:
    told: list[tuple[str, int, str]] = []

    async def test(_: App, server: Served) -> None:
        reader, _writer = await server.raw(sent)
        assert await answer(reader) == (status, code)

    run(test, lambda path, _id, status, code: told.append((path, status, code)))
    assert told == [("", status, code)]


def test_chunks_that_carry_next_to_nothing_are_cut_off() -> None:
    async def test(app: App, server: Served) -> None:
        reader, writer = await server.raw(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(20):
            writer.write(b"1;" + b"e" * 10_000 + b"\r\nx\r\n")
        await ended(reader)
        assert app.bodies == []

    run(test, header_timeout=20, body=1000)


async def no_length(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 65_536):
        yield b" " * 65_536


@pytest.mark.parametrize("chunked", [False, True])
def test_fifty_megabytes_are_refused_and_the_client_reads_why(chunked: bool) -> None:
    async def test(app: App, server: Served) -> None:
        size = 50 * 2**20
        async with httpx.AsyncClient(base_url=server.url, headers={"content-type": "application/json"}) as client:
            for _ in range(2):  # the second on the same connection
                reply = await client.post("/echo", content=no_length(size) if chunked else b" " * size)
                assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
        assert app.bodies == []

    run(test, header_timeout=20)


def test_connections_are_counted() -> None:
    async def test(_: App, server: Served) -> None:
        first, second = await server.raw(WHOLE), await server.raw(WHOLE)
        for reader, _writer in (first, second):
            assert b"200 OK" in await reader.readuntil(b"\r\n")
        reader, _writer = await server.raw(b"")
        assert await answer(reader) == (503, "overloaded")
        for reader, writer in (first, second):
            writer.close()
            await reader.read()

    run(test, connections=2, header_timeout=20, keep_alive=20)


def test_a_client_that_reads_nothing_is_cut_off() -> None:
    async def test(app: App, server: Served) -> None:
        _reader, writer = await server.raw(b"GET /stream HTTP/1.1\r\nhost: localhost\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await app.left.wait()

    run(test, reply_timeout=0.2)


def test_a_half_closed_body_reaches_nobody() -> None:
    async def test(app: App, server: Served) -> None:
        reader, writer = await server.raw(HEAD + b"content-length: 100\r\n\r\n{")
        writer.write_eof()
        assert await reader.read() == b""
        assert app.bodies == []

    run(test, header_timeout=20)


def test_a_half_closed_stream_ends() -> None:
    async def test(app: App, server: Served) -> None:
        _reader, writer = await server.raw(b"GET /stream HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await app.streaming.wait()
        writer.write_eof()
        await app.left.wait()

    run(test)


def test_what_is_no_http_is_told_so() -> None:
    async def test(_: App, server: Served) -> None:
        reader, _writer = await server.raw(b"\x16\x03\x01 hello\r\n\r\n")
        assert await answer(reader) == (400, "invalid_http")

    run(test)


def test_a_request_that_waits_for_its_turn_is_not_cut_off() -> None:
    async def test(app: App, server: Served) -> None:
        reader, writer = await server.raw(WHOLE.replace(b"/echo", b"/slow") + HEAD)
        await asyncio.sleep(0.5)  # longer than headers may take
        writer.write(b'content-length: 7\r\n\r\n{"a":1}')
        app.go.set()
        for _ in range(2):
            assert b"200 OK" in await reader.readuntil(b"\r\n")
            await reader.readuntil(b"true}")
        assert app.bodies == [b"{}", b'{"a":1}']

    run(test)
