"""Direct logit attribution: what each part of the model wrote towards one token.

The residual stream before the final norm is a sum of writes, so with the norms' scales taken as constants a logit is a
sum too (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"). What a write does by way of later
blocks is not in its share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from safety_kit.analysis.probabilities import final_of
from safety_kit.errors import UserError
from safety_kit.gemma.trace import Capture

if TYPE_CHECKING:
    from safety_kit.gemma.sublayers import Part
    from safety_kit.gemma.trace import Trace

LABEL = "linearised, not causal"


@dataclass(frozen=True, slots=True)
class Share:
    """What one part adds to the logit.

    Attributes:
        block: −1 for the embedding.
        part: Which of the block's parts.
        value: In logits before the softcap.
        heads: Each attention head's, which add up to `value`; empty for other parts.
    """

    block: int
    part: Part
    value: float
    heads: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Attribution:
    """A logit, or the difference of two, as a sum.

    Attributes:
        position: The token after which is predicted.
        target: The token.
        contrast: Another, whose logit is taken away; or None.
        shares: From the embedding up.
        total: Their sum.
        uncapped: The model's own number before the softcap, which `total` should equal.
        logit: The model's own number, after it.
        softcap: c in logit = c · tanh(z / c), which no sum shows; or None.
    """

    position: int
    target: int
    contrast: int | None
    shares: tuple[Share, ...]
    total: float
    uncapped: float
    logit: float
    softcap: float | None


def capture(*positions: int) -> Capture:
    """What a trace must hold for the logits after some positions."""
    return Capture(final=True, writes=tuple(positions))


def attribute(trace: Trace, position: int, target: int, contrast: int | None = None) -> Attribution:
    """Take a logit apart: share = (g ⊙ write) · u, with g the final norm's gain and u the target's output row.

    Args:
        trace: Made with `capture`.
        position: One of the positions captured.
        target: The token whose logit it is.
        contrast: A token whose logit is taken away from it.

    Raises:
        UserError: The trace lacks the position, or there is no such token.
    """
    final, readout = final_of(trace)
    captured = trace.writes[0].positions if trace.writes else ()
    if position not in captured:
        raise UserError(f"The trace lacks the writes at token {position}; ask for attribution.capture({position}).")
    tokens = [target] if contrast is None else [target, contrast]
    if wrong := [id_ for id_ in tokens if not 0 <= id_ < readout.vocabulary]:
        raise UserError(f"There is no token {wrong[0]}; the model has {readout.vocabulary}.")
    at = captured.index(position)
    with torch.inference_mode():
        rows = readout.directions(tokens).cpu()
        own, logits = final[position], readout.logits(final[position])[tokens].cpu()
        direction = rows[0] if contrast is None else rows[0] - rows[1]
        stream = torch.stack([write.value[at] for write in trace.writes]).sum(0)
        seen = readout.gain(stream[None])[0].cpu() * direction
        shares = tuple(
            Share(
                write.block,
                write.part,
                float(write.value[at] @ seen),
                () if write.heads is None else tuple((write.heads[:, at] @ seen).tolist()),
            )
            for write in trace.writes
        )
    return Attribution(
        position,
        target,
        contrast,
        shares,
        sum(share.value for share in shares),
        float(own.float() @ direction),
        float(logits[0] - logits[1]) if contrast is not None else float(logits[0]),
        readout.softcap,
    )
