"""A connection that does not wait for ever: what uvicorn leaves open to slow clients is closed here.

uvicorn's own settings bound an idle connection (`timeout_keep_alive`) and, for h11 alone, the size of the headers
(`h11_max_incomplete_event_size`). Under httptools headers may grow without end, and under both a client may take any
time for its headers, its body and the reading of its reply; `limit_concurrency` answers 503 only once a request's
headers are there, and as plain text. Each of these has an end here.
"""

from __future__ import annotations

import asyncio
import json
from asyncio.events import TimerHandle
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from safety_kit.gateway.errors import error_body, error_type
from safety_kit.gateway.intake import TurnedAway
from safety_kit.gateway.settings import Limits, Settings
from safety_kit.guard import new_request_id

HEAD: Final = 65_536
"""Bytes of a request's line and headers."""
GRACE: Final = 2.0
"""Seconds that a body has beyond its time, so that the 408 of `Intake` arrives before the connection ends."""


def server_options(settings: Settings, turned_away: TurnedAway = lambda *_: None) -> dict[str, Any]:
    """What `uvicorn.Config` is told beside the application; `turned_away` as of `Intake`.

    Forwarded addresses are believed from `settings.proxies` alone: an address that a client may choose is none to count
    its requests by.
    """
    limits = settings.limits
    return {
        "host": settings.host,
        "port": settings.port,
        "http": partial(Connection, limits=limits, turned_away=turned_away),
        "ws": "none",
        "lifespan": "on",
        "server_header": False,
        "proxy_headers": bool(settings.proxies),
        "forwarded_allow_ips": list(settings.proxies),
        "access_log": False,
        "log_config": None,
        "timeout_keep_alive": limits.keep_alive,
        "timeout_graceful_shutdown": max(1, round(limits.drain)),
        "backlog": limits.connections,
    }


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with a bound on connections, on headers, and on the time that a client may take.

    One timer runs while the client has to send: first its headers, then its body, even one that was refused and is only
    thrown away. Another runs while it leaves what was sent to it unread.
    """

    def __init__(self, *args: Any, limits: Limits, turned_away: TurnedAway, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._turned_away = turned_away
        self._sending: TimerHandle | None = None
        self._unread: TimerHandle | None = None
        self._in_head = True
        self._spent = 0  # bytes of the message that are no body: headers, chunk sizes, trailers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._refuse(503, "Too many connections are open; try again later.", "overloaded", retry_after=1)
        else:
            self._await_client(self._limits.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._sending, self._unread):
            if timer is not None:
                timer.cancel()
        self._sending = self._unread = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._sending is None:  # also for what begins no message, such as empty lines
            self._await_client(self._limits.header_timeout)
        self._spent += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and self._spent > HEAD:
            self._refuse(431, f"The headers are larger than {HEAD} bytes.", "headers_too_large")
        elif self._spent > HEAD + self._limits.body:  # more chunk sizes and trailers than the body that they came with
            self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_client(self._limits.header_timeout)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._await_client(self._limits.header_timeout + GRACE)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._spent -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head, self._spent = True, 0
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._sending is not None:  # the next request has begun: its turn, and its time, is now
            self._await_client(self._limits.header_timeout)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self._limits.reply_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg, "invalid_http")

    def _await_client(self, seconds: float) -> None:
        if self._sending is not None:
            self._sending.cancel()
        self._sending = self.loop.call_later(seconds, self._too_slow, seconds)

    def _too_slow(self, seconds: float) -> None:
        if self.pipeline or (self._in_head and self._replying):  # our turn: an earlier request is not answered yet
            self._await_client(seconds)
        elif self._in_head:
            self._refuse(408, f"The headers did not arrive within {seconds:g} seconds.", "timeout")
        else:
            self.transport.abort()

    @property
    def _replying(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: int, message: str, code: str, *, retry_after: int | None = None) -> None:
        """Answer for the application, which this never reached, and end the connection."""
        if self._replying:  # in the middle of a reply there is no room for another
            self.transport.abort()
            return
        self._turned_away("", new_request_id(), status, code)
        body = json.dumps(error_body(message, error_type(status), code)).encode("ascii")
        headers = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "content-type: application/json"]
        if retry_after is not None:
            headers.append(f"retry-after: {retry_after}")
        headers += [f"content-length: {len(body)}", "connection: close", "", ""]
        self.transport.write("\r\n".join(headers).encode("ascii") + body)
        self.transport.close()
