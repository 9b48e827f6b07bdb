"""What the commands read: CSV, Parquet and hub data sets beside JSONL, and columns by another name."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import app, runner
from test_classifiers import toy
from test_gemma_load import one_thread, tiny  # noqa: F401  (tiny models are slower on two threads)

from classifiers import sources
from safety_kit.commands import models
from safety_kit.commands.inputs import read_rows
from safety_kit.errors import DataError

ROWS = [{"body": text, "asked": None, "is_bad": int(label)} for text, label in zip(*toy(48), strict=True)]
NAMED = ["--text-column", "body", "--prompt-column", "asked"]


def jsonl(path: Path) -> Path:
    path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path.with_suffix(".jsonl")


def in_csv(path: Path) -> Path:
    with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    return path.with_suffix(".csv")


def parquet(path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a data set that a stand-in for the hub has."""
    import datasets

    made = datasets.Dataset.from_list(ROWS)
    monkeypatch.setattr(sources, "load_hub", lambda _: made)
    monkeypatch.setattr("classifiers.rows.load_hub", lambda _: made)
    return "hf:me/rows"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load", lambda *_: tiny())
        kit("train", jsonl(made / "toy"), *NAMED, "--label-column", "is_bad", "--out", made / "classifier")
    return made / "classifier"


@pytest.fixture(autouse=True)
def _one_gemma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda *_: tiny())


def kit(*arguments: object, code: int = 0) -> Any:
    done = runner.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.stderr
    return done


@pytest.mark.parametrize("write", [jsonl, in_csv, parquet])
def test_classify_and_calibrate_read_each_kind(write: Callable[[Path], Path], folder: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "log")
    said = json.loads(kit("classify", folder, "--input", rows, *NAMED, "--json").stdout)
    assert [one["text"] for one in said["results"]] == [row["body"] for row in ROWS]
    assert kit("calibrate", folder, rows, *NAMED, "--out", tmp_path / "new").exit_code == 0
    assert json.loads((tmp_path / "new" / "manifest.json").read_text())["traffic"]["rows"] == {"input": len(ROWS)}


def test_a_hub_data_set_is_read_and_its_rows_are_the_logs_digest(hub: str, folder: Path, tmp_path: Path) -> None:
    kit("calibrate", folder, hub, *NAMED, "--out", tmp_path / "new")
    log = json.loads((tmp_path / "new" / "manifest.json").read_text())["traffic"]["log"]
    assert len(log) == 64
    ROWS.append({"body": "one more", "asked": None, "is_bad": 0})
    try:
        kit("calibrate", folder, in_csv(tmp_path / "log"), *NAMED, "--out", tmp_path / "new")
        assert json.loads((tmp_path / "new" / "manifest.json").read_text())["traffic"]["log"] != log
    finally:
        ROWS.pop()


def test_check_reads_columns_by_another_name(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\nname: t\nchecks: {secrets: {type: secrets}}\nrules:\n- {category: secrets.*, action: block}\n"
    )
    done = kit("check", "--input", parquet(tmp_path / "log"), *NAMED, "--policy", policy)
    assert len(done.stdout.splitlines()) == len(ROWS)


def test_judge_measures_on_columns_by_another_name(hub: str, tmp_path: Path) -> None:
    asked = ["judge", "--guideline", "No z.", *NAMED, "--label-column", "is_bad", "--category", "toy", "--json"]
    for rows in (in_csv(tmp_path / "rows"), hub):
        said = json.loads(kit(*asked, "--data", rows).stdout)
        assert said["stages"]["input"]["positives"] == sum(row["is_bad"] for row in ROWS)
    said = json.loads(kit("judge", "--guideline", "No z.", *NAMED, "--input", hub, "--json").stdout)
    assert len(said["results"]) == len(ROWS)


def test_next_leaves_out_known_texts_by_their_column(folder: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps({"body": row["body"]}) + "\n" for row in [*ROWS, {"body": "qqzz"}]))
    known = parquet(tmp_path / "known")
    own = tmp_path / "own.jsonl"  # in the kit's own columns, whatever the pool's are called
    own.write_text("".join(json.dumps({"text": row["body"], "label": row["is_bad"]}) + "\n" for row in ROWS))
    for i, labelled in enumerate((known, own)):
        out = ["--out", tmp_path / f"next-{i}.jsonl", "--json"]
        assert json.loads(kit("next", folder, pool, "--labelled", labelled, *NAMED, *out).stdout)["pool"] == 1


def test_what_cannot_be_read_is_told_by_row_and_never_quoted(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,stage\nfine,input\nfine,\nprivate,nowhere\n")
    with pytest.raises(DataError, match=r"line 4: stage is neither input nor output") as told:
        read_rows(path)
    assert "private" not in str(told.value)
    path.write_text("body\nprivate\n")
    with pytest.raises(DataError, match="--text-column"):
        read_rows(path)
    pq.write_table(pa.table({"body": ["private"]}), path.with_suffix(".parquet"))
    with pytest.raises(DataError, match=r"the columns are: body \(name one with --text-column\)"):
        read_rows(path.with_suffix(".parquet"))
