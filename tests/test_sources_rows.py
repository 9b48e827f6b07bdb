"""Rows whose columns have other names, and rows of a hub data set: no network, a data set of our own or its errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from classifiers.data import Examples, read_examples
from classifiers.rows import open_rows, read_rows, stem
from classifiers.sources import Columns, is_hub_name, load_hub
from safety_kit.errors import DataError, MissingExtra

datasets = pytest.importorskip("datasets")

ROWS = [
    {"reply": "you fool", "question": "hello?", "verdict": "Toxic", "text": "other", "label": 7, "lang": "en"},
    {"reply": "good morning", "question": None, "verdict": "fine", "text": "other", "label": 7, "lang": "de"},
]
COLUMNS = Columns(text="reply", prompt="question", label="verdict", positive=("toxic",))


def labels(examples: Examples) -> list[float]:
    return [row[0] for row in examples.labels.tolist()]


def write(folder: Path, rows: list[dict[str, Any]], kind: str = "jsonl") -> Path:
    path = folder / f"insult.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        lines = [",".join(rows[0]), *(",".join("" if v is None else str(v) for v in row.values()) for row in rows)]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_columns_are_taken_by_their_names(kind: str, tmp_path: Path) -> None:
    examples = read_examples(write(tmp_path, ROWS, kind), columns=COLUMNS)
    assert examples.pairs() == [("hello?", "you fool"), (None, "good morning")]
    assert (examples.categories, labels(examples)) == (("insult",), [1, 0])
    assert examples.slices == {"lang": ("en", "de")}


@pytest.mark.parametrize(
    ("values", "positive", "expected"),
    [
        (["Yes", " yes ", "no"], ("YES",), [1, 1, 0]),
        ([True, False, "true"], ("true",), [1, 0, 1]),
        ([1, 1.0, "1"], ("1",), [1, 1, 1]),
        ([2, 1, 0], ("1", "2"), [1, 1, 0]),
        (["hate", "insult", "none"], ("hate", "insult"), [1, 1, 0]),
    ],
)
def test_labels_that_mean_1(values: list[Any], positive: tuple[str, ...], expected: list[int], tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": value} for i, value in enumerate(values)]
    examples = read_examples(write(tmp_path, rows), columns=Columns(positive=positive), one_class=True)
    assert labels(examples) == expected


def test_a_missing_label_stays_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"text": "a", "label": NaN}\n{"text": "b"}\n{"text": "c", "label": ""}\n{"text": "d", "label": [1]}'
    )
    assert read_rows(path, columns=Columns(positive=("toxic",))).bad == {
        1: "no label",
        2: "no label",
        3: "no label",
        4: "a label is neither 0 nor 1",
    }


def test_a_named_column_replaces_the_one_of_that_name(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 1, "labels": ["x"], "toxic": 0}, {"text": "b", "label": 0, "labels": [], "toxic": 1}]
    examples = read_examples(write(tmp_path, rows), columns=Columns(label="toxic"))
    assert (examples.categories, labels(examples)) == (("insult",), [0, 1])
    assert read_rows(write(tmp_path, rows), columns=Columns(label="nothing")).bad == {1: "no label", 2: "no label"}


@pytest.mark.parametrize("skip_bad", [False, True])
def test_without_the_column_for_the_text_the_columns_are_named(tmp_path: Path, skip_bad: bool) -> None:
    rows = [{"body": "a private sentence", "label": 1}, {"body": "b", "label": 0}]
    with pytest.raises(DataError, match="the columns are: body, label") as caught:
        read_examples(write(tmp_path, rows), skip_bad=skip_bad)
    assert "private" not in str(caught.value)
    with pytest.raises(DataError, match="--text-column"):
        read_examples(write(tmp_path, rows), columns=Columns(text="reply"))
    with pytest.raises(DataError, match="each once: reply,label"):
        read_examples(write(tmp_path, rows, "csv"), columns=Columns(text="reply"))


# --- the hub ---


def hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[Any, ...]]:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None = None, *, split: str | None = None) -> Any:
        asked.append((name, config, split))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_hub_data_set_is_read_like_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch, datasets.Dataset.from_list(ROWS))
    examples = read_examples("hf:org/rude-replies@plain:train", columns=COLUMNS)
    assert asked == [("org/rude-replies", "plain", "train")]
    assert examples.pairs() == [("hello?", "you fool"), (None, "good morning")]
    assert (examples.categories, labels(examples)) == (("rude-replies",), [1, 0])
    name, unit, _ = open_rows("hf:org/rude-replies")
    assert (name, unit, asked[-1]) == ("hf:org/rude-replies", "row", ("org/rude-replies", None, None))


def test_the_only_split_needs_no_name_and_of_several_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    hub(monkeypatch, datasets.DatasetDict(train=rows))
    assert load_hub("hf:org/name").num_rows == 2
    hub(monkeypatch, datasets.DatasetDict(train=rows, test=rows))
    with pytest.raises(DataError, match="as in hf:org/name:train: train, test"):
        load_hub("hf:org/name")


def test_named_classes_are_known_by_their_names_or_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["neither", "hate"]))
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    hub(monkeypatch, rows)
    for positive in ("Hate", "1"):
        read = read_rows("hf:org/name", columns=Columns(positive=(positive,)))
        assert [row.labels["name"] for row in read.good][:2] == [1, 0]
    assert read_rows("hf:org/name", columns=Columns(positive=("hate",))).bad == {3: "no label"}
    assert [row.labels["name"] for row in read_rows("hf:org/name").good] == [1, 0]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ConnectionError("Couldn't reach 'org/name' on the Hub"),
            "cannot be reached for org/name; where there",
        ),
        (datasets.exceptions.DatasetNotFoundError("no such"), "shows no data set org/name; check the name, and log in"),
        (ValueError('Unknown split "dev".'), r"name a configuration and a split .* hf:org/name@CONFIG:SPLIT"),
        (OSError(28, "No space left on device"), "cannot be loaded: No space left on device"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, error)
    with pytest.raises(DataError, match=words) as caught:
        read_examples("hf:org/name")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_without_a_network_the_remedy_is_told() -> None:
    """The real package, offline as every test is."""
    with pytest.raises(DataError, match=r"cannot be reached for org/name; .* save its rows as .jsonl"):
        read_examples("hf:org/name")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"safety-kit\[train\]"):
        read_examples("hf:org/name")


@pytest.mark.parametrize("name", ["hf:", "hf:a/b/c", "hf:a b", "hf:a@:x", "hf:a:", "hf:../up", "hf:a\0b"])
def test_names_that_are_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch, datasets.Dataset.from_list(ROWS))
    with pytest.raises(DataError, match="is named hf:ORG/NAME"):
        read_examples(name)
    assert asked == []


def test_what_a_label_is_about() -> None:
    assert stem("hf:org/rude@x:train") == "rude"
    assert stem("folder/rude.v2.jsonl") == stem(Path("rude.v2.csv")) == "rude.v2"
    assert stem(datasets.Dataset.from_list(ROWS)) is None
    assert [is_hub_name(name) for name in ("hf:a", Path("hf:a"), "a/hf:b")] == [True, False, False]
