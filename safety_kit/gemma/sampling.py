"""How the next token is chosen: tiny pure functions over one row of logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from safety_kit.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of one generation; the defaults are greedy.

    Attributes:
        max_tokens: Tokens to make at most, from 1.
        temperature: 0 is greedy; above it the logits are divided by it.
        top_k: Keep the k likeliest tokens; 0 keeps all.
        top_p: Keep the likeliest tokens that hold this share of the probability, in (0, 1].
        min_p: Drop tokens less likely than this share of the likeliest one, in [0, 1).
        repetition_penalty: Above 1 makes tokens already there less likely (Keskar et al. 2019).
        stop: The reply ends before the first of these strings.
        seed: Makes sampling repeatable, in [0, 2^63); None draws one.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, right in {
            "max_tokens": self.max_tokens >= 1,
            "temperature": 0 <= self.temperature < float("inf"),
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p < 1,
            "repetition_penalty": 0 < self.repetition_penalty < float("inf"),
            "stop": all(self.stop),
            "seed": self.seed is None or 0 <= self.seed < 2**63,
        }.items():
            if not right:
                raise UserError(f"{name} is out of range: {getattr(self, name)!r}.")


def penalise(logits: torch.Tensor, ids: Sequence[int], penalty: float) -> torch.Tensor:
    """Divide the positive and multiply the negative logits of tokens already there."""
    if penalty == 1.0 or not ids:
        return logits
    seen = torch.tensor(sorted(set(ids)), device=logits.device)
    chosen = logits[seen]
    limit = torch.finfo(logits.dtype).max
    return logits.scatter(0, seen, torch.where(chosen < 0, chosen * penalty, chosen / penalty).clamp(-limit, limit))


def warp(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Temperature, top-k, top-p, min-p, in transformers' order; dropped tokens become -inf. V → V, float32."""
    # Measured from the largest, and never over a float32's smallest numbers: no temperature overflows.
    logits = (logits - logits.max()) / max(sampling.temperature, 1e-30)
    if 0 < sampling.top_k < logits.numel():
        logits = logits.masked_fill(logits < torch.topk(logits, sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p < 1:
        ascending, order = torch.sort(logits)
        drop = ascending.softmax(-1).cumsum(-1) <= 1 - sampling.top_p
        drop[-1] = False
        logits = logits.masked_fill(torch.zeros_like(drop).scatter(0, order, drop), -torch.inf)
    if sampling.min_p > 0:
        probs = logits.softmax(-1)
        logits = logits.masked_fill(probs < sampling.min_p * probs.max(), -torch.inf)
    return logits


def choose(logits: torch.Tensor, ids: Sequence[int], sampling: Sampling, rng: torch.Generator | None) -> int:
    """The next token's id from V float32 logits; `ids` are the tokens so far, prompt included."""
    logits = penalise(logits, ids, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return int(logits.argmax())
    probs = warp(logits, sampling).softmax(-1)
    return int(torch.multinomial(probs, 1, generator=rng))
