"""How likely each token was: in the model's own distribution, and in the one that a sampler draws from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from safety_kit.errors import UserError
from safety_kit.gemma.sampling import penalise, warp
from safety_kit.gemma.trace import Capture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from safety_kit.gemma.readout import Readout
    from safety_kit.gemma.sampling import Sampling
    from safety_kit.gemma.trace import Trace

CAPTURE = Capture(final=True)
"""What a trace must hold for this."""

_AT_ONCE = 2**25
"""Logits in memory at a time: 128 positions of Gemma's 262,144 tokens, 128 MB; fewer read the matrix too often."""

_SLICE = 8
"""Of these, how many are worked on together: temporaries of 8 MB are reused, larger ones are mapped anew each time."""


_STRETCH = 512
"""Logits that are compared as one where the largest are looked for."""


@dataclass(frozen=True, slots=True)
class Distributions:
    """What was said of T tokens before each was read, and of the token after them: T + 1 rows.

    Row t is the distribution from which token t comes, given tokens 0 to t − 1. Row 0 has none, since nothing stands
    before it; row T has no chosen token. What is missing is nan, or −1 for a rank.

    Attributes:
        logprobs: T + 1 float64, natural logarithms: log softmax(z)[token t] with z the logits at t − 1.
        entropies: T + 1 float64, in bits: −Σ p log2 p (Shannon 1948).
        ranks: T + 1 integers: how many tokens have a larger logit; 0 is the likeliest.
        top_ids: (T + 1) × k, likeliest first.
        top_logprobs: (T + 1) × k float64; −inf for a token that a sampler drops.
    """

    logprobs: NDArray[np.float64]
    entropies: NDArray[np.float64]
    ranks: NDArray[np.int64]
    top_ids: NDArray[np.int64]
    top_logprobs: NDArray[np.float64]

    @property
    def surprisals(self) -> NDArray[np.float64]:
        """T + 1, in bits: −log2 p (Hale 2001)."""
        return -self.logprobs / math.log(2)

    @property
    def top_probabilities(self) -> NDArray[np.float64]:
        """(T + 1) × k in [0, 1]."""
        return np.exp(self.top_logprobs)


@dataclass(frozen=True, slots=True)
class Probabilities:
    """The two distributions of one text, kept apart.

    Attributes:
        ids: The text's T tokens.
        raw: The model's own.
        sampled: After repetition penalty, temperature, top-k, top-p and min-p, as `sampling` says; None without one.
        sampling: Or None.
    """

    ids: tuple[int, ...]
    raw: Distributions
    sampled: Distributions | None = None
    sampling: Sampling | None = None


def probabilities(trace: Trace, *, top_k: int = 10, sampling: Sampling | None = None) -> Probabilities:
    """Exact probabilities of a text's tokens, a few positions' logits in memory at a time.

    Args:
        trace: Made with `CAPTURE`.
        top_k: Alternatives a token, from 1.
        sampling: Also give the distribution that `Gemma.steps` draws from with these settings.

    Raises:
        UserError: The trace lacks the final norm's output, or `top_k` is below 1.
    """
    final, readout = final_of(trace)
    if top_k < 1:
        raise UserError(f"top_k is out of range: {top_k}; ask for 1 or more.")
    tokens, raw, sampled = len(trace.ids), _Rows(), _Rows()
    with torch.inference_mode():
        top_k, chunk = min(top_k, readout.vocabulary), rows_at_once(readout.vocabulary)
        for start in range(0, tokens, chunk):
            logits = readout.logits(final[start : start + chunk])
            ids = (*trace.ids[start + 1 : start + 1 + len(logits)], *([-1] * (start + len(logits) == tokens)))
            for at in range(0, len(logits), _SLICE):
                part, own = logits[at : at + _SLICE], ids[at : at + _SLICE]
                raw.add(part, own, top_k)
                if sampling is not None:
                    seen = [trace.ids[: start + at + row + 1] for row in range(len(part))]
                    sampled.add(_warped(part, seen, sampling), own, top_k)
    return Probabilities(trace.ids, raw.made(), sampled.made() if sampling is not None else None, sampling)


def final_of(trace: Trace) -> tuple[torch.Tensor, Readout]:
    """The final norm's output of a trace, and what makes logits of it.

    Raises:
        UserError: It was not captured, or the text has no token.
    """
    if trace.final is None or trace.readout is None:
        raise UserError("The trace lacks the final norm's output; ask for Capture(final=True).")
    return trace.final, trace.readout


def rows_at_once(vocabulary: int) -> int:
    """Positions whose logits are made together."""
    return max(1, _AT_ONCE // vocabulary)


def normalisers(logits: torch.Tensor) -> torch.Tensor:
    """n × V float32 logits → n float64: log Σ exp.

    torch adds float32 in a cascade, so the sum of 262,144 terms is right to some 1e-7 of itself, and its logarithm to
    1e-7; asked for float64, the same sum takes a hundred times as long.
    """
    largest = logits.amax(-1, keepdim=True)
    return largest[:, 0].double() + (logits - largest).exp_().sum(-1).double().log()


def larger(logits: torch.Tensor, than: torch.Tensor) -> torch.Tensor:
    """How many of n × V logits are larger than n × 1: n integers. Counted in float32, which holds V and is faster."""
    above = torch.gt(logits, than, out=torch.empty_like(logits))
    return above.sum(-1).long()


def largest(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of n × V logits and their places, largest first: n × k each.

    All of them are in the k stretches whose own largest are the largest, so only these are sorted: a tenth of the time
    of `topk` over a vocabulary.
    """
    vocabulary = logits.shape[-1]
    if vocabulary % _STRETCH or vocabulary < _STRETCH * k:
        values, places = logits.topk(k)
        return values, places
    stretches = logits.unflatten(-1, (-1, _STRETCH))
    which = stretches.amax(-1).topk(k).indices  # n × k
    values, within = stretches.gather(1, which[..., None].expand(-1, -1, _STRETCH)).flatten(1).topk(k)
    return values, which.gather(1, within // _STRETCH) * _STRETCH + within % _STRETCH


def _warped(logits: torch.Tensor, seen: Sequence[Sequence[int]], sampling: Sampling) -> torch.Tensor:
    rows = [penalise(row, ids, sampling.repetition_penalty) for row, ids in zip(logits, seen, strict=True)]
    if sampling.temperature == 0:  # greedy takes the first of the largest
        best = torch.stack(rows).argmax(-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(1, best, 0.0)
    return torch.stack([warp(row, sampling) for row in rows])


class _Rows:
    """Distributions in the making; the row before all others is the missing one of token 0."""

    def __init__(self) -> None:
        self._parts: list[tuple[Any, ...]] = []

    def add(self, logits: torch.Tensor, ids: Sequence[int], top_k: int) -> None:
        """n × V logits and the n tokens that came of them, −1 for none."""
        best = logits.amax(-1)
        below = (logits - best[:, None]).clamp_(min=-1e30)  # what a sampler drops has the weight 0
        weights = below.exp()
        total = weights.sum(-1).double()  # as in `normalisers`
        normaliser = best.double() + total.log()
        # row by row: a third of the time of `vecdot`
        mean = torch.stack([torch.dot(*pair) for pair in zip(weights, below, strict=True)]).double() / total
        known = torch.tensor(ids, device=logits.device) >= 0
        at = torch.tensor(ids, device=logits.device).clamp(min=0)[:, None]
        chosen = logits.gather(1, at)
        logprobs = torch.where(known, chosen[:, 0].double() - normaliser, torch.nan)
        ranks = torch.where(known, larger(logits, chosen), -1)
        values, places = largest(logits, top_k)
        self._parts.append(
            (
                logprobs,
                (total.log() - mean) / math.log(2),
                ranks,
                places,
                values.double() - normaliser[:, None],
            )
        )

    def made(self) -> Distributions:
        columns = [torch.cat(column).cpu().numpy() for column in zip(*self._parts, strict=True)]
        before = [np.nan, np.nan, -1, -1, np.nan]
        columns = [np.concatenate([np.full_like(c[:1], b), c]) for c, b in zip(columns, before, strict=True)]
        return Distributions(*columns)
