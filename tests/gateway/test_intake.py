"""What a request must be to get in, and how it is refused."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from gateway_helpers import OneGuard
from hypothesis import given
from hypothesis import strategies as st
from integration_helpers import make_guard
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from safety_kit.gateway import logs
from safety_kit.gateway.app import create_app
from safety_kit.gateway.backends.upstream import UpstreamBackend
from safety_kit.gateway.errors import error_body, error_response
from safety_kit.gateway.intake import Intake, in_front
from safety_kit.gateway.keys import Key
from safety_kit.gateway.metrics import Metrics
from safety_kit.gateway.services import Services
from safety_kit.gateway.settings import Settings, Upstream
from safety_kit.gateway.workers import Workers

JSON = {"content-type": "application/json"}
ANY = st.text(st.characters(exclude_categories=[]))
"""Half surrogate pairs included."""


class App:
    """Echoes; waits while `held`; fails before or in the middle of its answer."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.inside = asyncio.Event()
        methods = ["GET", "POST"]
        paths = {"/echo": self.echo, "/wait": self.wait, "/fail": self.fail, "/cut": self.cut, "/healthz": self.echo}
        self.asgi = Starlette(routes=[Route(path, endpoint, methods=methods) for path, endpoint in paths.items()])

    async def echo(self, request: Request) -> Response:
        body = (await request.body()).decode()
        return JSONResponse({"body": body, "id": request.state.request_id}, headers={"server": "echo/1"})

    async def wait(self, request: Request) -> Response:
        self.inside.set()
        await self.go.wait()
        return await self.echo(request)

    async def fail(self, _: Request) -> Response:
        raise RuntimeError("canary")

    async def cut(self, _: Request) -> Response:
        async def half() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("canary")

        return StreamingResponse(half(), headers={"cache-control": "no-cache"})


def run(test: Callable[[App, httpx.AsyncClient], Awaitable[None]], **overrides: Any) -> None:
    async def main() -> None:
        app = App()
        doors = in_front(app.asgi, Settings.load(None, overrides, {}))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(doors), base_url="http://localhost") as client:
            await test(app, client)

    asyncio.run(main())


def code(reply: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, which must look as OpenAI's do."""
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert reply.headers["x-request-id"]
    return reply.status_code, error["code"]


def test_a_request_gets_in_whole_and_its_answer_says_no_more_than_it_must() -> None:
    async def test(_: App, client: httpx.AsyncClient) -> None:
        reply = await client.post("/echo", content=iterated(b'{"a"', b": 1}"), headers=JSON)
        assert reply.json()["body"] == '{"a": 1}'
        assert reply.json()["id"] == reply.headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{16}", reply.headers["x-request-id"])
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"
        assert "server" not in reply.headers

    run(test)


async def iterated(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "application/jsonp"}, 415),
        ({"content-type": "text/html; a=application/json"}, 415),
        ({"content-type": "application/json; charset=utf-16"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "Application/JSON; charset=UTF-8"}, 200),
        ({"content-type": "application/json", "content-encoding": "identity"}, 200),
    ],
)
def test_only_json_gets_in(headers: dict[str, str], expected: int) -> None:
    async def test(_: App, client: httpx.AsyncClient) -> None:
        reply = await client.post("/echo", content=b"{}", headers=headers)
        assert reply.status_code == expected
        if expected == 415:
            assert code(reply)[1] in ("unsupported_media_type", "unsupported_encoding")

    run(test)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("size", "expected"), [(1000, 200), (1001, 413)])
def test_the_limit_of_a_body(whole: bool, size: int, expected: int) -> None:
    async def test(_: App, client: httpx.AsyncClient) -> None:
        content: Any = b"x" * size if whole else iterated(*[b"x"] * size)
        reply = await client.post("/echo", content=content, headers=JSON)
        assert reply.status_code == expected
        assert expected == 200 or code(reply) == (413, "body_too_large")

    run(test, **{"limits.body": 1000})


def test_a_body_that_does_not_come() -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async def test(_: App, client: httpx.AsyncClient) -> None:
        assert code(await client.post("/echo", content=never(), headers=JSON)) == (408, "timeout")

    run(test, **{"limits.header_timeout": 0.05})


def test_the_place_after_the_last_is_refused_and_a_probe_is_not() -> None:
    async def test(app: App, client: httpx.AsyncClient) -> None:
        waiting = asyncio.create_task(client.post("/wait", json={}))
        await app.inside.wait()
        busy = await client.post("/echo", json={})
        assert code(busy) == (503, "overloaded")
        assert busy.headers["retry-after"] == "1"
        assert (await client.get("/healthz")).status_code == 200
        app.go.set()
        assert (await waiting).status_code == 200
        assert (await client.post("/echo", json={})).status_code == 200

    run(test, **{"limits.concurrent": 1})


def test_a_client_that_leaves_frees_its_place() -> None:
    async def test(app: App, client: httpx.AsyncClient) -> None:
        for _ in range(3):
            leaving = asyncio.create_task(client.post("/wait", json={}))
            await app.inside.wait()
            app.inside.clear()
            leaving.cancel()
            await asyncio.wait([leaving])
        assert (await client.post("/echo", json={})).status_code == 200

    run(test, **{"limits.concurrent": 1})


@pytest.mark.parametrize("given_id", ["abc-1.2_3", "x" * 64])
def test_a_request_id_is_taken_over(given_id: str) -> None:
    async def test(_: App, client: httpx.AsyncClient) -> None:
        reply = await client.post("/echo", json={}, headers={"x-request-id": given_id})
        assert reply.json()["id"] == reply.headers["x-request-id"] == given_id

    run(test)


@pytest.mark.parametrize("given_id", ["", "x" * 65, "a b", "a\tset-cookie: b", "../../etc", "\u00e9", "<script>"])
def test_a_request_id_of_another_form_is_not(given_id: str) -> None:
    async def test(_: App, client: httpx.AsyncClient) -> None:
        reply = await client.post("/echo", json={}, headers={"x-request-id": given_id.encode()})  # type: ignore[dict-item]
        assert re.fullmatch(r"[0-9a-f]{16}", reply.headers["x-request-id"])

    run(test)


def test_a_fault_is_an_answer_without_its_words(capfd: pytest.CaptureFixture[str]) -> None:
    async def test(_: App, client: httpx.AsyncClient) -> None:
        reply = await client.post("/fail", json={})
        assert reply.status_code == 500
        assert "canary" not in reply.text
        assert reply.headers["x-request-id"]

    run(test)
    assert "canary" not in "".join(capfd.readouterr())


def test_a_fault_before_any_answer_is_in_openai_s_format() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("canary")

    async def main() -> None:
        doors = Intake(broken, Settings())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(doors), base_url="http://localhost") as client:
            assert code(await client.get("/echo")) == (500, "internal_error")
        assert doors.running == 0

    asyncio.run(main())


@pytest.mark.parametrize("let_in", [False, True])
def test_other_origins(let_in: bool) -> None:
    origin = "https://chat.example.com"

    async def test(_: App, client: httpx.AsyncClient) -> None:
        asked = {"origin": origin, "access-control-request-method": "POST"}
        asked["access-control-request-headers"] = "authorization, content-type"
        preflight = await client.options("/echo", headers=asked)
        reply = await client.post("/echo", json={}, headers={"origin": origin})
        named = {r.headers.get("access-control-allow-origin") for r in (preflight, reply)}
        assert named == ({origin} if let_in else {None})

    run(test, cors_origins=[origin] if let_in else [])


@given(ANY, ANY, st.none() | ANY, st.none() | ANY)
def test_any_words_make_an_error_that_can_be_sent(message: str, kind: str, name: str | None, param: str | None) -> None:
    body = error_body(message, kind, name, param)
    assert json.loads(json.dumps(body, ensure_ascii=False).encode("utf-8")) == body
    assert set(body["error"]) == {"message", "type", "code", "param"}


@given(st.integers(400, 599), ANY, st.none() | st.floats(0, 1e6))
def test_an_error_response_has_whole_seconds(status: int, message: str, retry_after: float | None) -> None:
    reply = error_response(status, message, "a_code", retry_after=retry_after)
    assert json.loads(reply.body)["error"]["code"] == "a_code"
    told = reply.headers.get("retry-after")
    assert (told is None) == (retry_after is None)
    assert told is None or (told.isdigit() and int(told) >= max(1, retry_after or 0))


# --- by which name it is called


@pytest.mark.parametrize(
    ("host", "more", "status"),
    [
        ("127.0.0.1:8080", {}, 200),
        ("LOCALHOST", {}, 200),
        ("[::1]:8080", {}, 200),
        ("evil.example", {}, 403),
        ("evil.example:8080", {}, 403),
        ("127.0.0.1.evil.example", {}, 403),
        ("localhost@evil.example", {}, 403),
        ("localhost:80:80", {}, 403),
        ("", {}, 403),
        ("gateway.example:8080", {"hosts": ["Gateway.example"]}, 200),
        ("evil.example", {"hosts": ["gateway.example"]}, 403),
        ("127.0.0.7:1", {"host": "127.0.0.7"}, 200),
        ("any.example", {"keys": "keys.yaml"}, 200),
        ("any.example", {"host": "0.0.0.0", "allow_anonymous": True}, 200),
    ],
)
def test_a_web_page_that_gives_loopback_a_name_of_its_own_stays_out(host: str, more: Any, status: int) -> None:
    async def test(_: App, client: httpx.AsyncClient) -> None:
        for path in ("/echo", "/healthz"):
            reply = await client.get(path, headers={"host": host})
            assert reply.status_code == status
            assert status == 200 or code(reply) == (403, "unknown_host")

    run(test, **more)


class Keys:
    """One key that is let in."""

    def find(self, token: str) -> Key | None:
        return Key("shop") if token == "sk-a" else None


def test_the_body_of_a_stranger_is_not_read() -> None:
    """It is refused by its headers, on whichever path; who has a key is read, here to the limit of a body."""
    told = Settings.load(None, {"limits.body": 10}, {})
    backend = UpstreamBackend(Upstream(url="http://127.0.0.1:9/v1"))
    app = create_app(told, Services(OneGuard(make_guard()), backend, Workers(1), keys=Keys()))
    doors = in_front(app, told, app.state.turned_away, app.state.known)
    read: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        for _ in range(11):
            read.append(b"x")
            yield b"x"

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(doors), base_url="http://localhost") as client:
            for path in ("/v1/chat/completions", "/v1/guard/check", "/predict"):
                for key in ({}, {"x-api-key": "sk-b"}):
                    reply = await client.post(path, content=body(), headers={**JSON, **key})
                    assert code(reply) == (401, "invalid_api_key")
                    assert read == []
            known = await client.post("/v1/chat/completions", content=body(), headers={**JSON, "x-api-key": "sk-a"})
            assert code(known) == (413, "body_too_large")
            assert len(read) == 11

    asyncio.run(main())


def test_what_is_refused_at_the_door_is_told() -> None:
    """Counted and logged, with a path only where it is one of the gateway's own: any other may hold a text."""
    metrics, lines = Metrics(), io.StringIO()
    told = Settings.load(None, {"limits.body": 10}, {})
    backend = UpstreamBackend(Upstream(url="http://127.0.0.1:9/v1"))
    app = create_app(told, Services(OneGuard(make_guard()), backend, Workers(1), metrics=metrics))
    doors = in_front(app, told, app.state.turned_away)

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(doors), base_url="http://localhost") as client:
            assert (await client.post("/v1/chat/completions", content=b"x" * 11, headers=JSON)).status_code == 413
            assert (await client.post("/v1/canary", content=b"x", headers={"x-request-id": "me"})).status_code == 415

    logs.configure(to=lines)
    asyncio.run(main())
    large, odd = map(json.loads, lines.getvalue().splitlines())
    assert (large["route"], large["status"], large["outcome"]) == ("/v1/chat/completions", 413, "refused")
    assert (odd["route"], odd["code"], odd["request_id"]) == ("other", "unsupported_media_type", "me")
    assert "canary" not in lines.getvalue()
    page = metrics.render()[0].decode()
    counted = 'safety_kit_requests_total{outcome="refused",route="/v1/chat/completions",status="413"} 1.0'
    assert counted in page
