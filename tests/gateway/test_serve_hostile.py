"""Bad input to a running `safety-kit serve`: refused or blocked, and afterwards it stands as before."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from cli_helpers import write_text_policy
from gateway_helpers import LOOPBACK, FakeUpstream, served
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from test_serve import serving

from safety_kit.gateway.audit_verify import verify

pytestmark = [pytest.mark.allow_hosts(LOOPBACK), pytest.mark.slow]

CHAT = "/v1/chat/completions"
FINE: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
JSON = {"content-type": "application/json"}
HEAD = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
BODY = json.dumps(FINE).encode()
DEEP = b'{"messages": ' + b"[" * 100_000


@pytest.fixture(scope="module")
def started(fake: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, psutil.Process, Path]]:
    """One gateway for all that is tried on it; at the end its memory, its answers and its audit chain are looked at."""
    folder = tmp_path_factory.mktemp("hostile")
    write_text_policy(folder / "policy.yaml")
    with served(fake.app) as upstream:
        config = folder / "gateway.yaml"
        config.write_text(
            f"policy: ./policy.yaml\nupstream: {{url: '{upstream}/v1', retries: 0}}\naudit: {{file: audit.jsonl}}\n"
            "limits: {header_timeout: 1}\nreload: 0.05\nlogs: {level: error}\n"
        )
        with serving("--config", str(config)) as (address, process):
            fake.says("fine")
            watched = psutil.Process(process.pid)
            assert httpx.post(address + CHAT, json=FINE).status_code == 200
            before = watched.memory_info().rss
            yield address, watched, folder
            fake.says("Write to ana@example.com.")
            assert "[EMAIL]" in httpx.post(address + CHAT, json=FINE).text
            assert httpx.get(f"{address}/readyz").status_code == 200
            assert watched.memory_info().rss - before < 150_000_000
    assert verify(folder / "audit.jsonl").fault is None


@pytest.fixture
def address(started: tuple[str, psutil.Process, Path], fake: FakeUpstream) -> str:
    fake.says("fine")
    fake.seen.clear()
    return started[0]


def raw(address: str, *pieces: bytes, half_close: bool = False) -> bytes:
    """Send bytes as they are; all that is answered until the connection ends."""
    parts = urlsplit(address)
    with closing(socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20)) as wire:
        for piece in pieces:
            wire.sendall(piece)
        if half_close:
            wire.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: wire.recv(65_536), b""))


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "application/json", 400),
        (DEEP, "application/json", 400),
        (BODY.replace(b'"Hi"', b"NaN"), "application/json", 400),
        (BODY[:-1] + b', "temperature": NaN}', "application/json", 400),
        (BODY[:-1] + b', "max_tokens": -1}', "application/json", 400),
        (BODY.replace(b"user", b"chief"), "application/json", 400),
        (b'{"model": "m", "messages": []}', "application/json", 400),
        (BODY.replace(b'"m"', b'"../../../etc/passwd"'), "application/json", 400),
        (BODY, "text/plain", 415),
        (BODY, "multipart/form-data", 415),
        (b" " * 50_000_000, "application/json", 413),
    ],
)
def test_a_bad_body_is_refused(address: str, fake: FakeUpstream, body: bytes, kind: str, status: int) -> None:
    reply = httpx.post(address + CHAT, content=body, headers={"content-type": kind}, timeout=60)
    assert reply.status_code == status
    assert reply.json()["error"]["message"]
    assert fake.seen == []


def test_ten_thousand_messages(address: str, fake: FakeUpstream) -> None:
    many = FINE["messages"] * 10_000
    assert httpx.post(address + CHAT, json={**FINE, "messages": many}, timeout=60).status_code == 200
    assert len(fake.seen[-1]["messages"]) == 10_000


def test_slow_clients_are_answered_and_others_do_not_wait(address: str) -> None:
    parts = urlsplit(address)
    slow = [socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20) for _ in range(50)]
    for number, wire in enumerate(slow):
        wire.sendall((HEAD if number % 2 else HEAD + "content-length: 99\r\n\r\n{").encode())
    assert httpx.post(address + CHAT, json=FINE).status_code == 200
    for wire in slow:
        assert wire.recv(65_536).startswith(b"HTTP/1.1 408")
        wire.close()


def test_a_half_closed_request_and_a_half_closed_stream(address: str, fake: FakeUpstream) -> None:
    asked = json.dumps({**FINE, "stream": True}).encode()
    assert raw(address, f"{HEAD}content-length: 999\r\n\r\n{{".encode(), half_close=True) == b""
    assert fake.seen == []
    answer = raw(address, f"{HEAD}connection: close\r\ncontent-length: {len(asked)}\r\n\r\n".encode(), asked)
    assert answer.endswith(b"0\r\n\r\n")
    raw(address, f"{HEAD}content-length: {len(asked)}\r\n\r\n".encode(), asked, half_close=True)


@pytest.mark.parametrize("line", [b"x-request-id: a\nset-cookie: b=c\r\n", b"x-request-id: a\r\n set-cookie: b=c\r\n"])
def test_an_injected_header_comes_back_in_no_answer(address: str, line: bytes) -> None:
    head = HEAD.encode() + line + b"connection: close\r\ncontent-length: 2\r\n\r\n{}"
    answer = raw(address, head)
    assert re.match(rb"HTTP/1\.1 4\d\d", answer)
    assert b"set-cookie" not in answer.lower()


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_redirects_is_not_followed(address: str, fake: FakeUpstream, stream: bool) -> None:
    async def answer(body: dict[str, Any], request: Request) -> Response:
        return RedirectResponse("http://127.0.0.1:1/elsewhere")

    fake.answer = answer
    reply = httpx.post(address + CHAT, json={**FINE, "stream": stream})
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_redirect")


def test_a_policy_that_is_being_written_is_not_taken(
    address: str, started: tuple[str, psutil.Process, Path], fake: FakeUpstream
) -> None:
    """Half of it is valid and forbids less; it stands for a moment, as when somebody saves it while it is read."""
    file = started[2] / "policy.yaml"
    whole = file.read_text(encoding="utf-8")
    fake.says("Write to ana@example.com.")
    digest = httpx.get(f"{address}/readyz").json()["policies"]
    for cut in range(0, len(whole), max(1, len(whole) // 40)):
        file.write_text(whole[:cut], encoding="utf-8")
        assert "ana@" not in httpx.post(address + CHAT, json=FINE).text
        file.write_text(whole, encoding="utf-8")
    file.write_text("version: 1\nname: [", encoding="utf-8")
    end = time.monotonic() + 20
    while not any(told["refused"] for told in httpx.get(f"{address}/readyz").json()["policies"].values()):
        assert time.monotonic() < end
    assert "ana@" not in httpx.post(address + CHAT, json=FINE).text
    file.write_text(whole, encoding="utf-8")
    while httpx.get(f"{address}/readyz").json()["policies"] != digest:
        assert time.monotonic() < end
