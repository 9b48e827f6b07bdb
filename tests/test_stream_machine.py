"""StreamGuard under any use: a state machine, every chunk size over a corpus, and many chunkings of planted replies."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from guard_helpers import CARD, MAIL, FakeGemma, filler, plants
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_guard import folder as folder
from test_guard import probe_guard
from test_stream import GUARDS, stream, whole

from benchmarks.leaks import hold_back, leaks, prose, replies, text_policy
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.stream import StreamGuard, withholding
from safety_kit.types import Action, Verdict


class Growing(RuleBasedStateMachine):
    """A reply that grows, against one feed of what it came to."""

    @initialize(name=st.sampled_from(sorted(GUARDS)))
    def begin(self, name: str) -> None:
        self.guard = GUARDS[name]
        self.flow = StreamGuard(self.guard)
        self.text = ""
        self.seen: list[str] = []
        self.blocked: Verdict | None = None

    @rule(text=filler | plants)
    def feed(self, text: str) -> None:
        self._take(self.flow.feed(text).text)
        self.text += text

    @rule(text=plants, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6))
    def feed_in_pieces(self, text: str, sizes: list[int]) -> None:
        at, turn = 0, 0
        while at < len(text):
            self.feed(text[at : at + sizes[turn % len(sizes)]])
            at += sizes[turn % len(sizes)]
            turn += 1

    def _take(self, text: str) -> None:
        if self.blocked:
            assert text == ""
        self.blocked = self.flow.verdict

    @invariant()
    def what_left_stays(self) -> None:
        if hasattr(self, "flow"):
            released = self.flow.released
            assert not self.seen or released.startswith(self.seen[-1])
            self.seen.append(released)

    @precondition(lambda self: hasattr(self, "flow"))
    @rule()
    def close_a_copy(self) -> None:
        """All that is read so far, as if it were the whole: the same stream again, in one feed."""
        released, verdict = stream(self.guard, [self.text])
        assert released.startswith(self.flow.released)
        if self.blocked:
            assert (self.flow.released, replace(self.blocked, timings={})) == (released, verdict)

    def teardown(self) -> None:
        if not hasattr(self, "flow"):
            return
        self._take(self.flow.close().text)
        assert self.flow.verdict is not None
        released, verdict = stream(self.guard, [self.text])
        assert (self.flow.released, replace(self.flow.verdict, timings={})) == (released, verdict)
        expected = whole(self.guard, self.text)
        assert verdict.action == expected.action
        assert verdict.blocked or (released, verdict) == (expected.text, expected)


Growing.TestCase.settings = settings(max_examples=25, stateful_step_count=12)
test_a_growing_reply = Growing.TestCase

CORPUS = {
    "prose": "It was late, and a man I did not know told us of a ship. " * 6,
    "contact": f"Write to {MAIL} or call +1 415 555 2671, ext. 12; my card is {CARD}, thank you. " * 2,
    "code": "def f(x: int) -> str:\n    return f'{x:>08d}@{host}'  # see PRJ-1234, foo bar\n\n" * 4,
    "table": "".join(f"| {n:03d} | {n * 7919} | {n / 7:.3f} | 2026-01-{n % 28 + 1:02d} |\n" for n in range(5)),
    "no spaces": "请写信给我们john.doe@example.org谢谢。" * 6 + "x" * 150,
    "key": "here it is:\n-----BEGIN PRIVATE KEY-----\n" + "aB3/" * 40 + "\n-----END PRIVATE KEY-----\nkeep it safe",
    "spaced": "j o h n @ e x a m p l e . o r g and foo b a r, a b c d e f g " * 3,
    "token": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIi" * 30 + " and on it goes",
}


@pytest.mark.parametrize("name", CORPUS)
def test_every_chunk_size_gives_the_same(name: str) -> None:
    text = CORPUS[name]
    for guard in GUARDS.values():
        expected = stream(guard, [text])
        for size in (1, 3, 7, 8, 33, 100):
            assert stream(guard, [text[i : i + size] for i in range(0, len(text), size)]) == expected


@cache
def default_guard() -> Guard:
    return Guard(text_policy())


def test_planted_violations_never_leak() -> None:
    found = leaks(default_guard(), replies(12, seed=5), 36, seed=6)
    assert (found.replies, found.chunkings) == (12, 36)
    assert (found.characters, found.differing, found.short) == (0, 0, 0)


def test_a_leak_would_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(text_policy())
    monkeypatch.setattr(guard, "cuts", lambda *_: [])
    assert leaks(guard, replies(10, seed=5), 10).characters > 20


def test_little_is_held_while_nothing_is_open() -> None:
    held = hold_back(default_guard(), [" ".join(prose()[:60])])
    assert max(held) <= 100
    assert np.median(held) <= 24


# --- what reads the whole, and names


UNBOUNDED = """
version: 1
name: t
checks:
  words: {type: patterns, regexes: ['BEGIN[\\s\\S]*END'], max_length: unbounded}
  pii: {type: pii}
rules: [{category: words, action: redact}, {category: pii.email, action: redact}]
"""


def test_a_check_of_the_whole_withholds() -> None:
    guard = Guard(Policy.parse(UNBOUNDED))
    assert withholding(guard) == ("words",)
    text = f"well BEGIN {'x ' * 400}END {MAIL}."
    flow = StreamGuard(guard)
    assert [flow.feed(text[i : i + 90]).text for i in range(0, len(text), 90)] == [""] * len(range(0, len(text), 90))
    assert flow.close().text == "well [WORDS] [EMAIL]."
    assert stream(guard, [text]) == (whole(guard, text).text, whole(guard, text))
    assert withholding(default_guard()) == ()


def test_a_policy_may_name_a_check_probe(folder: Path) -> None:
    """The probes' own check has that name too: each keeps its state."""
    policy = Policy.parse(
        "{version: 1, name: t, checks: {hate: {type: probe, artifact: hate}, probe: {type: pii}},"
        " rules: [{category: hate, action: block, max_fpr: 0.05}, {category: pii.email, action: redact}]}"
    )
    flow = StreamGuard(Guard(policy, FakeGemma(), {"hate": folder / "hate"}))
    text = f"write to {MAIL} today. "
    for char in text:
        flow.feed(char, FakeGemma().hidden(char, (1, 2)))
    flow.close()
    assert flow.verdict is not None
    assert (flow.released, flow.verdict.errors) == ("write to [EMAIL] today. ", ())


def test_probed_text_comes_one_token_at_a_time(folder: Path) -> None:
    guard = probe_guard(folder)
    assert withholding(guard) == ()
    assert withholding(guard, activations=False) == ("probe",)
    with pytest.raises(ValueError, match="one token at a time"):
        StreamGuard(guard).feed("ab", FakeGemma().hidden("ab", (1, 2)))


def test_what_a_check_finds_too_late_is_rewritten_from_there() -> None:
    """A check may be wrong about what it cleared: nothing that left is written again."""
    guard = Guard(
        Policy.parse("{version: 1, name: t, checks: {p: {type: pii}}, rules: [{category: pii.email, action: redact}]}")
    )
    real: Any = guard.text_checks[0].step

    def hasty(state: Any, new: Any, final: bool) -> Any:
        state, findings, cleared = real(state, new, final)
        total = state.base + len(state.text)
        return state, findings, max(cleared, total)

    guard.text_checks[0].step = hasty  # type: ignore[method-assign]
    flow = StreamGuard(guard)
    text = f"hello {MAIL} and a good day to all of you, my friends"
    for char in text:
        flow.feed(char)
    flow.close()
    assert flow.verdict is not None
    assert flow.verdict.action is Action.REDACT
    assert flow.released == text
