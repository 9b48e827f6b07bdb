"""A check that hangs is a fault like any other: the guard answers, and does not pile up what hangs."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from test_guard import Odd, boom

from safety_kit import timeouts
from safety_kit.checks.base import Delta
from safety_kit.errors import CheckTimeout, PolicyError
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.stream import StreamGuard
from safety_kit.timeouts import MOST_HUNG, Timeouts
from safety_kit.types import Action, Finding, Sample

POLICY = """
version: 1
name: t
on_error: block
checks:
  pii: {type: pii}
  odd: {type: patterns, category: words, keywords: [foo bar], timeout_ms: 20}
rules:
  - {category: pii.email, action: redact}
  - {category: words, action: flag}
"""


class Hangs(Odd):
    """Says nothing of most texts; never comes back from one that holds `hang`, until it is let go."""

    def __init__(self, let_go: threading.Event) -> None:
        super().__init__(self._wait)
        self.let_go = let_go
        self.asked: list[str] = []
        self.threads: set[int] = set()

    def _wait(self, sample: Sample) -> list[Finding]:
        self.asked.append(sample.text)
        self.threads.add(threading.get_ident())
        if "hang" in sample.text:
            self.let_go.wait()
        return []

    def step(self, state: str, new: Any, final: bool) -> Any:
        self._wait(Sample(state + new.text))
        return super().step(state, new, False)


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def guard_with(check: Odd, on_error: str = "block") -> Guard:
    guard = Guard(Policy.parse(POLICY.replace("on_error: block", f"on_error: {on_error}")))
    guard.text_checks = (guard.text_checks[0], check)
    return guard


def hung() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "safety-kit odd"]


def test_a_hung_check_blocks(let_go: threading.Event) -> None:
    guard = guard_with(Hangs(let_go))
    verdict = guard.check_text("please hang")
    assert (verdict.action, verdict.text, verdict.code) == (Action.BLOCK, None, "blocked.error")
    (error,) = verdict.errors
    assert (error.check, error.kind, error.message) == ("odd", "timeout", "took longer than its 20 ms (timeout_ms).")
    assert guard.check_text("fine").action is Action.ALLOW


def test_on_error_flag_notes_it(let_go: threading.Event) -> None:
    verdict = guard_with(Hangs(let_go), "flag").check_text("please hang")
    assert (verdict.action, verdict.text, verdict.code) == (Action.FLAG, "please hang", None)
    assert verdict.errors


def test_the_others_of_a_batch_have_their_verdicts(let_go: threading.Event) -> None:
    guard = guard_with(Hangs(let_go))
    verdicts = guard.check([Sample("good"), Sample("hang"), Sample("fine")])
    assert [verdict.action for verdict in verdicts] == [Action.ALLOW, Action.BLOCK, Action.ALLOW]


def test_what_hangs_does_not_pile_up(let_go: threading.Event) -> None:
    check = Hangs(let_go)
    guard = guard_with(check)
    assert all(guard.check_text("hang").blocked for _ in range(MOST_HUNG))
    assert len(hung()) == MOST_HUNG
    asked = len(check.asked)
    verdict = guard.check_text("fine")
    assert verdict.blocked
    assert verdict.errors[0].kind == "timeout"
    assert "earlier calls have not come back" in verdict.errors[0].message
    assert len(check.asked) == asked
    assert len(hung()) == MOST_HUNG
    let_go.set()
    for thread in hung():
        thread.join()
    assert guard.check_text("fine").action is Action.ALLOW


def test_a_stream_does_not_hang(let_go: threading.Event) -> None:
    flow = StreamGuard(guard_with(Hangs(let_go)))
    shown = flow.feed("a fine day. " * 10).text
    shown += flow.feed("now it will hang " * 20).text
    assert flow.verdict is not None
    assert flow.verdict.blocked
    assert flow.verdict.errors[0].kind == "timeout"
    assert "hang" not in shown
    assert (flow.feed("more").text, flow.close().text) == ("", "")


def test_the_kit_s_own_text_checks_run_where_they_are_called(let_go: threading.Event) -> None:
    seen: list[int] = []
    check = Hangs(let_go)
    guard = guard_with(check)
    own = guard.text_checks[0]
    run = own.run
    own.run = lambda samples: (seen.append(threading.get_ident()), run(samples))[1]  # type: ignore[method-assign]
    guard.check_text("fine")
    assert seen == [threading.get_ident()]
    assert threading.get_ident() not in check.threads


def test_an_own_check_that_comes_back_late_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(Policy.parse(POLICY))
    clock = itertools.count(step=100)
    monkeypatch.setattr(timeouts.time, "perf_counter", lambda: next(clock))
    verdict = guard.check_text("foo bar")
    assert verdict.blocked
    assert [(error.check, error.kind) for error in verdict.errors] == [("pii", "timeout"), ("odd", "timeout")]


def test_an_own_check_gives_a_long_text_up_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(Policy.parse(POLICY.replace("timeout_ms: 20", "timeout_ms: 60000")))
    check = guard.text_checks[0]
    step, read = check.step, []

    def spy(state: Any, new: Delta, final: bool) -> Any:
        read.append(len(new.text))
        return step(state, new, final)

    check.step = spy  # type: ignore[method-assign]
    text = "a fine day " * 100_000
    assert guard.check_text(text).errors == ()
    assert sum(read) == len(text)
    read.clear()
    clock = itertools.count(step=100)
    monkeypatch.setattr(timeouts.time, "perf_counter", lambda: next(clock))
    verdict = guard.check_text(text)
    assert (verdict.action, verdict.code) == (Action.BLOCK, "blocked.error")
    assert (verdict.errors[0].check, verdict.errors[0].kind) == ("pii", "timeout")
    assert sum(read) < len(text) / 10


def test_the_time_is_a_text_s(let_go: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = guard_with(Hangs(let_go))
    limits: list[float] = []

    def spy(name: str, function: Callable[[], Any], ms: float) -> Any:
        limits.append(ms)
        return function()

    monkeypatch.setattr(guard._timeouts, "threaded", spy)
    guard.check([Sample("a"), Sample("b"), Sample("c")])
    assert limits == [60]


def panic(sample: Sample) -> list[Finding]:
    class Panic(BaseException):
        pass

    raise Panic("private")


def leave(sample: Sample) -> list[Finding]:
    raise SystemExit(0)


@pytest.mark.parametrize("behave", [boom, panic, leave])
def test_whatever_a_check_raises_is_a_fault(behave: Callable[[Sample], list[Finding]]) -> None:
    guard = guard_with(Odd(behave))
    verdict = guard.check_text("private words")
    assert (verdict.action, verdict.code) == (Action.BLOCK, "blocked.error")
    assert "private" not in verdict.errors[0].message
    own = Guard(Policy.parse(POLICY))
    own.text_checks[0].run = behave  # type: ignore[assignment, method-assign]
    assert own.check_text("private words").errors[0].check == "pii"


def test_an_interrupt_goes_through() -> None:
    def interrupt(samples: Sequence[Sample]) -> Any:
        raise KeyboardInterrupt

    guard = guard_with(Odd(lambda sample: []))
    for check in guard.text_checks:
        check.run = interrupt  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            guard.check_text("words")


def test_results_and_errors_come_back() -> None:
    calls = Timeouts()
    assert calls.threaded("x", lambda: 5, 60_000) == calls.inline(lambda: 5, 60_000) == 5
    with pytest.raises(ZeroDivisionError):
        calls.threaded("x", lambda: 1 // 0, 60_000)

    def its_own() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):  # a check's own timeout is its fault, not the guard's clock
        calls.threaded("x", its_own, 60_000)


def test_one_name_s_hung_calls_are_not_another_s(let_go: threading.Event) -> None:
    calls = Timeouts()
    for _ in range(MOST_HUNG + 2):
        with pytest.raises(CheckTimeout):
            calls.threaded("hangs", let_go.wait, 1)
    assert calls.threaded("works", lambda: 5, 60_000) == 5


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "soon", "100000000"])
def test_a_timeout_of_no_use_is_refused(value: str) -> None:
    with pytest.raises(PolicyError, match=r"checks\.odd\.timeout_ms"):
        Policy.parse(POLICY.replace("timeout_ms: 20", f"timeout_ms: {value}"))


def test_the_defaults() -> None:
    policy = Policy.load("default")
    assert {policy.checks[name].timeout_ms for name in ("pii", "secrets")} == {60_000}
    assert policy.checks["hate"].timeout_ms == 600_000
