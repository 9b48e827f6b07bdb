"""An adapter knows its model by golden texts, as frozen artifacts do: a small drift loads, a large one is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_classifiers import toy
from test_gemma_load import one_thread  # noqa: F401
from test_golden import another_shape, changed, count_replays, int8, merged_lora
from test_lora import older

from classifiers.lora import AdapterClassifier
from safety_kit.errors import ArtifactError
from safety_kit.gemma import Gemma
from safety_kit.golden import TEXTS, DriftWarning
from safety_kit.testing import save_tiny_gemma

OBJECTIVES = ["head", "generative"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_gemma(tmp_path_factory.mktemp("models") / "tiny-gemma")


@pytest.fixture(scope="module")
def tiny(checkpoint: Path) -> Gemma:
    return Gemma.load(checkpoint)


@pytest.fixture(scope="module")
def adapters(tiny: Gemma) -> dict[str, AdapterClassifier]:
    head = AdapterClassifier(tiny, category="toy", epochs=1, rank=2)
    word = AdapterClassifier(tiny, category="toy", objective="generative", epochs=2, learning_rate=5e-3, rank=2)
    return {"head": head.fit(*toy(60)), "generative": word.fit(*toy(60))}


@pytest.fixture
def folders(adapters: dict[str, AdapterClassifier], tmp_path: Path) -> dict[str, Path]:
    return {objective: adapter.save(tmp_path / objective) for objective, adapter in adapters.items()}


def told(folder: Path, gemma: Gemma) -> list[str]:
    """Load with this model: the warnings of drift."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        AdapterClassifier.load(folder, gemma)
    return [str(warning.message) for warning in caught if issubclass(warning.category, DriftWarning)]


@pytest.mark.parametrize("objective", OBJECTIVES)
class TestReplay:
    def test_the_scores_are_the_adapters(
        self, folders: dict[str, Path], adapters: dict[str, AdapterClassifier], objective: str
    ) -> None:
        golden = json.loads((folders[objective] / "manifest.json").read_text())["golden"]
        assert [tuple(text) for text in golden["texts"]] == list(TEXTS)
        np.testing.assert_allclose(golden["scores"]["toy"], adapters[objective].decision_function(TEXTS), atol=1e-4)

    def test_the_same_model_is_not_read_again(
        self, folders: dict[str, Path], tiny: Gemma, objective: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(AdapterClassifier, "decision_function", None)
        assert told(folders[objective], tiny) == []

    @pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"attn": "eager"}], ids=["bfloat16", "eager"])
    def test_another_float_type_or_attention_loads(
        self, folders: dict[str, Path], checkpoint: Path, objective: str, options: Any
    ) -> None:
        messages = told(folders[objective], Gemma.load(checkpoint, **options))
        assert messages == [] or options == {"dtype": "bfloat16"}  # a random model is near the limit in bfloat16

    def test_int8_weights_load(self, folders: dict[str, Path], tiny: Gemma, objective: str) -> None:
        told(folders[objective], changed(tiny, int8, "int8"))

    def test_a_large_fine_tuning_is_refused(self, folders: dict[str, Path], tiny: Gemma, objective: str) -> None:
        with pytest.raises(ArtifactError) as refused:
            AdapterClassifier.load(folders[objective], changed(tiny, merged_lora(0.5), "tuned-much"))
        message = str(refused.value)
        assert "taught on tiny-gemma (float32, sdpa); tuned-much (float32, sdpa) reads its golden texts" in message
        assert message.endswith("--rung adapter --model tuned-much")

    @pytest.mark.parametrize("field", ["num_hidden_layers", "hidden_size"])
    def test_another_architecture_is_refused_without_a_look(
        self, folders: dict[str, Path], objective: str, field: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = another_shape(field)
        read = count_replays(monkeypatch)
        with pytest.raises(ArtifactError, match=r"taught on tiny-gemma .*not on other .*--model other"):
            AdapterClassifier.load(folders[objective], other)
        assert read == []

    def test_an_older_folder_knows_exact_weights_only(
        self, folders: dict[str, Path], tiny: Gemma, objective: str
    ) -> None:
        old = older(folders[objective])
        assert told(old, tiny) == []
        with pytest.raises(ArtifactError, match=r"taught on tiny-gemma, not on int8; .*teach it again"):
            AdapterClassifier.load(old, changed(tiny, int8, "int8"))

    @pytest.mark.parametrize("change", ["short", "other", "text"])
    def test_golden_texts_that_do_not_fit_are_refused(
        self, folders: dict[str, Path], tiny: Gemma, objective: str, change: str
    ) -> None:
        path = folders[objective] / "manifest.json"
        manifest = json.loads(path.read_text())
        scores = manifest["golden"]["scores"]
        if change == "short":
            scores["toy"].pop()
        elif change == "other":
            scores["other"] = scores.pop("toy")
        else:
            scores["toy"][0] = "x"
        path.write_text(json.dumps(manifest))
        with pytest.raises(ArtifactError, match="cannot be read"):
            AdapterClassifier.load(folders[objective], tiny)


def test_a_small_fine_tuning_is_told(folders: dict[str, Path], tiny: Gemma) -> None:
    [message] = told(folders["head"], changed(tiny, merged_lora(0.01), "tuned-a-little"))
    assert "a little differently" in message
