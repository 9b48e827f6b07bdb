"""An artifact knows its model: golden texts are recorded, replayed under anything that may read differently, judged."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_classifiers import toy
from test_gemma_load import one_thread  # noqa: F401

from classifiers import SafetyClassifier
from safety_kit import artifacts, golden
from safety_kit.artifacts import Artifact
from safety_kit.checks.probe import load_probes
from safety_kit.errors import ArtifactError
from safety_kit.gemma import Gemma
from safety_kit.golden import LARGE, NOTED, TEXTS, DriftWarning
from safety_kit.policy import Policy
from safety_kit.testing import save_tiny_gemma, tiny_config, tiny_tokenizer
from safety_kit.types import Stage

READINGS = ["causal", "alone"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_gemma(tmp_path_factory.mktemp("models") / "tiny-gemma")


@pytest.fixture(scope="module")
def tiny(checkpoint: Path) -> Gemma:
    return Gemma.load(checkpoint)


@pytest.fixture(scope="module")
def folders(tiny: Gemma, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A classifier of each reading, taught on `tiny`."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("taught")
    return {
        reading: SafetyClassifier(tiny, reading=reading, categories=["toy", "again"], folds=2)
        .fit(toy()[0], np.stack([toy()[1], 1 - toy()[1]], axis=1))
        .save(place / reading)
        .path
        for reading in READINGS
    }


def changed(gemma: Gemma, change: Callable[[torch.Tensor, torch.Generator], torch.Tensor], name: str) -> Gemma:
    """The same model with each matrix of its blocks replaced."""
    model = copy.deepcopy(gemma.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for block in model.get_decoder().layers:
            for matrix in (part.weight for part in block.modules() if isinstance(part, torch.nn.Linear)):
                matrix.copy_(change(matrix, generator))
    return Gemma(model, gemma.vocabulary.tokenizer, name=name)


def int8(matrix: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    """Rounded to 255 steps a row, as int8 weights are."""
    step = matrix.abs().amax(1, keepdim=True) / 127
    return (matrix / step).round() * step


def merged_lora(size: float, rank: int = 2) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    """What merging a LoRA of this rank does; `size` is its norm as a share of the matrix's."""

    def change(matrix: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        down, up = (torch.randn(shape, generator=generator) for shape in ((rank, matrix.shape[1]), (len(matrix), rank)))
        shift = up @ down
        return matrix + shift * (size * matrix.norm() / shift.norm())

    return change


def told(folder: Path, gemma: Gemma) -> list[str]:
    """Load with this model: the warnings of drift."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        SafetyClassifier.load(folder, gemma)
    return [str(warning.message) for warning in caught if issubclass(warning.category, DriftWarning)]


def another_shape(field: str) -> Gemma:
    """A tiny model called "other", of another number of blocks or another width."""
    from transformers import AutoModelForCausalLM

    config = tiny_config("gemma3_text")
    config.update({field: 8, "layer_types": ["full_attention"] * 8} if "layers" in field else {field: 16})
    return Gemma(AutoModelForCausalLM.from_config(config), tiny_tokenizer(), name="other")


def count_replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each pass reads from now on."""
    read: list[int] = []
    forward = Gemma.forward

    def counted(self: Gemma, texts: Any, *args: Any, **options: Any) -> Any:
        read.append(len(texts))
        return forward(self, texts, *args, **options)

    monkeypatch.setattr(Gemma, "forward", counted)
    return read


class TestRecord:
    def test_sixteen_short_texts_of_many_kinds(self) -> None:
        assert len(TEXTS) == len(set(TEXTS)) == 16
        assert any(prompt is not None for prompt, _ in TEXTS)
        assert any(ord(char) > 0x4E00 for _, text in TEXTS for char in text)
        assert all(len(text) < 500 for _, text in TEXTS)

    @pytest.mark.parametrize("reading", READINGS)
    def test_the_scores_are_what_calibration_starts_from(
        self, folders: dict[str, Path], tiny: Gemma, reading: str
    ) -> None:
        artifact = artifacts.load(folders[reading])
        recorded = artifact.manifest.golden
        assert recorded is not None
        assert recorded.texts == list(TEXTS)
        probabilities = SafetyClassifier.load(folders[reading], tiny).category_probabilities(TEXTS)
        for column, (category, head) in enumerate(artifact.heads.items()):
            stages = [Stage.INPUT if prompt is None else Stage.OUTPUT for prompt, _ in TEXTS]
            again = [head.probability(s, at) for s, at in zip(recorded.scores[category], stages, strict=True)]
            np.testing.assert_allclose(again, probabilities[:, column], atol=1e-4)

    @pytest.mark.parametrize(
        "change",
        [
            lambda g: g["scores"].pop("toy"),
            lambda g: g["scores"]["toy"].pop(),
            lambda g: g["scores"].update(other=g["scores"]["toy"]),
            lambda g: g["scores"]["toy"].__setitem__(0, "x"),
            lambda g: g["texts"].append([None, "one more"]),
            lambda g: g["texts"].__setitem__(0, [None, "x" * 5000]),
            lambda g: g["texts"].__setitem__(0, ["only a prompt"]),
            lambda g: g["texts"].clear(),
            lambda g: g.update(code="print()"),
        ],
    )
    def test_golden_texts_that_do_not_fit_are_refused(
        self, folders: dict[str, Path], tmp_path: Path, change: Callable[[Any], object]
    ) -> None:
        def edit(manifest: Any) -> None:
            change(manifest["golden"])

        with pytest.raises(ArtifactError, match="cannot be read"):
            artifacts.load(edited(folders["causal"], tmp_path / "x", edit))

    def test_sources_are_recorded(self, folders: dict[str, Path], tiny: Gemma, tmp_path: Path) -> None:
        base = artifacts.load(folders["causal"])
        assert base.manifest.sources == []
        built = SafetyClassifier(tiny, categories="new", known=[base.path]).fit(*toy()).save(tmp_path / "built")
        recorded = [(source.category, source.digest) for source in built.manifest.sources]
        assert recorded == [("toy", base.digest), ("again", base.digest)]

    def test_a_models_folder_is_recorded_by_its_name_only(self, folders: dict[str, Path], tiny: Gemma) -> None:
        assert Path(tiny.name).is_absolute()
        assert artifacts.load(folders["causal"]).manifest.model.name == "tiny-gemma"
        assert tiny.name not in (folders["causal"] / "card.md").read_text()
        assert [artifacts.public_name(name) for name in ("google/gemma-3-1b-it", "embedded", "./mine/it", "~/it")] == [
            "google/gemma-3-1b-it",
            "embedded",
            "it",
            "it",
        ]


@pytest.mark.parametrize("reading", READINGS)
class TestReplay:
    def test_the_same_model_is_not_read_again(
        self, folders: dict[str, Path], tiny: Gemma, reading: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = count_replays(monkeypatch)
        assert told(folders[reading], tiny) == []
        assert read == []

    @pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"attn": "eager"}], ids=["bfloat16", "eager"])
    def test_another_float_type_or_attention_is_read_and_loads(
        self, folders: dict[str, Path], checkpoint: Path, reading: str, options: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = count_replays(monkeypatch)
        messages = told(folders[reading], Gemma.load(checkpoint, **options))
        assert sum(read) == 16
        assert messages == [] or options == {"dtype": "bfloat16"}  # a random model is near the limit in bfloat16

    def test_int8_weights_load(self, folders: dict[str, Path], tiny: Gemma, reading: str) -> None:
        rounded = changed(tiny, int8, "int8")
        assert rounded.digest != tiny.digest
        told(folders[reading], rounded)  # on a random model the drift is about that of which is told

    def test_a_small_fine_tuning_is_told(self, folders: dict[str, Path], tiny: Gemma, reading: str) -> None:
        shifted = changed(tiny, merged_lora(0.01), "tuned-a-little")
        [message] = told(folders[reading], shifted)
        assert "taught on tiny-gemma" in message
        assert "tuned-a-little" in message
        assert "safety-kit evaluate" in message

    def test_a_large_fine_tuning_is_refused(self, folders: dict[str, Path], tiny: Gemma, reading: str) -> None:
        shifted = changed(tiny, merged_lora(0.5), "tuned-much")
        with pytest.raises(ArtifactError) as refused:
            SafetyClassifier.load(folders[reading], shifted)
        message = str(refused.value)
        assert "taught on tiny-gemma (float32, sdpa)" in message
        assert "tuned-much (float32, sdpa)" in message
        assert message.endswith("safety-kit prepare --model tuned-much")

    def test_another_model_of_the_same_shape_is_refused(
        self, folders: dict[str, Path], reading: str, tmp_path: Path
    ) -> None:
        other = Gemma.load(save_tiny_gemma(tmp_path / "other", seed=5))
        with pytest.raises(ArtifactError, match="too differently"):
            SafetyClassifier.load(folders[reading], other)

    @pytest.mark.parametrize("field", ["num_hidden_layers", "hidden_size"])
    def test_another_architecture_is_refused_without_a_look(
        self, folders: dict[str, Path], reading: str, field: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = another_shape(field)
        read = count_replays(monkeypatch)
        with pytest.raises(ArtifactError, match=r"taught on tiny-gemma .*not on other .*prepare --model other"):
            SafetyClassifier.load(folders[reading], other)
        assert read == []

    def test_an_artifact_without_golden_texts_knows_exact_weights_only(
        self, folders: dict[str, Path], tiny: Gemma, checkpoint: Path, reading: str, tmp_path: Path
    ) -> None:
        old = older(folders[reading], tmp_path / "old")
        assert told(old, tiny) == []
        assert told(old, Gemma.load(checkpoint, dtype="bfloat16")) == []
        with pytest.raises(ArtifactError, match="taught on tiny-gemma, not on int8"):
            SafetyClassifier.load(old, changed(tiny, int8, "int8"))


class TestGuard:
    POLICY = """
version: 1
name: two
checks:
  first: {type: probe, artifact: ./first}
  second: {type: probe, artifact: ./second}
rules:
  - {category: toy, action: block, threshold: 0.5}
  - {category: more, action: block, threshold: 0.5}
"""

    @pytest.fixture(scope="class")
    @staticmethod
    def policy(tiny: Gemma, tmp_path_factory: pytest.TempPathFactory) -> Policy:
        """Two classifiers of `tiny`, which read different blocks."""
        place = tmp_path_factory.mktemp("guard")
        for name, category, blocks in (("first", "toy", (2, 3)), ("second", "more", (1, 4))):
            SafetyClassifier(tiny, categories=category, folds=2, blocks=blocks).fit(*toy()).save(place / name)
        (place / "policy.yaml").write_text(TestGuard.POLICY)
        return Policy.load(place / "policy.yaml")

    def test_all_artifacts_share_one_replay(
        self, policy: Policy, tiny: Gemma, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        eager = Gemma.load(checkpoint, attn="eager")
        read = count_replays(monkeypatch)
        load_probes(policy, tiny, {})
        assert read == []
        probes, _ = load_probes(policy, eager, {})
        assert [probe.head.category for probe in probes] == ["toy", "more"]
        assert read == [16]

    def test_a_guard_refuses_what_reads_differently(self, policy: Policy, tiny: Gemma) -> None:
        with pytest.raises(ArtifactError, match="too differently"):
            load_probes(policy, changed(tiny, merged_lora(0.5), "tuned"), {})
        with pytest.warns(DriftWarning, match="a little differently"):
            load_probes(policy, changed(tiny, merged_lora(0.01), "tuned"), {})


class TestDrift:
    @pytest.fixture(scope="class")
    @staticmethod
    def artifact(folders: dict[str, Path]) -> Artifact:
        return artifacts.load(folders["causal"])

    @given(head=st.integers(0, 1), text=st.integers(0, 15), moved=st.floats(-5, 5))
    def test_it_is_the_largest_move_in_spreads_of_the_negatives(
        self, artifact: Artifact, head: int, text: int, moved: float
    ) -> None:
        recorded = artifact.manifest.golden
        assert recorded is not None
        rows = [list(recorded.scores[category]) for category in artifact.heads]
        assert golden.drift(artifact, rows) == 0
        stage = Stage.INPUT if TEXTS[text][0] is None else Stage.OUTPUT
        spread = float(np.std(list(artifact.heads.values())[head].negatives[stage]))
        rows[head][text] += moved * spread
        assert golden.drift(artifact, rows) == pytest.approx(abs(moved), abs=1e-4)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_a_score_that_is_no_number_is_the_largest_drift(self, artifact: Artifact, value: float) -> None:
        recorded = artifact.manifest.golden
        assert recorded is not None
        rows = [list(recorded.scores[category]) for category in artifact.heads]
        rows[1][3] = value
        assert golden.drift(artifact, rows) == float("inf")

    def test_the_limits_stand_in_the_record_of_the_decision(self) -> None:
        page = Path(__file__).parents[1] / "docs" / "decisions" / "0005-golden-texts.md"
        assert f"above {NOTED:g}" in page.read_text(encoding="utf-8")
        assert f"above {LARGE:g}" in page.read_text(encoding="utf-8")


@pytest.mark.model
def test_shipped_artifacts_have_golden_texts(embedded: Gemma) -> None:
    from safety_kit.data import data_dir

    shipped = [artifacts.load(path.parent) for path in (data_dir() / "classifiers").glob("*/manifest.json")]
    heads = [head for artifact in shipped for head in artifact.heads.values()]
    rows = iter(golden.causal_scores(embedded, heads, TEXTS))
    for artifact in shipped:
        assert artifact.manifest.golden is not None
        assert golden.drift(artifact, [next(rows) for _ in artifact.heads]) < NOTED


def edited(folder: Path, target: Path, change: Callable[[Any], object]) -> Path:
    """A copy of an artifact with another manifest."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((target / "manifest.json").read_text())
    change(manifest)
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def older(folder: Path, target: Path) -> Path:
    """A copy of an artifact as it was before there were golden texts."""

    def strip(manifest: Any) -> None:
        del manifest["golden"], manifest["sources"], manifest["model"]["attention"]

    return edited(folder, target, strip)
