"""What the caller sees when the gateway itself fails: its checks, its model, its disk, its clock, its Redis."""

from __future__ import annotations

import dataclasses
import io
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from gateway_helpers import LOOPBACK, FakeUpstream, Memory, OneGuard, gateway, services
from integration_helpers import POLICY
from model_helpers import Held, tiny_guard
from pydantic import SecretStr
from test_audit import room_for
from test_gemma_load import one_thread as one_thread
from test_gemma_load import tiny
from test_limits import Redis

from safety_kit.checks.base import WHOLE, Delta
from safety_kit.gateway import generation, logs
from safety_kit.gateway.audit import AuditLog
from safety_kit.gateway.audit_verify import verify
from safety_kit.gateway.backends.local import LocalBackend
from safety_kit.gateway.batching import ModelQueue
from safety_kit.gateway.limits import RateLimits
from safety_kit.gateway.services import Services
from safety_kit.gateway.settings import Audit, Limits
from safety_kit.gateway.workers import Workers
from safety_kit.gemma import Tokens
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.types import Finding, Sample, Stage

pytestmark = pytest.mark.allow_hosts(LOOPBACK)

FOUND = Finding("names", "code_names", 1.0, "rule", ((0, 2),), "")


@pytest.fixture(autouse=True)
def fine(fake: FakeUpstream) -> None:
    fake.seen.clear()
    fake.says("the upstream's words")


def post(address: str, text: str = "Hi", **fields: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], **fields}
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=30)


# --- a check


@dataclasses.dataclass
class Odd:
    """A check that does at one stage what a test wants, and finds nothing at the other."""

    does: Callable[[Sequence[Sample]], Any]
    stage: Stage
    name: str = "names"
    categories: frozenset[str] = frozenset({"code_names"})
    lookahead = WHOLE
    capture = None

    def run(self, samples: Sequence[Sample]) -> Any:
        return self.does(samples) if samples[0].stage is self.stage else [()] * len(samples)

    def start(self) -> None:
        return None

    def step(self, state: None, new: Delta, final: bool) -> Any:
        said = self.run([Sample(new.text, "assistant", Stage.OUTPUT)])
        return None, said[0] if said else None, len(new.text)


def guard_with(check: Odd) -> Guard:
    policy = POLICY.replace("keywords: [project bluebird]", "keywords: [project bluebird], timeout_ms: 200")
    guard = Guard(Policy.parse(policy))
    guard.text_checks = tuple(check if own.name == "names" else own for own in guard.text_checks)
    return guard


NONSENSE: dict[str, Callable[[Sequence[Sample]], Any]] = {
    "nothing": lambda samples: None,
    "too few": lambda samples: [],
    "no findings": lambda samples: [["what?"]] * len(samples),
    "no probability": lambda samples: [[dataclasses.replace(FOUND, score=float("nan"))]] * len(samples),
    "beyond the text": lambda samples: [[dataclasses.replace(FOUND, spans=((0, 10**9),))]] * len(samples),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("kind", NONSENSE)
def test_a_check_that_says_nonsense_blocks(
    fake: FakeUpstream, upstream: str, kind: str, stage: Stage, stream: bool
) -> None:
    with gateway(services(upstream, guard_with(Odd(NONSENSE[kind], stage)))) as address:
        reply = post(address, stream=stream)
    assert reply.status_code == 200
    assert "content_filter" in reply.text
    assert "blocked.error" in reply.text
    assert "upstream's words" not in reply.text
    assert bool(fake.seen) is (stage is Stage.OUTPUT)


@pytest.mark.parametrize("stage", list(Stage))
def test_a_check_that_hangs_is_left_behind_and_blocks(upstream: str, stage: Stage) -> None:
    hangs, go_on = threading.Event(), threading.Event()

    def wait(samples: Sequence[Sample]) -> Any:
        hangs.set()
        go_on.wait(60)

    try:
        with gateway(services(upstream, guard_with(Odd(wait, stage)))) as address:
            replies: list[httpx.Response] = []
            asks = threading.Thread(target=lambda: replies.append(post(address)))
            asks.start()
            assert hangs.wait(20)
            assert httpx.get(f"{address}/healthz").status_code == 200  # nobody else waits
            asks.join()
            assert replies[0].json()["safety"]["code"] == "blocked.error"
            assert "upstream's words" not in replies[0].text
    finally:
        go_on.set()


# --- the model


@pytest.mark.parametrize("stage", ["input", "output"])
def test_a_guards_model_out_of_memory_blocks(upstream: str, tmp_path: Path, stage: str) -> None:
    def fail(texts: Sequence[Tokens]) -> None:
        raise torch.OutOfMemoryError("no room for: Hi")

    queue = ModelQueue(Held(tiny(), fail))  # type: ignore[arg-type]
    try:
        guard = tiny_guard(tmp_path / "hate", queue, 0.99, stages=f"[{stage}]")
        with gateway(services(upstream, guard, places=queue)) as address:
            reply = post(address)
        assert reply.json()["safety"]["code"] == "blocked.error"
        assert "upstream's words" not in reply.text
    finally:
        queue.close()


def test_a_generating_model_out_of_memory_ends_its_replies_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("no room for: Hi")

    queue = ModelQueue(tiny())
    try:
        guard = tiny_guard(tmp_path / "hate", queue, 0.99, stages="[output]")
        parts = Services(OneGuard(guard), LocalBackend(queue, guard.capture), Workers(4))
        with gateway(parts) as address:
            with monkeypatch.context() as patched:
                patched.setattr(generation, "step_together", fail)
                whole, streamed = post(address), post(address, stream=True)
            assert (whole.status_code, whole.json()["error"]["code"]) == (500, "model_failed")
            assert "model_failed" in streamed.text
            assert "[DONE]" not in streamed.text
            assert "no room" not in whole.text + streamed.text
            assert post(address, max_tokens=2).status_code == 200
    finally:
        queue.close()


# --- what it counts and writes by


def test_a_full_disk_is_told_by_the_audit_log_once_there_is_room(upstream: str, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    logs.configure(to=io.StringIO())  # what pytest gathers is a file, too
    with gateway(services(upstream, audit=AuditLog(Audit(file=file)))) as address:
        assert post(address).status_code == 200
        with room_for(file.stat().st_size + 100):
            refused = [post(address), post(address, stream=True)]
            assert httpx.get(f"{address}/readyz").status_code == 503
        assert [reply.json()["error"]["code"] for reply in refused] == ["audit_unavailable"] * 2
        assert not any("upstream's words" in reply.text for reply in refused)
        assert post(address).status_code == 200
    report = verify(file)
    assert (report.fault, report.torn) == (None, 0)
    assert report.lost >= 1


@pytest.mark.parametrize("years", [-10, 10])
def test_a_clock_that_jumps_begins_another_window_and_breaks_nothing(
    upstream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    memory, file = Memory(), tmp_path / "audit.jsonl"
    limits = RateLimits(Limits(rate="2/hour"))
    parts = services(upstream, audit=AuditLog(Audit(file=file)), recorders=(memory,), limits=limits)
    true = time.time
    with gateway(parts) as address:
        assert [post(address).status_code for _ in range(3)] == [200, 200, 429]
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda: true() + years * 365 * 86_400)
            after = post(address)
        assert after.status_code == 200  # by another clock another window has begun
    assert all(record.seconds >= 0 for record in memory.records)
    assert (verify(file).fault, verify(file).requests) == (None, 4)


@pytest.mark.parametrize(("failure", "status"), [("refuse", 503), ("local", 200)])
def test_redis_gone(
    fake: FakeUpstream, upstream: str, require: Callable[[str], str], tmp_path: Path, failure: Any, status: int
) -> None:
    redis = Redis(require("redis-server"), tmp_path)
    try:
        limits = RateLimits(Limits(rate="9/hour", redis=SecretStr(redis.url), redis_failure=failure))
        with gateway(services(upstream, limits=limits)) as address:
            assert post(address).status_code == 200
            fake.seen.clear()
            redis.kill()
            reply = post(address)
            assert reply.status_code == status
            if status == 503:
                assert reply.json()["error"]["code"] == "limits_unavailable"
                assert reply.headers["retry-after"]
                assert fake.seen == []
    finally:
        redis.kill()
