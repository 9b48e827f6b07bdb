"""The first thing that a request meets: it is whole, small enough and JSON, or it is refused before anything reads it.

Pure ASGI, so that it wraps the whole application and adds microseconds.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from safety_kit.gateway.errors import ApiError, error_response
from safety_kit.gateway.hosts import names_us
from safety_kit.gateway.responses import answer_of
from safety_kit.gateway.ticket import request_id_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from safety_kit.gateway.settings import Settings

_JSON = re.compile(rb'application/json[ \t]*(;[ \t]*charset[ \t]*=[ \t]*"?utf-?8"?[ \t]*)?', re.IGNORECASE)
_ALWAYS_OPEN: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Answered however busy the gateway is: a probe that is refused would have a busy replica killed."""
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
TurnedAway: TypeAlias = Callable[[str, str, int, str], None]
"""Told of each request that got no further: its path and id, the status and the code that it was answered with."""
Known: TypeAlias = "Callable[[Scope], bool]"
"""Whether a request's headers say that its caller is let in."""


class _Gone(Exception):
    """The client left before its request was whole."""


class Intake:
    """ASGI middleware in front of the application.

    The application gets a request with its whole body in one piece, `scope["state"]["request_id"]`, and no more of them
    at once than `limits.concurrent`. The place is taken before the body is read, so that at most so many bodies are in
    memory; that of a caller who is not known is not read, since the application refuses it without. A fault of the
    application ends here: it is logged by its type and place and answered with 500.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        turned_away: TurnedAway = lambda *_: None,
        known: Known = lambda _: True,
    ) -> None:
        self._app = app
        self._known = known
        self._settings = settings
        self._limits = settings.limits
        self._turned_away = turned_away
        self._open = _ALWAYS_OPEN | {settings.vertex.health}
        self._running = 0

    @property
    def running(self) -> int:
        """Requests that hold a place at this moment."""
        return self._running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, _request_id(scope))
        scope.setdefault("state", {})["request_id"] = answer.request_id
        counted = scope["path"] not in self._open
        if not names_us(scope["headers"], self._settings):
            stranger = ApiError(403, "This host is not served here; name it in the setting hosts.", "unknown_host")
            await self._refuse(stranger, scope, receive, answer)
            return
        if counted and self._running >= self._limits.concurrent:
            busy = ApiError(503, "The gateway is busy; try again later.", "overloaded", retry_after=1)
            await self._refuse(busy, scope, receive, answer)
            return
        self._running += counted
        try:
            await self._pass_on(scope, receive, answer)
        finally:
            self._running -= counted

    async def _pass_on(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        from safety_kit.gateway.logs import fault

        try:
            body = await self._body(scope, receive)
        except ApiError as error:
            await self._refuse(error, scope, receive, answer)
            return
        except _Gone:
            return
        try:
            await self._app(scope, _Whole(body, receive), answer)
        except Exception as error:
            fault("request", error, request_id=answer.request_id)
            if not answer.started:
                broken = error_response(500, "The gateway failed; its log says where.", "internal_error")
                await broken(scope, receive, answer)

    async def _refuse(self, why: ApiError, scope: Scope, receive: Receive, answer: _Answer) -> None:
        self._turned_away(scope["path"], answer.request_id, why.status, why.code or "")
        await answer_of(why, {})(scope, receive, answer)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, read within its limits; nothing of a caller who is not known.

        Raises:
            ApiError: It is of another type, too large or too slow.
            _Gone: The client left.
        """
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if length == b"0" and b"transfer-encoding" not in headers:
            return b""
        if length.isdigit() and int(length[:20]) > self._limits.body:
            raise self._too_large()
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise ApiError(415, "Compressed bodies are not read; send it as it is.", "unsupported_encoding")
        # Without this a web page could send a form or a text from its visitor's browser, with no question asked first.
        if not _JSON.fullmatch(headers.get(b"content-type", b"")):
            raise ApiError(415, "Send JSON, with content-type: application/json.", "unsupported_media_type")
        if not self._known(scope):
            return b""
        seconds = self._limits.header_timeout
        try:
            async with asyncio.timeout(seconds):
                return await self._read(receive)
        except TimeoutError:
            raise ApiError(408, f"The body did not arrive within {seconds:g} seconds.", "timeout") from None

    async def _read(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            body += message.get("body", b"")
            if len(body) > self._limits.body:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The body is larger than {self._limits.body} bytes.", "body_too_large")


class _Answer:
    """The way back: every answer has its request's id and the security headers, and none says what the server is."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = [
                pair for pair in message.get("headers", ()) if pair[0].lower() not in (b"server", b"x-request-id")
            ]
            present = {name.lower() for name, _ in headers}
            headers += [pair for pair in _HEADERS if pair[0] not in present]
            headers.append((b"x-request-id", self.request_id.encode("ascii")))
            message = {**message, "headers": headers}
        await self._send(message)


class _Whole:
    """A `receive` that gives a body in one piece, and after it only whether the client left."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def _request_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return request_id_of(given.decode("latin-1"))


def in_front(
    app: ASGIApp, settings: Settings, turned_away: TurnedAway = lambda *_: None, known: Known = lambda _: True
) -> ASGIApp:
    """The application behind `Intake`, and behind the rules for other origins' web pages where some are let in."""
    guarded: Any = Intake(app, settings, turned_away, known)
    if not settings.cors_origins:
        return guarded  # type: ignore[no-any-return]
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        guarded,
        allow_origins=settings.cors_origins,
        allow_methods=("GET", "POST"),
        allow_headers=("authorization", "content-type", "x-api-key", "x-request-id"),
        expose_headers=("x-request-id", "retry-after"),
    )
