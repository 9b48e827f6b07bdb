"""Adapters go to the Hub and back as other classifiers do: their files and a page, every checksum held."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from cli_helpers import app, runner
from test_classifiers import toy
from test_gemma_load import one_thread  # noqa: F401
from test_hub import FakeHub, fake, header  # noqa: F401

from classifiers import AdapterClassifier, SafetyClassifier, hub, ladder, lora_artifact
from safety_kit.errors import ArtifactError
from safety_kit.gemma import Gemma
from safety_kit.testing import save_tiny_gemma


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Gemma:
    return Gemma.load(save_tiny_gemma(tmp_path_factory.mktemp("models") / "tiny-gemma"))


@pytest.fixture(scope="module")
def taught(tiny: Gemma) -> AdapterClassifier:
    return AdapterClassifier(tiny, category="toy", epochs=1, rank=2).fit(*toy(24))


@pytest.fixture(scope="module")
def folder(taught: AdapterClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught.save(tmp_path_factory.mktemp("taught") / "toy", notes="Letters, made up.")


def test_what_was_pushed_is_loaded(taught: AdapterClassifier, tiny: Gemma, fake: FakeHub) -> None:  # noqa: F811
    assert taught.push_to_hub("me/toy", notes="Letters, made up.") == "https://huggingface.co/me/toy/commit/1"
    assert fake.private == {"me/toy": True}
    assert set(fake.repos["me/toy"]) == set(hub.ADAPTER_FILES)
    fake.repos["me/toy"] |= {"evil.py": b"raise SystemExit", "adapter_model.bin": b"x"}
    again = AdapterClassifier.from_pretrained("me/toy", tiny)
    assert sorted(fake.downloaded) == sorted(hub.ADAPTER_FILES)
    texts, _ = toy(20, seed=2)
    np.testing.assert_array_equal(again.predict_proba(texts), taught.predict_proba(texts))


def test_a_folder_is_read_where_it_is(folder: Path, tiny: Gemma, fake: FakeHub) -> None:  # noqa: F811
    assert AdapterClassifier.from_pretrained(str(folder), tiny).heads_["toy"].category == "toy"
    assert isinstance(ladder.load(hub.fetch(folder), tiny), AdapterClassifier)
    assert fake.downloaded == []


@pytest.mark.parametrize("name", lora_artifact.FILES)
def test_every_checksum_is_held(folder: Path, tiny: Gemma, fake: FakeHub, name: str) -> None:  # noqa: F811
    hub.push(folder, "me/toy")
    fake.repos["me/toy"][name] += b" "
    with pytest.raises(ArtifactError, match=f"{name} does not match its checksum"):
        AdapterClassifier.from_pretrained("me/toy", tiny)


def test_the_wrong_class_names_the_right_one(folder: Path, tiny: Gemma, fake: FakeHub) -> None:  # noqa: F811
    hub.push(folder, "me/toy")
    with pytest.raises(ArtifactError, match="holds an adapter"):
        SafetyClassifier.from_pretrained("me/toy", tiny)


def test_the_page_has_the_hubs_header_use_data_and_limits(folder: Path) -> None:
    artifact = hub.read(folder)
    text = hub.readme(artifact, "me/toy")
    page = header(text)
    assert page["library_name"] == "safety-kit"
    assert page["pipeline_tag"] == "text-classification"
    assert page["license"] == "gemma"
    assert {"lora", "toy"} <= set(page["tags"])
    [model] = page["model-index"]
    figures = {m["type"]: m["value"] for result in model["results"] for m in result["metrics"]}
    assert figures["roc_auc"] == json.loads((folder / "manifest.json").read_text())["metrics"]["auroc"]
    huggingface_hub.ModelCard(text, ignore_metadata_errors=False)
    assert (folder / "card.md").read_text().strip() in text
    for part in (
        "## Use",
        "## Intended use",
        "## Data",
        "## Limits",
        "AdapterClassifier.from_pretrained",
        "| toy | 12 |",
    ):
        assert part in text
    assert str(folder.parent) not in text
    assert "Letters, made up." in text


def test_the_command_publishes_an_adapter(folder: Path, fake: FakeHub) -> None:  # noqa: F811
    done = runner.invoke(app, ["publish", str(folder), "me/toy", "--json"])
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["files"] == {name: len(data) for name, data in fake.repos["me/toy"].items()}
    assert said["digest"] == hub.read(folder).digest


def test_a_changed_adapter_is_not_published(taught: AdapterClassifier, fake: FakeHub, tmp_path: Path) -> None:  # noqa: F811
    changed = taught.save(tmp_path / "changed")
    (changed / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="checksum"):
        hub.push(changed, "me/toy")
    assert fake.repos == {}
