"""An adapter's folder: `manifest.json`, PEFT's two files, a head and a card, under checksums; no pickle anywhere."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from safety_kit.artifacts import Calibration, ModelRecord, check_target, write_folder
from safety_kit.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    Tensors = dict[str, torch.Tensor]

WEIGHTS, HEAD = "adapter_model.safetensors", "head.safetensors"
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
    created: str
    kit_version: str
    checksums: dict[str, str]


def save(path: Path, manifest: dict[str, Any], config: str, adapter: Tensors, head: Tensors, notes: str) -> None:
    """Write an adapter's folder in one step.

    Args:
        path: The folder; replaced if it is an artifact already.
        manifest: The manifest's fields but for `checksums`.
        config: PEFT's `adapter_config.json`.
        adapter: The matrices, under PEFT's names.
        head: `weight`, `bias`, `mean` and `scale`, or nothing for the generative objective.
        notes: Markdown for the card.

    Raises:
        ArtifactError: `path` is something else than an artifact folder.
    """
    check_target(path)
    files = {
        "adapter_config.json": config.encode(),
        WEIGHTS: save_tensors(adapter, metadata={"format": "pt"}),
        HEAD: save_tensors(head),
        "card.md": _card(manifest, notes).encode(),
    }
    full = AdapterManifest(**manifest, checksums={name: _sha256(data) for name, data in files.items()})
    write_folder(path, files | {"manifest.json": (full.model_dump_json(indent=1) + "\n").encode()})


def load(path: Path) -> tuple[AdapterManifest, Tensors, Tensors]:
    """Read and check an adapter's folder: manifest, adapter, head.

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
        return manifest, load_tensors(data[WEIGHTS]), load_tensors(data[HEAD])
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is no adapter folder: {error.filename} is missing.") from error
    except (OSError, ValueError, ValidationError, SafetensorError, RecursionError) as error:
        raise ArtifactError(
            f"The adapter in {path} cannot be read ({type(error).__name__}); teach or fetch it again."
        ) from error


def _card(manifest: dict[str, Any], notes: str) -> str:
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
    ]
    return "\n".join(lines) + (f"\n\n{notes.strip()}\n" if notes.strip() else "\n")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
