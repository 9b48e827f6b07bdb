"""The classifier folder: `manifest.json` + `weights.safetensors` + `card.md`, under checksums; no pickle anywhere."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    ValidationError,
    model_validator,
)
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from safety_kit.errors import ArtifactError
from safety_kit.files import naming, scratch_beside
from safety_kit.heads import Head
from safety_kit.types import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

FORMAT = 1

GoldenText: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class ModelRecord(BaseModel):
    """Which Gemma the activations came from."""

    model_config = ConfigDict(extra="forbid")
    name: str
    family: str
    digest: str
    dtype: str
    attention: str | None = None
    blocks: int = Field(gt=0)
    hidden_size: int = Field(gt=0)


class Calibration(BaseModel):
    """Platt scaling of the decision score of one stage: p = sigmoid(slope · score + intercept).

    It was fitted on `n` held-out texts; None in artifacts that did not write it down.
    """

    model_config = ConfigDict(extra="forbid")
    method: Literal["platt"] = "platt"
    n: int | None = Field(default=None, gt=0)
    slope: float = Field(gt=0, allow_inf_nan=False)
    intercept: float = Field(allow_inf_nan=False)


class CategoryRecord(BaseModel):
    """One taught category: how its scores become probabilities, and how good they were on held-out folds."""

    model_config = ConfigDict(extra="forbid")
    bias: float = Field(allow_inf_nan=False)
    calibration: dict[Stage, Calibration]
    regularisation: float = Field(gt=0)
    positives: int
    negatives: int
    metrics: dict[str, float | None]


class Traffic(BaseModel):
    """The log whose texts took the place of the held-out negatives."""

    model_config = ConfigDict(extra="forbid")
    log: str
    date: str
    rows: dict[Stage, int]


class Golden(BaseModel):
    """Harmless texts, each with its prompt or null, and by category their decision scores on the model taught on."""

    model_config = ConfigDict(extra="forbid")
    texts: list[tuple[GoldenText | None, GoldenText]] = Field(min_length=1, max_length=64)
    scores: dict[str, list[FiniteFloat]]


class Source(BaseModel):
    """A category of another artifact that this one was built on, and that artifact's digest."""

    model_config = ConfigDict(extra="forbid")
    category: str
    digest: str


class Manifest(BaseModel):
    """What `manifest.json` holds."""

    model_config = ConfigDict(extra="forbid")
    format: Literal[1] = 1
    kind: Literal["linear-probe"] = "linear-probe"
    reading: Literal["causal", "alone"]
    question: str | None = None
    model: ModelRecord
    blocks: list[int] = Field(min_length=1)
    window: int = Field(gt=0)
    reply_window: int | None = Field(default=None, gt=0)
    stride: int = Field(gt=0)
    categories: dict[str, CategoryRecord] = Field(min_length=1)
    data_digest: str
    traffic: Traffic | None = None
    golden: Golden | None = None
    sources: list[Source] = []
    created: str
    kit_version: str
    checksums: dict[str, str]

    @model_validator(mode="after")
    def _golden_fits(self) -> Manifest:
        if self.golden is not None:
            lengths = {category: len(scores) for category, scores in self.golden.scores.items()}
            if lengths != dict.fromkeys(self.categories, len(self.golden.texts)):
                raise ValueError("the golden scores are not one a category and text")
        return self


@dataclass(frozen=True)
class Artifact:
    """A loaded classifier folder."""

    path: Path
    manifest: Manifest
    heads: dict[str, Head]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the manifest, which holds the other files' checksums."""
        return _sha256((self.path / "manifest.json").read_bytes())

    def remedy(self, name: str) -> str:
        """What to do where the model `name` does not fit."""
        return f"teach it again with: safety-kit prepare --model {name}"

    def check_model(self, name: str, digest: str) -> None:
        """Refuse another model's activations.

        Raises:
            ArtifactError: `digest` is not the taught model's.
        """
        if digest != self.manifest.model.digest:
            raise ArtifactError(
                f"The classifier in {self.path} was taught on {self.manifest.model.name}, not on {name}; "
                f"{self.remedy(name)}"
            )


def save(path: Path, manifest: dict[str, Any], tensors: dict[str, Tensor], card: str) -> Artifact:
    """Write an artifact folder in one step: a reader sees the old folder or the new one, never a part.

    Args:
        path: The folder; replaced if it is an artifact already.
        manifest: The manifest's fields but for `checksums`.
        tensors: `weight.CATEGORY`, `negatives.STAGE.CATEGORY` and perhaps `lengths.STAGE.CATEGORY`.
        card: Markdown.

    Raises:
        ArtifactError: `path` is something else than an artifact folder.
    """
    check_target(path)
    files = {"weights.safetensors": save_tensors(tensors), "card.md": card.encode()}
    full = Manifest(**manifest, checksums={name: _sha256(data) for name, data in files.items()})
    files["manifest.json"] = (full.model_dump_json(indent=1) + "\n").encode()
    write_folder(path, files)
    return load(path)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Put a folder of files in place in one step; what stood there is replaced."""
    with naming(path), scratch_beside(path) as scratch:
        new = scratch / "new"
        new.mkdir()
        for name, data in files.items():
            (new / name).write_bytes(data)
        if path.exists():
            os.rename(path, scratch / "old")
        os.rename(new, path)


def check_target(path: Path) -> None:
    """Refuse a place that saving must not replace; asked before minutes of work, too.

    Raises:
        ArtifactError: Something stands there that is no classifier folder.
    """
    if path.exists() and not (path.is_dir() and (not any(path.iterdir()) or (path / "manifest.json").exists())):
        raise ArtifactError(f"{path} exists and is no classifier folder; name another one.")


def kind_of(path: Path | str) -> str | None:
    """What a classifier folder says it holds: ``linear-probe``, ``lora``; None where it does not say."""
    try:
        manifest = json.loads((Path(path) / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return str(manifest["kind"]) if isinstance(manifest, dict) and "kind" in manifest else None


def categories_of(path: Path | str) -> tuple[str, ...]:
    """What a classifier folder of either kind knows.

    Raises:
        ArtifactError: It is missing or cannot be read.
    """
    if kind_of(path) != "lora":
        return tuple(load(path).manifest.categories)
    manifest = json.loads((Path(path) / "manifest.json").read_text(encoding="utf-8"))
    if not isinstance(manifest.get("category"), str):
        raise ArtifactError(f"The adapter in {path} cannot be read; teach or fetch it again.")
    return (manifest["category"],)


def check_folder(path: Path | str) -> None:
    """Refuse a folder that holds no classifier before minutes go into loading a model.

    Raises:
        ArtifactError: It is missing, or a head that cannot be read; an adapter is checked when it is loaded.
    """
    if kind_of(path) != "lora":
        load(path)


def load(path: Path | str) -> Artifact:
    """Read and check an artifact folder.

    Raises:
        ArtifactError: It is missing, a file was changed, or it does not hold what its manifest says.
    """
    path = Path(path)
    if kind_of(path) == "lora":
        raise ArtifactError(
            f"{path} holds an adapter; guard, calibrate and explain take classifiers of frozen activations: "
            "teach one with --rung frozen."
        )
    try:
        text = (path / "manifest.json").read_text(encoding="utf-8")
        manifest = Manifest.model_validate(json.loads(text))
        for name in ("weights.safetensors", "card.md"):
            if _sha256((path / name).read_bytes()) != manifest.checksums.get(name):
                raise ArtifactError(
                    f"{path / name} does not match its checksum: the classifier was changed or cut; "
                    "teach or fetch it again."
                )
        tensors = load_tensors((path / "weights.safetensors").read_bytes())
        heads = {category: _head(category, manifest, tensors) for category in manifest.categories}
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is no classifier folder: {Path(error.filename).name} is missing.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, ValidationError, SafetensorError, KeyError) as error:
        raise ArtifactError(
            f"The classifier in {path} cannot be read ({type(error).__name__}); teach or fetch it again."
        ) from error
    return Artifact(path, manifest, heads)


def _head(category: str, manifest: Manifest, tensors: dict[str, Tensor]) -> Head:
    record = manifest.categories[category]
    weight = tensors[f"weight.{category}"]
    slots = len(manifest.blocks) * (2 if manifest.reading == "alone" else 1)  # alone: the text's, then the question's
    if weight.shape != (slots * manifest.model.hidden_size,) or not np.isfinite(weight).all():
        raise ArtifactError(f"The weights of {category} do not fit the manifest; teach or fetch the classifier again.")
    negatives = {stage: tensors[f"negatives.{stage}.{category}"] for stage in record.calibration}
    counted = {stage: tensors.get(f"lengths.{stage}.{category}") for stage in negatives}
    lengths = {stage: counts for stage, counts in counted.items() if counts is not None}
    if any(counts.shape != negatives[stage].shape for stage, counts in lengths.items()):
        raise ArtifactError(f"The lengths of {category} do not fit its negatives; teach or fetch the classifier again.")
    return Head(
        category,
        tuple(manifest.blocks),
        weight.astype(np.float32),
        record.bias,
        record.calibration,
        negatives,
        manifest.window,
        manifest.stride,
        lengths,
        manifest.reply_window,
    )


def public_name(name: str) -> str:
    """What an artifact calls its model: of a folder its own name only, because an artifact is passed on."""
    is_path = name.startswith((".", "~")) or name.count("/") > 1 or Path(name).is_absolute()
    return (Path(name).name or name) if is_path else name


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
