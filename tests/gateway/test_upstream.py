"""The upstream's end of the gateway: what it makes of a server that keeps to no rule, and what it leaves behind."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from gateway_helpers import LOOPBACK

from safety_kit.errors import UserError
from safety_kit.gateway.backends import BackendError, Call
from safety_kit.gateway.backends.upstream import UpstreamBackend
from safety_kit.gateway.settings import Upstream

pytestmark = pytest.mark.allow_hosts(LOOPBACK)

CALL = Call("r-1")
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def whole(body: bytes = b'{"a": 1}', *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *headers, b"content-length: %d" % len(body), b"", body])


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


class Raw:
    """A server that sends bytes as they are; it notes what it was sent, and how many connections it has and had."""

    def __init__(self, *pieces: bytes, reads: bool = True) -> None:
        self.pieces, self.reads = pieces, reads
        self.heads: list[bytes] = []
        self.opened = self.open = 0
        self.asked, self.left = asyncio.Event(), asyncio.Event()
        self.end = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened, self.open = self.opened + 1, self.open + 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._serve(reader, writer)
        self.open -= 1
        self.left.set()
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.reads:
            await self.end.wait()
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if found := re.search(rb"(?i)content-length: (\d+)", head):
                await reader.readexactly(int(found[1]))
            self.heads.append(head)
            for piece in self.pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)  # each a packet of its own
            self.asked.set()


Test = Callable[[UpstreamBackend, Raw], Awaitable[None]]


@asynccontextmanager
async def listening(raw: Raw) -> AsyncIterator[int]:
    server = await asyncio.start_server(raw, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        raw.end.set()
        server.close()


def run(raw: Callable[[], Raw], test: Test, url: str = "http://127.0.0.1:{port}/v1", **settings: Any) -> None:
    async def main() -> None:
        made = raw()
        async with listening(made) as port, asyncio.timeout(20):
            options = {"connect_timeout": 1, "read_timeout": 0.3, "retries": 0, **settings}
            backend = UpstreamBackend(Upstream(url=url.format(port=port), **options))
            try:
                await test(backend, made)
            finally:
                await backend.close()

    asyncio.run(main())


async def streamed(backend: UpstreamBackend) -> list[dict[str, Any]]:
    return [chunk.body async for chunk in backend.stream_chat({}, CALL)]


@pytest.mark.parametrize("head", [EVENTS, CHUNKED])
def test_a_body_that_breaks_the_protocol_has_an_end(head: bytes) -> None:
    async def test(backend: UpstreamBackend, raw: Raw) -> None:
        with pytest.raises(BackendError) as failed:
            await (streamed(backend) if head is EVENTS else backend.chat({}, CALL))
        assert failed.value.code == "upstream_timeout"

    run(lambda: Raw(head, chunk(b'data: {"a": 1}\n\n'), b"ZZ\r\nno chunk\r\n"), test)


def test_a_request_that_is_not_read_has_an_end() -> None:
    async def test(backend: UpstreamBackend, raw: Raw) -> None:
        with pytest.raises(BackendError) as failed:
            await backend.chat({"messages": "a" * 30_000_000}, CALL)
        assert failed.value.status == 504

    run(lambda: Raw(reads=False), test)


@pytest.mark.parametrize(
    "answer",
    [
        whole(b"{}", b"x-large: " + b"a" * 100_000),
        b"HTTP/1.1 200 OK\r\n" + b"x-more: a\r\n" * 100_000,
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n" + CHUNKED.partition(b"\r\n")[2] + chunk(b"{}"),
        whole(b"{}", b"content-length: 3"),
        whole(b"{}", b"content-encoding: gzip"),
        b"HTTP/1.1 9999 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
    ],
    ids=["large header", "many headers", "two lengths", "another length", "gzip", "status", "no HTTP"],
)
def test_an_answer_that_is_none_is_a_fault(answer: bytes) -> None:
    async def test(backend: UpstreamBackend, raw: Raw) -> None:
        with pytest.raises(BackendError) as failed:
            await backend.chat({}, CALL)
        assert failed.value.status == 502

    run(lambda: Raw(answer), test)


def test_a_fault_of_tls_is_told_as_such_and_not_tried_again() -> None:
    class Plain(Raw):
        """Speaks HTTP where TLS is spoken to it."""

        async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad\r\n\r\n")
            await writer.drain()

    async def test(backend: UpstreamBackend, raw: Raw) -> None:
        with pytest.raises(BackendError) as failed:
            await backend.chat({}, CALL)
        assert (failed.value.code, raw.opened) == ("upstream_tls", 1)

    run(Plain, test, "https://127.0.0.1:{port}/v1", retries=2)


@pytest.mark.parametrize(
    "pieces",
    [(), (b"HTTP/1.1 400 Bad\r\ncontent-length: 99\r\n\r\n{",), (whole()[:-1],)],
    ids=["no answer", "half an error", "half a body"],
)
def test_a_call_that_is_cancelled_closes_its_connection(pieces: tuple[bytes, ...]) -> None:
    async def test(backend: UpstreamBackend, raw: Raw) -> None:
        call = asyncio.create_task(backend.chat({}, CALL))
        await raw.asked.wait()
        await asyncio.sleep(0.05)  # what was sent is read
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await raw.left.wait()

    run(lambda: Raw(*pieces), test, read_timeout=60)


def test_calls_and_streams_share_a_connection_that_ends_with_the_backend_and_no_cookie() -> None:
    events = chunk(b'data: {"a": 1}\n\n') + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    answer = EVENTS.replace(b"\r\n\r\n", b"\r\nset-cookie: who=ana; path=/\r\n\r\n") + events

    async def test(backend: UpstreamBackend, raw: Raw) -> None:
        for _ in range(3):
            assert await streamed(backend) == [{"a": 1}]
        assert (raw.opened, len(raw.heads)) == (1, 3)
        assert not any(b"cookie" in head.lower() for head in raw.heads)
        await backend.close()
        await raw.left.wait()
        assert raw.open == 0

    run(lambda: Raw(answer), test)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "ftp://127.0.0.1/v1"}, "url"),
        ({"url": "http://[::1/v1"}, "url"),
        ({"url": "http://127.0.0.1/v1?version=1"}, "url"),
        ({"url": "http://ana:secret@127.0.0.1/v1"}, "password"),
        ({"url": "http://127.0.0.1/v1", "api_key": "sk-secret\n"}, "line break"),
        ({"url": "http://127.0.0.1/v1", "api_key": "sk secret"}, "space"),
    ],
)
def test_an_address_that_cannot_be_called_is_told_at_the_start(settings: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        UpstreamBackend(Upstream.model_validate(settings))
    assert "secret" not in str(refused.value)


def test_a_proxy_of_the_environment_is_used_and_nothing_else_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials of ~/.netrc beside a key would make every call a fault; without one they would be sent."""
    (tmp_path / "netrc").write_text("default login ana password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    async def main() -> None:
        raw = Raw(whole())
        async with listening(raw) as port:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
            for key in ("sk-1", None):
                backend = UpstreamBackend(Upstream.model_validate({"url": "http://far.example/v1", "api_key": key}))
                assert await backend.chat({}, CALL) == {"a": 1}
                await backend.close()
        first, second = (head.lower() for head in raw.heads)
        assert first.startswith(b"post http://far.example/v1/chat/completions ")
        assert b"authorization: bearer sk-1\r\n" in first
        assert b"authorization" not in second

    asyncio.run(main())


def test_a_host_without_a_proxy_is_called_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    async def test(backend: UpstreamBackend, raw: Raw) -> None:
        assert await backend.chat({}, CALL) == {"a": 1}

    run(lambda: Raw(whole()), test)


def test_a_proxy_of_another_kind_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(UserError, match="HTTPS_PROXY"):
        UpstreamBackend(Upstream(url="https://far.example/v1"))
