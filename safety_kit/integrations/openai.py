"""A guard inside an `openai` client, where its requests leave and its replies arrive.

The guard is a transport between the client and its own: `create`, `parse`, `stream`, raw responses, and copies made by
`with_options` all go through it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, TypeVar

from safety_kit.errors import MissingExtra
from safety_kit.guard import Guard
from safety_kit.integrations import OnBlock
from safety_kit.integrations._wire import Exchange, Refused, error_of

try:
    import anyio.to_thread
    import httpx2
    from openai import AsyncOpenAI, OpenAI
except ImportError as error:
    raise MissingExtra("openai", "integrations") from error

Client = TypeVar("Client", OpenAI, AsyncOpenAI)

_REWRITTEN: Final = {"content-length", "content-encoding", "transfer-encoding", "host"}
"""Headers that told of a body as it came, and no longer do."""


def guard_openai(client: Client, guard: Guard, on_block: OnBlock = "message") -> Client:
    """A client like this one whose chat completions are inside a policy.

    A request is checked before it is sent and sent redacted; a blocked one is not sent, and its completion is the
    policy's message with the finish reason ``content_filter``. A reply is checked before it is read, a stream as it
    comes. Requests to other endpoints (responses, embeddings, audio …), whose texts the guard does not read, are
    refused with a `BadRequestError`: nothing passes unseen. Use the client itself for these.

    Args:
        client: Stays as it is; closing the new one closes it.
        guard: What to hold requests and replies against; its own model serves its probes.
        on_block: ``message``, or ``raise``: `openai.BadRequestError` with the code ``content_filter``; in a stream
            that has begun, `openai.APIError`.
    """
    raises = on_block == "raise"
    # WebSockets use no transport: an address that cannot exist keeps realtime sessions from passing unseen.
    nowhere = "wss://not-guarded.invalid"
    if isinstance(client, AsyncOpenAI):
        http_async = httpx2.AsyncClient(transport=_AsyncTransport(client._client, guard, raises))
        return client.copy(http_client=http_async, websocket_base_url=nowhere)
    http = httpx2.Client(transport=_Transport(client._client, guard, raises))
    return client.copy(http_client=http, websocket_base_url=nowhere)


class _Transport(httpx2.BaseTransport):
    def __init__(self, http: Any, guard: Guard, raises: bool) -> None:
        self._http, self._guard, self._raises = http, guard, raises

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        exchange = Exchange(self._guard, self._raises)
        try:
            checked = _is_checked(request)
            content = exchange.request(request.read()) if checked else request.read()
            reply = self._http.send(_rebuilt(self._http, request, content), stream=True)
            if checked and _is_stream(reply):
                return httpx2.Response(reply.status_code, headers=_headers(reply), stream=_Events(reply, exchange))
            try:
                body = reply.read()
            finally:
                reply.close()
            body = exchange.response(body) if checked and reply.status_code < 400 else body
            return httpx2.Response(reply.status_code, headers=_headers(reply), content=body)
        except Refused as refused:
            return httpx2.Response(refused.status, headers={"content-type": refused.kind}, content=refused.content)

    def close(self) -> None:
        self._http.close()


class _AsyncTransport(httpx2.AsyncBaseTransport):
    def __init__(self, http: Any, guard: Guard, raises: bool) -> None:
        self._http, self._guard, self._raises = http, guard, raises

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        exchange = Exchange(self._guard, self._raises)
        in_thread = anyio.to_thread.run_sync
        try:
            checked, content = _is_checked(request), await request.aread()
            content = await in_thread(exchange.request, content) if checked else content
            reply = await self._http.send(_rebuilt(self._http, request, content), stream=True)
            if checked and _is_stream(reply):
                stream = _AsyncEvents(reply, exchange)
                return httpx2.Response(reply.status_code, headers=_headers(reply), stream=stream)
            try:
                body = await reply.aread()
            finally:
                await reply.aclose()
            body = await in_thread(exchange.response, body) if checked and reply.status_code < 400 else body
            return httpx2.Response(reply.status_code, headers=_headers(reply), content=body)
        except Refused as refused:
            return httpx2.Response(refused.status, headers={"content-type": refused.kind}, content=refused.content)

    async def aclose(self) -> None:
        await self._http.aclose()


class _Events(httpx2.SyncByteStream):
    def __init__(self, reply: Any, exchange: Exchange) -> None:
        self._reply, self._exchange = reply, exchange

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._reply.iter_bytes():
            yield self._exchange.feed(piece)
            if self._exchange.over:
                return
        yield self._exchange.end()

    def close(self) -> None:
        self._reply.close()


class _AsyncEvents(httpx2.AsyncByteStream):
    def __init__(self, reply: Any, exchange: Exchange) -> None:
        self._reply, self._exchange = reply, exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._reply.aiter_bytes():
            yield await anyio.to_thread.run_sync(self._exchange.feed, piece)
            if self._exchange.over:
                return
        yield await anyio.to_thread.run_sync(self._exchange.end)

    async def aclose(self) -> None:
        await self._reply.aclose()


def _is_checked(request: httpx2.Request) -> bool:
    """Whether the guard reads this request; a list of models has nothing to read.

    Raises:
        Refused: It would pass unseen.
    """
    path = request.url.path.rstrip("/")
    if request.method == "GET" and (path.endswith("/models") or path.rpartition("/")[0].endswith("/models")):
        return False
    if request.method == "POST" and path.endswith("/chat/completions"):
        return True
    raise error_of("The guarded client does chat completions only; use the client itself for others.", "not_guarded")


def _is_stream(reply: Any) -> bool:
    kind: str = reply.headers.get("content-type", "")
    return bool(reply.status_code < 400) and kind.startswith("text/event-stream")


def _headers(message: Any) -> list[tuple[str, str]]:
    return [(name, value) for name, value in message.headers.multi_items() if name.lower() not in _REWRITTEN]


def _rebuilt(http: Any, request: httpx2.Request, content: bytes) -> Any:
    """The request as one of the client's own HTTP library, with what may be sent."""
    timeout = {key: value for key, value in request.extensions.items() if key == "timeout"}
    return http.build_request(
        request.method, str(request.url), headers=_headers(request), content=content, extensions=timeout
    )
