"""Rate limits, in memory and in a real Redis that two replicas share and that is killed."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from safety_kit.errors import MissingExtra, UserError
from safety_kit.gateway import limits, settings
from safety_kit.gateway.limits import CountsUnavailable, RateLimits, seconds_left

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


class Redis:
    """A server on one port that can be killed, stopped and started again."""

    def __init__(self, program: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert any("Ready to accept connections" in line for line in self.process.stdout)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def redis(require: Callable[[str], str], tmp_path: Path) -> Iterator[Redis]:
    server = Redis(require("redis-server"), tmp_path)
    yield server
    server.kill()


def made(redis: Redis | None = None, rate: str | None = "3/hour", **options: Any) -> RateLimits:
    url = SecretStr(redis.url) if redis else None
    return RateLimits(settings.Limits(rate=rate, redis=url, **options))


def test_the_request_after_the_last_waits() -> None:
    async def main() -> None:
        counts = made()
        assert [await counts.take("a") for _ in range(3)] == [None] * 3
        wait = await counts.take("a")
        assert wait is not None
        assert 0 < wait <= 7200
        assert await counts.take("b") is None  # each counts for itself
        assert await counts.take("a", "5/hour") is None  # a rate of its own
        assert await made(rate=None).take("a") is None

    asyncio.run(main())


def test_after_the_wait_that_was_told_the_next_one_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000_000.25]
    monkeypatch.setattr("limits.aio.storage.memory.time.time", lambda: now[0])

    async def main() -> None:
        counts = made(rate="5/minute")
        passed = 0
        for _ in range(50):
            wait = await counts.take("a")
            if wait is None:
                passed += 1
                continue
            now[0] += wait / 2
            assert await counts.take("a") is not None  # not sooner
            now[0] += wait / 2 + 0.01
            assert await counts.take("a") is None
            passed += 1
        assert passed >= 25

    asyncio.run(main())


@given(
    st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 10**6), st.floats(0, 1), st.integers(0, 10**6),
    st.floats(0, 1),
)  # fmt: skip
def test_a_wait_is_above_nothing_and_within_two_windows(
    amount: int, window: int, previous: int, left: float, current: int, ends: float
) -> None:
    wait = seconds_left(amount, window, previous, left * window, current, (1 + ends) * window)
    assert 0 < wait <= 2 * window


def test_replicas_share_their_counts(redis: Redis) -> None:
    async def main() -> None:
        one, two = made(redis), made(redis)
        taken = [await counts.take("a") for counts in (one, two, one, two, one)]
        assert taken[:3] == [None] * 3
        assert all(wait is not None and 0 < wait <= 7200 for wait in taken[3:])
        assert await two.take("b") is None
        await one.close()
        await two.close()

    asyncio.run(main())


def test_many_at_once_get_no_more_than_the_rate(redis: Redis) -> None:
    async def main() -> None:
        replicas = [made(redis, "20/hour"), made(redis, "20/hour")]
        taken = await asyncio.gather(*(replicas[number % 2].take("a") for number in range(60)))
        assert taken.count(None) == 20
        for counts in replicas:
            await counts.close()

    asyncio.run(main())


async def until(take: Callable[[], Awaitable[object]]) -> object:
    """The first answer that comes instead of a refusal."""
    while True:
        try:
            return await take()
        except CountsUnavailable:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", ["kill", "hang"])
def test_redis_gone_refuses_until_it_is_back(
    redis: Redis, way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(limits, "PAUSE", 0.05)
    monkeypatch.setattr(limits, "REDIS_TIMEOUT", 0.2)

    async def main() -> None:
        one, two = made(redis, "100/hour"), made(redis, "100/hour")
        assert await one.take("a") is None
        if way == "kill":
            redis.kill()
        else:
            redis.process.send_signal(signal.SIGSTOP)
        for counts in (one, two):
            for _ in range(3):
                with pytest.raises(CountsUnavailable) as caught:
                    await counts.take("a")
                assert caught.value.retry_after > 0
            assert counts.degraded
        if way == "kill":
            redis.start()
        else:
            redis.process.send_signal(signal.SIGCONT)
        for counts in (one, two):
            assert await until(lambda counts=counts: counts.take("a")) is None  # type: ignore[misc]
            assert not counts.degraded
            await counts.close()

    asyncio.run(main())
    told = "".join(capsys.readouterr())
    assert told.count("fault") == 2
    assert "counting in Redis again" in told


def test_redis_gone_counts_here_where_the_settings_say_so(redis: Redis) -> None:
    redis.kill()

    async def main() -> None:
        counts = made(redis, redis_failure="local")
        taken = [await counts.take("a") for _ in range(5)]
        assert [wait is None for wait in taken] == [True, True, True, False, False]

    asyncio.run(main())


def test_while_redis_is_gone_requests_do_not_wait_for_it(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    async def refuse(*_: object) -> None:
        nonlocal asked
        asked += 1
        raise ConnectionError

    async def main() -> None:
        counts = made(redis)
        monkeypatch.setattr(limits, "_take", refuse)
        for _ in range(20):
            with pytest.raises(CountsUnavailable):
                await counts.take("a")
        assert asked == 1

    asyncio.run(main())


def test_the_missing_extra_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"safety-kit\[scale\]"):
        RateLimits(settings.Limits(redis=SecretStr("redis://127.0.0.1:1")))
    RateLimits(settings.Limits(rate="1/second"))


@pytest.mark.parametrize("url", ["memory://", "http://127.0.0.1", "redis+cluster://a", "redis://127.0.0.1:port"])
def test_a_url_of_another_kind_is_told_without_its_password(url: str) -> None:
    with pytest.raises(UserError, match=r"limits\.redis") as caught:
        RateLimits(settings.Limits(redis=SecretStr(url.replace("://", "://:s3cret@"))))
    assert "s3cret" not in str(caught.value)
