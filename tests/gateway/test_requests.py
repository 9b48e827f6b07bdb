"""Requests that are none: a 4xx in OpenAI's form, without the caller's words, and a server that stays up."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from gateway_helpers import LOOPBACK, FakeUpstream, Memory, gateway, served, services
from integration_helpers import completion
from starlette.requests import Request
from starlette.responses import Response

from safety_kit.gateway.settings import Limits, Settings

pytestmark = pytest.mark.allow_hosts(LOOPBACK)

USER = {"role": "user", "content": "Hi"}
FINE: dict[str, Any] = {"model": "m", "messages": [USER]}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def address(fake: FakeUpstream, memory: Memory) -> Iterator[str]:
    settings = Settings(limits=Limits(body=500_000))
    with served(fake.app) as upstream, gateway(services(upstream, audit=memory), settings) as address:
        yield address


@pytest.fixture(autouse=True)
def still_up(address: str, fake: FakeUpstream, memory: Memory) -> Iterator[None]:
    fake.seen.clear()
    memory.records.clear()
    yield
    fake.says("fine")
    assert httpx.post(address + CHAT, json=FINE).status_code == 200


def nested(depth: int) -> Any:
    value: Any = "Hi"
    for _ in range(depth):
        value = [value]
    return value


BODIES: dict[str, tuple[bytes, int]] = {
    "no JSON": (b"{", 400),
    "empty": (b"", 400),
    "a list": (b"[]", 400),
    "no UTF-8": (b'{"model": "\xff", "messages": []}', 400),
    "UTF-16": ('{"messages": [{"role": "user", "content": "Hi"}]}'.encode("utf-16"), 400),
    "deep": (b"[" * 90_000 + b"]" * 90_000, 400),
    "deep inside": (json.dumps({**FINE, "odd": nested(80)}).encode(), 400),
    "deeper inside": (b'{"messages": [{"role": "user", "content": ' + b"[" * 50_000 + b"]" * 50_000 + b"}]}", 400),
    "NaN": (b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": NaN}', 400),
    "infinite": (b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}], "odd": [1e999]}', 400),
    "a huge number": (b'{"messages": [{"role": "user", "content": "Hi"}], "odd": ' + b"9" * 5000 + b"}", 400),
    "too large": (json.dumps({**FINE, "odd": "x" * 500_000}).encode(), 413),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_cannot_be_read(address: str, fake: FakeUpstream, memory: Memory, name: str) -> None:
    content, status = BODIES[name]
    reply = httpx.post(address + CHAT, content=content, headers={"content-type": "application/json"})
    assert reply.status_code == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert fake.seen == []
    # What is too large is refused at the door, before there is anything to record.
    assert [(record.outcome, record.status) for record in memory.records] == [("refused", status)] * (status != 413)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_body_of_another_type(address: str, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    assert httpx.post(address + CHAT, content=json.dumps(FINE).encode(), headers=headers).status_code == 415


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "chief", "content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [3]}]}, None),
        ({"messages": ["Hi"]}, "messages.0"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_completion_tokens": -5}, "max_completion_tokens"),
        ({"max_tokens": 10**400}, None),
        ({"n": 0}, "n"),
        ({"n": 10_000}, "n"),
        ({"n": True}, "n"),
        ({"temperature": "warm"}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"stream": "yes"}, "stream"),
        ({"stop": {"secret": 1}}, "stop"),
        ({"tools": {"a": 1}}, "tools"),
        ({"model": "../../etc/passwd"}, "model"),
        ({"model": "a/../b"}, "model"),
        ({"model": "a\r\nx-evil: 1"}, "model"),
        ({"model": "m" * 300}, "model"),
        ({"model": ["m"]}, "model"),
    ],
)
def test_a_field_that_is_not_valid(address: str, fake: FakeUpstream, fields: dict[str, Any], param: str | None) -> None:
    reply = httpx.post(address + CHAT, json={**FINE, **fields})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    for words in ("passwd", "secret", "chief", "x-evil", "warm"):
        assert words not in reply.text
    assert fake.seen == []


def test_ten_thousand_messages(address: str, fake: FakeUpstream) -> None:
    fake.says("fine")
    many = [{"role": "user", "content": "a"}] * 10_000
    assert httpx.post(address + CHAT, json={**FINE, "messages": many}, timeout=60).status_code == 200
    assert len(fake.seen[-1]["messages"]) == 10_000


@pytest.mark.parametrize("given", ["a b", "x" * 129, "évil", "../x", "a;b"])
def test_a_request_id_that_could_break_a_header_or_a_path_is_not_taken(
    address: str, fake: FakeUpstream, given: str
) -> None:
    fake.says("fine")
    reply = httpx.post(address + CHAT, json=FINE, headers={"x-request-id": given.encode()})
    assert reply.headers["x-request-id"] == fake.headers[-1]["x-request-id"]
    assert re.fullmatch("[0-9a-f]{16}", reply.headers["x-request-id"])


def test_a_header_that_is_injected(address: str) -> None:
    host, port = urlsplit(address).hostname, urlsplit(address).port
    assert host is not None
    with socket.create_connection((host, port or 0), timeout=10) as raw:
        raw.sendall(
            f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nx-request-id: a\nset-cookie: b=c\r\ncontent-length: 2\r\n"
            "content-type: application/json\r\nconnection: close\r\n\r\n{}".encode()
        )
        answer = b"".join(iter(lambda: raw.recv(65_536), b"")).lower()
    assert answer.startswith(b"http/1.1 400")
    assert b"b=c" not in answer


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", CHAT, 405),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v1/models/unknown", 404),
    ],
)
def test_a_path_that_is_not_there(address: str, method: str, path: str, status: int) -> None:
    reply = httpx.request(method, address + path)
    assert reply.status_code == status
    assert "passwd" not in reply.text
    assert reply.json()["error"]["code"]


def test_lone_surrogates_of_a_request_are_refused_and_those_of_a_reply_pass_as_they_came(
    address: str, fake: FakeUpstream
) -> None:
    async def answer(body: dict[str, Any], request: Request) -> Response:
        return Response(json.dumps(completion("fine \ud83d")), media_type="application/json")

    fake.answer = answer
    json_type = {"content-type": "application/json"}
    reply = httpx.post(address + CHAT, content=json.dumps(FINE).encode(), headers=json_type)
    assert reply.json()["choices"][0]["message"]["content"] == "fine \ud83d"
    content = json.dumps({**FINE, "messages": [{"role": "user", "content": "a \ud800 b"}]}).encode()
    assert httpx.post(address + CHAT, content=content, headers=json_type).status_code == 400


def test_no_other_origin_is_invited(address: str) -> None:
    reply = httpx.options(
        address + CHAT, headers={"origin": "https://evil.example", "access-control-request-method": "POST"}
    )
    assert "access-control-allow-origin" not in reply.headers
