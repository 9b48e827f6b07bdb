"""Answers on the wire: JSON, errors, and event streams that notice when their client has gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from safety_kit.gateway.errors import ApiError, error_response

T = TypeVar("T")


def json_response(body: Any, headers: Mapping[str, str], status: int = 200) -> Response:
    """A JSON body; ASCII, so that any text is valid on the wire."""
    return Response(json.dumps(body).encode(), status, headers, "application/json")


def answer_of(error: ApiError, headers: Mapping[str, str]) -> Response:
    """An error as an answer, with headers of the request beside its own."""
    response = error_response(error.status, error.message, error.code, param=error.param, retry_after=error.retry_after)
    response.headers.update(headers)
    return response


async def left(receive: Receive) -> None:
    """Wait until the client has gone; the request's body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_there(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do something for as long as the client is there.

    Raises:
        ClientDisconnect: It has gone; the work was cancelled, and has ended.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(left(receive))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.wait([task, gone])


class Source(Protocol):
    """Where the events of a stream come from."""

    def events(self) -> AsyncIterator[bytes]: ...

    async def close(self) -> None:
        """Clean up; always called, at whatever point the stream ended."""
        ...


class EventStream(Response):
    """Server-sent events. When the client goes, or the server stops, their source is cancelled and cleans up."""

    def __init__(self, source: Source, headers: Mapping[str, str]) -> None:
        super().__init__(None, 200, headers, "text/event-stream")
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"  # nginx would gather what is meant to flow
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_there(receive, self._send(send))
        except (ClientDisconnect, OSError):
            return
        finally:
            await self._source.close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for data in self._source.events():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
