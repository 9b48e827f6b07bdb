"""The adapter's benchmark: its protocol, and that a stopped one goes on where it was. On made-up rows, no model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import lora


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    shares = rng.choice([0.0, 0.2, 1 / 3, 0.6, 1.0], 998)
    (tmp_path / "ethos").mkdir()
    rows = [json.dumps({"text": f"text {n}", "hate": share}) for n, share in enumerate(shares)]
    (tmp_path / "ethos" / "all.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tmp_path


def options(data: Path, **changed: Any) -> argparse.Namespace:
    plain = {"data": data, "recipes": ["one", "two"], "n": [20], "shuffles": [32, 1], "epochs": 1}
    return argparse.Namespace(**plain | changed)


def test_the_split_is_googles(data: Path) -> None:
    few, many = lora.ethos(data, 32, 200), lora.ethos(data, 32, 800)
    assert (len(few.texts), len(many.texts), len(few.test)) == (200, 800, 198)
    assert few.texts == many.texts[:200]
    assert few.test == many.test
    assert not {*many.texts} & {*many.test}
    assert lora.ethos(data, 1, 200).test != few.test
    rows = {json.loads(line)["text"]: json.loads(line)["hate"] for line in (data / "ethos/all.jsonl").open()}
    median = np.median(list(rows.values()))
    assert many.y.tolist() == [int(rows[text] >= median) for text in many.texts]


def test_a_stopped_run_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def recipe(name: str) -> lora.Recipe:
        def run(job: lora.Job, done: dict[str, Any]) -> dict[str, Any]:
            if len(ran) == 3:
                raise KeyboardInterrupt
            ran.append(name)
            return {"p": np.linspace(0, 1, 198).tolist()}

        return run

    monkeypatch.setattr(lora, "RECIPES", {"one": recipe("one"), "two": recipe("two")})
    gemma: Any = SimpleNamespace(digest="0" * 64)
    with pytest.raises(KeyboardInterrupt):
        lora.measure(options(data), gemma, tmp_path / "work")
    assert len((tmp_path / "work" / "work.jsonl").read_text().splitlines()) == 3
    ran.clear()
    lines = lora.measure(options(data), gemma, tmp_path / "work")
    assert ran == ["two"]
    assert [(line["shuffle"], line["recipe"]) for line in lines] == [(32, "one"), (32, "two"), (1, "one"), (1, "two")]
    assert not any("text" in key for line in lines for key in line)
    other: Any = SimpleNamespace(digest="1" * 64)
    ran.clear()
    with pytest.raises(KeyboardInterrupt):
        lora.measure(options(data), other, tmp_path / "work")
    assert len(ran) == 3


def test_figures_name_their_split() -> None:
    y = [0, 1] * 99
    p = np.where(y, 0.7, 0.4).tolist()
    lines = [{"n": 200, "recipe": "adapter", "shuffle": shuffle, "y": y, "p": p} for shuffle in (32, 1, 2)]
    found = lora.figures(lines)
    assert [one.what for one in found if one.unit == "f1"] == [
        "adapter, n = 200, Google's split",
        "adapter, n = 200, 3 shuffles",
    ]
    assert {one.value for one in found if "own" not in one.unit} == {1.0}
    assert all(one.value > 0.6 for one in found)


def test_the_mean_of_logits() -> None:
    np.testing.assert_allclose(lora.mean_logit([0.9, 0.5], [0.1, 0.5]), [0.5, 0.5])
    assert np.isfinite(lora.mean_logit([0.0, 1.0], [0.0, 0.0])).all()


def test_an_ensemble_needs_its_parts(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gemma: Any = SimpleNamespace(digest="0" * 64)
    assert lora.measure(options(data, recipes=["ensemble"]), gemma, tmp_path / "work") == []
    assert "needs adapter and probe-alone" in capsys.readouterr().err


def test_without_the_data_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["lora", "--data", str(tmp_path)])
    assert lora.main() == 0
    assert "--data" in capsys.readouterr().err
