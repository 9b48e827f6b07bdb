"""The logit lens: what each block's output would predict if it were the last one (nostalgebraist 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from safety_kit.analysis.probabilities import final_of, larger, largest, normalisers, rows_at_once
from safety_kit.errors import UserError
from safety_kit.gemma.trace import Capture

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from safety_kit.gemma.trace import Trace


@dataclass(frozen=True, slots=True)
class Lens:
    """P positions under L blocks.

    logits_l = softcap(W_U · norm(h_l)), with the model's own final norm and softcap.

    Attributes:
        positions: P: the token after which is predicted.
        blocks: L, in rising order.
        choices: P: the token whose rank is followed.
        top_ids: P × L × k.
        top_logprobs: P × L × k float64, natural logarithms.
        ranks: P × L: how many tokens have a larger logit than the choice; 0 is the likeliest.
        divergences: P × L float64, in bits: KL(output ‖ lens), the output being the model's own distribution.
        exact: Whether the last block's lens is the output. Not in Gemma 3n, which joins several streams after it.
    """

    positions: tuple[int, ...]
    blocks: tuple[int, ...]
    choices: tuple[int, ...]
    top_ids: NDArray[np.int64]
    top_logprobs: NDArray[np.float64]
    ranks: NDArray[np.int64]
    divergences: NDArray[np.float64]
    exact: bool


def capture(n_blocks: int) -> Capture:
    """What a trace must hold for the lens of every block."""
    return Capture(tuple(range(n_blocks)), final=True)


def lens(
    trace: Trace,
    positions: Sequence[int],
    *,
    choices: Sequence[int] | None = None,
    top_k: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> Lens:
    """The logit lens at some positions, for every block that the trace holds.

    Args:
        trace: With blocks and `final`, as `capture` says.
        positions: The whole grid is `range(T)`: as many output matrices as the text has tokens and blocks.
        choices: For each position the token to follow; None takes the output's likeliest.
        top_k: Tokens a cell, from 1.
        progress: Called with positions done and all positions; what it raises stops the work.

    Raises:
        UserError: The trace lacks activations, or there is no such position.
    """
    final, readout = final_of(trace)
    if wrong := [at for at in positions if not 0 <= at < len(trace.ids)]:
        raise UserError(f"There is no token {wrong[0]}; the text has {len(trace.ids)}.")
    if not trace.hidden:
        raise UserError("The trace holds no block's output; ask for lens.capture.")
    blocks, top_k = tuple(sorted(trace.hidden)), min(top_k, readout.vocabulary)
    # One position's blocks and its output are multiplied together: the output matrix is read once for all of them.
    at_once = max(1, rows_at_once(readout.vocabulary) // (len(blocks) + 1))
    columns: list[list[torch.Tensor]] = [[], [], [], []]
    followed: list[int] = []
    with torch.inference_mode():
        for start in range(0, len(positions), at_once):
            at = torch.tensor(positions[start : start + at_once])
            normed = [readout.norm(trace.hidden[block][at]) for block in blocks]
            rows = torch.stack([*normed, final[at].to(normed[0])], dim=1)  # p × (L + 1) × d
            logits = readout.logits(rows.flatten(0, 1)).unflatten(0, (len(at), len(blocks) + 1))
            chosen = logits[:, -1].argmax(-1).tolist() if choices is None else choices[start : start + len(at)]
            followed += chosen
            cells = [_cells(logits[row], chosen[row], top_k) for row in range(len(at))]
            for column, parts in zip(columns, zip(*cells, strict=True), strict=True):
                column.append(torch.stack(parts).cpu())
            if progress is not None:
                progress(start + len(at), len(positions))
    top_ids, top_logprobs, ranks, divergences = (torch.cat(column).numpy() for column in columns)
    return Lens(
        tuple(positions), blocks, tuple(followed), top_ids, top_logprobs, ranks, divergences, readout.exact
    )  # fmt: skip


def _cells(logits: torch.Tensor, chosen: int, top_k: int) -> tuple[torch.Tensor, ...]:
    """(L + 1) × V logits of one position, its output last → by block top ids, their log-probabilities, the choice's
    rank, the divergence."""
    normaliser = normalisers(logits)
    layers, output = logits[:-1], logits[-1]
    values, places = largest(layers, top_k)
    ranks = larger(layers, layers[:, chosen, None])
    p = (output - normaliser[-1].float()).exp_()
    # Σ p (log p − log q) = Σ p (z_output − z_layer) − log Z_output + log Z_layer
    apart = torch.stack([torch.dot(p, output - layer) for layer in layers]).double()
    share = p.sum().double()
    divergence = (apart / share - normaliser[-1] + normaliser[:-1]).clamp(min=0) / np.log(2)
    return places, values.double() - normaliser[:-1, None], ranks, divergence
