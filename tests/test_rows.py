"""Reading example rows: every form, every kind of bad row, and that all kinds of source read alike."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import classifiers
from classifiers import rows
from classifiers.data import LISTED, DataWarning, Examples, read_examples
from safety_kit.errors import DataError, MissingExtra

Write = Callable[..., Path]
SECRET = "a private sentence"
GOOD = [{"text": "you fool", "label": 1}, {"text": "good morning", "label": 0}]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows (objects, or lines as they are) into a file."""

    def write(*rows: Any, name: str = "insult.jsonl", newline: str = "\n") -> Path:
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_bytes("".join(line + newline for line in lines).encode())
        return path

    return write


def known(examples: Examples) -> list[list[float | None]]:
    return [[None if math.isnan(label) else label for label in row] for row in examples.labels.tolist()]


# --- forms ---


def test_a_label_is_about_the_files_stem_or_the_option(write: Write) -> None:
    path = write({"text": "you fool", "prompt": "hello", "label": 1}, GOOD[1])
    examples = read_examples(path)
    assert examples.texts == ("you fool", "good morning")
    assert examples.prompts == ("hello", None)
    assert examples.categories == ("insult",)
    assert known(examples) == [[1], [0]]
    assert read_examples(str(path), category="rude").categories == ("rude",)


def test_a_mapping_leaves_unnamed_and_null_labels_unknown(write: Write) -> None:
    path = write(
        {"text": "a", "labels": {"hate": 1, "spam": None}},
        {"text": "b", "labels": {"spam": 1}},
        {"text": "c", "labels": {"spam": 0, "hate": 0}},
    )
    examples = read_examples(path)
    assert examples.categories == ("hate", "spam")
    assert known(examples) == [[1, None], [None, 1], [0, 0]]


def test_a_list_means_that_the_files_other_categories_are_0(write: Write) -> None:
    path = write({"text": "a", "labels": ["hate"]}, {"text": "b", "labels": ["spam"]}, {"text": "c", "labels": []})
    examples = read_examples(path)
    assert examples.categories == ("hate", "spam")
    assert known(examples) == [[1, 0], [0, 1], [0, 0]]


def test_the_option_picks_one_of_several_categories(write: Write) -> None:
    rows = [{"text": "a", "labels": {"hate": 1}}, {"text": "b", "labels": {"spam": 1, "hate": 0}}]
    path = write(*rows, {"text": "c", "labels": {"spam": 0}})
    examples = read_examples(path, category="hate")
    assert (examples.texts, examples.categories, known(examples)) == (("a", "b"), ("hate",), [[1], [0]])
    with pytest.raises(DataError, match="no labels for violence; it has labels for: hate, spam"):
        read_examples(path, category="violence")


@pytest.mark.parametrize(
    ("yes", "no"), [(1, 0), ("1", "0"), (True, False), ("true", "FALSE"), (1.0, 0.0), ("1.0", " 0")]
)
def test_ways_to_write_a_label(write: Write, yes: object, no: object) -> None:
    assert known(read_examples(write({"text": "a", "label": yes}, {"text": "b", "label": no}))) == [[1], [0]]


def test_split_pair_and_slices(write: Write) -> None:
    path = write(
        {"text": "a", "label": 1, "pair": 7, "lang": "en", "split": "test", "meta": {"x": 1}},
        {"text": "b", "label": 0, "pair": 7, "lang": "de", "split": "train"},
        {"text": "c", "label": 0, "turns": 3},
    )
    examples = read_examples(path)
    assert examples.held_out.tolist() == [True, False, False]
    assert examples.groups[:2] == ("7", "7")
    assert examples.groups[2] not in ("7", "c")
    assert examples.slices == {"lang": ("en", "de", None), "turns": (None, None, "3")}
    assert examples.teach().texts == ("b", "c")
    assert examples.test().texts == ("a",)
    assert examples.teach().slices["lang"] == ("de", None)


def test_rows_of_one_text_share_a_group_whatever_their_prompt(write: Write) -> None:
    path = write({"text": "yes", "prompt": "p", "label": 1}, {"text": "yes", "prompt": "q", "label": 0})
    examples = read_examples(path)
    assert len(set(examples.groups)) == 1
    assert examples.pairs() == [("p", "yes"), ("q", "yes")]


def test_bom_crlf_blank_lines_and_line_separators_inside_texts(tmp_path: Path) -> None:
    path = tmp_path / "insult.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in ({"text": "a\u2028b\x85c", "label": 1}, GOOD[1])]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, "", "  ", ""]).encode())
    assert read_examples(path).texts == ("a\u2028b\x85c", "good morning")


def test_lone_surrogates_nul_and_long_texts_are_kept(write: Write) -> None:
    texts = ("\ud800 half", "nul \0 byte", "x" * 200_000, "🙂")
    examples = read_examples(write(*({"text": text, "label": i % 2} for i, text in enumerate(texts))))
    assert examples.texts == texts
    assert len(examples.digest) == 64


# --- the same rows from every kind of source ---

MIXED: list[dict[str, Any]] = [
    {"text": 'one, "two"\nthree', "prompt": None, "label": 1, "pair": "p1", "split": "test", "lang": "en"},
    {"text": "quatre", "prompt": "vraiment ?", "label": 0, "pair": "p1", "split": "test", "lang": "fr"},
    {"text": " padded ", "prompt": None, "label": 0, "pair": None, "split": None, "lang": None},
    {"text": "123", "prompt": None, "label": 1, "pair": None, "split": None, "lang": "en"},
]


def as_source(rows: list[dict[str, Any]], kind: str, folder: Path) -> Any:
    if kind == "dataset":
        return pytest.importorskip("datasets").Dataset.from_list(rows)
    path = folder / f"insult.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            for row in rows:
                writer.writerow({k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in row.items()})
    else:
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet", "dataset"])
@pytest.mark.parametrize("form", ["label", "mapping", "list"])
def test_every_kind_of_source_reads_alike(kind: str, form: str, tmp_path: Path) -> None:
    rows = [dict(row) for row in MIXED]
    if form != "label":
        for i, row in enumerate(rows):
            label = row.pop("label")
            row["labels"] = (
                {"insult": label, "spam": i % 2} if form == "mapping" else ["insult"] * label + ["spam"] * (i % 2)
            )
    category = "insult" if form == "label" else None
    expected = read_examples(as_source(rows, "jsonl", tmp_path), category=category)
    examples = read_examples(as_source(rows, kind, tmp_path), category=category)
    assert examples.pairs() == expected.pairs()
    assert examples.categories == expected.categories
    assert known(examples) == known(expected)
    assert examples.held_out.tolist() == expected.held_out.tolist() == [True, True, False, False]
    assert examples.groups == expected.groups
    assert examples.slices == expected.slices
    assert examples.digest == expected.digest


def test_a_parquet_map_is_a_mapping(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": ["a", "b"],
            "labels": pa.array([[("x", 1)], [("x", 0), ("y", None)]], pa.map_(pa.string(), pa.int64())),
            "embedding": [[0.1], [0.2]],
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    examples = read_examples(tmp_path / "m.parquet")
    assert (examples.categories, known(examples), examples.slices) == (("x",), [[1], [0]], {})


def test_a_dataset_without_the_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = types.new_class("Dataset", exec_body=lambda body: body.update(__module__="datasets.arrow_dataset"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"safety-kit\[train\]"):
        read_examples(foreign(), category="x")


def test_other_objects_are_refused() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list(GOOD)
    with pytest.raises(DataError, match="not from a list"):
        read_examples(GOOD)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="several splits; pass one of them: train"):
        read_examples(datasets.DatasetDict(train=rows), category="x")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"make a datasets\.Dataset of it"):
        read_examples(rows.to_iterable_dataset(), category="x")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="row 1: a label without a category"):
        read_examples(rows)
    assert read_examples(rows, category="x").categories == ("x",)


# --- bad rows ---

BAD = [
    ('{"text": "a private sentence", "label": 1', "not JSON"),
    ("[" * 100_000, "not JSON"),
    ('["a private sentence", 1]', "not an object"),
    ('"a private sentence"', "not an object"),
    ({"label": 1}, "no text"),
    ({"text": None, "label": 1}, "no text"),
    ({"text": " \n", "label": 1}, "no text"),
    ('{"text": NaN, "label": 1}', "no text"),
    ({"text": 12, "label": 1}, "text is not a string"),
    ({"text": [SECRET], "label": 1}, "text is not a string"),
    ({"text": SECRET, "prompt": ["x"], "label": 1}, "prompt is not a string"),
    ({"text": SECRET}, "no label"),
    ({"text": SECRET, "label": None}, "no label"),
    ('{"text": "a private sentence", "label": NaN}', "no label"),
    ({"text": SECRET, "label": 2}, "a label is neither 0 nor 1"),
    ({"text": SECRET, "label": 0.5}, "a label is neither 0 nor 1"),
    ({"text": SECRET, "label": "a private sentence"}, "a label is neither 0 nor 1"),
    ({"text": SECRET, "label": [1]}, "a label is neither 0 nor 1"),
    ('{"text": "a private sentence", "label": 1e999}', "a label is neither 0 nor 1"),
    ({"text": SECRET, "labels": {"hate": "maybe"}}, "a label is neither 0 nor 1"),
    ({"text": SECRET, "labels": {"hate": None}}, "no label"),
    ({"text": SECRET, "labels": {}}, "no label"),
    ({"text": SECRET, "labels": {"": 1}}, "no proper name"),
    ({"text": SECRET, "labels": ["a\nb"]}, "no proper name"),
    ({"text": SECRET, "labels": [1]}, "no proper name"),
    ({"text": SECRET, "labels": 1}, "neither a list nor a mapping"),
    ({"text": SECRET, "labels": "hate"}, "neither a list nor a mapping"),
    ({"text": SECRET, "label": 1, "labels": ["insult"]}, "both label and labels"),
]


@pytest.mark.parametrize(("row", "problem"), BAD, ids=[f"{problem}-{i}" for i, (_, problem) in enumerate(BAD)])
def test_a_bad_row_is_named_by_line_and_can_be_left_out(write: Write, row: Any, problem: str) -> None:
    path = write(GOOD[0], row, GOOD[1])
    with pytest.raises(DataError) as caught:
        read_examples(path)
    assert caught.value.exit_code == 2
    assert re.search(f"line 2: .*{problem}", str(caught.value))
    assert str(caught.value).count("line ") == 1
    assert SECRET not in str(caught.value)
    assert "--skip-bad" in str(caught.value)
    told: list[str] = []
    assert read_examples(path, skip_bad=True, warn=told.append).texts == ("you fool", "good morning")
    assert told == [f"{path}: 1 bad row left out (line 2)."]


def test_all_bad_rows_come_in_one_error_and_are_then_counted(write: Write) -> None:
    path = write(*GOOD, *({"text": "", "label": 1} for _ in range(LISTED + 5)))
    with pytest.raises(DataError) as caught:
        read_examples(path)
    lines = str(caught.value).splitlines()
    assert lines[1:-2] == [f"  line {n}: no text" for n in range(3, LISTED + 3)]
    assert lines[-2] == "  and 5 more bad rows"


def test_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "insult.jsonl"
    path.write_bytes(b'{"text": "a", "label": 1}\n{"text": "caf\xe9", "label": 0}\n{"text": "b", "label": 0}')
    with pytest.raises(DataError, match="line 2: not in UTF-8"):
        read_examples(path)
    table = tmp_path / "insult.csv"
    table.write_bytes(b"text,label\na,1\ncaf\xe9,0\nb,0\n")
    with pytest.raises(DataError, match="line 3: not in UTF-8"):
        read_examples(table)
    assert read_examples(table, skip_bad=True, warn=lambda _: None).texts == ("a", "b")


def test_one_text_with_two_labels_goes_with_all_its_rows(write: Write) -> None:
    both = {"text": SECRET, "label": 1}
    path = write(both, *GOOD, both, {"text": SECRET, "label": 0}, {"text": SECRET, "prompt": "p", "label": 0})
    with pytest.raises(DataError) as caught:
        read_examples(path)
    told: list[str] = []
    for line in (1, 4, 5):
        assert f"line {line}: the text of line 1 has contradicting labels" in str(caught.value)
    assert "line 6" not in str(caught.value)
    assert SECRET not in str(caught.value)
    examples = read_examples(path, skip_bad=True, warn=told.append)
    assert examples.pairs() == [(None, "you fool"), (None, "good morning"), ("p", SECRET)]
    assert told == [f"{path}: 3 bad rows left out (line 1, 4, 5)."]


def test_labels_of_one_text_that_do_not_contradict_are_joined(write: Write) -> None:
    path = write(
        {"text": "a", "labels": {"hate": 1, "spam": None}},
        {"text": "a", "labels": {"spam": 0}},
        {"text": "b", "labels": {"spam": 1, "hate": 0}},
    )
    assert known(read_examples(path, warn=lambda _: None)) == [[1, 0], [0, 1]]


def test_duplicates_are_merged_with_a_warning_and_a_held_out_one_stays_held_out(write: Write) -> None:
    path = write(*GOOD, {**GOOD[0], "split": "test"}, GOOD[0])
    with pytest.warns(DataWarning, match=r"2 duplicates merged \(line 3, 4\)"):
        examples = read_examples(path)
    assert examples.texts == ("you fool", "good morning")
    assert examples.held_out.tolist() == [True, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_examples(write(*GOOD))


def test_one_class_stops_even_with_skip_bad(write: Write) -> None:
    path = write(GOOD[0], {"text": "b", "label": 1}, {"text": "", "label": 0})
    for skip_bad in (False, True):
        with pytest.raises(DataError, match="insult: every label is 1; it needs examples of 0 too"):
            read_examples(path, skip_bad=skip_bad)
    with pytest.raises(DataError, match="spam: every label is 0"):
        read_examples(write({"text": "a", "labels": {"x": 1, "spam": 0}}, {"text": "b", "labels": {"x": 0}}))
    with pytest.raises(DataError, match="no category is named"):
        read_examples(write({"text": "a", "labels": []}))
    assert known(read_examples(write(GOOD[0]), one_class=True)) == [[1]]


def test_files_that_hold_nothing(write: Write, tmp_path: Path) -> None:
    for empty in (write(), write("", "  ", name="blank.jsonl"), write("text,label", name="head.csv")):
        with pytest.raises(DataError, match="no rows; the first could be"):
            read_examples(empty)
    with pytest.raises(DataError, match="first line must name the columns"):
        read_examples(write("a private sentence,1", name="headless.csv"))
    with pytest.raises(DataError, match="no row with a label is left"):
        read_examples(write({"text": "a", "label": 1}, {"text": "a", "label": 0}), skip_bad=True)
    with pytest.raises(DataError, match="cannot be taught from"):
        read_examples(write("x"), skip_bad=True)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_examples(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"no \.jsonl, \.csv or \.parquet file"):
        read_examples(tmp_path / "rows.xlsx")
    with pytest.raises(DataError, match="NUL"):
        read_examples("a\0b.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="directory"):
        read_examples(tmp_path / "folder.jsonl")
    (tmp_path / "wide.csv").write_text("text,label\na,1\n", encoding="utf-16")
    with pytest.raises(DataError, match="save it in UTF-8"):
        read_examples(tmp_path / "wide.csv")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_examples(tmp_path / "broken.parquet")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_rows_are_read_as_they_are_asked_for(kind: str, tmp_path: Path) -> None:
    """What stands far behind the first row is not read with it: the file may still be cut there."""
    path = tmp_path / f"rows.{kind}"
    texts = [f"text {i:05}" for i in range(30_000)]
    path.write_text(
        "\n".join(json.dumps({"text": text}) for text in texts) if kind == "jsonl" else "\n".join(["text", *texts])
    )
    _, _, records = rows.open_rows(path)
    assert next(records)[1] == {"text": texts[0]}
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    assert 10_000 < sum(1 for _ in records) < 16_000


def test_a_parquet_file_is_read_batch_by_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, real = [], pq.ParquetFile.iter_batches

    def counted(file: Any, *arguments: Any, **options: Any) -> Any:
        for batch in real(file, *arguments, **options):
            given.append(len(batch))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    pq.write_table(
        pa.table({"text": [f"text {i}" for i in range(5000)]}), tmp_path / "rows.parquet", row_group_size=2000
    )
    _, _, records = rows.open_rows(tmp_path / "rows.parquet")
    assert next(records) == (1, {"text": "text 0"})
    assert sum(given) <= rows._BATCH
    assert [record["text"] for _, record in records] == [f"text {i}" for i in range(1, 5000)]


def test_a_quotation_mark_that_is_never_closed_takes_no_more_than_a_cell(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_LONGEST_CELL", 50)
    limit = csv.field_size_limit()
    path = write("text,label", '"open,1', *["a line of words,0"] * 30, name="insult.csv")
    _, _, records = rows.open_rows(path)
    place, first = next(records)
    assert (place, type(first)) == (2, rows.BadRow)
    assert [record for _, record in records][-1] == {"text": "a line of words", "label": "0"}
    assert csv.field_size_limit() == limit


def test_csv_lines_are_counted_where_rows_begin(write: Write) -> None:
    path = write(
        "\ufefftext , label,lang", '"two\nlines",1,en', "b,0", "c,x,en", "", "d,0,en", '"never closed,1', name="i.csv"
    )
    with pytest.raises(DataError) as caught:
        read_examples(path)
    problems = [line.strip() for line in str(caught.value).splitlines()[1:-1]]
    assert problems == [
        "line 4: 2 cells for 3 columns",
        "line 5: a label is neither 0 nor 1",
        "line 8: not CSV; perhaps a quotation mark is missing",
    ]
    assert read_examples(path, skip_bad=True, warn=lambda _: None).texts == ("two\nlines", "d")


# --- Examples ---


def test_concat_leaves_other_categories_unknown_and_joins_what_is_known(write: Write) -> None:
    hate = read_examples(write({"text": "a", "label": 1}, {"text": "b", "label": 0}, name="hate.jsonl"))
    rows = [{"text": "b", "label": 1, "split": "test", "lang": "en"}, {"text": "c", "label": 0}]
    spam = read_examples(write(*rows, name="spam.jsonl"))
    both = Examples.concat(hate, spam)
    assert both.categories == ("hate", "spam")
    assert (both.texts, known(both)) == (("a", "b", "c"), [[1, None], [0, 1], [None, 0]])
    assert both.held_out.tolist() == [False, True, False]
    assert Examples.concat(spam, hate).digest == both.digest
    other = read_examples(write({"text": "a", "label": 0}, {"text": "d", "label": 1}, name="hate.jsonl"))
    with pytest.raises(DataError, match="1 texts have one label in one set"):
        Examples.concat(hate, other)
    assert len(Examples.concat()) == 0


def test_with_negatives_adds_zeros_but_never_over_a_label(write: Write) -> None:
    path = write({"text": "a", "labels": {"x": 1, "y": 1}}, {"text": "b", "labels": {"x": 0, "y": 0}})
    own = read_examples(path)
    benign = read_examples(
        write({"text": "a", "label": 0}, {"text": "n", "label": 0, "split": "test"}, name="benign.jsonl"),
        one_class=True,
    )
    more = own.with_negatives(benign)
    assert (more.categories, more.texts, known(more)) == (("x", "y"), ("a", "b", "n"), [[1, 1], [0, 0], [0, 0]])
    assert more.held_out.tolist() == [False, False, True]
    with pytest.raises(DataError, match="harmless"):
        own.with_negatives(own)


def test_the_digest_is_of_the_content_in_any_order(write: Write) -> None:
    digest = read_examples(write(*GOOD)).digest
    assert read_examples(write(*reversed(GOOD))).digest == digest
    for change in ({"label": 0}, {"prompt": "p"}, {"split": "test"}, {"text": "you Fool"}, {"pair": "1"}):
        rows = [{**GOOD[0], **change}, GOOD[1]]
        assert read_examples(write(*rows), one_class=True).digest != digest, change


def test_select_by_mask_or_position_and_nothing_can_be_changed(write: Write) -> None:
    examples = read_examples(write(*GOOD))
    assert examples.select([False, True]).texts == examples.select([1]).texts == ("good morning",)
    assert len(examples.select([])) == len(examples.test()) == 0
    with pytest.raises(ValueError, match="read-only"):
        examples.labels[0, 0] = 0
    assert repr(examples) == "<Examples 2 texts, 0 held out; insult: 1 of 2>"
    with pytest.raises(ValueError, match="differ in length"):
        Examples((), (), ("x",), np.zeros((1, 1)), np.zeros(0, dtype=bool), (), {})


ROW = st.fixed_dictionaries(
    {
        "text": st.text(st.characters(), min_size=1).filter(str.strip),
        "labels": st.dictionaries(
            st.sampled_from(["hate", "spam", "ümläut x"]), st.sampled_from([0, 1, None]), min_size=1
        ),
    },
    optional={
        "prompt": st.none() | st.text(st.characters(), min_size=1),
        "split": st.sampled_from(["test", "train"]),
        "lang": st.sampled_from(["en", "de"]),
    },
)


@given(rows=st.lists(ROW, max_size=8, unique_by=lambda row: (row.get("prompt"), row["text"])), ascii_only=st.booleans())
def test_what_is_written_is_read(
    rows: list[dict[str, Any]], ascii_only: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    try:
        path.write_text("\n".join(lines), encoding="utf-8", newline="\n")
    except UnicodeEncodeError:  # a lone surrogate can only be written as an escape
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8", newline="\n")
    usable = [row for row in rows if any(label is not None for label in row["labels"].values())]
    if not usable:
        with pytest.raises(DataError):
            read_examples(path, one_class=True, skip_bad=True)
        return
    examples = read_examples(path, one_class=True, skip_bad=True, warn=lambda _: None)
    assert examples.pairs() == [(row.get("prompt"), row["text"]) for row in usable]
    assert examples.held_out.tolist() == [row.get("split") == "test" for row in usable]
    for row, labels in zip(usable, known(examples), strict=True):
        assert dict(zip(examples.categories, labels, strict=True)) == {
            category: row["labels"].get(category) for category in examples.categories
        }


def test_reading_rows_loads_neither_torch_nor_scikit_learn_nor_datasets() -> None:
    code = (
        "import sys, classifiers; classifiers.read_examples; print({'torch', 'sklearn', 'datasets'} & {*sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
    assert {"SafetyClassifier", "teach_missing", "Examples"} <= {*dir(classifiers)}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = classifiers.nothing
