"""A client for load: one connection a request and little work, so that it measures the server and not itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools

TIMEOUT = 120.0
EMPTY = (b'"content": ""', b'"content":""', b'"content": null', b'"content":null')
ERROR = (b'"error": {', b'"error":{')


@dataclass(slots=True)
class Answer:
    """What came back for one request; times are seconds since it was sent.

    Attributes:
        status: Of HTTP; 0 where none came.
        first_byte: Until the first byte of the body.
        first_text: Until the first event that holds text.
        whole: Until its end.
        events: How many server-sent events.
        done: Whether it came to its own end: ``[DONE]``, or the last byte of what is no stream.
        error: An error that the server told in the stream, or the client's: a connection that broke.
        body: All of it, where the caller asked for that.
        port: The client's own.
    """

    status: int = 0
    first_byte: float | None = None
    first_text: float | None = None
    whole: float = 0.0
    events: int = 0
    done: bool = False
    error: str | None = None
    body: bytearray = field(default_factory=bytearray)
    port: int = 0

    @property
    def good(self) -> bool:
        return self.status == 200 and self.done and self.error is None


class _Reader(asyncio.Protocol):
    """Reads one response."""

    def __init__(self, keep: bool) -> None:
        self.answer = Answer()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._keep = keep
        self._tail = b""
        self.begin = time.perf_counter()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"not HTTP: {type(error).__name__}")

    def on_status(self, _: bytes) -> None:
        self.answer.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        now = time.perf_counter() - self.begin
        answer = self.answer
        if answer.first_byte is None:
            answer.first_byte = now
        if self._keep:
            answer.body += body
        body = self._tail + body
        answer.events += body.count(b"data: ")
        if answer.first_text is None and b'"content"' in body:
            whole = body.count(b'"content"')
            if whole > sum(map(body.count, EMPTY)):
                answer.first_text = now
        if any(sign in body for sign in ERROR):
            answer.error = "the server told an error"
        if b"data: [DONE]" in body:
            answer.done = True
        cut = body.rfind(b"\n") + 1
        self._tail = body[cut:]
        answer.events -= self._tail.count(b"data: ")

    def on_message_complete(self) -> None:
        if self.answer.events == 0:
            self.answer.done = self.answer.status == 200
        self._end(None if self.answer.done or self.answer.error else "ended without [DONE]")

    def connection_lost(self, _: Exception | None) -> None:
        self._end("the connection broke")

    def _end(self, error: str | None) -> None:
        if not self.ended.done():
            self.answer.whole = time.perf_counter() - self.begin
            self.answer.error = self.answer.error or error
            self.ended.set_result(None)


async def ask(
    url: str,
    body: Mapping[str, Any],
    *,
    path: str = "/chat/completions",
    key: str | None = None,
    keep: bool = False,
    timeout: float = TIMEOUT,
) -> Answer:
    """Send one request and read its answer; what goes wrong stands in the answer.

    Args:
        url: Base URL, such as ``http://127.0.0.1:8080/v1``.
        body: The request.
        path: Behind the base.
        key: Sent as a bearer token.
        keep: Keep the body.
        timeout: Seconds for all of it.
    """
    to = urlsplit(url)
    content = json.dumps(body).encode()
    head = (
        f"POST {to.path}{path} HTTP/1.1\r\nhost: {to.netloc}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\nconnection: close\r\n"
    ) + (f"authorization: Bearer {key}\r\n" if key else "")
    answer, begin = Answer(), time.perf_counter()
    try:
        async with asyncio.timeout(timeout):
            loop = asyncio.get_running_loop()
            transport, reader = await loop.create_connection(lambda: _Reader(keep), to.hostname or "", to.port or 80)
            answer, reader.begin = reader.answer, begin
            answer.port = transport.get_extra_info("sockname")[1]
            try:
                transport.write(head.encode() + b"\r\n" + content)
                await reader.ended
            finally:
                transport.abort()
    except TimeoutError:
        answer.error = "no end in time"
    except OSError as error:
        answer.error = f"no answer: {type(error).__name__}"
    if not answer.whole:
        answer.whole = time.perf_counter() - begin
    return answer
