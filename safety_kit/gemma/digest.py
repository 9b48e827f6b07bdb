"""The name of a model's weights."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from safety_kit.gemma.trunk import Trunk


def weights_digest(trunk: Trunk) -> str:
    """SHA-256 that names these weights, whatever float type or device they are loaded in.

    It covers each parameter's name and shape and 64 evenly spaced values of it, rounded to bfloat16: a hash over every
    byte would take a minute for a 7B model.
    """
    total = hashlib.sha256(trunk.config.model_type.encode())
    for name, parameter in sorted(trunk.decoder.named_parameters()):
        flat = parameter.detach().flatten()
        at = torch.linspace(0, flat.numel() - 1, min(64, flat.numel()), dtype=torch.float64).long()
        values = flat[at.to(flat.device)].to(torch.bfloat16).view(torch.int16).cpu()
        total.update(f"{name} {tuple(parameter.shape)}".encode() + values.numpy().tobytes())
    return total.hexdigest()
