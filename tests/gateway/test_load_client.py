"""The load client tells a whole reply from one that failed, and an unchecked text from a checked one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from benchmarks.fake_upstream import Behaviour, FakeUpstream, running
from benchmarks.load import PLANT_EVERY, PLANTED, leaked, request
from benchmarks.streams import Answer, ask

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def send(app: FakeUpstream, body: dict[str, Any], **options: Any) -> Answer:
    with running(app) as url:
        return asyncio.run(ask(url, body, **options))


@pytest.mark.parametrize("stream", [True, False])
def test_a_whole_reply_is_good(stream: bool) -> None:
    app = FakeUpstream(Behaviour(tokens=5))
    answer = send(app, {**request(1, 5), "stream": stream})
    assert answer.good
    assert answer.events == (8 if stream else 0)
    assert app.left == app.open == 0
    assert app.seen[0]["messages"] == request(1)["messages"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", ["cut", "429", "500", "redirect"])
def test_a_reply_that_failed_is_not(fault: str, stream: bool) -> None:
    assert not send(FakeUpstream(), {**request(1, fault=fault), "stream": stream}).good


def test_one_that_never_ends_is_given_up_and_its_server_sees_it() -> None:
    app = FakeUpstream(Behaviour(rate=100))
    with running(app) as url:
        answer = asyncio.run(ask(url, request(1, fault="endless"), timeout=1))
    assert answer.error == "no end in time"
    assert answer.events > 1
    assert app.left == 1


def test_a_fault_that_passes() -> None:
    app = FakeUpstream(Behaviour(fault="503", faults=1))
    with running(app) as url:
        first, second = (asyncio.run(ask(url, request(1, 3))) for _ in range(2))
    assert (first.status, second.good) == (503, True)


@pytest.mark.parametrize("number", [PLANT_EVERY * i for i in range(len(PLANTED))])
def test_a_planted_text_that_arrives_is_seen(number: int) -> None:
    assert leaked(send(FakeUpstream(), request(number), keep=True))
    assert not leaked(send(FakeUpstream(), request(1), keep=True))
