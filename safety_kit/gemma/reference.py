"""Plain transformers on the same weights: what the kit's own way through a model is held against.

Nothing of `Trunk`, `Readout` or their hooks is used, and no module of the model that runs: transformers builds its own
class anew, from the checkpoint's own configuration, and takes the parameters over by name. They stay where they are in
memory, so a second model costs a few megabytes.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from safety_kit.gemma.model import Gemma


@dataclass(frozen=True, slots=True)
class Plain:
    """One pass of plain transformers over one text, at R of its tokens.

    Attributes:
        logits: R × V float32 on the CPU, after any softcap.
        hidden: For each block its output, R × d float32.
        attention: For each block its weights, H × R × T float32; empty but in an eager pass.
    """

    logits: torch.Tensor
    hidden: dict[int, torch.Tensor] = field(default_factory=dict)
    attention: dict[int, torch.Tensor] = field(default_factory=dict)


class Reference:
    """A Gemma in plain transformers.

    Args:
        gemma: Whose parameters, float type, device and attention implementation it has.
        revision: Of a hub model, for its configuration.

    Attributes:
        model: transformers' own.
        lacking: Parameters that the plain class has and the running model has not.
        surplus: Parameters that the running model has and the plain class has not.
        reread: Whether the configuration was read from the checkpoint again; else it is the running model's.
    """

    def __init__(self, gemma: Gemma, revision: str | None = None) -> None:
        config, self.reread = _config(gemma.model.config, revision)
        elsewhere = {} if gemma.device.type == "cpu" else {"device_map": {"": str(gemma.device)}}
        plain_class: Any = _class_of(config)
        model, info = plain_class.from_pretrained(
            None,
            config=config,
            state_dict=gemma.model.state_dict(),
            dtype=gemma.model.dtype,
            attn_implementation=gemma.attention,
            output_loading_info=True,
            **elsewhere,
        )
        self.model = model.eval().requires_grad_(False)
        self.lacking = tuple(sorted(info["missing_keys"]))
        self.surplus = tuple(sorted(info["unexpected_keys"]))

    @torch.inference_mode()
    def read(self, ids: Sequence[int], rows: Sequence[int], *, eager: bool = False) -> Plain:
        """A pass over a text.

        Args:
            ids: T tokens.
            rows: R positions that are kept.
            eager: With eager attention, which gives its weights away; else as the model was loaded.
        """
        at = torch.tensor(list(rows), device=self.model.device)
        kept = Plain(torch.empty(0))
        with self._implementation("eager" if eager else None), self._hooks(kept, at, eager):
            out = self.model(
                input_ids=torch.tensor([list(ids)], device=self.model.device), use_cache=False, logits_to_keep=at
            )
        return Plain(out.logits[0].float().cpu(), kept.hidden, kept.attention)

    @contextmanager
    def _implementation(self, wanted: str | None) -> Iterator[None]:
        before = self.model.config._attn_implementation
        if wanted is not None:
            self.model.set_attn_implementation(wanted)
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)

    @contextmanager
    def _hooks(self, kept: Plain, at: torch.Tensor, eager: bool) -> Iterator[None]:
        decoder = self.model.get_decoder()
        decoder = getattr(decoder, "language_model", decoder)
        stream = getattr(self.model.config.get_text_config(), "altup_active_idx", None)  # Gemma 3n's several streams

        def keep_output(index: int) -> Any:
            def hook(_module: Any, _args: Any, output: Any) -> None:
                states = output[0] if isinstance(output, tuple) else output
                states = states[stream] if stream is not None and states.ndim == 4 else states
                kept.hidden[index] = states[0, at].float().cpu()

            return hook

        def keep_weights(index: int) -> Any:
            def hook(_module: Any, _args: Any, output: Any) -> None:
                kept.attention[index] = output[1][0, :, at].float().cpu()

            return hook

        with ExitStack() as stack:
            for index, block in enumerate(decoder.layers):
                stack.callback(block.register_forward_hook(keep_output(index)).remove)
                if eager:
                    stack.callback(block.self_attn.register_forward_hook(keep_weights(index)).remove)
            yield


def _config(loaded: Any, revision: str | None) -> tuple[Any, bool]:
    """The checkpoint's own configuration, and whether it could be read again."""
    from transformers import AutoConfig

    place = getattr(loaded, "_name_or_path", "")
    if place:
        try:
            return AutoConfig.from_pretrained(place, revision=revision, local_files_only=True), True
        except (OSError, ValueError):
            pass  # moved or deleted since: the one in memory is what is left
    return copy.deepcopy(loaded), False


def _class_of(config: Any) -> Any:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found
