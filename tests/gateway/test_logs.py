"""What the logs say, and that they never say what a request or a reply said."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import warnings
from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx
import pytest
from gateway_records import CANARY, record
from gateway_server import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from safety_kit.gateway import logs

Level = Literal["debug", "info", "warning", "error"]


def configured(level: Level = "info", *, json: bool = True) -> io.StringIO:
    to = io.StringIO()
    logs.configure(level, json=json, to=to)
    return to


def lines(to: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in to.getvalue().splitlines()]


def test_a_request_is_one_line() -> None:
    to = configured()
    logs.request(record())
    (line,) = lines(to)
    assert line.items() >= {"event": "request", "level": "info", "request_id": "r1", "outcome": "block"}.items()
    assert line.items() >= {"key": "team-a", "status": 200, "code": "blocked.code_names"}.items()
    assert CANARY not in to.getvalue()


@pytest.mark.parametrize("as_json", [True, False])
def test_values_cannot_forge_a_line(as_json: bool) -> None:
    to = configured(json=as_json)
    logs.told("reload", why='x\n{"event": "forged"}\r\x1b[31m\u202e\u2028')
    logs.request(record(model=f"{CANARY} is no name\nforged"))
    assert len(to.getvalue().splitlines()) == 2
    assert to.getvalue().isascii() or to.getvalue().replace("\n", "").isprintable()
    assert CANARY not in to.getvalue()


def test_a_fault_is_told_by_type_and_place() -> None:
    to = configured()
    try:
        try:
            raise KeyError(CANARY)
        except KeyError as error:
            raise RuntimeError(f"failed on {CANARY}") from error
    except RuntimeError as error:
        logs.fault("guard.input", error, request_id="r1")
    (line,) = lines(to)
    assert line.items() >= {"level": "error", "during": "guard.input", "error": "RuntimeError"}.items()
    assert line["cause"] == "KeyError"
    assert line["place"].startswith("test_logs.py:")
    assert CANARY not in to.getvalue()


def test_the_level_is_kept() -> None:
    to = configured("error")
    logs.request(record())
    logs.told("warned", level="warning")
    assert lines(to) == []
    logs.fault("x", ValueError())
    assert len(lines(to)) == 1


class Broken(Exception):
    """A fault that quotes what it failed on."""


async def fail(request: Request) -> Response:
    body = (await request.body()).decode()
    logging.getLogger("httpx").debug("sending %s", body)
    logging.getLogger("openai").info("sending %s", body)
    logging.getLogger("some.package").error("failed on %s", body, exc_info=Broken(body), stack_info=True)
    warnings.warn(body, stacklevel=1)
    raise Broken(f"{body} {request.headers['authorization']}")


async def fail_in_stream(request: Request) -> Response:
    body = (await request.body()).decode()

    async def pieces() -> AsyncIterator[str]:
        yield body
        raise Broken(body)

    return StreamingResponse(pieces())


async def fail_in_task(request: Request) -> Response:
    body = (await request.body()).decode()

    async def broken() -> None:
        raise Broken(body)

    lost = asyncio.create_task(broken())
    await asyncio.wait([lost])
    del lost  # "Task exception was never retrieved" is asyncio's own line
    return JSONResponse({"said": body})


@pytest.mark.allow_hosts(["127.0.0.1"])
@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_no_prompt_no_key_and_no_reply_in_the_logs(
    level: Level, as_json: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    to = configured(level, json=as_json)
    routes = {"/fail": fail, "/stream": fail_in_stream, "/task": fail_in_task}

    async def main() -> None:
        app = Starlette(routes=[Route(path, endpoint, methods=["POST"]) for path, endpoint in routes.items()])
        headers = {"authorization": f"Bearer {CANARY}", "user-agent": CANARY}
        async with served(app) as server, httpx.AsyncClient(base_url=server.url, headers=headers) as client:
            assert (await client.post(f"/fail?q={CANARY}", json={"text": CANARY})).status_code == 500
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post("/stream", json={"text": CANARY})
            assert (await client.post("/task", json={"text": CANARY})).status_code == 200
            _, writer = await server.raw(f"{CANARY} is no HTTP\r\n\r\n".encode())
            writer.close()
            assert (await client.post("/task", json={}, headers={"connection": "close"})).status_code == 200

    asyncio.run(main())
    told = to.getvalue()
    assert "Broken" in told  # it does say that something failed
    assert "some.package" in told
    assert CANARY not in told
    assert CANARY not in "".join(capfd.readouterr())


def test_uvicorn_speaks_through_it_and_counts_no_requests() -> None:
    to = configured()
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    logging.getLogger("uvicorn.access").info("%s", CANARY)
    (line,) = lines(to)
    assert line["event"] == "Started server process [7]"
    assert line["logger"] == "uvicorn.error"
