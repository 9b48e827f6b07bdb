"""The ladder: which rung a number of examples asks for, and that each rung gives a classifier."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import app, runner
from hypothesis import given
from hypothesis import strategies as st
from test_classifiers import toy
from test_gemma_load import one_thread, tiny  # noqa: F401
from test_lora import older

from classifiers import AdapterClassifier, PolicyOnly, SafetyClassifier, ladder
from safety_kit.commands import models
from safety_kit.errors import ArtifactError, DataError
from safety_kit.evidence import Guideline

RULE = Guideline("toy", "No text with the letter z.")


@given(st.integers(0, 500), st.integers(0, 500), st.booleans(), st.booleans())
def test_every_number_has_a_rung_or_a_remedy(positives: int, negatives: int, guideline: bool, gpu: bool) -> None:
    if min(positives, negatives) < 2 and not guideline:
        with pytest.raises(DataError, match="at least 2 of each"):
            ladder.choose(positives, negatives, guideline=guideline, gpu=gpu)
        return
    rung, why = ladder.choose(positives, negatives, guideline=guideline, gpu=gpu)
    assert why.endswith(".")
    assert (rung == "policy") == (guideline and min(positives, negatives) < ladder.FROZEN)
    assert rung != "adapter" or (gpu and positives + negatives >= ladder.ADAPTER)


@pytest.mark.parametrize(
    ("n", "asked", "kind", "rung"),
    [
        (0, "auto", PolicyOnly, "policy"),
        (40, "auto", SafetyClassifier, "frozen"),
        (40, "adapter", AdapterClassifier, "adapter"),
        (40, "policy", PolicyOnly, "policy"),
    ],
)
def test_each_rung_scores(n: int, asked: str, kind: type, rung: str) -> None:
    texts, y = toy(n) if n else ([], np.zeros(0))
    taught = ladder.fit(tiny(), texts, y, category="toy", rung=asked, guideline=RULE)  # type: ignore[arg-type]
    assert isinstance(taught.classifier, kind)
    assert taught.rung == rung
    p = taught.classifier.predict_proba(["zzzz", "abc"])
    assert p.shape == (2, 2)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    assert taught.classifier.categories_ == ("toy",)


def test_the_policy_rung_wants_a_guideline() -> None:
    with pytest.raises(DataError, match="guideline"):
        ladder.fit(tiny(), [], [], category="toy", rung="policy")


@pytest.mark.parametrize("rung", ["frozen", "adapter"])
def test_what_is_trained_is_classified_and_evaluated(
    rung: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "load", lambda *_: tiny())
    texts, y = toy(40)
    rows = tmp_path / "toy.jsonl"
    rows.write_text("".join(json.dumps({"text": t, "label": int(i)}) + "\n" for t, i in zip(texts, y, strict=True)))
    folder = tmp_path / "out"
    done = runner.invoke(app, ["train", str(rows), "--out", str(folder), "--rung", rung, "--json"])
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["rung"] == rung
    assert 0 <= said["categories"]["toy"]["auroc"] <= 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    budgets = [(one["stage"], one["fpr"], one["threshold"]) for one in said.get("budgets", [])]
    unsupported = [(stage, fpr, None) for stage in ("input", "output") for fpr in (0.001, 0.005, 0.01, 0.02, 0.05)]
    assert set(budgets) == (set(unsupported) if rung == "adapter" else set())
    done = runner.invoke(app, ["classify", str(folder), "zzzz", "--json"])
    assert done.exit_code == 0, done.stderr
    assert 0 <= json.loads(done.stdout)["results"][0]["scores"]["toy"] <= 1
    done = runner.invoke(app, ["evaluate", str(folder), str(rows), "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout).get("budgets") == said.get("budgets")
    done = runner.invoke(app, ["evaluate", str(folder), str(rows)])
    assert ("held out of training, at 95%" in " ".join(done.stdout.split())) == (rung == "adapter")
    assert isinstance(ladder.load(folder, tiny()), AdapterClassifier if rung == "adapter" else SafetyClassifier)


def test_an_older_adapter_is_evaluated_and_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda *_: tiny())
    texts, y = toy(24)
    lines = [json.dumps({"text": text, "label": int(label)}) for text, label in zip(texts, y, strict=True)]
    (tmp_path / "toy.jsonl").write_text("\n".join(lines))
    folder = older(AdapterClassifier(tiny(), category="toy", epochs=1, rank=2).fit(texts, y).save(tmp_path / "old"))
    done = runner.invoke(app, ["evaluate", str(folder), str(tmp_path / "toy.jsonl"), "--json"])
    assert done.exit_code == 0, done.stderr
    assert "budgets" not in json.loads(done.stdout)
    assert "teach it again for budgets" in " ".join(done.stderr.split())


def test_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no classifier folder"):
        ladder.load(tmp_path / "nothing", tiny())
