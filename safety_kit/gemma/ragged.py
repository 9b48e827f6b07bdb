"""One pass over several sequences that have come to different lengths, each with a KV cache of its own.

transformers' caches hold one length for all rows. Here every row keeps its own `DynamicCache`; a pass lays their keys
side by side, aligned at the end, and a mask hides what is padding, what lies ahead, and what a sliding window has left
behind. The keys are copied for every pass; beside reading the weights once for all rows, that costs little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from safety_kit.gemma.trunk import pad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import DynamicCache

    from safety_kit.gemma.trunk import Trunk


@dataclass(frozen=True, slots=True)
class Row:
    """What one sequence goes on with.

    Attributes:
        ids: Its new tokens, at least one.
        cache: Its keys and values so far; extended by the pass.
    """

    ids: Sequence[int]
    cache: DynamicCache


class _SideBySide:
    """What the blocks take for a cache: extends each row's own, and gives the keys and values of all."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        own = []
        for number, row in enumerate(self._rows):
            new = slice(number, number + 1), slice(None), slice(0, len(row.ids))
            own.append(row.cache.update(keys[new], values[new], layer))
        width = max(key.shape[-2] for key, _ in own)
        sides = []
        for side in (0, 1):
            first = own[0][side]
            padded = first.new_zeros(len(own), first.shape[1], width, first.shape[3])
            for number, pair in enumerate(own):
                padded[number, :, width - pair[side].shape[-2] :] = pair[side][0]
            sides.append(padded)
        return sides[0], sides[1]


def run_rows(
    trunk: Trunk, rows: Sequence[Row], blocks: Sequence[int], *, through: bool = True
) -> tuple[torch.Tensor | None, dict[int, torch.Tensor]]:
    """One pass of `Trunk.run` over B rows' new tokens, padded on the right to T.

    Returns:
        As `Trunk.run`: a row's own are the first of its T positions.
    """
    device, dtype = trunk.model.device, trunk.model.dtype
    ids = pad([row.ids for row in rows], device)
    past = torch.tensor([row.cache.get_seq_length() for row in rows])
    positions = past[:, None] + torch.arange(ids.shape[1])
    new = torch.tensor([len(row.ids) for row in rows])

    def mask(window: int | None) -> torch.Tensor:
        kept = past if window is None else past.clamp(max=window - 1)
        keys = int((kept + new).max())
        # Position of each key: the last one of a row stands at the end.
        at = torch.arange(keys) - keys + (past + new)[:, None]
        seen = (at >= (past - kept)[:, None])[:, None] & (at[:, None] <= positions[..., None])
        if window is not None:
            seen &= at[:, None] > positions[..., None] - window
        hidden = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
        return hidden[:, None].to(device)

    window = getattr(trunk.config, "sliding_window", None)
    kinds = set(getattr(trunk.config, "layer_types", None) or ())
    masks = {kind: mask(window if kind == "sliding_attention" else None) for kind in kinds} or mask(None)
    return trunk.run(
        ids, blocks, cache=_SideBySide(rows), through=through, attention_mask=masks, position_ids=positions.to(device)
    )
