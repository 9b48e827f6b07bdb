"""The loop that `make demo-loop` shows: a rule that does not ship, a log, a complaint, a mended guard."""

from __future__ import annotations

from pathlib import Path

import pytest

from classifiers.cache import FeatureCache
from debugger_app import loop
from debugger_app.demo_log import lines
from safety_kit.gemma import Gemma
from safety_kit.policy import Policy
from safety_kit.types import Action


def test_the_log_has_as_many_different_lines_as_are_asked_for_and_always_the_same() -> None:
    made = lines(2000)
    assert len(set(made)) == 2000
    assert made == lines(2000)
    assert lines(300) == made[:300]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_complaint_is_mended_and_what_was_caught_is_still_caught(embedded: Gemma, tmp_path: Path) -> None:
    told: list[str] = []
    home = tmp_path / "loop"
    home.mkdir()
    came = loop.run(embedded, home, log_lines=400, cache=FeatureCache(tmp_path / "features"), tell=told.append)
    assert came.before.action is Action.BLOCK
    assert came.after.action is Action.ALLOW
    assert came.before.policy_digest != came.after.policy_digest
    assert all(change.before.action is not change.after.action for change, _ in came.changed)
    before, after = came.recalls
    assert after.hits >= before.hits
    assert after.n == before.n == 12
    first, second = came.policies
    assert first.read_text(encoding="utf-8") != second.read_text(encoding="utf-8")
    assert Policy.load(first).calibration != Policy.load(second).calibration
    assert (home / "personal_medical_dosing").is_dir()
    assert (home / "personal_medical_dosing-v2").is_dir()
