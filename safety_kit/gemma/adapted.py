"""A Gemma with LoRA matrices beside its linear layers: the one forward pass that keeps gradients."""

from __future__ import annotations

import copy
import json
import warnings
from typing import TYPE_CHECKING, Any

import torch

from safety_kit.errors import ArtifactError, MissingExtra, UserError
from safety_kit.gemma.trunk import Trunk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from safety_kit.gemma.model import Gemma


class AdaptedGemma:
    """Low-rank matrices (Hu et al. 2021) on every linear layer of a Gemma's lower blocks.

    The Gemma itself stays as it is and may be used meanwhile: its modules are copied, its weights are shared, frozen.

    Args:
        gemma: The model.
        blocks: How many blocks are kept, counted from the bottom.
        rank: Of the matrices; what they give is added twice (alpha = 2 · rank).
        dropout: On what the matrices read, while training.
        seed: Of their start.

    Raises:
        MissingExtra: PEFT is not installed.
        UserError: The model has fewer blocks.
    """

    def __init__(self, gemma: Gemma, blocks: int, *, rank: int, dropout: float = 0.0, seed: int = 0) -> None:
        try:
            import peft
        except ImportError:
            raise MissingExtra("peft", "train") from None
        if not 1 <= blocks <= gemma.n_blocks:
            raise UserError(f"{gemma.name} has {gemma.n_blocks} blocks; an adapter cannot keep {blocks}.")
        shared = _sharing_weights(gemma.model)
        self.trunk = Trunk(shared)
        self.top = blocks - 1
        layers = {
            id(module)
            for block in self.trunk.blocks[:blocks]
            for module in block.modules()
            if isinstance(module, torch.nn.Linear)
        }
        self._config: Any = peft.LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=dropout,
            target_modules=[name for name, module in shared.named_modules() if id(module) in layers],
        )
        devices = [gemma.device] if gemma.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an older name
            torch.manual_seed(seed)
            self._peft: Any = peft.get_peft_model(shared, self._config)
        self._peft.eval()

    @property
    def device(self) -> torch.device:
        return self.trunk.model.device

    def train(self, mode: bool) -> None:
        """Dropout on or off."""
        self._peft.train(mode)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The matrices, by name; nothing else is trained."""
        return {name: p for name, p in self._peft.named_parameters() if p.requires_grad}

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """B × T ids, padded on the right → B × T × d output of the top kept block; nothing above it is run."""
        return self.trunk.run(ids, [self.top], through=False, gradients=True)[1][self.top]

    def next_logits(self, ids: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """B × T ids, padded on the right → B × V float32 logits after position `at` of each row, through all blocks."""
        states = self.trunk.decoder(input_ids=ids, use_cache=False).last_hidden_state
        return self.trunk.output(states[torch.arange(len(ids), device=ids.device), at])

    def weights(self) -> dict[str, torch.Tensor]:
        """The matrices on the CPU, under PEFT's names for `adapter_model.safetensors`."""
        import peft

        found = peft.get_peft_model_state_dict(self._peft, save_embedding_layers=False)
        return {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in found.items()}

    def restore(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set what `weights` gave.

        Raises:
            ArtifactError: They are of another model, depth or rank, or not finite.
        """
        import peft

        mine = {name: tensor.shape for name, tensor in self.weights().items()}
        if mine != {name: tensor.shape for name, tensor in weights.items()}:
            raise ArtifactError("The adapter's weights do not fit its manifest; teach or fetch it again.")
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            raise ArtifactError("The adapter's weights are not finite; teach or fetch it again.")
        peft.set_peft_model_state_dict(self._peft, dict(weights))

    def config_json(self) -> str:
        """`adapter_config.json`, as PEFT reads it; it names no path of this machine."""
        plain = {k: sorted(v) if isinstance(v, set) else v for k, v in self._config.to_dict().items()}
        plain |= {"base_model_name_or_path": None, "inference_mode": True}
        return json.dumps(plain, indent=1, sort_keys=True, default=str) + "\n"


def _sharing_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules whose parameters are frozen views of the same memory."""
    memo: dict[int, Any] = {
        id(parameter): torch.nn.Parameter(parameter.detach(), requires_grad=False) for parameter in model.parameters()
    }
    return copy.deepcopy(model, memo)
