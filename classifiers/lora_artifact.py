"""An adapter's folder: `manifest.json`, PEFT's two files, a head and a card, under checksums; no pickle anywhere."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from classifiers.features import ALONE_WINDOW
from safety_kit.artifacts import Calibration, Golden, ModelRecord, check_target, write_folder
from safety_kit.budget import RATES, smallest_supported
from safety_kit.errors import ArtifactError
from safety_kit.heads import Scored
from safety_kit.types import Stage

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Tensors = dict[str, torch.Tensor]

WEIGHTS, HEAD = "adapter_model.safetensors", "head.safetensors"
_NEGATIVES, _LENGTHS = "negatives", "lengths"
FILES = ("adapter_config.json", WEIGHTS, HEAD, "card.md")


class AdapterManifest(BaseModel):
    """What `manifest.json` holds."""

    model_config = ConfigDict(extra="forbid")
    format: Literal[1] = 1
    kind: Literal["lora"] = "lora"
    category: str
    objective: Literal["head", "generative"]
    question: str
    model: ModelRecord
    blocks: int = Field(gt=0)
    rank: int = Field(gt=0)
    calibration: Calibration
    positives: int
    negatives: int
    held_out: int
    best_epoch: int
    held_out_losses: list[float]
    metrics: dict[str, float]
    data_digest: str
    golden: Golden | None = None
    created: str
    kit_version: str
    checksums: dict[str, str]

    @property
    def categories(self) -> dict[str, AdapterManifest]:
        """Its one category, as the manifest of frozen heads lists theirs: counts and metrics by name."""
        return {self.category: self}

    @model_validator(mode="after")
    def _golden_fits(self) -> AdapterManifest:
        if self.golden is not None:
            lengths = {category: len(scores) for category, scores in self.golden.scores.items()}
            if lengths != {self.category: len(self.golden.texts)}:
                raise ValueError("the golden scores are not one a text")
        return self


@dataclass(frozen=True)
class AdapterHead(Scored):
    """What an adapter's decision scores mean; it reads a text alone, so both stages have the same scale.

    Attributes:
        category: What it scores.
        calibration: By stage.
        negatives: By stage, the sorted decision scores (the largest of a text's windows) of the harmless examples that
            the adapter was not trained on.
        lengths: By stage, their tokens in the same order.
    """

    category: str
    calibration: dict[Stage, Calibration]
    negatives: dict[Stage, NDArray[np.float32]]
    lengths: dict[Stage, NDArray[np.int32]]

    @classmethod
    def of(
        cls, category: str, calibration: Calibration, scores: NDArray[np.floating], lengths: NDArray[np.integer]
    ) -> AdapterHead:
        """From n scores and lengths in any order."""
        order = np.argsort(scores)
        sorted_scores, counts = scores[order].astype(np.float32), lengths[order].astype(np.int32)
        return cls(
            category,
            dict.fromkeys(Stage, calibration),
            dict.fromkeys(Stage, sorted_scores),
            dict.fromkeys(Stage, counts),
        )

    def window_at(self, stage: Stage) -> int:
        return ALONE_WINDOW


@dataclass(frozen=True)
class Adapter:
    """A loaded adapter's folder.

    Attributes:
        path: The folder.
        manifest: What it says of itself.
        weights: The matrices, under PEFT's names.
        head: The objective's tensors.
        heads: By category (there is one) what its scores mean; empty in a folder of an older version of the kit.
    """

    path: Path
    manifest: AdapterManifest
    weights: Tensors
    head: Tensors
    heads: dict[str, AdapterHead]

    @property
    def digest(self) -> str:
        """SHA-256 over the manifest, which holds the other files' checksums."""
        return _sha256((self.path / "manifest.json").read_bytes())

    def remedy(self, name: str) -> str:
        """What to do where the model `name` does not fit."""
        return (
            f"load {self.manifest.model.name}, or teach it again with: "
            f"safety-kit train DATA --out DIR --rung adapter --model {name}"
        )

    def check_model(self, name: str, digest: str) -> None:
        """Refuse other weights.

        Raises:
            ArtifactError: `digest` is not the taught model's.
        """
        if digest != self.manifest.model.digest:
            raise ArtifactError(
                f"The adapter in {self.path} was taught on {self.manifest.model.name}, not on {name}; "
                f"{self.remedy(name)}"
            )


def save(
    path: Path,
    manifest: dict[str, Any],
    config: str,
    adapter: Tensors,
    head: Tensors,
    measured: AdapterHead | None,
    notes: str,
) -> None:
    """Write an adapter's folder in one step.

    Args:
        path: The folder; replaced if it is an artifact already.
        manifest: The manifest's fields but for `checksums`.
        config: PEFT's `adapter_config.json`.
        adapter: The matrices, under PEFT's names.
        head: `weight`, `bias`, `mean` and `scale`, or nothing for the generative objective.
        measured: What the scores mean; None where nobody kept it.
        notes: Markdown for the card.

    Raises:
        ArtifactError: `path` is something else than an artifact folder.
    """
    check_target(path)
    kept = {}
    if measured is not None:
        kept = {
            _NEGATIVES: torch.from_numpy(measured.negatives[Stage.INPUT]),
            _LENGTHS: torch.from_numpy(measured.lengths[Stage.INPUT]),
        }
    files = {
        "adapter_config.json": config.encode(),
        WEIGHTS: save_tensors(adapter, metadata={"format": "pt"}),
        HEAD: save_tensors(head | kept),
        "card.md": _card(manifest, measured, notes).encode(),
    }
    full = AdapterManifest(**manifest, checksums={name: _sha256(data) for name, data in files.items()})
    write_folder(path, files | {"manifest.json": (full.model_dump_json(indent=1) + "\n").encode()})


def load(path: Path) -> Adapter:
    """Read and check an adapter's folder.

    Raises:
        ArtifactError: It is missing, of another kind, or a file was changed.
    """
    try:
        record = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        if isinstance(record, dict) and record.get("kind") == "linear-probe":
            raise ArtifactError(f"{path} holds a linear probe, not an adapter; load it with SafetyClassifier.load.")
        manifest = AdapterManifest.model_validate(record)
        data = {name: (path / name).read_bytes() for name in FILES}
        for name in FILES:
            if _sha256(data[name]) != manifest.checksums.get(name):
                raise ArtifactError(
                    f"{path / name} does not match its checksum: the adapter was changed or cut; "
                    "teach or fetch it again."
                )
        weights, head = load_tensors(data[WEIGHTS]), load_tensors(data[HEAD])
        heads = _heads(manifest, head)
        if not all(bool(tensor.isfinite().all()) for tensor in head.values()):
            raise ValueError("the head is not finite")
        return Adapter(path, manifest, weights, head, heads)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is no adapter folder: {error.filename} is missing.") from error
    except (OSError, ValueError, ValidationError, SafetensorError, RecursionError) as error:
        raise ArtifactError(
            f"The adapter in {path} cannot be read ({type(error).__name__}); teach or fetch it again."
        ) from error


def _heads(manifest: AdapterManifest, head: Tensors) -> dict[str, AdapterHead]:
    """Takes the harmless examples' scores and lengths out of the head's tensors."""
    scores, lengths = (head.pop(name, None) for name in (_NEGATIVES, _LENGTHS))
    if scores is None and lengths is None:
        if manifest.golden is not None:
            raise ValueError("golden texts without harmless examples' scores")
        return {}
    if (
        scores is None
        or lengths is None
        or (scores.dtype, lengths.dtype) != (torch.float32, torch.int32)
        or scores.ndim != 1
        or not len(scores)
        or scores.shape != lengths.shape
        or not scores.isfinite().all()
    ):
        raise ValueError("the harmless examples' scores and lengths do not fit")
    made = AdapterHead.of(manifest.category, manifest.calibration, scores.numpy(), lengths.numpy())
    return {manifest.category: made}


def _budget_lines(measured: AdapterHead) -> list[str]:
    """The card's table of budgets."""
    bands = measured.budgets(Stage.INPUT)
    rows = []
    for band, budgets in bands.items():
        cells = [
            "unsupported" if one.threshold is None else f"{measured.probability(one.threshold, Stage.INPUT):.4f}"
            for one in budgets
        ]
        rows.append(f"| {band} | {budgets[0].n} | {smallest_supported(budgets[0].n):.2%} | {' | '.join(cells)} |")
    return [
        "",
        "For texts like the harmless ones held out, the probability above which a text is stopped, so that at 95 % "
        "confidence at most this share of them is:",
        "",
        f"| texts | n | smallest budget | {' | '.join(f'{rate:.1%}' for rate in RATES)} |",
        f"|{'---|' * (3 + len(RATES))}",
        *rows,
        "",
        "They were held out of training and chose its epoch, so a threshold may be a little too low.",
    ]


def _card(manifest: dict[str, Any], measured: AdapterHead | None, notes: str) -> str:
    model, metrics = manifest["model"], manifest["metrics"]
    lines = [
        f"# {manifest['category']}",
        "",
        f"A LoRA adapter of rank {manifest['rank']} on the lower {manifest['blocks']} of {model['blocks']} blocks of "
        f"{model['name']} ({model['family']}, {model['dtype']}), objective: {manifest['objective']}. It works with "
        "that model only, and reads a text in a question of its own:",
        "",
        f"> {manifest['question']}",
        "",
        "| examples | harmful | held out | AUROC | AU-PRC | F1 | ECE |",
        "|---|---|---|---|---|---|---|",
        f"| {manifest['positives'] + manifest['negatives']} | {manifest['positives']} | {manifest['held_out']} | "
        + " | ".join(f"{metrics[key]:.3f}" for key in ("auroc", "au_prc", "f1", "ece"))
        + " |",
        "",
        f"The figures come from the {manifest['held_out']} examples that were held out of training; the same examples "
        "chose the epoch and the calibration, so for new texts expect less, and measure it. Probabilities are for a "
        "prevalence of one half.",
        *(_budget_lines(measured) if measured is not None else []),
    ]
    return "\n".join(lines) + (f"\n\n{notes.strip()}\n" if notes.strip() else "\n")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
