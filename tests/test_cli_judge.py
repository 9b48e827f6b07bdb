"""`safety-kit judge`, and the other commands on a policy with a judge."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_helpers import app, runner, start
from test_gemma_load import one_thread as one_thread
from test_gemma_load import tiny

from safety_kit.commands import models
from safety_kit.evidence import Guideline
from safety_kit.gemma.judge import yes_probability

TEXT = "The text shall not insult anybody."
TEXTS = [f"{chr(97 + i % 26) * (1 + i % 5)} the cat {i}" for i in range(44)]


@pytest.fixture(scope="module", autouse=True)
def _one_gemma() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load", lambda *_: tiny())
        patch.setattr("classifiers.metrics.RESAMPLES", 50)
        yield


@functools.cache
def opinion() -> list[float]:
    return yes_probability(tiny(), TEXTS, Guideline("rude", TEXT))


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose labels are the model's own opinion."""
    path = tmp_path_factory.mktemp("data") / "rude.jsonl"
    p = opinion()
    rows = [{"text": text, "label": int(value >= sorted(p)[len(p) // 2])} for text, value in zip(TEXTS, p, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_it_prints_the_probability_of_yes(tmp_path: Path) -> None:
    done = runner.invoke(app, ["judge", "--guideline", TEXT, "the cat", "a [red]\x1b can", "--json"])
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["guideline_digest"] == Guideline("", TEXT).digest
    expected = yes_probability(tiny(), ["the cat", "a [red]\x1b can"], Guideline("", TEXT))
    assert [row["p_yes"] for row in said["results"]] == pytest.approx(expected, abs=1e-5)
    (tmp_path / "guideline.txt").write_text(TEXT + "\n")
    from_file = ["judge", "--guideline-file", str(tmp_path / "guideline.txt")]
    page = runner.invoke(app, [*from_file, "the cat", "a [red]\x1b can"])
    assert page.exit_code == 0
    assert f"{expected[0]:.3f}" in page.stdout
    assert "a [red]\\x1b can" in page.stdout
    piped = runner.invoke(app, [*from_file, "-", "--json"], input="the cat")
    assert json.loads(piped.stdout)["results"] == said["results"][:1]


def test_it_reads_rows_with_prompts(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "the cat"}\n{"text": "the cat", "prompt": "why?"}\n')
    done = runner.invoke(app, ["judge", "--guideline", TEXT, "--input", str(rows), "--json"])
    expected = yes_probability(tiny(), ["the cat", ("why?", "the cat")], Guideline("", TEXT))
    assert [row["p_yes"] for row in json.loads(done.stdout)["results"]] == pytest.approx(expected, abs=1e-5)


def test_it_measures_and_writes_evidence_that_a_policy_takes(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "e.json"
    measure = ["judge", "--guideline", TEXT, "--data", str(data)]
    done = runner.invoke(app, [*measure, "--evidence", str(file)])
    assert done.exit_code == 0, done.stderr
    assert "block" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.json"]
    shown = runner.invoke(app, [*measure, "--json"])
    assert json.loads(shown.stdout)["stages"] == json.loads(file.read_text())["stages"]
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\nname: judged\n"
        f"checks: {{rude: {{type: judge, guideline: '{TEXT}', evidence: e.json}}}}\n"
        "rules: [{category: rude, stages: [input], action: block, threshold: 0.5}]\n"
    )
    assert runner.invoke(app, ["policy", "validate", str(policy)]).exit_code == 0
    table = runner.invoke(app, ["policy", "show", str(policy)])
    assert TEXT in " ".join(table.stdout.split())
    p = opinion()
    worst, best = TEXTS[p.index(max(p))], TEXTS[p.index(min(p))]
    assert runner.invoke(app, ["check", worst, "--policy", str(policy)]).exit_code == 1
    assert runner.invoke(app, ["check", best, "--policy", str(policy)]).exit_code == 0
    policy.write_text(policy.read_text().replace("insult anybody", "insult cats"))
    refused = runner.invoke(app, ["policy", "validate", str(policy)])
    assert refused.exit_code == 2
    assert "another guideline" in refused.stderr


def test_only_the_test_rows_are_read_where_there_are_some(data: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    marked = tmp_path / "rude.jsonl"
    marked.write_text(
        "".join(json.dumps({**row, **({"split": "test"} if i < 43 else {})}) + "\n" for i, row in enumerate(rows))
    )
    done = runner.invoke(app, ["judge", "--guideline", TEXT, "--data", str(marked), "--json"])
    one = json.loads(done.stdout)["stages"]["input"]
    assert one["positives"] + one["negatives"] == 43


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x"], "with --guideline TEXT or --guideline-file"),
        (["--guideline", "a", "--guideline-file", "b", "x"], "with --guideline TEXT or --guideline-file"),
        (["--guideline", " ", "x"], "The guideline is empty"),
        (["--guideline-file", "nowhere.txt", "x"], "nowhere.txt cannot be read"),
        (["--guideline", "a", "--evidence", "e.json", "x"], "--evidence needs labelled rows"),
        (["--guideline", "a", "--data", "rows.jsonl", "x"], "Give --data or texts to read"),
        (["--guideline", "a", "--input", "rows.jsonl", "x"], "Give texts or --input"),
        (["--guideline", "a", "--data", "rows.jsonl", "--evidence", "no/e.json"], "The folder of no/e.json"),
        (["--guideline", "a", "--data", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
    ],
)
def test_wrong_arguments_end_with_2_and_a_sentence(arguments: list[str], said: str) -> None:
    done = runner.invoke(app, ["judge", *arguments])
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())


def test_a_killed_write_leaves_the_old_file(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    file = tmp_path / "e.json"
    file.write_text("old")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    done = runner.invoke(app, ["judge", "--guideline", TEXT, "--data", str(data), "--evidence", str(file)])
    assert done.exit_code == 130
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("e.json", "old")]


def test_help_loads_nothing_heavy() -> None:
    said, _, heavy = start("judge", "--help")
    assert "--guideline" in said
    assert heavy <= {"pydantic"}


def test_a_judge_with_a_model_of_its_own_loads_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_gemma_load import tiny_folder

    def never(*_: object) -> None:
        raise AssertionError("loaded")

    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\nname: judged\n"
        f"checks: {{rude: {{type: judge, guideline: '{TEXT}', model: '{tiny_folder('gemma2')}'}}}}\n"
        "rules: [{category: rude, action: flag, threshold: 0.000001}]\n"
    )
    monkeypatch.setattr(models, "load", never)
    done = runner.invoke(app, ["check", "the cat", "--policy", str(policy), "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["action"] == "flag"
