"""The loop that `make demo-loop` shows: a rule that does not ship, a log, a complaint, a mended guard."""

from __future__ import annotations

import logging
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from test_gemma_load import tiny

from classifiers.cache import FeatureCache
from debugger_app import loop, loop_gateway, reviews
from debugger_app.demo_log import lines
from safety_kit.errors import PolicyError
from safety_kit.gemma import Gemma
from safety_kit.guard import Guard
from safety_kit.policy import Policy

LOOPBACK = ["127.0.0.1"]

RULES = """\
version: 1
name: words
checks: {{names: {{type: patterns, keywords: [{word}]}}, pii: {{type: pii}}}}
rules:
  - {{category: names, action: block}}
  - {{category: pii.email, action: redact, form: mask}}
"""


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], root.level = before
    structlog.reset_defaults()


def test_the_log_has_as_many_different_lines_as_are_asked_for_and_always_the_same() -> None:
    made = lines(2000)
    assert len(set(made)) == 2000
    assert made == lines(2000)
    assert lines(300) == made[:300]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.allow_hosts(LOOPBACK)
def test_a_complaint_is_mended_and_what_was_caught_is_still_caught(embedded: Gemma, tmp_path: Path) -> None:
    told: list[str] = []
    home = tmp_path / "loop"
    home.mkdir()
    came = loop.run(embedded, home, log_lines=300, cache=FeatureCache(tmp_path / "features"), tell=told.append)
    assert came.mended
    assert (came.before.action, came.before.finish_reason) == ("block", "content_filter")
    assert "pharmacist" in came.before.text
    assert (came.after.action, came.after.blocked) == ("allow", False)
    assert came.after.text.strip()

    (row,) = reviews.records(str(home / "review"))
    assert row["request_id"] == came.before.request_id != came.after.request_id
    seen = came.evidence
    assert (seen.text, seen.category, seen.score) == (loop.COMPLAINT, loop.CATEGORY, row["score"])
    assert seen.threshold < seen.score <= seen.peak + 1e-4
    assert seen.token in loop.COMPLAINT
    assert stat.S_IMODE((home / "review").stat().st_mode) == 0o700

    assert all(change.before.action is not change.after.action for change, _ in came.changed)
    before, after = came.recalls
    assert after.hits >= before.hits
    assert after.n == before.n == 12
    assert f"Held-out recall {before} → {after}" in told[-1]

    first, second = came.policies
    assert first.read_text(encoding="utf-8") != second.read_text(encoding="utf-8")
    assert (home / "live.yaml").read_text(encoding="utf-8") == second.read_text(encoding="utf-8")
    assert Policy.load(first).calibration != Policy.load(second).calibration
    assert (home / "personal_medical_dosing").is_dir()
    assert (home / "personal_medical_dosing-v2").is_dir()


@pytest.mark.allow_hosts(LOOPBACK)
def test_the_gateway_says_when_a_policy_is_in_force_and_when_it_is_refused(tmp_path: Path) -> None:
    live = tmp_path / "live.yaml"
    live.write_text(RULES.format(word="bluebird"), encoding="utf-8")
    with loop_gateway.serving(tiny(), live, tmp_path / "review") as gateway:
        gateway.until_in_force(Guard(Policy.load(live)).digest)
        live.write_text(RULES.format(word="redwing"), encoding="utf-8")
        later = Guard(Policy.load(live)).digest
        gateway.until_in_force(later)
        live.write_text("version: 1\nname: [", encoding="utf-8")
        with pytest.raises(PolicyError, match="refuses"):
            gateway.until_in_force("another")
        gateway.until_in_force(later)


@pytest.mark.allow_hosts(LOOPBACK)
def test_nothing_runs_on_after_an_interruption(tmp_path: Path) -> None:
    live = tmp_path / "live.yaml"
    live.write_text(RULES.format(word="bluebird"), encoding="utf-8")
    before = set(threading.enumerate())
    ports: list[int] = []

    def interrupted() -> None:
        with loop_gateway.serving(tiny(), live, tmp_path / "review") as gateway:
            ports.append(int(gateway.url.rpartition(":")[2]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with socket.socket() as attempt:
        assert attempt.connect_ex(("127.0.0.1", ports[0])) != 0
    assert not {"gateway", "safety-kit model"} & {thread.name for thread in set(threading.enumerate()) - before}


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_a_folder_that_is_kept_has_all_or_nothing(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = tmp_path / "kept"
    if there:
        keep.mkdir()

    def interrupted(gemma: object, home: Path, **_: object) -> loop.Outcome:
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        (home / "half").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Gemma, "load", lambda: None)
    monkeypatch.setattr(loop, "run", interrupted)
    assert loop.main(["--keep", str(keep)]) == 130
    assert list(tmp_path.rglob("*")) == ([keep] if there else [])
    assert "nothing of it is kept" in capsys.readouterr().err

    with loop._home(keep) as home:
        (home / "whole").write_text("whole")
    assert (keep / "whole").read_text() == "whole"
    assert loop.main(["--keep", str(keep)]) == 2
    assert "no empty folder" in capsys.readouterr().err


def test_without_the_extras_it_ends_at_once_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop_gateway, "find_spec", lambda name: None if name == "openai" else name)
    monkeypatch.setattr(Gemma, "load", lambda: pytest.fail("the model is loaded"))
    assert loop.main([]) == 3
    told = capsys.readouterr()
    assert told.out == ""
    assert "openai is not installed" in told.err
    assert "pip install 'safety-kit[serve,integrations]'" in told.err
