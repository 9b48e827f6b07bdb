"""The Hugging Face Hub: what goes up, what comes down, and every way in which the Hub says no. No network is used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import huggingface_hub
import numpy as np
import pytest
import yaml
from cli_helpers import app, runner
from huggingface_hub import errors
from test_classifiers import toy
from test_gemma_load import one_thread  # noqa: F401

from classifiers import SafetyClassifier, hub
from safety_kit import artifacts
from safety_kit.errors import ArtifactError
from safety_kit.gemma import Gemma
from safety_kit.testing import save_tiny_gemma


@dataclass
class FakeHub:
    """Repositories in memory, as `HfApi` writes them and `snapshot_download` reads them."""

    cache: Path
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    downloaded: list[str] = field(default_factory=list)
    fails: Exception | None = None

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        if self.fails:
            raise self.fails
        assert exist_ok
        self.private.setdefault(repo_id, private)
        self.repos.setdefault(repo_id, {})

    def model_info(self, repo_id: str) -> Any:
        return SimpleNamespace(private=self.private[repo_id])

    def create_commit(self, repo_id: str, operations: list[Any], *, commit_message: str) -> Any:
        assert commit_message
        self.repos[repo_id].update({one.path_in_repo: one.path_or_fileobj for one in operations})
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")

    def snapshot_download(self, repo_id: str, *, allow_patterns: list[str], **_: Any) -> str:
        huggingface_hub.utils.validate_repo_id(repo_id)
        if self.fails:
            raise self.fails
        if repo_id not in self.repos:
            raise hub_error(errors.RepositoryNotFoundError, 404)
        folder = self.cache / repo_id
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.repos[repo_id].items():
            if name in allow_patterns:
                (folder / name).write_bytes(data)
                self.downloaded.append(name)
        return str(folder)


def hub_error(kind: type[Exception], status: int) -> Exception:
    response = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/x"))
    return kind("from the hub", response=response)  # type: ignore[call-arg]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    made = FakeHub(tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **_: made)
    return made


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Gemma:
    return Gemma.load(save_tiny_gemma(tmp_path_factory.mktemp("models") / "tiny-gemma"))


@pytest.fixture(scope="module")
def taught(tiny: Gemma) -> SafetyClassifier:
    return SafetyClassifier(tiny, categories="toy", folds=2).fit(*toy())


@pytest.fixture(scope="module")
def folder(taught: SafetyClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught.save(tmp_path_factory.mktemp("taught") / "toy", notes="Letters, made up.").path


def header(page: bytes | str) -> Any:
    text = page if isinstance(page, str) else page.decode()
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


class TestBothWays:
    def test_what_was_pushed_is_loaded(self, taught: SafetyClassifier, tiny: Gemma, fake: FakeHub) -> None:
        url = taught.push_to_hub("me/toy", notes="Letters, made up.")
        assert url == "https://huggingface.co/me/toy/commit/1"
        assert fake.private == {"me/toy": True}
        assert set(fake.repos["me/toy"]) == set(hub.FILES)
        assert b"Letters, made up." in fake.repos["me/toy"]["README.md"]
        again = SafetyClassifier.from_pretrained("me/toy", tiny)
        texts, _ = toy(20, seed=2)
        np.testing.assert_allclose(again.predict_proba(texts), taught.predict_proba(texts), atol=1e-6)

    def test_a_folder_is_read_where_it_is(
        self, folder: Path, taught: SafetyClassifier, tiny: Gemma, fake: FakeHub
    ) -> None:
        texts, _ = toy(6, seed=2)
        for source in (folder, str(folder)):
            again = SafetyClassifier.from_pretrained(source, tiny)
            np.testing.assert_allclose(again.predict_proba(texts), taught.predict_proba(texts), atol=1e-6)
        assert fake.downloaded == []

    def test_a_given_api_and_its_options_are_used(self, folder: Path, tmp_path: Path) -> None:
        own = FakeHub(tmp_path)
        hub.push(folder, "me/toy", private=False, license="other", api=own)
        assert own.private == {"me/toy": False}
        assert header(own.repos["me/toy"]["README.md"])["license"] == "other"

    def test_pushing_keeps_the_folder_as_it_is(self, folder: Path, fake: FakeHub) -> None:
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub.push(folder, "me/toy")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert {name: data for name, data in fake.repos["me/toy"].items() if name != "README.md"} == before

    def test_a_private_push_does_not_go_to_a_public_repository(self, folder: Path, fake: FakeHub) -> None:
        fake.create_repo("me/toy", private=False, exist_ok=True)
        with pytest.raises(ArtifactError, match="me/toy is public"):
            hub.push(folder, "me/toy")
        assert fake.repos["me/toy"] == {}
        hub.push(folder, "me/toy", private=False)
        assert fake.repos["me/toy"]


class TestSafety:
    def test_only_the_four_files_come_down(self, folder: Path, tiny: Gemma, fake: FakeHub) -> None:
        hub.push(folder, "me/toy")
        fake.repos["me/toy"] |= {"evil.py": b"raise SystemExit", "pickle.bin": b"x", "sub/manifest.json": b"{}"}
        SafetyClassifier.from_pretrained("me/toy", tiny)
        assert sorted(fake.downloaded) == sorted(hub.FILES)

    @pytest.mark.parametrize("name", ["weights.safetensors", "card.md"])
    def test_every_checksum_is_held(self, folder: Path, tiny: Gemma, fake: FakeHub, name: str) -> None:
        hub.push(folder, "me/toy")
        fake.repos["me/toy"][name] += b" "
        with pytest.raises(ArtifactError, match=f"{name} does not match its checksum"):
            SafetyClassifier.from_pretrained("me/toy", tiny)

    def test_another_models_classifier_names_both_models(self, folder: Path, fake: FakeHub, tmp_path: Path) -> None:
        hub.push(folder, "me/toy")
        other = Gemma.load(save_tiny_gemma(tmp_path / "other", seed=3))
        with pytest.raises(ArtifactError, match=r"taught on tiny-gemma .*other.* prepare --model .*other"):
            SafetyClassifier.from_pretrained("me/toy", other)

    def test_a_changed_folder_is_not_published(self, folder: Path, fake: FakeHub, tmp_path: Path) -> None:
        shutil.copytree(folder, tmp_path / "changed")
        (tmp_path / "changed" / "card.md").write_text("better figures")
        with pytest.raises(ArtifactError, match="checksum"):
            hub.push(tmp_path / "changed", "me/toy")
        assert fake.repos == {}


class TestPage:
    def test_the_header_is_the_hubs(self, folder: Path) -> None:
        artifact = artifacts.load(folder)
        page = header(hub.readme(artifact, "me/toy"))
        assert page["library_name"] == "safety-kit"
        assert page["pipeline_tag"] == "text-classification"
        assert page["license"] == "gemma"
        assert "toy" in page["tags"]
        assert "base_model" not in page  # a folder's name is no model of the Hub's
        [model] = page["model-index"]
        figures = {m["type"]: m["value"] for result in model["results"] for m in result["metrics"]}
        assert figures["roc_auc"] == artifact.manifest.categories["toy"].metrics["auroc"]
        assert len(figures) == 6
        huggingface_hub.ModelCard(hub.readme(artifact, "me/toy"), ignore_metadata_errors=False)

    @pytest.mark.parametrize(
        ("name", "base"),
        [
            ("embedded", "google/gemma-3-270m"),
            ("google/gemma-3-1b-it", "google/gemma-3-1b-it"),
            ("tiny-gemma", None),
            ("~/gemma", None),
            ("./me/gemma", None),
        ],
    )
    def test_the_base_model(self, name: str, base: str | None) -> None:
        assert hub.base_model(name) == base

    def test_the_page_holds_card_use_data_and_limits(self, folder: Path) -> None:
        page = hub.readme(artifacts.load(folder), "me/toy")
        assert (folder / "card.md").read_text().strip() in page
        for heading in ("## Use", "## Intended use", "## Data", "## Limits"):
            assert f"\n{heading}\n" in page
        assert 'from_pretrained("me/toy"' in page.replace("'", '"')
        assert "| toy | 20 | 20 |" in page
        assert str(folder.parent) not in page

    def test_a_hostile_category_stays_in_its_field(self, folder: Path, tmp_path: Path) -> None:
        name = 'x\n---\nlicense: "mit" #'
        shutil.copytree(folder, tmp_path / "odd")
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["golden"] = None
        record = manifest["categories"].pop("toy")
        odd = artifacts.save(
            tmp_path / "odd",
            {**{k: v for k, v in manifest.items() if k != "checksums"}, "categories": {name: record}},
            {
                f"weight.{name}": artifacts.load(folder).heads["toy"].weight,
                **{f"negatives.{s}.{name}": n for s, n in artifacts.load(folder).heads["toy"].negatives.items()},
            },
            "# card",
        )
        data = huggingface_hub.ModelCard(hub.readme(odd, "me/odd")).data
        assert data.license == "gemma"
        assert name in (data.tags or [])

    def test_sources_are_shown(self, folder: Path, taught: SafetyClassifier, tmp_path: Path) -> None:
        base = artifacts.load(folder)
        built = SafetyClassifier(taught.gemma, categories="new", known=[folder]).fit(*toy())
        page = hub.readme(built.save(tmp_path / "built"), "me/built")
        assert f"- toy: artifact `{base.digest}`" in page


class TestNo:
    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (hub_error(errors.GatedRepoError, 403), "me/toy is gated: .*hf auth login"),
            (hub_error(errors.RevisionNotFoundError, 404), "me/toy has no such revision"),
            (hub_error(errors.RepositoryNotFoundError, 404), "no folder and no Hub repository me/toy"),
            (errors.LocalEntryNotFoundError("offline"), "Hub cannot be reached"),
            (errors.OfflineModeIsEnabled("offline"), "Hub cannot be reached"),
            (httpx.ConnectError("no route"), r"could not be fetched \(ConnectError\)"),
            (OSError("disk"), r"could not be fetched \(OSError\)"),
        ],
    )
    def test_a_fault_of_fetching_is_one_sentence(self, fake: FakeHub, error: Exception, words: str) -> None:
        fake.fails = error
        with pytest.raises(ArtifactError, match=words) as told:
            hub.fetch("me/toy")
        assert "\n" not in str(told.value)

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (hub_error(errors.HfHubHTTPError, 401), "does not let you write to me/toy.*hf auth login"),
            (hub_error(errors.HfHubHTTPError, 403), "does not let you write to me/toy"),
            (hub_error(errors.RepositoryNotFoundError, 404), "does not let you write to me/toy"),
            (errors.LocalTokenNotFoundError("no token"), "does not let you write to me/toy"),
            (hub_error(errors.HfHubHTTPError, 500), r"could not be published \(HfHubHTTPError\)"),
        ],
    )
    def test_a_fault_of_publishing_is_one_sentence(
        self, folder: Path, fake: FakeHub, error: Exception, words: str
    ) -> None:
        fake.fails = error
        with pytest.raises(ArtifactError, match=words):
            hub.push(folder, "me/toy")

    @pytest.mark.parametrize("source", ["./nowhere", "/nowhere", "~/nowhere", Path("nowhere")])
    def test_a_missing_folder_is_no_repository(self, fake: FakeHub, source: Path | str) -> None:
        with pytest.raises(ArtifactError, match="no classifier folder at"):
            hub.fetch(source)
        assert fake.downloaded == []

    @pytest.mark.parametrize("source", ["a b", "me/toy/more", "-x-"])
    def test_a_name_that_the_hub_cannot_have(self, fake: FakeHub, source: str) -> None:
        with pytest.raises(ArtifactError, match="no name of a Hub repository"):
            hub.fetch(source)

    def test_a_repository_of_something_else_is_told(self, fake: FakeHub, tiny: Gemma) -> None:
        fake.create_repo("me/other", private=True, exist_ok=True)
        with pytest.raises(ArtifactError, match=r"manifest\.json is missing"):
            SafetyClassifier.from_pretrained("me/other", tiny)

    def test_nothing_is_reached_offline(self) -> None:
        with pytest.raises(ArtifactError, match="Hub cannot be reached"):
            hub.fetch("me/toy-that-is-nowhere")


class TestCommand:
    def test_it_publishes_privately(self, folder: Path, fake: FakeHub) -> None:
        done = runner.invoke(app, ["publish", str(folder), "me/toy"])
        assert done.exit_code == 0, done.stderr
        assert "https://huggingface.co/me/toy/commit/1" in done.stdout
        assert fake.private == {"me/toy": True}
        assert set(fake.repos["me/toy"]) == set(hub.FILES)

    def test_public_and_json(self, folder: Path, fake: FakeHub) -> None:
        done = runner.invoke(app, ["publish", str(folder), "me/toy", "--public", "--license", "mit", "--json"])
        said = json.loads(done.stdout)
        assert said["url"]
        assert said["digest"] == artifacts.load(folder).digest
        assert said["files"] == {name: len(data) for name, data in fake.repos["me/toy"].items()}
        assert fake.private == {"me/toy": False}

    def test_a_dry_run_sends_nothing(self, folder: Path, fake: FakeHub) -> None:
        done = runner.invoke(app, ["publish", str(folder), "me/toy", "--dry-run"])
        assert done.exit_code == 0
        assert header(done.stdout)["library_name"] == "safety-kit"
        assert "Nothing was sent" in done.stderr
        assert fake.repos == {}

    @pytest.mark.parametrize("make", [lambda path: path / "none", lambda path: path])
    def test_a_wrong_folder_is_exit_2(self, tmp_path: Path, fake: FakeHub, make: Callable[[Path], Path]) -> None:
        done = runner.invoke(app, ["publish", str(make(tmp_path)), "me/toy"])
        assert done.exit_code == 2
        assert "no classifier folder" in done.stderr
        assert fake.repos == {}

    def test_a_hub_name_is_no_folder_elsewhere(self, fake: FakeHub) -> None:
        done = runner.invoke(app, ["classify", "me/toy", "a text"])
        assert done.exit_code == 2
        assert "no classifier folder" in done.stderr
