"""The classifier folder: `manifest.json` + `weights.safetensors` + `card.md`, under checksums; no pickle anywhere.

A head is linear in the activations, so a text's score is the mean of one number a token (`Head.token_scores`):
that is what lets a prefill or a decoding step classify its own tokens for next to nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from safety_kit.errors import ArtifactError
from safety_kit.types import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

FORMAT = 1


class ModelRecord(BaseModel):
    """Which Gemma the activations came from."""

    model_config = ConfigDict(extra="forbid")
    name: str
    family: str
    digest: str
    dtype: str
    blocks: int = Field(gt=0)
    hidden_size: int = Field(gt=0)


class Calibration(BaseModel):
    """Platt scaling of the decision score of one stage: p = sigmoid(slope · score + intercept)."""

    model_config = ConfigDict(extra="forbid")
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
    stride: int = Field(gt=0)
    categories: dict[str, CategoryRecord] = Field(min_length=1)
    data_digest: str
    created: str
    kit_version: str
    checksums: dict[str, str]


@dataclass(frozen=True)
class Head:
    """A linear reading of one category.

    Attributes:
        category: What it scores.
        blocks: Blocks whose outputs it reads, concatenated in this order.
        weight: len(blocks)·d float32; the features' standardisation is folded in.
        bias: Added once to the mean of the tokens' scores.
        calibration: By stage.
        negatives: By stage, the sorted decision scores of held-out negatives.
        window: A reading pools at most so many tokens.
        stride: In a stream, and in a text longer than a window, a reading is taken every so many tokens.
    """

    category: str
    blocks: tuple[int, ...]
    weight: Floats
    bias: float
    calibration: dict[Stage, Calibration]
    negatives: dict[Stage, Floats]
    window: int
    stride: int

    def token_scores(self, hidden: Floats) -> Floats:
        """One score a token: n × (blocks·d) activations → n."""
        return hidden @ self.weight

    def probability(self, score: float, stage: Stage) -> float:
        """The calibrated probability of a decision score."""
        scale = self.calibration[stage]
        return float(1.0 / (1.0 + np.exp(-np.clip(scale.slope * score + scale.intercept, -60, 60))))

    def threshold_for(self, max_fpr: float, stage: Stage) -> float:
        """The probability above which at most `max_fpr` of texts like the calibration negatives lie.

        The k-th largest of n held-out negatives' scores, k = floor(max_fpr · (n + 1)): a new exchangeable negative
        exceeds it with probability at most `max_fpr` (split-conformal order statistic, Vovk et al. 2005).

        Raises:
            ArtifactError: Too few negatives to support so small a rate.
        """
        scores = self.negatives[stage]
        rank = int(np.floor(max_fpr * (len(scores) + 1)))
        if rank < 1:
            raise ArtifactError(
                f"{self.category}: a false-positive rate of {max_fpr:g} needs at least {int(np.ceil(1 / max_fpr)) - 1} "
                f"harmless examples, the classifier has {len(scores)}; use a larger rate or teach it more."
            )
        return self.probability(float(np.sort(scores)[-rank]), stage)


def reading_ends(length: int, stage: Stage, window: int, stride: int) -> list[int]:
    """Where readings of a text of `length` tokens end; a reading pools the last `window` tokens up to its end.

    At input the text is there at once: one reading of the whole when it fits a window, else one every `stride`
    tokens from the first full window on. At output the reader sees every prefix: one every `stride` tokens from
    2·stride on.
    The text's end is always one.
    """
    if length <= 0:
        return []
    first = window if stage is Stage.INPUT else 2 * stride
    return [*range(first, length, stride), length]


def decision_score(token_scores: Floats, bias: float, stage: Stage, window: int, stride: int) -> tuple[float, int]:
    """The largest reading of a text, which the guard compares with the threshold, and the token where it ends."""
    total = np.concatenate([[0.0], np.cumsum(token_scores, dtype=np.float64)])
    ends = np.array(reading_ends(len(token_scores), stage, window, stride))
    starts = np.maximum(0, ends - window)
    readings = (total[ends] - total[starts]) / (ends - starts)
    best = int(np.argmax(readings))
    return float(readings[best]) + bias, int(ends[best])


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

    def check_model(self, name: str, digest: str) -> None:
        """Refuse another model's activations.

        Raises:
            ArtifactError: `digest` is not the taught model's.
        """
        if digest != self.manifest.model.digest:
            raise ArtifactError(
                f"The classifier in {self.path} was taught on {self.manifest.model.name}, not on {name}; "
                f"teach it again with: safety-kit prepare --model {name}"
            )


def save(path: Path, manifest: dict[str, Any], tensors: dict[str, Floats], card: str) -> Artifact:
    """Write an artifact folder in one step: a reader sees the old folder or the new one, never a part.

    Args:
        path: The folder; replaced if it is an artifact already.
        manifest: The manifest's fields but for `checksums`.
        tensors: `weight.CATEGORY` and `negatives.STAGE.CATEGORY`.
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
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        for name, data in files.items():
            (new / name).write_bytes(data)
        if path.exists():
            os.rename(path, Path(scratch) / "old")
        os.rename(new, path)


def check_target(path: Path) -> None:
    """Refuse a place that saving must not replace; asked before minutes of work, too.

    Raises:
        ArtifactError: Something stands there that is no classifier folder.
    """
    if path.exists() and not (path.is_dir() and (not any(path.iterdir()) or (path / "manifest.json").exists())):
        raise ArtifactError(f"{path} exists and is no classifier folder; name another one.")


def load(path: Path | str) -> Artifact:
    """Read and check an artifact folder.

    Raises:
        ArtifactError: It is missing, a file was changed, or it does not hold what its manifest says.
    """
    path = Path(path)
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


def _head(category: str, manifest: Manifest, tensors: dict[str, Floats]) -> Head:
    record = manifest.categories[category]
    weight = tensors[f"weight.{category}"]
    if weight.shape != (len(manifest.blocks) * manifest.model.hidden_size,) or not np.isfinite(weight).all():
        raise ArtifactError(f"The weights of {category} do not fit the manifest; teach or fetch the classifier again.")
    return Head(
        category,
        tuple(manifest.blocks),
        weight.astype(np.float32),
        record.bias,
        record.calibration,
        {stage: tensors[f"negatives.{stage}.{category}"] for stage in record.calibration},
        manifest.window,
        manifest.stride,
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
