"""Attention weights of one block, made in row blocks from its captured queries and keys.

The model runs under any implementation (sdpa gives no weights away); nothing of the size heads × T² is ever in memory.
A weight says where a head reads, not why: attention is not an explanation (Jain and Wallace 2019, arXiv:1902.10186).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from safety_kit.errors import UserError
from safety_kit.gemma.trace import Capture

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from safety_kit.gemma.sublayers import AttentionInputs
    from safety_kit.gemma.trace import Trace

NOTE = "Attention says where a head reads, not why the model answers as it does."

TILE = 256
"""Side of an exact tile, and the most rows and columns of an overview."""

_AT_ONCE = 2**22
"""Weights in memory at a time."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One block's H heads, each number a mean over the T queries.

    Attributes:
        block: Which.
        window: Tokens that a query sees in a local block; None for a global one.
        groups: H: the key and value group of each head.
        entropy: H float64, in bits: −Σ a log2 a over the tokens that a query reads.
        distance: H float64, in tokens: Σ a · (i − j).
        first: H float64 in [0, 1]: weight on token 0, where many heads rest (Xiao et al. 2023, arXiv:2309.17453).
        previous: H float64 in [0, 1]: weight on token i − 1; token 0 counts as none.
        messages: M × H float64 in [0, 1]: weight on each range of tokens that was given.
    """

    block: int
    window: int | None
    groups: tuple[int, ...]
    entropy: NDArray[np.float64]
    distance: NDArray[np.float64]
    first: NDArray[np.float64]
    previous: NDArray[np.float64]
    messages: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of one head's weights.

    Attributes:
        weights: Rows × columns float32 in [0, 1].
        row: The query of the first row.
        column: The key of the first column.
        step: Tokens a cell in both directions: 1 is exact, more holds the largest weight in the cell.
    """

    weights: NDArray[np.float32]
    row: int
    column: int
    step: int


def capture(*blocks: int) -> Capture:
    """What a trace must hold for the attention of some blocks; the pass stops after the topmost."""
    return Capture(attention=tuple(blocks))


def inputs_of(trace: Trace, block: int) -> AttentionInputs:
    """A block's queries and keys.

    Raises:
        UserError: They were not captured.
    """
    if block not in trace.attention:
        raise UserError(f"The trace lacks the queries of block {block}; ask for Capture(attention=({block},)).")
    return trace.attention[block]


def weights(
    inputs: AttentionInputs, heads: Sequence[int], start: int, stop: int, *, hide_first: bool = False
) -> torch.Tensor:
    """Attention weights of some heads' queries `start` to `stop`.

    softmax over j of scaling · q_i · k_j (Gemma 2: capped), in float32, over the window; exactly 0 outside of it and
    after i. Source: Vaswani et al. 2017, and the eager attention of transformers' Gemma modules.

    Args:
        inputs: Of one block.
        heads: n of its heads.
        start: First query.
        stop: The query after the last.
        hide_first: Weight on token 0 is left out and the rest divided by its sum; query 0 then reads nothing.

    Returns:
        n × (stop − start) × T float32.

    Raises:
        UserError: No such head or token.
    """
    made = torch.zeros(len(heads), stop - start, inputs.tokens)
    first = _first_key(inputs, start)
    made[:, :, first:stop] = _reach(inputs, heads, start, stop)
    return _without_first(made) if hide_first else made


def reads(inputs: AttentionInputs, head: int, token: int, *, by_value: bool = False) -> NDArray[np.float32]:
    """What a token reads with a head: T weights, which sum to 1.

    Args:
        inputs: Of one block.
        head: Of its heads.
        token: The query.
        by_value: Give weight × length of the value that it moves, a_ij · ‖W_O v_j‖ (Kobayashi et al. 2020,
            arXiv:2004.10102), in the units of the residual stream before any post-norm.
    """
    row = weights(inputs, [head], token, token + 1)[0, 0]
    return (row * inputs.value_norms(head) if by_value else row).numpy()


def readers(inputs: AttentionInputs, head: int, token: int, *, by_value: bool = False) -> NDArray[np.float32]:
    """Who reads a token with a head: the weight that each of T queries puts on it; they have no common sum."""
    _check(inputs, [head], token, token + 1)
    column = torch.zeros(inputs.tokens)
    end = inputs.tokens if inputs.window is None else min(inputs.tokens, token + inputs.window)
    for start, stop in _chunks(inputs, 1, token, end):
        column[start:stop] = _reach(inputs, [head], start, stop)[0, :, token - _first_key(inputs, start)]
    return (column * inputs.value_norms(head)[token] if by_value else column).numpy()


def summary(trace: Trace, block: int, messages: Sequence[tuple[int, int]] = ()) -> Summary:
    """Every head of a block in a few numbers.

    Args:
        trace: Made with `capture(block)`.
        block: Which.
        messages: Half-open token ranges, such as `Prompt.ranges`.
    """
    inputs = inputs_of(trace, block)
    heads, tokens = range(inputs.heads), inputs.tokens
    total = torch.zeros(4 + len(messages), inputs.heads, dtype=torch.float64)
    for start, stop in _chunks(inputs, inputs.heads, 0, tokens):
        first = _first_key(inputs, start)
        part = _reach(inputs, heads, start, stop)
        queries, keys = torch.arange(start, stop), torch.arange(first, stop)
        entropy = -torch.xlogy(part, part).sum((1, 2)) / np.log(2)
        distance = (part * (queries[:, None] - keys[None, :]).clamp(min=0)).sum((1, 2))
        on_first = part[:, :, 0].sum(1) if first == 0 else torch.zeros(inputs.heads)
        before = (queries - 1 - first).clamp(min=0)
        on_previous = (part[:, torch.arange(stop - start), before] * (queries > 0)).sum(1)
        shares = [part[:, :, max(0, a - first) : max(0, b - first)].sum((1, 2)) for a, b in messages]
        total += torch.stack([entropy, distance, on_first, on_previous, *shares]).double()
    entropy, distance, on_first, on_previous, *shares = (total / max(1, tokens)).numpy()
    return Summary(
        block,
        inputs.window,
        tuple(inputs.group(head) for head in heads),
        entropy,
        distance,
        on_first,
        on_previous,
        np.array(shares).reshape(len(messages), inputs.heads),
    )


def overview(inputs: AttentionInputs, head: int, *, hide_first: bool = False) -> Tile:
    """One head's T × T weights, as they are up to `TILE` tokens, else the largest of each cell of a coarser grid."""
    tokens = inputs.tokens
    step = -(-tokens // TILE)
    cells = -(-tokens // step)
    made = torch.zeros(cells, cells)
    for start, stop in _chunks(inputs, 1, 0, tokens, multiple=step):
        rows = weights(inputs, [head], start, stop, hide_first=hide_first)[0]
        padded = torch.nn.functional.pad(rows, (0, cells * step - tokens, 0, -len(rows) % step))
        made[start // step : -(-stop // step)] = torch.nn.functional.max_pool2d(padded[None], step)[0]
    return Tile(made.numpy(), 0, 0, step)


def tile(inputs: AttentionInputs, head: int, row: int, column: int, *, hide_first: bool = False) -> Tile:
    """The exact weights of at most `TILE` queries from `row` on, on as many keys from `column` on."""
    stop = min(inputs.tokens, row + TILE)
    _check(inputs, [head], row, stop)
    if not 0 <= column < inputs.tokens:
        raise UserError(f"There is no token {column}; the text has {inputs.tokens}.")
    exact = weights(inputs, [head], row, stop, hide_first=hide_first)[0, :, column : column + TILE]
    return Tile(exact.contiguous().numpy(), row, column, 1)


def kind(window: int | None) -> Literal["local", "global"]:
    """What a block with this window is called."""
    return "global" if window is None else "local"


def _reach(inputs: AttentionInputs, heads: Sequence[int], start: int, stop: int) -> torch.Tensor:
    """n × (stop − start) × (stop − first key) weights on the keys that any of these queries may read."""
    _check(inputs, heads, start, stop)
    first = _first_key(inputs, start)
    scores = torch.stack(
        [inputs.query[h, start:stop].float() @ inputs.key[inputs.group(h), first:stop].float().T for h in heads]
    )
    scores *= inputs.scaling
    if inputs.softcap is not None:
        scores = torch.tanh(scores / inputs.softcap) * inputs.softcap
    back = torch.arange(start, stop)[:, None] - torch.arange(first, stop)[None, :]
    hidden = back < 0 if inputs.window is None else (back < 0) | (back >= inputs.window)
    return scores.masked_fill_(hidden, -torch.inf).softmax(-1)


def _first_key(inputs: AttentionInputs, start: int) -> int:
    return 0 if inputs.window is None else max(0, start - inputs.window + 1)


def _chunks(inputs: AttentionInputs, heads: int, start: int, stop: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Ranges of queries whose weights on all keys fit `_AT_ONCE`; each but the last a multiple long."""
    rows = max(1, _AT_ONCE // max(1, heads * inputs.tokens) // multiple) * multiple
    for at in range(start, stop, rows):
        yield at, min(stop, at + rows)


def _without_first(made: torch.Tensor) -> torch.Tensor:
    made[:, :, 0] = 0
    rest = made.sum(-1, keepdim=True)
    return torch.where(rest > 0, made / rest, 0.0)


def _check(inputs: AttentionInputs, heads: Sequence[int], start: int, stop: int) -> None:
    if wrong := [head for head in heads if not 0 <= head < inputs.heads]:
        raise UserError(f"There is no head {wrong[0]}; the block has {inputs.heads}, counted from 0.")
    if not 0 <= start < stop <= inputs.tokens:
        raise UserError(f"There are no tokens {start} to {stop}; the text has {inputs.tokens}.")
