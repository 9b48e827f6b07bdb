"""`safety-kit calibrate` and the budgets of `policy validate`, on a tiny Gemma."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import app, runner, start
from test_gemma_load import one_thread  # noqa: F401  (tiny models are slower on two threads)

from classifiers import SafetyClassifier
from safety_kit import artifacts
from safety_kit.commands import models
from safety_kit.gemma import Gemma
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.testing import save_tiny_gemma
from safety_kit.thresholds import Calibration
from safety_kit.types import Stage

POLICY = """\
version: 1
name: mine
checks:
  toy: {type: probe, artifact: ./toy}
rules:
  - {category: toy, action: block}
budget: {blocked_harmless: 0.05}
calibration: calibration.json
"""


def toy(n: int, seed: int, share: float = 0.5) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (np.arange(n) < share * n).astype(int)
    return ["".join(rng.choice(list("zzzzqx" if label else "abcdef"), 12 + i % 9)) for i, label in enumerate(y)], y


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Gemma:
    return Gemma.load(save_tiny_gemma(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(autouse=True)
def _one_gemma(tiny: Gemma, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda *_: tiny)


@pytest.fixture(scope="module")
def taught(tiny: Gemma, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught") / "toy"
    SafetyClassifier(tiny, categories="toy").fit(*toy(160, 0)).save(folder)
    return folder


@pytest.fixture
def policy(taught: Path, tmp_path: Path) -> Path:
    (tmp_path / "toy").mkdir()
    for file in taught.iterdir():
        (tmp_path / "toy" / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY, encoding="utf-8")
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """72 harmless rows after a blank line, and the last one is not."""
    path = tmp_path / "log.jsonl"
    texts = [*toy(72, 1, 0)[0], "zzzz\x1b[31mqzzzxzz"]
    path.write_text("\n" + "".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def run(*arguments: object) -> Any:
    return runner.invoke(app, [str(argument) for argument in arguments])


def test_a_policy_is_calibrated_and_then_keeps_its_budget(policy: Path, log: Path, tiny: Gemma) -> None:
    assert run("policy", "validate", policy).exit_code == 2
    done = run("calibrate", policy, log, "--json")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    made = Calibration.load(policy.parent / "calibration.json")
    assert (said["log"], made.log) == (hashlib.sha256(log.read_bytes()).hexdigest(),) * 2
    assert len(made.date) == 10
    assert (said["rows"], said["above"], len(said["nearest"])) == (73, 0, 10)
    assert said["nearest"][0]["line"] == 74  # the harmful row is the one to be looked at
    assert not any("text" in row for row in said["nearest"])
    assert "no text at output" in done.stderr
    stored = (policy.parent / "calibration.json").read_text()
    assert "zzzz" not in stored + done.stdout + done.stderr
    policy.write_text(POLICY.replace("block}", "block, stages: [input]}"), encoding="utf-8")
    guard = Guard(Policy.load(policy), tiny)
    assert sum(guard.check_text(text).blocked for text in toy(100, 2, 0)[0]) <= 5
    (joint,) = json.loads(run("policy", "validate", policy, "--json").stdout)["joint"]
    assert (joint["source"], joint["n"], joint["low"]) == ("traffic", 73, 0.0)
    assert 0 < joint["bound"] <= 0.05


def test_the_page_for_people(policy: Path, log: Path) -> None:
    done = run("calibrate", policy, log, "--nearest", "3")
    assert done.exit_code == 0, done.stderr
    for words in (
        "For texts like the log's",
        "5.00% together",
        "0 of 73 rows are above a threshold",
        "5.0% of it (4): the true false-positive rate is at most 5.29%, and at most 0 of these rows are stopped.",
        "calibration.json",
    ):
        assert words in done.stdout
    assert "zzzz" not in done.stdout
    shown = run("calibrate", policy, log, "--nearest", "3", "--show")
    assert "zzzz\\x1b[31mqzzzxzz" in shown.stdout
    assert "\x1b" not in shown.stdout


def test_rows_at_output_set_the_output(policy: Path, log: Path) -> None:
    done = run("calibrate", policy, log, "--stage", "output", "--json")
    assert done.exit_code == 0, done.stderr
    assert [one["stage"] for one in json.loads(done.stdout)["thresholds"]] == ["output"]
    assert "no text at input" in done.stderr


def test_validate_shows_budgets_and_where_they_come_from(policy: Path, log: Path) -> None:
    run("calibrate", policy, log)
    policy.write_text(POLICY.replace("block}", "block, stages: [input]}"), encoding="utf-8")
    shown = run("policy", "validate", policy)
    assert "73 rows of your traffic" in shown.stdout
    (one,) = json.loads(run("policy", "validate", policy, "--json").stdout)["budgets"]
    assert (one["category"], one["stage"], one["n"], one["source"]) == ("toy", "input", 73, "traffic")
    page = run("policy", "show", policy).stdout
    assert "at most 5.0% of harmless texts" in page


def test_validate_names_every_unsupported_budget_with_the_smallest_that_is(policy: Path) -> None:
    rule = "  - {category: toy, action: block, max_fpr: 0.01}\n  - {category: toy, action: flag, max_fpr: 0.04}\n"
    policy.write_text(POLICY.split("rules:")[0] + "rules:\n" + rule, encoding="utf-8")
    done = run("policy", "validate", policy)
    assert (done.exit_code, done.stdout) == (2, "")
    said = " ".join(done.stderr.split())
    for stage in Stage:
        assert f"toy at {stage}: 1 % needs at least 299 harmless texts for 95 % confidence, there are 80" in said
    assert said.count("the smallest budget that they support is 3.7 %") == 2
    policy.write_text(policy.read_text().replace("max_fpr: 0.01", "max_fpr: 0.037"), encoding="utf-8")
    done = run("policy", "validate", policy)
    assert done.exit_code == 0
    assert "80 held-out examples" in done.stdout


def test_the_table_of_a_classifier_without_a_log(taught: Path) -> None:
    done = run("calibrate", taught)
    assert done.exit_code == 0, done.stderr
    assert "For texts like the calibration set" in done.stdout
    assert "up to 64 tokens" in done.stdout
    said = json.loads(run("calibrate", taught, "--json").stdout)
    own = [row for row in said["budgets"] if row["stage"] == "input" and row["lengths"] == "all lengths"]
    assert [(row["fpr"], row["needed"], row["threshold"] is None) for row in own] == [
        (0.001, 2995, True),
        (0.005, 598, True),
        (0.01, 299, True),
        (0.02, 149, True),
        (0.05, 59, False),
    ]
    assert run("calibrate", taught, "--out", "x").exit_code == 2


def test_a_classifier_takes_the_logs_scores(taught: Path, log: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    done = run("calibrate", taught, log, "--out", out, "--json")
    assert done.exit_code == 0, done.stderr
    old, new = artifacts.load(taught), artifacts.load(out)
    assert new.manifest.traffic is not None
    assert new.manifest.traffic.log == hashlib.sha256(log.read_bytes()).hexdigest()
    assert new.manifest.traffic.rows == {Stage.INPUT: 73}
    head, before = new.heads["toy"], old.heads["toy"]
    assert (len(head.negatives[Stage.INPUT]), head.calibration) == (73, before.calibration)
    np.testing.assert_array_equal(head.negatives[Stage.OUTPUT], before.negatives[Stage.OUTPUT])
    np.testing.assert_array_equal(head.weight, before.weight)
    told = [row for row in json.loads(done.stdout)["budgets"] if row["fpr"] == 0.05]
    assert [(row["stage"], row["n"]) for row in told] == [("input", 73)]
    assert told[0]["threshold"] == pytest.approx(head.threshold_for(0.05, Stage.INPUT), abs=1e-5)
    again = SafetyClassifier.load(out, models.load("tiny", None, "auto", "auto"))
    probabilities = again.category_probabilities(
        [json.loads(line)["text"] for line in log.read_text().split("\n")[1:-1]]
    )
    assert (probabilities > told[0]["threshold"]).sum() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "mine"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("budget: {blocked_harmless: 0.05}\n", ""), "exactly one of"),
        (("calibration: calibration.json\n", ""), "add to its file: calibration: calibration.json"),
        (("0.05", "0.001"), "0.1 % needs at least 2995 harmless texts"),
    ],
)
def test_policies_that_cannot_be_calibrated(policy: Path, log: Path, change: tuple[str, str], says: str) -> None:
    policy.write_text(POLICY.replace(*change), encoding="utf-8")
    done = run("calibrate", policy, log)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr
    assert not (policy.parent / "calibration.json").exists()


def test_arguments_that_make_no_sense(policy: Path, taught: Path, log: Path, tmp_path: Path) -> None:
    assert run("calibrate", policy).exit_code == 2
    assert run("calibrate", policy, log, "--out", tmp_path / "x").exit_code == 2
    assert run("calibrate", policy, tmp_path / "nothing.jsonl").exit_code == 2
    assert run("calibrate", taught, log, "--out", tmp_path).exit_code == 2
    default = run("calibrate", "default", log)
    assert default.exit_code == 2
    assert "policy show default --yaml" in default.stderr


def test_interrupted_nothing_is_written(policy: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safety_kit import traffic

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = sorted(path.name for path in policy.parent.iterdir())
    monkeypatch.setattr(traffic, "margins", stop)
    monkeypatch.setattr(traffic, "read_log", stop)
    assert run("calibrate", policy, log).exit_code == 130
    assert sorted(path.name for path in policy.parent.iterdir()) == before


def test_help_is_light() -> None:
    page, _, heavy = start("calibrate", "--help")
    assert "LOGS" in page
    assert heavy <= {"pydantic"}
