"""An OpenAI-compatible server behind the gateway: vLLM, Ollama, llama.cpp, a cloud.

What it says is not trusted: sizes are bounded, redirects are faults, and its own words for an error are not passed on,
because nothing has checked them; its status and its code are.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, Final

import aiohttp
from yarl import URL

from safety_kit.chat.events import DONE, EventReader
from safety_kit.chat.places import is_identifier
from safety_kit.errors import ConversationError
from safety_kit.gateway.backends import BackendError, Call, Chunk
from safety_kit.gateway.backends.address import Address
from safety_kit.gateway.settings import Upstream

MAX_BODY: Final = 64_000_000
"""Bytes of a whole reply, and of a whole stream."""

MAX_ERROR: Final = 65_536
KEEP: Final = 4.0
"""Seconds that a connection waits for its next request: less than the five after which many servers close theirs."""

DRAIN: Final = 0.2
"""Seconds that a stream has to end after its last event."""

MAX_WAIT: Final = 10.0
"""Seconds that a retry waits at most, whatever Retry-After says; what asks for more is passed on at once."""

_RETRIED: Final = frozenset({429, 502, 503, 504})
_PASSED: Final = frozenset({400, 404, 409, 413, 415, 422, 429})
"""Statuses that are the caller's to mend; others are the gateway's or the upstream's."""

_MODEL: Final = re.compile(r"[A-Za-z0-9_./:@+-]{1,256}")
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_UNSENT: Final = (aiohttp.ClientOSError, aiohttp.ConnectionTimeoutError, aiohttp.ServerDisconnectedError)
"""No answer began: a connection that could not be had, or one kept alive that the server had closed."""


class UpstreamBackend:
    """Calls an upstream with aiohttp, whose parser is compiled.

    A call is tried again only before the first byte of its answer.
    """

    brings_activations = False

    def __init__(self, settings: Upstream) -> None:
        """Set it up; nothing is connected yet.

        Args:
            settings: Where it is and how it is called.

        Raises:
            UserError: See `Address.of`.
        """
        self._address = Address.of(settings)
        self.name = self._address.host
        self._settings = settings
        self._opened: aiohttp.ClientSession | None = None

    @property
    def _http(self) -> aiohttp.ClientSession:
        """The connections, which belong to the loop that asks first."""
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP),
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=self._settings.connect_timeout, sock_read=self._settings.read_timeout
                ),
                headers={"accept-encoding": "identity", "user-agent": "safety-kit"},
                cookie_jar=aiohttp.DummyCookieJar(),  # one caller's cookie is not another's
                auto_decompress=False,
            )
        return self._opened

    async def models(self) -> list[dict[str, Any]]:
        """The upstream's own list, without what it says beside: nothing has checked that."""
        body = await self._json("GET", "models", None, Call("models"))
        found = body.get("data")
        if not isinstance(found, list) or not all(isinstance(model, dict) for model in found):
            raise _garbage("It gave no list of models.")
        return [
            {
                "id": model["id"],
                "object": "model",
                "created": model["created"] if isinstance(model.get("created"), int) else 0,
                "owned_by": owner if isinstance(owner := model.get("owned_by"), str) and is_identifier(owner) else "",
            }
            for model in found
            if isinstance(model.get("id"), str) and _MODEL.fullmatch(model["id"])
        ]

    async def chat(self, request: Mapping[str, Any], call: Call) -> dict[str, Any]:
        return await self._json("POST", "chat/completions", request, call)

    def stream_chat(self, request: Mapping[str, Any], call: Call) -> AsyncIterator[Chunk]:
        return self._stream("chat/completions", request, call)

    async def complete(self, request: Mapping[str, Any], call: Call) -> dict[str, Any]:
        return await self._json("POST", "completions", request, call)

    def stream_complete(self, request: Mapping[str, Any], call: Call) -> AsyncIterator[Chunk]:
        return self._stream("completions", request, call)

    async def ready(self) -> bool:
        """Whether it answers at all; a key that it refuses for the list of models may do for a chat."""
        try:
            response = await self._begun("GET", "models", None, Call("ready"))
        except (aiohttp.ClientError, TimeoutError):
            return False
        response.close()
        return response.status < 500

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    # --- one call

    async def _json(self, method: str, path: str, body: Mapping[str, Any] | None, call: Call) -> dict[str, Any]:
        response = await self._send(method, path, body, call)
        try:
            content = await self._read(response, MAX_BODY)
            value = await asyncio.to_thread(json.loads, content) if len(content) > 65_536 else json.loads(content)
        except TimeoutError as error:
            raise _late() from error
        except aiohttp.ClientError as error:
            raise _cut() from error
        except (ValueError, RecursionError) as error:
            raise _garbage("Its answer is no JSON.") from error
        finally:
            response.close()
        if not isinstance(value, dict):
            raise _garbage("Its answer is no JSON object.")
        return value

    async def _stream(self, path: str, body: Mapping[str, Any], call: Call) -> AsyncIterator[Chunk]:
        response = await self._send("POST", path, body, call)
        try:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise _garbage("It was asked for a stream and gave none.")
            events, size = EventReader(), 0
            pieces = self._pieces(response)
            async for piece in pieces:
                size += len(piece)
                if size > MAX_BODY:
                    raise _garbage(f"Its stream has more than {MAX_BODY} bytes.")
                for data in events.feed(piece):
                    if data == DONE:
                        await _drain(pieces)
                        return
                    yield _chunk(data)
            raise _cut()
        except TimeoutError as error:
            raise _late() from error
        except aiohttp.ClientError as error:
            raise _cut() from error
        except ConversationError as error:
            raise _garbage(str(error)) from error
        finally:
            response.close()

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None, call: Call) -> aiohttp.ClientResponse:
        """The answer's head, with a status that says that it is one.

        Raises:
            BackendError: After all tries.
        """
        for tried in range(self._settings.retries + 1):
            last = tried == self._settings.retries
            try:
                response = await self._begun(method, path, body, call)
            except aiohttp.ClientSSLError as error:
                raise BackendError(
                    502, "upstream_tls", "The upstream's TLS fails; check its url and SSL_CERT_FILE."
                ) from error
            except _UNSENT as error:
                if last:
                    raise BackendError(502, "upstream_unavailable", "The upstream cannot be reached.", 1) from error
                await asyncio.sleep(_pause(tried))
                continue
            except TimeoutError as error:
                raise _late() from error
            except aiohttp.ClientError as error:
                raise BackendError(502, "upstream_unavailable", "The upstream cannot be reached.", 1) from error
            if response.status == 200:
                if response.headers.get("content-encoding", "identity") != "identity":
                    response.close()
                    raise _garbage("It compressed what it was asked not to.")
                return response
            try:
                wait = _retry_after(response)
                if response.status not in _RETRIED or last or (wait or 0) > MAX_WAIT:
                    raise await self._fault(response, wait)
            finally:
                response.close()
            await asyncio.sleep(wait if wait is not None else _pause(tried))
        raise AssertionError("the last try returns or raises")

    async def _begun(
        self, method: str, path: str, body: Mapping[str, Any] | None, call: Call
    ) -> aiohttp.ClientResponse:
        """The head of an answer, whatever it says.

        Raises:
            TimeoutError: It did not come in time.
            aiohttp.ClientError: There is none.
        """
        headers = {**call.headers, "x-request-id": call.request_id}
        key = call.caller_key if self._settings.pass_caller_key else self._address.key
        if key:
            headers["authorization"] = f"Bearer {key}"
        content = None
        if body is not None:
            headers["content-type"] = "application/json"
            content = json.dumps(body).encode()
        url = self._address.base.join(URL(path))
        # aiohttp's own time begins once all is sent, and anew with each byte: what reads nothing, or drips, has no end.
        async with asyncio.timeout(self._settings.connect_timeout + self._settings.read_timeout):
            return await self._http.request(
                method, url, data=content, headers=headers, allow_redirects=False, proxy=self._address.proxy
            )

    async def _pieces(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """The pieces of a body; each has its own time.

        The time is measured here, for aiohttp stops its own where its parser fails in the middle of a body, and then
        wakes nobody.

        Raises:
            TimeoutError: The next did not come.
            aiohttp.ClientError: It broke off.
        """
        while True:
            async with asyncio.timeout(self._settings.read_timeout):
                piece = await response.content.readany()
            if not piece:
                return
            yield piece

    async def _read(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        pieces, size = [], 0
        async for piece in self._pieces(response):
            size += len(piece)
            if size > limit:
                raise _garbage(f"Its answer has more than {limit} bytes.")
            pieces.append(piece)
        return b"".join(pieces)

    async def _fault(self, response: aiohttp.ClientResponse, wait: float | None) -> BackendError:
        """What a status that is no success comes to."""
        status = response.status
        if 300 <= status < 400:
            return BackendError(502, "upstream_redirect", "The upstream redirects; name its own address as its url.")
        if status in (401, 403):
            if self._settings.pass_caller_key:
                return BackendError(status, "invalid_api_key", "The upstream does not accept this API key.")
            return BackendError(502, "upstream_key_refused", "The upstream does not accept the gateway's key.")
        if status not in _PASSED:
            shown = 503 if status in (502, 503, 504) else 502
            return BackendError(shown, "upstream_error", f"The upstream failed with the status {status}.", wait)
        try:
            code = _code(await self._read(response, MAX_ERROR)) or "upstream_refused"
        except (TimeoutError, aiohttp.ClientError, BackendError):
            code = "upstream_refused"
        return BackendError(status, code, f"The upstream refused the request with the status {status}, {code}.", wait)


def _chunk(data: bytes) -> Chunk:
    try:
        body = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise _garbage("Its stream holds what is no JSON.") from error
    if not isinstance(body, dict):
        raise _garbage("Its stream holds what is no chunk.")
    if body.get("error") is not None:
        raise BackendError(502, "upstream_error", "The upstream failed while it answered.")
    return Chunk(body)


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read to the end of what has said that it is at its end, so that the connection can be used again."""
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(DRAIN):
            async for _ in pieces:
                return  # more after the end: let the connection go


def _code(body: bytes) -> str | None:
    """The code of an error, where it is one word: the only thing of its body that is passed on."""
    try:
        error = json.loads(body).get("error")
        code = error.get("code") or error.get("type")
    except (ValueError, AttributeError, RecursionError):
        return None
    return code if isinstance(code, str) and _CODE.fullmatch(code) else None


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 8 else None


def _pause(tried: int) -> float:
    """Seconds before the next try: twice as long each time, and not the same for all who wait."""
    return float(min(MAX_WAIT, 0.2 * 2**tried) * random.uniform(0.5, 1))


def _late() -> BackendError:
    return BackendError(504, "upstream_timeout", "The upstream did not answer in time.")


def _cut() -> BackendError:
    return BackendError(502, "upstream_cut", "The upstream's answer was cut off.")


def _garbage(what: str) -> BackendError:
    return BackendError(502, "upstream_garbage", f"The upstream's answer cannot be read. {what}")
