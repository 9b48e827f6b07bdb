"""Classifier folders: what is saved is loaded; what was changed, cut or made for another model is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from guard_helpers import DIGEST, make_artifact

from safety_kit import artifacts
from safety_kit.budget import tolerance_rank
from safety_kit.errors import ArtifactError
from safety_kit.heads import Head, decision_score, reading_ends
from safety_kit.types import Stage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "hate", ["hate"], n=300)


def test_round_trip(folder: Path) -> None:
    artifact = artifacts.load(folder)
    assert set(artifact.heads) == {"hate"}
    assert artifact.heads["hate"].blocks == (1, 2)
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "weights.safetensors", "card.md"}
    assert not [path for path in folder.parent.iterdir() if path != folder]
    digest = artifact.digest
    make_artifact(folder, ["hate", "harassment"])  # replaced in place
    assert artifacts.load(folder).digest != digest
    artifacts.load(folder).check_model("embedded", DIGEST)


@pytest.mark.parametrize("name", ["weights.safetensors", "card.md"])
def test_a_changed_file_is_refused(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match="checksum"):
        artifacts.load(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "card.md", "manifest.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        artifacts.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(format=2),
        lambda m: m.update(extra=1),
        lambda m: m.update(blocks=[]),
        lambda m: m.update(blocks=[1]),
        lambda m: m["categories"].update(other=m["categories"]["hate"]),
        lambda m: m["categories"]["hate"]["calibration"]["input"].update(slope=-1),
        lambda m: m["checksums"].pop("card.md"),
        lambda m: m.pop("model"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(folder: Path, change: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)  # type: ignore[operator]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError):
        artifacts.load(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"null"])
def test_a_broken_manifest_is_refused(folder: Path, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(ArtifactError):
        artifacts.load(folder)


def test_another_models_activations_are_refused(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="safety-kit prepare --model tiny"):
        artifacts.load(folder).check_model("tiny", "e" * 64)


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "precious.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="no classifier folder"):
        make_artifact(tmp_path / "x", ["hate"])
    assert (tmp_path / "x" / "precious.txt").read_text() == "mine"


def test_threshold_keeps_the_promised_rate(folder: Path) -> None:
    head = artifacts.load(folder).heads["hate"]
    for rate in (0.01, 0.05, 0.2):  # linspace: no two scores are equal
        threshold = head.threshold_for(rate, Stage.INPUT)
        above = sum(head.probability(float(score), Stage.INPUT) > threshold for score in head.negatives[Stage.INPUT])
        assert above == tolerance_rank(300, rate) - 1
    with pytest.raises(ArtifactError, match="needs at least 2995"):
        head.threshold_for(0.001, Stage.INPUT)


def test_probability_is_monotone_and_finite(folder: Path) -> None:
    head: Head = artifacts.load(folder).heads["hate"]
    values = [head.probability(score, Stage.INPUT) for score in (-1e9, -1, 0, 0.5, 1, 1e9)]
    assert values == sorted(values)
    assert 0 <= values[0] < values[-1] <= 1
    assert head.probability(0.5, Stage.INPUT) == pytest.approx(0.5)


@pytest.mark.parametrize("stage", list(Stage))
def test_decision_score_is_the_worst_window(stage: Stage) -> None:
    scores = np.random.default_rng(1).normal(size=40).astype(np.float32)
    score, end = decision_score(scores, 0.5, stage, 12, 4)
    slow = {e: scores[max(0, e - 12) : e].astype(np.float64).mean() + 0.5 for e in reading_ends(40, stage, 12, 4)}
    assert score == pytest.approx(max(slow.values()))
    assert slow[end] == max(slow.values())


def test_without_a_window_for_replies_both_stages_have_one(folder: Path, tmp_path: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["reply_window"]  # as before there was one
    (folder / "manifest.json").write_text(json.dumps(manifest))
    old = artifacts.load(folder).heads["hate"]
    new = artifacts.load(make_artifact(tmp_path / "new", ["hate"], reply_window=8)).heads["hate"]
    assert [old.window_at(stage) for stage in (Stage.INPUT, Stage.OUTPUT)] == [12, 12]
    assert [new.window_at(stage) for stage in (Stage.INPUT, Stage.OUTPUT)] == [12, 8]


def test_reading_ends() -> None:
    assert reading_ends(0, Stage.INPUT, 12, 4) == []
    assert reading_ends(5, Stage.INPUT, 12, 4) == [5]
    assert reading_ends(5, Stage.OUTPUT, 12, 4) == [5]
    assert reading_ends(17, Stage.INPUT, 12, 4) == [12, 16, 17]
    assert reading_ends(17, Stage.OUTPUT, 12, 4) == [8, 12, 16, 17]
