"""Policies in operation: changed files are served once they are whole and valid; a shadow is never in the way."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from guard_helpers import FakeGemma, make_artifact
from hypothesis import given
from hypothesis import strategies as st

from safety_kit.errors import PolicyError, UserError
from safety_kit.gateway.policies import Policies
from safety_kit.gateway.shadow import WAITING, Shadow, exchange
from safety_kit.guard import Guard
from safety_kit.policy import Policy


def page(*keywords: str, action: str = "block") -> str:
    """A policy with a check, and at its end a rule, for each keyword."""
    checks = "".join(f"  {word}: {{type: patterns, keywords: [{word}]}}\n" for word in keywords)
    rules = "".join(f"  - {{category: {word}, action: {action}}}\n" for word in keywords)
    return f"version: 1\nname: page\nchecks:\n{checks}rules:\n{rules}"


def chat(text: str) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(page("apple"))
    return file


Events = list[tuple[str, str]]


@pytest.fixture
def events() -> Events:
    return []


@pytest.fixture
def policies(file: Path, events: Events) -> Policies:
    served = Policies(str(file), on_event=lambda _, event, message: events.append((event, message)))
    events.clear()
    return served


def blocks(guard: Guard, text: str) -> bool:
    return guard.check_text(text).blocked


def test_a_changed_policy_holds_for_what_begins_afterwards(policies: Policies, file: Path) -> None:
    running = policies.guard()
    file.write_text(page("pear"))
    policies.look()
    policies.look()
    assert blocks(policies.guard(), "pear")
    assert not blocks(policies.guard(), "apple")
    assert blocks(running, "apple")
    assert running.digest != policies.guard().digest


def test_a_bad_file_keeps_the_old_policy_and_says_so_once(policies: Policies, file: Path, events: Events) -> None:
    before = policies.guard()
    file.write_text("version: 1\nchecks: {")
    for _ in range(5):
        policies.look()
    ((event, message),) = events
    assert event == "refused"
    assert "no valid YAML" in message
    assert policies.guard() is before
    fault = policies.status()[str(file)]
    assert fault.digest == before.digest
    assert fault.fault == message

    file.write_text(page("pear"))
    policies.look()
    policies.look()
    assert [event for event, _ in events] == ["refused", "loaded"]
    assert blocks(policies.guard(), "pear")
    assert policies.status()[str(file)].fault is None


def test_a_file_put_back_as_it_was_is_no_fault_any_more(policies: Policies, file: Path) -> None:
    before, text = policies.guard(), file.read_text()
    file.unlink()
    policies.look()
    policies.look()
    assert policies.guard() is before
    assert policies.status()[str(file)].fault is not None
    file.write_text(text)
    policies.look()
    assert policies.guard() is before
    assert policies.status()[str(file)].fault is None


def test_half_a_policy_is_not_served_though_it_is_valid(policies: Policies, file: Path, events: Events) -> None:
    """Written line by line, with a look after each line: some of the states are valid and lack the last rules."""
    text = page("pear", "plum", "fig")
    half = text[: text.index("  - {category: plum")]
    Policy.parse(half)
    with file.open("w") as out:
        for line in text.splitlines(keepends=True):
            out.write(line)
            out.flush()
            policies.look()
            assert blocks(policies.guard(), "apple")
    assert events == []
    policies.look()
    assert blocks(policies.guard(), "fig")


def test_a_file_that_changes_while_its_guard_is_built_is_not_served(file: Path) -> None:
    def build(policy: Policy) -> Guard:
        if "pear" in policy.checks and "plum" not in file.read_text():
            file.write_text(page("pear", "plum"))
        return Guard(policy)

    policies = Policies(str(file), build=build)
    file.write_text(page("pear"))
    for _ in range(2):
        policies.look()
    assert blocks(policies.guard(), "apple")
    for _ in range(2):
        policies.look()
    assert blocks(policies.guard(), "pear")
    assert blocks(policies.guard(), "plum")


def test_a_guard_that_cannot_be_built_keeps_the_old_one(file: Path, events: Events) -> None:
    def build(policy: Policy) -> Guard:
        if "pear" in policy.checks:
            raise MemoryError("of the text that was being read")
        return Guard(policy)

    policies = Policies(str(file), build=build, on_event=lambda _, event, message: events.append((event, message)))
    file.write_text(page("pear"))
    for _ in range(4):
        policies.look()
    assert events[1:] == [("refused", "loading failed with MemoryError.")]
    assert blocks(policies.guard(), "apple")


def test_a_touched_file_is_not_loaded_again(policies: Policies, file: Path) -> None:
    before = policies.guard()
    os.utime(file, (1, 1))
    policies.look()
    policies.look()
    assert policies.guard() is before


def test_a_swapped_link_is_a_change(tmp_path: Path) -> None:
    """The way that Kubernetes mounts a ConfigMap."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.yaml").write_text(page("apple" if name == "old" else "mango"))
    (tmp_path / "data").symlink_to("old")
    policies = Policies(str(tmp_path / "data" / "policy.yaml"))
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").rename(tmp_path / "data")
    policies.look()
    policies.look()
    assert blocks(policies.guard(), "mango")


def test_a_classifier_that_is_taught_again_is_loaded(tmp_path: Path) -> None:
    make_artifact(tmp_path / "heads", ["shouting"])
    file = tmp_path / "policy.yaml"
    rule = "rules: [{category: shouting, action: block, threshold: 0.5}]"
    file.write_text(f"version: 1\nname: p\nchecks: {{s: {{type: probe, artifact: ./heads}}}}\n{rule}\n")
    policies = Policies(str(file), build=lambda policy: Guard(policy, FakeGemma()))
    before = policies.guard()
    make_artifact(tmp_path / "heads", ["shouting"], stride=2)
    policies.look()
    policies.look()
    assert policies.guard().digest != before.digest
    assert policies.guard().probes is not None


def test_each_key_has_its_policy_and_an_unknown_one_is_never_replaced(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(page("cherry"))
    named = [str(other)]
    policies = Policies(str(file), lambda: named)
    assert blocks(policies.guard(str(other)), "cherry")
    assert not blocks(policies.guard(), "cherry")
    with pytest.raises(PolicyError, match="not served"):
        policies.guard("absent.yaml")

    named[:] = ["absent.yaml"]  # the file of keys changed
    policies.look()
    policies.look()
    for name in ("absent.yaml", str(other)):
        with pytest.raises(PolicyError, match="not served"):
            policies.guard(name)
    assert policies.status()["absent.yaml"].digest is None


def test_the_shadow_policy_is_reloaded_like_the_others(file: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.yaml"
    second.write_text(page("cherry"))
    policies = Policies(str(file), shadow=str(second))
    second.write_text(page("mango"))
    policies.look()
    policies.look()
    shadow = policies.shadow()
    assert shadow is not None
    assert blocks(shadow, "mango")
    assert not blocks(policies.guard(), "mango")
    assert Policies(str(file)).shadow() is None


def test_a_start_with_a_bad_policy_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Policies(str(tmp_path / "absent.yaml"))


def test_the_watch_goes_on_after_a_fault(file: Path) -> None:
    """The thread itself: a look that raises is told, and the next one loads what has changed."""
    told, loaded = threading.Event(), threading.Event()

    def on_event(_: str, event: str, message: str) -> None:
        if "looking" in message:
            told.set()
        elif event == "loaded" and told.is_set():
            loaded.set()

    faults = iter([(), RuntimeError()])

    def others() -> tuple[str, ...]:
        if isinstance(fault := next(faults, ()), RuntimeError):
            raise fault
        return fault

    policies = Policies(str(file), others, on_event=on_event)
    policies.start(0.01)
    try:
        assert told.wait(30)
        file.write_text(page("pear"))
        assert loaded.wait(30)
        assert blocks(policies.guard(), "pear")
    finally:
        policies.stop()


def test_running_requests_always_see_one_whole_policy(policies: Policies, file: Path) -> None:
    """Readers and a writer together: whatever guard a reader gets blocks both words of its page, or neither."""
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            guard = policies.guard()
            seen = [blocks(guard, word) for word in ("left", "right")]
            if seen[0] != seen[1]:
                wrong.append(guard.digest)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for round_ in range(20):
        file.write_text(page("left", "right") if round_ % 2 else page("apple"))
        policies.look()
        policies.look()
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert blocks(policies.guard(), "left")


# --- shadow


@pytest.fixture
def shadow() -> Iterator[Shadow]:
    guard = Guard(Policy.parse(page("pear")))
    made = Shadow(lambda: guard)
    yield made
    made.close(5)


REPLY = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "A pear."}, "finish_reason": "stop"}]}


def test_a_shadow_counts_what_it_would_have_changed(shadow: Shadow) -> None:
    for text, response in [("hello", None), ("pear", None), ("hello", REPLY), ("hello", None)]:
        answer = shadow.compare("/v1/chat/completions", "allow", exchange(chat(text), response), 100)
        assert answer is not None
        outcome, digest = answer.result(30)
        assert outcome == ("block" if text == "pear" or response else "allow")
        assert len(digest) == 64
    counts = shadow.counts()
    assert counts.differences == {("/v1/chat/completions", "allow", "block"): 2}
    assert counts.outcomes["/v1/chat/completions", "allow", "allow"] == 2
    assert counts.dropped == 0


@pytest.mark.parametrize("fault", ["check", "guard", "request"])
def test_a_shadow_that_fails_is_counted_as_an_error(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(Policy.parse(page("pear")))

    def broken(*_: object) -> list[object]:
        raise ValueError("a text")

    if fault == "check":
        monkeypatch.setattr(guard.text_checks[0], "run", broken)
    shadow = Shadow(lambda: broken() if fault == "guard" else guard)  # type: ignore[arg-type, return-value]
    request = {"messages": 3} if fault == "request" else chat("pear")
    answer = shadow.compare("/r", "block", exchange(request), 10)
    assert answer is not None
    assert answer.result(30)[0] == "error"
    assert shadow.counts().differences == {("/r", "block", "error"): 1}
    shadow.close(5)


def test_a_shadow_that_hangs_costs_its_own_place_alone() -> None:
    """With its one thread stuck, requests are still taken at once, up to the bound, and then dropped and counted."""
    entered, let_go = threading.Event(), threading.Event()

    def stuck(_: Guard) -> tuple[None]:
        entered.set()
        let_go.wait(30)
        return (None,)

    guard = Guard(Policy.parse(page("pear")))
    shadow = Shadow(lambda: guard)
    first = shadow.compare("/r", "allow", stuck, 1)
    assert entered.wait(30)
    taken = [shadow.compare("/r", "allow", exchange(chat("pear")), 1) for _ in range(WAITING + 3)]
    assert [answer is None for answer in taken] == [False] * WAITING + [True] * 3
    assert shadow.counts().dropped == 3
    let_go.set()
    assert first is not None
    assert first.result(30)[0] == "allow"
    assert all(answer.result(30)[0] == "block" for answer in taken if answer is not None)
    shadow.close(5)


@given(st.lists(st.integers(0, 9_000_000), max_size=12))
def test_what_waits_for_a_shadow_is_bounded_in_bytes(sizes: list[int]) -> None:
    guard, let_go = Guard(Policy.parse(page("pear"))), threading.Event()
    shadow = Shadow(lambda: guard)
    held = 0
    answers = []
    for size in sizes:
        answer = shadow.compare("/r", "allow", lambda _: (let_go.wait(30), ())[1], size)
        assert (answer is None) == (held + size > 16_000_000)
        held += 0 if answer is None else size
        answers.append(answer)
    let_go.set()
    assert all(answer.result(30)[0] == "allow" for answer in answers if answer is not None)
    shadow.close(5)


def test_what_was_refused_or_left_says_nothing_of_policies(shadow: Shadow) -> None:
    assert shadow.compare("/r", "cancelled", exchange(chat("pear")), 1) is None
    assert shadow.counts().dropped == 0
