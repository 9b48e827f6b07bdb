"""Classifier folders on the Hugging Face Hub: the folder's files and a README, and nothing else up or down."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from classifiers import lora_artifact
from classifiers.cards import use_and_limits
from safety_kit import __version__, artifacts
from safety_kit.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifiers.fit import SafetyClassifier
    from classifiers.lora import AdapterClassifier
    from classifiers.lora_artifact import Adapter, AdapterManifest
    from safety_kit.artifacts import Artifact, CategoryRecord
    from safety_kit.gemma import Gemma

FILES = ("manifest.json", "weights.safetensors", "card.md", "README.md")
"""All that is sent of a classifier of frozen activations."""

ADAPTER_FILES = ("manifest.json", *lora_artifact.FILES, "README.md")
"""All that is sent of an adapter."""

LIBRARY = "safety-kit"
LICENSE = "gemma"
"""A head is made with a Gemma; where the Gemma Terms of Use count it as made from one, they go with it."""

_METRICS = {
    "auroc": ("roc_auc", "AUROC"),
    "au_prc": ("average_precision", "AU-PRC"),
    "f1": ("f1", "F1 at probability .5"),
    "recall_at_1pct_fpr": ("recall", "recall at 1 % false positives"),
    "brier": ("brier_score", "Brier score"),
    "ece": ("expected_calibration_error", "expected calibration error"),
}


def fetch(source: Path | str, *, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a classifier, fetched from the Hub where it is no folder here.

    Only `FILES` and `ADAPTER_FILES` are downloaded; loading then holds each against its checksum.

    Args:
        source: A folder, or a Hub repository such as ``name/insults``.
        revision: Branch, tag or commit of the repository; a commit never changes.
        token: Of the Hub; None takes the one that `hf auth login` or HF_TOKEN left.

    Raises:
        ArtifactError: It cannot be had; the message says what to do.
    """
    name = str(source)
    if Path(source).is_dir():
        return Path(source)
    if isinstance(source, Path) or name.startswith((".", "/", "~")):
        raise ArtifactError(f"There is no classifier folder at {name}.")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                token=token,
                allow_patterns=sorted({*FILES, *ADAPTER_FILES}),
                library_name=LIBRARY,
                library_version=__version__,
            )
        )
    except Exception as error:  # the client and what it stands on raise dozens of types
        raise _explain(error, name, "fetched") from error


def read(folder: Path | str) -> Artifact | Adapter:
    """A classifier folder of either kind, every file held against its checksum.

    Raises:
        ArtifactError: It cannot be read.
    """
    return lora_artifact.load(Path(folder)) if artifacts.kind_of(folder) == "lora" else artifacts.load(folder)


def push(
    folder: Path | str,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    license: str = LICENSE,
    api: Any = None,
) -> str:
    """Publish a classifier folder, in one commit; the repository is made where there is none.

    Args:
        folder: The folder; it must load.
        repo_id: Such as ``name/insults``.
        private: Refuse a repository that everyone can read; False makes a new one public.
        token: Of the Hub, with the right to write; None takes the one that `hf auth login` or HF_TOKEN left.
        license: The Hub's identifier of a licence.
        api: A `huggingface_hub.HfApi`.

    Returns:
        The commit's address.

    Raises:
        ArtifactError: The folder cannot be read, or the Hub did not take it.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    artifact = read(folder)
    files = publication(artifact, repo_id, license)
    api = api or HfApi(token=token, library_name=LIBRARY, library_version=__version__)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        public = private and not api.model_info(repo_id).private
        if not public:
            commit = api.create_commit(
                repo_id,
                [CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in files.items()],
                commit_message=f"{', '.join(artifact.manifest.categories)}: {artifact.digest[:12]}",
            )
            return str(commit.commit_url)
    except Exception as error:
        raise _explain(error, repo_id, "published") from error
    raise ArtifactError(f"{repo_id} is public: name a private repository, or publish with --public (private=False).")


def push_classifier(
    classifier: SafetyClassifier | AdapterClassifier, repo_id: str, *, notes: str = "", **options: Any
) -> str:
    """Save a fitted classifier and publish it.

    Args:
        classifier: Fitted.
        repo_id: Such as ``name/insults``.
        notes: Markdown for the card: where the examples came from, what they leave out.
        **options: As `push` takes them.

    Returns:
        The commit's address.

    Raises:
        ArtifactError: The Hub did not take it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "classifier"
        classifier.save(folder, notes=notes)
        return push(folder, repo_id, **options)


class OnHub:
    """What a classifier that can `save` and `load` a folder does with the Hub."""

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Publish to the Hugging Face Hub; see `push_classifier`."""
        classifier: Any = self
        return push_classifier(classifier, repo_id, **options)

    @classmethod
    def from_pretrained(
        cls,
        source: Path | str,
        gemma: Gemma | str = "embedded",
        *,
        revision: str | None = None,
        token: str | None = None,
    ) -> Self:
        """A fitted classifier from a folder or a Hub repository; see `fetch` and the classifier's `load`."""
        kind: Any = cls
        loaded: Self = kind.load(fetch(source, revision=revision, token=token), gemma)
        return loaded


def publication(artifact: Artifact | Adapter, repo_id: str, license: str = LICENSE) -> dict[str, bytes]:
    """What publishing sends: file name → content."""
    kind = ADAPTER_FILES if artifact.manifest.kind == "lora" else FILES
    names = [name for name in kind if name != "README.md"]
    files = {name: (artifact.path / name).read_bytes() for name in names}
    return {**files, "README.md": readme(artifact, repo_id, license).encode()}


def readme(artifact: Artifact | Adapter, repo_id: str, license: str = LICENSE) -> str:
    """The repository's page: the Hub's YAML header, the artifact's own card, use, data and limits."""
    from huggingface_hub import EvalResult, ModelCardData

    manifest = artifact.manifest
    lora = manifest.kind == "lora"
    records: Mapping[str, CategoryRecord | AdapterManifest] = manifest.categories
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=f"examples-{manifest.data_digest[:12]}",
            dataset_name=f"{category}: held-out {'part' if lora else 'folds'} of the examples",
            metric_type=_METRICS[metric][0],
            metric_name=_METRICS[metric][1],
            metric_value=value,
        )
        for category, record in records.items()
        for metric, value in record.metrics.items()
        if metric in _METRICS and value is not None
    ]
    header = ModelCardData(
        license=license,
        library_name=LIBRARY,
        pipeline_tag="text-classification",
        base_model=base_model(manifest.model.name),
        tags=["safety", "content-moderation", "guardrails", "lora" if lora else "linear-probe", *manifest.categories],
        model_name=", ".join(manifest.categories),
        eval_results=results or None,
    )
    card = (artifact.path / "card.md").read_text(encoding="utf-8")
    return f"---\n{header.to_yaml()}\n---\n\n{card.rstrip()}\n\n{use_and_limits(manifest, repo_id)}"


def base_model(name: str) -> str | None:
    """The Hub's name of the model that was taught on; None for a folder."""
    if name == "embedded":
        return "google/gemma-3-270m"
    return name if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) else None


def _explain(error: Exception, name: str, done: str) -> ArtifactError:
    """The client's fault as one sentence with its remedy."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    refused = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)
    if isinstance(error, HFValidationError):
        return ArtifactError(f"There is no folder {name}, and it is no name of a Hub repository such as name/insults.")
    if isinstance(error, GatedRepoError):
        return ArtifactError(
            f"{name} is gated: accept its terms on its Hugging Face page, then log in with: hf auth login"
        )
    if isinstance(error, RevisionNotFoundError):
        return ArtifactError(f"{name} has no such revision; leave it out for the newest one.")
    if isinstance(error, RepositoryNotFoundError) and done == "fetched":
        return ArtifactError(
            f"There is no folder and no Hub repository {name}, or it is private: check the name, or log in with: "
            "hf auth login"
        )
    if isinstance(error, LocalTokenNotFoundError | RepositoryNotFoundError) or refused:
        return ArtifactError(
            f"The Hub does not let you write to {name}: log in with a token that may write: hf auth login"
        )
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return ArtifactError(
            f"There is no folder {name}, it is not in the local Hugging Face cache, and the Hub cannot be reached; "
            "connect once, or name a folder."
        )
    return ArtifactError(f"{name} could not be {done} ({type(error).__name__}); check the connection and try again.")
