"""Choosing what to label next: doubt, difference, no text twice; pools of every form; rows ready to be filled in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.choose import Choice, choose
from classifiers.data import read_examples
from classifiers.pool import Pool, read_pool, write_choices
from safety_kit.errors import DataError

WORDS = ["lamp", "invoice", "teapot", "parcel", "bridge", "garden", "ladder", "window", "bottle", "saddle", "pillow"]


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- choosing ---


@given(st.lists(st.floats(0, 1), min_size=1, max_size=len(WORDS)), st.integers(1, 15))
@settings(max_examples=50)
def test_every_text_once_and_the_most_doubtful_first(p: list[float], n: int) -> None:
    chosen = choose(WORDS[: len(p)], p, n)
    rows = [choice.row for choice in chosen]
    assert len(rows) == len(set(rows)) == min(n, len(p))
    assert abs(p[rows[0]] - 0.5) == min(abs(value - 0.5) for value in p)
    assert [choice.score for choice in chosen] == [p[row] for row in rows]


def test_doubtful_texts_before_sure_ones() -> None:
    p = [0.99, 0.5, 0.01, 0.55, 0.98, 0.45, 0.02, 0.4]
    assert {choice.row for choice in choose(WORDS[:8], p, 4)} == {1, 3, 5, 7}


def test_a_threshold_moves_where_the_doubt_is() -> None:
    p = [0.05, 0.5, 0.88, 0.91, 0.2]
    assert {choice.row for choice in choose(WORDS[:5], p, 2, threshold=0.9)} == {2, 3}


def test_unlike_texts_before_near_copies() -> None:
    texts = [f"Where is my red lamp number {i}?" for i in range(10)] + ["Please cancel it.", "Good morning to you!"]
    p = [0.5] * 10 + [0.6, 0.6]
    assert {choice.row for choice in choose(texts, p, 3)} > {10, 11}


def test_given_features_decide_what_is_alike() -> None:
    features = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    assert [choice.row for choice in choose(list("abcd"), [0.5] * 4, 4, features=features)] == [0, 2]


def test_copies_and_texts_without_tokens_are_never_picked() -> None:
    assert [choice.row for choice in choose(["a lamp", "a lamp", "x y"], [0.5, 0.5, np.nan], 3)] == [0]
    assert choose([], [], 3) == []


def test_of_a_large_pool_only_the_doubtful_part_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    from classifiers import choose as module

    seen: list[int] = []
    letters = module._letters
    monkeypatch.setattr(module, "_letters", lambda texts: seen.append(len(texts)) or letters(texts))
    rng = np.random.default_rng(0)
    p = rng.random(3000)
    chosen = choose([f"text {i} {rng.integers(1e9)}" for i in range(3000)], p, 10)
    assert seen == [500]
    assert max(abs(choice.score - 0.5) for choice in chosen) < 0.1


# --- pools ---


def test_every_form_of_pool_reads_alike(tmp_path: Path) -> None:
    texts = ["one, two", "drei\tvier", "fünf 🙂"]
    forms = {
        "jsonl": jsonl(tmp_path / "pool.jsonl", *({"text": text} for text in texts)),
        "csv": tmp_path / "pool.csv",
        "parquet": tmp_path / "pool.parquet",
        "txt": tmp_path / "pool.txt",
    }
    forms["csv"].write_text("text,id\n" + "".join(f'"{text}",1\n' for text in texts), encoding="utf-8")
    pq.write_table(pa.table({"text": texts}), forms["parquet"])
    forms["txt"].write_bytes("\ufeff".encode() + "\r\n\n".join(texts).encode() + b"\n")
    for form, path in forms.items():
        assert read_pool(path).pairs == tuple((None, text) for text in texts), form


def test_what_is_labelled_known_or_doubled_is_left_out(tmp_path: Path) -> None:
    rows = [
        {"text": "A lamp", "label": 1},
        {"text": "a  LAMP", "label": None},
        {"text": "a lamp ", "prompt": "What is it?"},
        {"text": "a lamp"},
        {"text": "a tent", "labels": {"insult": 0, "hate": None}},
        {"text": "a gate", "labels": {"hate": 1, "insult": None}},
        {"text": "a pan", "label": float("nan")},
    ]
    path = jsonl(tmp_path / "pool.jsonl", *rows)
    pool = read_pool(path, category="insult", known=[(None, "A PAN")])
    assert pool == Pool(((None, "a  LAMP"), ("What is it?", "a lamp "), (None, "a gate")), 2, 2, 0)
    assert len(read_pool(path, every=True).pairs) == 5


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"body": "secret words", "id": 3}], r"no column for the text but body, id; .*--text-column"),
        ([{"text": "fine"}, {"text": 3}, {"id": "secret words"}], r"line 2: text is not a string\n  line 3: no text\n"),
        ([{"text": "secret words", "label": 1}], "no text left"),
        ([], "no text left"),
        (["secret words"], "line 1"),
    ],
)
def test_a_pool_that_cannot_be_used_says_why_and_quotes_nothing(tmp_path: Path, rows: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as told:
        read_pool(jsonl(tmp_path / "pool.jsonl", *rows))
    assert "secret words" not in str(told.value)


def test_bad_rows_can_be_left_out(tmp_path: Path) -> None:
    pool = read_pool(jsonl(tmp_path / "pool.jsonl", {"text": "fine"}, {"text": ""}, "x"), skip_bad=True)
    assert (pool.pairs, pool.bad) == (((None, "fine"),), 2)


# --- rows to fill in ---


def test_the_rows_are_refused_until_they_are_filled_in(tmp_path: Path) -> None:
    pool = Pool(((None, "fünf"), ("Hi", "a \u202e\x1b[2J\ud800"), (None, "c"), (None, "d")), 0, 0, 0)
    out = tmp_path / "new" / "next.jsonl"
    write_choices(out, pool, [Choice(1, 0.51234), Choice(0, 0.4), Choice(3, 0.3)])
    lines = out.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines][:2] == [
        {"text": "a \u202e\x1b[2J\ud800", "prompt": "Hi", "label": None, "score": 0.5123},
        {"text": "fünf", "label": None, "score": 0.4},
    ]
    assert "fünf" in lines[1]
    assert lines[0].isascii()
    filled = [json.loads(line) | {"label": i} for i, line in enumerate(lines[:2])]
    jsonl(out, *filled, json.loads(lines[2]))
    with pytest.raises(DataError, match="line 3: no label"):
        read_examples(out)
    jsonl(out, *filled)
    assert read_examples(out).labels.tolist() == [[0], [1]]


def test_an_interrupted_write_leaves_nothing_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "next.jsonl"
    out.write_text("mine", encoding="utf-8")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_choices(out, Pool(((None, "a"),), 0, 0, 0), [Choice(0, 0.5)])
    assert [path.name for path in tmp_path.iterdir()] == ["next.jsonl"]
    assert out.read_text(encoding="utf-8") == "mine"
