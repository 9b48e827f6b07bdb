"""One pass through a Gemma's blocks: capture by hooks, and a stop after the top block that is asked for."""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from transformers import PreTrainedModel


def pad(rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """Ids of rows of any lengths as B × T, padded on the right."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


class _Enough(Exception):
    """The top block that was asked for is done."""


class Trunk:
    """The blocks and the output matrix of any supported Gemma, the multimodal wrappers' text sides included."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.config = model.config.get_text_config()
        self.decoder: Any = model.get_decoder()
        if hasattr(self.decoder, "language_model"):
            self.decoder = self.decoder.language_model
        self.blocks: Sequence[torch.nn.Module] = self.decoder.layers
        self._head: Any = model.get_output_embeddings()
        self.softcap: float | None = getattr(self.config, "final_logit_softcapping", None)
        # Gemma 3n carries several streams through its blocks; the one that is predicted from is the activation.
        self.stream: int | None = getattr(self.config, "altup_active_idx", None)
        self._lock = threading.Lock()  # hooks sit on shared modules: one pass at a time

    def run(
        self,
        ids: torch.Tensor,
        blocks: Sequence[int],
        *,
        cache: Any = None,
        through: bool = True,
        within: Callable[[], AbstractContextManager[Any]] = nullcontext,
        gradients: bool = False,
        **beside: Any,
    ) -> tuple[torch.Tensor | None, dict[int, torch.Tensor]]:
        """One pass over B × T ids, padded on the right if at all (no mask is needed: causal attention never sees the
        padding).

        Args:
            ids: Token ids on the model's device.
            blocks: Blocks whose outputs are kept.
            cache: KV cache to read and extend, or None.
            through: False stops after the topmost of `blocks`.
            within: Further hooks, on during this pass alone.
            gradients: Leave them on where they are; else the pass is in inference mode.
            beside: Masks and positions, where they are not those of whole rows (see `ragged`).

        Returns:
            The final-norm output B × T × d, or None when stopped before it, and each block's B × T × d output.
        """
        kept: dict[int, torch.Tensor] = {}
        top = None if through or not blocks else max(blocks)
        if not through and not blocks:
            return None, kept
        mode = nullcontext() if gradients else torch.inference_mode()
        with mode, self._lock, within(), self._hooks(blocks, kept, top):
            try:
                out = self.decoder(input_ids=ids, cache=cache, use_cache=cache is not None, **beside)
            except _Enough:
                return None, kept
        return out.last_hidden_state, kept

    @contextmanager
    def _hooks(self, blocks: Sequence[int], kept: dict[int, torch.Tensor], top: int | None) -> Iterator[None]:
        def keep(index: int) -> Any:
            def hook(_module: torch.nn.Module, _args: Any, output: Any) -> None:
                hidden = output[0] if isinstance(output, tuple) else output
                kept[index] = hidden[self.stream] if self.stream is not None and hidden.ndim == 4 else hidden
                if index == top:
                    raise _Enough

            return hook

        handles = [self.blocks[index].register_forward_hook(keep(index)) for index in blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.inference_mode()
    def logits(self, normed: torch.Tensor) -> torch.Tensor:
        """Final-norm output … × d → float32 logits … × V."""
        return self.output(normed)

    def output(self, normed: torch.Tensor) -> torch.Tensor:
        """`logits`, with gradients where they are on."""
        logits: torch.Tensor = self._head(normed).float()
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits
