"""What a pass shows from inside its blocks: attention's queries and keys, and each write to the residual stream.

Gemma's blocks differ by family in what stands after a sub-layer. Gemma 1 adds attention and MLP as they are (its
`post_attention_layernorm` belongs to the MLP); Gemma 2, 3 and 4 normalise both first; Gemma 4 adds a per-layer input
and multiplies the stream by a scalar. All of this is read from the modules.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from safety_kit.gemma.readout import frozen_gain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from safety_kit.gemma.trace import Capture
    from safety_kit.gemma.trunk import Trunk

Part: TypeAlias = Literal["embedding", "attention", "mlp", "per-layer input"]


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """What one block's attention weights are made of, after norms and rotary embedding.

    The weight of query i on key j is softmax over j of cap(scaling · q_i · k_j) for i − window < j ≤ i and exactly 0
    elsewhere, where cap(x) = softcap · tanh(x / softcap) or x.

    Attributes:
        query: H × T × d_head on the CPU, in the model's float type.
        key: G × T × d_head; head h reads the keys of group h · G // H.
        value: G × T × d_head.
        mix: H × d × d_head: each head's part of the output matrix, the model's own memory on a CPU.
        scaling: Of the products.
        softcap: Or None.
        window: How many tokens a query sees, its own included; None is all before it.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mix: torch.Tensor
    scaling: float
    softcap: float | None
    window: int | None

    @property
    def heads(self) -> int:
        return self.query.shape[0]

    @property
    def tokens(self) -> int:
        return self.query.shape[1]

    def group(self, head: int) -> int:
        """The key and value group that a head reads."""
        return head * self.key.shape[0] // self.heads

    def value_norms(self, head: int) -> torch.Tensor:
        """T float32: the length of each token's value after the head's part of the output matrix."""
        moved = self.value[self.group(head)] @ self.mix[head].T
        lengths: torch.Tensor = moved.float().norm(dim=-1)
        return lengths


@dataclass(frozen=True, slots=True)
class Write:
    """What one part of the model added to the residual stream at P positions.

    All writes of a position add up to the last block's output there. A sub-layer's own post-norm, and scalars that
    later blocks multiply the stream by, are in `value` already.

    Attributes:
        positions: Where.
        block: −1 for the embedding.
        part: Which of the block's parts.
        value: P × d float32 on the CPU.
        heads: H × P × d, each attention head's share, the post-norm's scale taken as a constant; together `value`.
    """

    positions: tuple[int, ...]
    block: int
    part: Part
    value: torch.Tensor
    heads: torch.Tensor | None = None


class Inside:
    """The hooks of one pass, and what they kept."""

    def __init__(self, trunk: Trunk, capture: Capture) -> None:
        self._trunk = trunk
        self._capture = capture
        self._attention: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        self._projected: dict[str, torch.Tensor] = {}  # of the block that is being run
        self._raw: dict[tuple[int, str], torch.Tensor] = {}

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """On while the context is; gone after it, however it ends."""
        with ExitStack() as stack:
            for index in self._capture.attention:
                for handle in self._attention_hooks(index, self._trunk.blocks[index].self_attn):
                    stack.callback(handle.remove)
            for index, block in enumerate(self._trunk.blocks if self._capture.writes else ()):
                for handle in self._write_hooks(index, block):
                    stack.callback(handle.remove)
            yield

    def attention(self, row: int, length: int) -> dict[int, AttentionInputs]:
        """One text's own, out of the batch."""
        made = {}
        for index, kept in self._attention.items():
            module: Any = self._trunk.blocks[index].self_attn
            query, key, value = (tensor[row, :, :length].to("cpu", copy=True) for tensor in kept)
            mix = module.o_proj.weight.detach().cpu().unflatten(1, (len(query), module.head_dim)).transpose(0, 1)
            scaling, softcap = float(module.scaling), self._softcap(module)
            made[index] = AttentionInputs(query, key, value, mix, scaling, softcap, window_of(module))
        return made

    def _softcap(self, module: Any) -> float | None:
        # Gemma 3's modules hold the setting of Gemma 2 and do not use it.
        cap: float | None = module.attn_logit_softcapping if self._trunk.config.model_type == "gemma2" else None
        return cap

    def _attention_hooks(self, index: int, attention: Any) -> Iterator[Any]:
        def keep(name: str) -> Any:
            def hook(_module: Any, _args: Any, output: Any) -> None:
                self._projected[name] = output

            return hook

        def put_together(module: Any, _args: Any, kwargs: Any, _output: Any) -> None:
            self._attention[index] = _inputs(module, self._projected, kwargs)
            self._projected.clear()

        for name in ("q_proj", "k_proj", "v_proj"):
            if getattr(attention, name, None) is not None:
                yield getattr(attention, name).register_forward_hook(keep(name))
        yield attention.register_forward_hook(put_together, with_kwargs=True)

    def _write_hooks(self, index: int, block: Any) -> Iterator[Any]:
        at = list(self._capture.writes)

        def keep(name: str) -> Any:
            def hook(_module: Any, _args: Any, output: Any) -> None:
                self._raw[index, name] = output[:, at]

            return hook

        def keep_input(name: str) -> Any:
            def hook(_module: Any, args: Any) -> None:
                self._raw[index, name] = args[0][:, at]

            return hook

        if index == 0:
            yield block.register_forward_pre_hook(keep_input("embedding"))
        yield block.self_attn.o_proj.register_forward_pre_hook(keep_input("heads"))
        yield block.self_attn.o_proj.register_forward_hook(keep("attention"))
        if _has_post_norms(block):
            yield block.post_attention_layernorm.register_forward_hook(keep("attention, normed"))
            yield block.post_feedforward_layernorm.register_forward_hook(keep("mlp, normed"))
        else:
            yield block.mlp.register_forward_hook(keep("mlp, normed"))
        if getattr(block, "hidden_size_per_layer_input", None):
            yield block.post_per_layer_input_norm.register_forward_hook(keep("per-layer input"))

    def writes(self, row: int) -> tuple[Write, ...]:
        """One text's own, out of the batch."""
        at = self._capture.writes
        if not at:
            return ()
        blocks: list[Any] = list(self._trunk.blocks)
        scalars = torch.tensor([float(getattr(block, "layer_scalar", 1.0)) for block in blocks])
        later = scalars.flip(0).cumprod(0).flip(0).tolist()  # a block's scalar and those of all after it

        def own(index: int, name: str) -> torch.Tensor:
            return self._raw[index, name][row].float().cpu() * float(later[index])

        made = [Write(at, -1, "embedding", own(0, "embedding"))]
        for index, block in enumerate(blocks):
            normed = _has_post_norms(block)
            heads = self._heads(index, block, row).cpu() * later[index]
            attention = own(index, "attention, normed" if normed else "attention")
            made.append(Write(at, index, "attention", attention, heads))
            made.append(Write(at, index, "mlp", own(index, "mlp, normed")))
            if (index, "per-layer input") in self._raw:
                made.append(Write(at, index, "per-layer input", own(index, "per-layer input")))
        return tuple(made)

    def _heads(self, index: int, block: Any, row: int) -> torch.Tensor:
        """H × P × d: the output matrix on each head's part of its input, times the post-norm's frozen gain."""
        mixed = self._raw[index, "heads"][row].float()
        head_dim = block.self_attn.head_dim
        weight = block.self_attn.o_proj.weight.float().unflatten(1, (-1, head_dim))  # d × H × d_head
        heads: torch.Tensor = torch.einsum("phk,dhk->hpd", mixed.unflatten(1, (-1, head_dim)), weight)
        if _has_post_norms(block):
            heads = heads * frozen_gain(block.post_attention_layernorm, self._raw[index, "attention"][row])
        return heads


def window_of(attention: Any) -> int | None:
    """How many tokens a query of this module sees; None is all before it."""
    window = getattr(attention, "sliding_window", None)
    return int(window) if window else None


def _has_post_norms(block: Any) -> bool:
    """Whether a sub-layer's output is normed: where the MLP has a pre-norm of its own."""
    return hasattr(block, "pre_feedforward_layernorm")


def _inputs(
    module: Any, projected: Mapping[str, torch.Tensor], kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The queries B × H × T × d_head, keys B × G × T × d_head and values of one attention module."""
    cos, sin = (part.unsqueeze(1) for part in kwargs["position_embeddings"])

    def rotated(tensor: torch.Tensor) -> torch.Tensor:
        left, right = tensor.chunk(2, dim=-1)
        turned: torch.Tensor = tensor * cos + torch.cat((-right, left), dim=-1) * sin
        return turned

    def split(name: str) -> torch.Tensor:
        by_head: torch.Tensor = projected[name].unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
        return by_head

    def normed(name: str, tensor: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = getattr(module, name)(tensor) if hasattr(module, name) else tensor
        return made

    query = rotated(normed("q_norm", split("q_proj")))
    if getattr(module, "is_kv_shared_layer", False):
        return query, *kwargs["shared_kv_states"][module.layer_type]
    value = split("v_proj" if "v_proj" in projected else "k_proj")
    return query, rotated(normed("k_norm", split("k_proj"))), normed("v_norm", value)
