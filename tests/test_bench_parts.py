"""A result file of parts: one that is measured again takes the place of its own earlier figures alone."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import parts, result, tables
from benchmarks.result import Figure


def made(what: str, value: float) -> Figure:
    return Figure(what, value, value, value, "ms", "", None)


def test_a_part_measured_again_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "RESULTS", tmp_path)
    monkeypatch.setattr(parts, "cache_dir", lambda: tmp_path)
    file = tmp_path / "b.json"

    def run(only: list[str] | None, value: float, renamed: str = "one") -> list[tuple[str, float]]:
        measure = {"a": lambda: [made(renamed, value), made("two", value)], "b": lambda: [made("three", value)]}
        parts.run("b", measure, Namespace(quick=False, fresh=False, only=only))
        return [(one["what"], one["value"]) for one in json.loads(file.read_text())["figures"]]

    assert run(None, 1) == [("one", 1), ("two", 1), ("three", 1)]
    first = json.loads(file.read_text())
    first["parts"]["b"]["date"] = first["date"] = "2020-01-01"
    first["machine"]["cores"] = first["parts"]["b"]["machine"]["cores"] = 1000
    file.write_text(json.dumps(first))
    assert run(["a"], 2, "renamed") == [("three", 1), ("renamed", 2), ("two", 2)]
    told = json.loads(file.read_text())
    assert told["date"] == told["parts"]["b"]["date"] == "2020-01-01" < told["parts"]["a"]["date"]
    assert told["machine"]["cores"] == told["parts"]["b"]["machine"]["cores"] == 1000
    assert told["parts"]["a"]["machine"]["cores"] != 1000
    others = tables.apart(told)
    assert len(others) == 1
    assert others[0].startswith("a: 20")


def test_a_table_names_the_machine_of_a_part_where_it_is_another() -> None:
    here, there = {"cpu": "one"}, {"cpu": "other"}
    measured = {"a": {"date": "2020-01-02", "machine": there}, "b": {"date": "2020-01-01", "machine": here}}
    told = {"date": "2020-01-01", "machine": here, "parts": {**measured, "c": {"date": "2020-01-02", "machine": there}}}
    assert tables.apart(told) == ["a, c: 2020-01-02 (other)"]
