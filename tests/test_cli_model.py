"""The commands that read a Gemma: teach, use, guard and generate with one embedded model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cli_helpers import app, runner, write_text_policy

from safety_kit.commands import models
from safety_kit.policy import Policy

if TYPE_CHECKING:
    from safety_kit.gemma import Gemma

pytestmark = pytest.mark.model

THINGS = ["the pump", "my invoice", "this lamp", "the gate", "a parcel", "the bridge", "our menu", "a tent"]
CALM = ["Please tell me about {}.", "Where can I find {}?"]
RUDE = ["I hate you and {}, you worthless fool!", "Shut up about {}, idiot."]


@pytest.fixture(scope="module", autouse=True)
def _one_gemma(embedded: Gemma) -> Iterator[None]:
    """Every command gets the session's model instead of loading its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load", lambda *_: embedded)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def rows(folder: Path) -> Path:
    path = folder / "rude.jsonl"
    made = [
        {"text": form.format(thing), "label": label, **({"split": "test"} if number % 4 == 0 else {})}
        for label, forms in ((0, CALM), (1, RUDE))
        for form in forms
        for number, thing in enumerate(THINGS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def taught(folder: Path, rows: Path) -> tuple[Path, dict[str, Any]]:
    """The folder that `train` wrote, and what it said."""
    out = folder / "rude"
    done = runner.invoke(app, ["train", str(rows), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.stderr
    return out, json.loads(done.stdout)


@pytest.fixture(scope="module")
def policy(folder: Path, taught: tuple[Path, dict[str, Any]]) -> str:
    """A policy of text checks and the taught category."""
    path = write_text_policy(folder / "rude.yaml")
    done = runner.invoke(app, ["policy", "add", str(path), str(taught[0]), "--threshold", "0.5", "--stage", "input"])
    assert done.exit_code == 0, done.stderr
    return str(path)


def test_train_tells_its_figures_and_leaves_test_rows_out(taught: tuple[Path, dict[str, Any]]) -> None:
    out, said = taught
    assert (out / "manifest.json").is_file()
    assert said["rows"] == 24
    assert said["reading"] == "causal"
    assert said["seconds"] > 0
    assert 0.8 < said["categories"]["rude"]["auroc"] <= 1


def test_train_for_people_names_the_folder_and_skips_bad_rows_on_request(rows: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "named", tmp_path / "rows.jsonl"
    file.write_text(rows.read_text(encoding="utf-8") + "not json\n", encoding="utf-8")
    options = ["--category", "insult", "--reading", "alone", "--skip-bad"]
    done = runner.invoke(app, ["train", str(file), "--out", str(out), *options])
    assert done.exit_code == 0, done.stderr
    assert "1 bad row left out" in done.stderr
    assert "insult" in done.stdout
    assert "AUROC" in done.stdout
    assert str(out) in done.stdout.replace("\n", "")
    refused = runner.invoke(app, ["policy", "add", str(write_text_policy(tmp_path / "p.yaml")), str(out)])
    assert refused.exit_code == 2
    assert "causal" in refused.stderr


def test_bad_rows_stop_train_and_nothing_is_written(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"text": "one", "label": 1}\n{"text": "two"}\nnot json\n', encoding="utf-8")
    done = runner.invoke(app, ["train", str(file), "--out", str(tmp_path / "out")])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "line 2" in done.stderr
    assert "line 3" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def test_train_refuses_a_folder_that_holds_something_else_before_reading(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear Ana", encoding="utf-8")
    done = runner.invoke(app, ["train", str(rows), "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "no classifier folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_interrupted_train_leaves_nothing(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from classifiers import SafetyClassifier

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SafetyClassifier, "fit", stop)
    done = runner.invoke(app, ["train", str(rows), "--out", str(tmp_path / "out")])
    assert done.exit_code == 130
    assert list(tmp_path.iterdir()) == []


def test_classify(taught: tuple[Path, dict[str, Any]]) -> None:
    texts = ["Tell me about a tent.", "You worthless fool, I hate you!", "", "\x1b[2J", "\ud83d"]
    done = runner.invoke(app, ["classify", str(taught[0]), "--json", *texts])
    assert done.exit_code == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert [result["text"] for result in results] == texts
    calm, rude, empty = (result["scores"]["rude"] for result in results[:3])
    assert empty == 0 <= calm < 0.5 < rude <= 1
    page = runner.invoke(app, ["classify", str(taught[0]), *texts])
    assert page.exit_code == 0
    assert "\x1b" not in page.stdout
    assert f"{rude:.3f}" in page.stdout


def test_classify_a_file_and_standard_input(taught: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"text": "You fool."}\n{"text": "You fool.", "prompt": "Hi"}\n', encoding="utf-8")
    done = runner.invoke(app, ["classify", str(taught[0]), "--json", "--input", str(file)])
    assert len(json.loads(done.stdout)["results"]) == 2
    done = runner.invoke(app, ["classify", str(taught[0]), "--json", "-"], input="You fool.")
    assert [result["text"] for result in json.loads(done.stdout)["results"]] == ["You fool."]
    assert runner.invoke(app, ["classify", str(taught[0]), "--input", str(file), "text"]).exit_code == 2
    assert runner.invoke(app, ["classify", str(tmp_path), "text"]).exit_code == 2


def test_evaluate_reads_the_held_out_rows_with_intervals(taught: tuple[Path, dict[str, Any]], rows: Path) -> None:
    done = runner.invoke(app, ["evaluate", str(taught[0]), str(rows), "--json"])
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["rows"], said["held_out"]) == (8, True)
    auroc = said["categories"]["rude"]["auroc"]
    assert 0 <= auroc["low"] <= auroc["value"] <= auroc["high"] <= 1
    page = runner.invoke(app, ["evaluate", str(taught[0]), str(rows)])
    assert "8 held-out rows" in page.stdout


def test_a_policy_with_the_taught_category_blocks(policy: str) -> None:
    done = runner.invoke(app, ["check", "--policy", policy, "--json", "I hate you, you worthless fool!"])
    assert done.exit_code == 1, done.stderr
    verdict = json.loads(done.stdout)
    (finding,) = verdict["findings"]
    assert (finding["category"], finding["score_kind"]) == ("rude", "calibrated")
    assert runner.invoke(app, ["check", "--policy", policy, "Please tell me about a tent."]).exit_code == 0


def test_a_tampered_classifier_is_2(taught: tuple[Path, dict[str, Any]], policy: str, tmp_path: Path) -> None:
    copy = tmp_path / "rude"
    copy.mkdir()
    for file in taught[0].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = bytearray((copy / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(weights)
    done = runner.invoke(app, ["classify", str(copy), "text"])
    assert done.exit_code == 2
    assert "checksum" in done.stderr


GENERATE = ["generate", "--max-tokens", "8"]


def test_generate_json(policy: str) -> None:
    done = runner.invoke(app, [*GENERATE, "--policy", policy, "--json", "What is the capital of Portugal?"])
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert set(said) == {"reply", "finish_reason", "code", "request_id", "input", "output", "usage", "seconds"}
    assert said["finish_reason"] in ("stop", "length")
    assert said["usage"]["completion_tokens"] <= 8
    assert said["reply"]
    assert (said["input"]["stage"], said["output"]["stage"]) == ("input", "output")


def test_stream_and_blocking_print_the_same_and_json_keeps_stdout_clean(policy: str) -> None:
    question = ["--policy", policy, "What is the capital of Portugal?"]
    plain = runner.invoke(app, [*GENERATE, *question])
    streamed = runner.invoke(app, [*GENERATE, "--stream", *question])
    assert plain.exit_code == streamed.exit_code == 0
    assert streamed.stdout == plain.stdout
    both = runner.invoke(app, [*GENERATE, "--stream", "--json", *question])
    assert json.loads(both.stdout)["reply"] + "\n" == plain.stdout
    assert plain.stdout in both.stderr


def test_generate_blocked_at_input_is_1_and_shows_the_message(policy: str) -> None:
    done = runner.invoke(app, [*GENERATE, "--policy", policy, "You worthless fool, I hate you!"])
    assert (done.exit_code, done.stdout) == (1, "This was withheld.\n")
    assert "block at input: rude" in done.stderr
    assert "worthless" not in done.stderr


def test_generate_reads_the_redacted_prompt_from_standard_input(tmp_path: Path) -> None:
    policy = str(write_text_policy(tmp_path / "text.yaml"))
    done = runner.invoke(app, [*GENERATE, "--policy", policy, "--json", "-"], input="Write to ana@example.com.\n")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["input"]["text"] == "Write to [EMAIL].\n"


@pytest.mark.parametrize("option", [["--top-p", "0"], ["--temperature", "-1"], ["--min-p", "1"], ["--stop", ""]])
def test_sampling_out_of_range_is_2(policy: str, option: list[str]) -> None:
    done = runner.invoke(app, [*GENERATE, "--policy", policy, *option, "a text"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert option[0].strip("-").replace("-", "_") in done.stderr


def test_prepare_has_nothing_to_do_for_a_policy_without_the_kits_categories(policy: str) -> None:
    done = runner.invoke(app, ["prepare", "--model", "embedded", "--policy", policy, "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["taught"] == []
    assert Policy.load(policy).checks["rude"].type == "probe"


def test_prepare_estimates_then_teaches_what_is_missing(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from classifiers import teach

    asked: list[str] = []

    def teach_missing(*_: object, **__: object) -> list[Path]:
        asked.append("taught")
        return [Path("somewhere/hate")]

    def estimate(*_: object) -> float:
        asked.append("estimated")
        return 12.0

    monkeypatch.setattr(teach, "missing", lambda *_: ["hate"])
    monkeypatch.setattr(teach, "estimate", estimate)
    monkeypatch.setattr(teach, "teach_missing", teach_missing)
    done = runner.invoke(app, ["prepare", "--model", "m", "--policy", policy, "--json"])
    assert done.exit_code == 0, done.stderr
    assert asked == ["estimated", "taught"]
    assert "about 12 s" in done.stderr
    assert json.loads(done.stdout)["taught"] == ["somewhere/hate"]


def test_a_policy_whose_classifiers_are_missing_is_2_and_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safety_kit.checks import probe

    monkeypatch.setattr(probe, "classifiers_dir", lambda *_: tmp_path)
    done = runner.invoke(app, ["check", "a text"])
    assert done.exit_code == 2
    assert "safety-kit prepare --model" in done.stderr
