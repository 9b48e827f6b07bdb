"""`safety-kit data check`: exit codes, the page, the document, the cleaned copy; columns in `train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import app, runner, start
from test_gemma_load import one_thread  # noqa: F401  (tiny models are slower on two threads)

from safety_kit.commands import models
from safety_kit.gemma import Gemma
from safety_kit.testing import save_tiny_gemma

SECRET = "a private sentence"
FAULTY: list[Any] = [
    {"text": SECRET, "label": 1},
    {"text": SECRET, "label": 0},
    {"text": "you fool", "label": 1},
    {"text": "You fool", "label": 1},
    {"text": "good morning", "label": 0},
    {"text": "", "label": 0},
    {"text": "mail jo@example.com", "label": 0},
]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write(tmp_path / "insult.jsonl", FAULTY)


def test_the_page_names_lines_and_no_text(data: str) -> None:
    done = runner.invoke(app, ["data", "check", data])
    assert done.exit_code == 1
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["bad", "row", "error", "6", "no", "text"] in lines
    assert ["contradiction", "error", "1,", "2", "one", "text,", "labelled", "0", "and", "1", "for", "insult"] in lines
    assert ["duplicate", "warning", "3,", "4", "one", "text", "2", "times"] in lines
    assert ["pii", "warning", "7", "pii.email"] in lines
    assert "6 rows, 2 errors" in done.stdout
    for text in (SECRET, "fool", "example.com"):
        assert text not in done.output


def test_the_document_has_every_issue(data: str) -> None:
    done = runner.invoke(app, ["data", "check", data, "--json"])
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert (document["data"], document["rows"], document["unit"], document["errors"]) == (data, 6, "line", 2)
    assert document["issues"][0] == {"kind": "bad_row", "places": [6], "detail": "no text", "severity": "error"}
    assert document["warnings"] == sum(issue["severity"] == "warning" for issue in document["issues"])
    assert "fixed" not in document
    assert document["notes"]


def test_warnings_alone_are_no_fault(tmp_path: Path) -> None:
    data = write(tmp_path / "insult.jsonl", [row for row in FAULTY[2:] if row["text"]])
    assert runner.invoke(app, ["data", "check", data]).exit_code == 0


def test_a_test_that_was_taught_from(data: str, tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", [{"text": "Good Morning", "label": 0}, {"text": "new", "label": 1}])
    document = json.loads(runner.invoke(app, ["data", "check", data, "--against", test, "--json"]).stdout)
    leak = next(issue for issue in document["issues"] if issue["kind"] == "leakage")
    assert leak["places"] == [5]
    assert f"line 1 of {test}" in leak["detail"]


def test_fix_writes_a_copy_and_leaves_the_data(data: str, tmp_path: Path) -> None:
    before = Path(data).read_bytes()
    out = tmp_path / "clean.jsonl"
    done = runner.invoke(app, ["data", "check", data, "--fix", "--out", str(out)])
    assert done.exit_code == 0
    assert "3 rows, 1 bad, 2 contradicting, 0 leaking, 1 merged, 0 paired; 0 errors left" in " ".join(
        done.stdout.split()
    )
    assert [json.loads(line) for line in out.read_text().splitlines()] == [FAULTY[2], FAULTY[4], FAULTY[6]]
    assert Path(data).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean.jsonl", "insult.jsonl"]
    # It is there now, and is only replaced where that is asked for.
    again = runner.invoke(app, ["data", "check", data, "--fix", "--out", str(out)])
    assert (again.exit_code, "--force" in again.stderr) == (2, True)
    forced = runner.invoke(app, ["data", "check", data, "--fix", "--out", str(out), "--force", "--json"])
    assert forced.exit_code == 0
    fixed = {
        "out": str(out),
        "rows": 3,
        "bad": 1,
        "contradicting": 2,
        "leaking": 0,
        "merged": 1,
        "paired": 0,
        "errors": 0,
    }
    assert json.loads(forced.stdout)["fixed"] == fixed


def test_a_copy_with_an_error_left_is_exit_1(tmp_path: Path) -> None:
    data = write(tmp_path / "insult.jsonl", FAULTY[:4])
    done = runner.invoke(app, ["data", "check", data, "--fix", "--out", str(tmp_path / "clean.jsonl")])
    assert done.exit_code == 1
    assert "no row of label 0" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fix"], "belong together"),
        (["--out", "x.jsonl"], "belong together"),
        (["--fix", "--out", "x.csv"], "does not end in .jsonl"),
        (["--fix", "--out", "insult.jsonl", "--force"], "one of the inputs"),
        (["--fix", "--out", "./linked.jsonl", "--force"], "one of the inputs"),
        (["--fix", "--out", "test.jsonl", "--force", "--against", "test.jsonl"], "one of the inputs"),
        (["--fix", "--out", "folder.jsonl", "--force"], "or a folder"),
        (["--text-column", "body"], "No row of insult.jsonl can be used; no row has the column for the text"),
        (["--category", "spam", "--label-column", "x"], "No row of insult.jsonl can be used"),
        (["--against", "none.jsonl"], "none.jsonl cannot be read: No such file"),
    ],
)
def test_what_is_refused_changes_nothing(
    options: list[str], words: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "test.jsonl", FAULTY[4:5])
    (tmp_path / "linked.jsonl").symlink_to(data)
    (tmp_path / "folder.jsonl").mkdir()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    done = runner.invoke(app, ["data", "check", "insult.jsonl", *options])
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stdout == ""
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_copy_that_nothing_is_left_for_is_not_written(tmp_path: Path) -> None:
    data = write(tmp_path / "insult.jsonl", FAULTY[:2])
    done = runner.invoke(app, ["data", "check", data, "--fix", "--out", str(tmp_path / "clean.jsonl")])
    assert done.exit_code == 2
    assert "leaves no row" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["insult.jsonl"]


def test_a_hub_name_without_a_network_is_one_sentence() -> None:
    done = runner.invoke(app, ["data", "check", "hf:org/name"])
    assert done.exit_code == 2
    assert "The hub cannot be reached for org/name" in done.stderr
    assert "Traceback" not in done.stderr


def test_hostile_words_are_shown_escaped(tmp_path: Path) -> None:
    rows = [{"text": f"text{i} of{i}", "label": i % 2, "\x1b[2Jx": ["\x1b[31m", "b"][i % 2]} for i in range(40)]
    done = runner.invoke(app, ["data", "check", write(tmp_path / "insult.jsonl", rows)])
    assert "shortcut" in done.stdout
    assert "\x1b" not in done.output


def test_texts_of_50_000_characters_are_read(tmp_path: Path) -> None:
    words = ["lamp", "kettle", "garden", "window"]
    rows = [{"text": f"{word} " * 10_000, "label": i % 2} for i, word in enumerate(words)]  # 50,000 characters and more
    done = runner.invoke(app, ["data", "check", write(tmp_path / "insult.jsonl", rows), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["rows"] == 4


def test_train_and_evaluate_take_the_columns(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_thread: None,  # noqa: F811
) -> None:
    gemma = Gemma.load(save_tiny_gemma(tmp_path / "tiny"))
    monkeypatch.setattr(models, "load", lambda *_: gemma)
    rows = [{"body": f"{'zqzq' if i % 2 else 'abab'} {i}", "verdict": "bad" if i % 2 else "fine"} for i in range(24)]
    data = write(tmp_path / "insult.jsonl", rows)
    columns = ["--text-column", "body", "--label-column", "verdict", "--positive", "bad"]
    out = str(tmp_path / "insult")
    done = runner.invoke(app, ["train", data, "--out", out, "--json", *columns])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 24
    done = runner.invoke(app, ["evaluate", out, data, "--json", *columns])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["categories"]["insult"]["positives"] == 12
    assert runner.invoke(app, ["train", data, "--out", out]).exit_code == 2


def test_its_help_loads_nothing_heavy() -> None:
    output, _, heavy = start("data", "check", "--help")
    assert "--against" in output
    assert heavy <= {"pydantic"}  # typer itself loads it for a command in a group
