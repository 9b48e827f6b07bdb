"""The numbers that salience explains: a token's or a span's log-probability, a contrast, a classifier's logit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from safety_kit.analysis.probabilities import final_of
from safety_kit.errors import UserError
from safety_kit.gemma.trace import Capture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safety_kit.gemma import Tokens, Trace
    from safety_kit.heads import Head

Gone: TypeAlias = frozenset[int]
"""Tokens of the whole text that a shorter one lacks."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A number that one pass gives, with gradients where they are on.

    Attributes:
        name: For people.
        unit: ``nats`` (a natural logarithm of a probability) or ``logits``.
        capture: What the trace must hold.
        value: From a trace, and the tokens of the whole text that it lacks, to a scalar.
        fixed: Tokens that cannot be deleted: the objective is about them.
    """

    name: str
    unit: Literal["nats", "logits"]
    capture: Capture
    value: Callable[[Trace, Gone], torch.Tensor]
    fixed: Gone = frozenset()


def logprob(text: Tokens, span: Sequence[int], name: str = "log-probability") -> Objective:
    """Σ log p(token t | all before it) over the tokens of a span: of one token, or of a reply.

    Raises:
        UserError: The span is empty, or holds token 0 or one that is not there.
    """
    if not span or not all(0 < at < len(text) for at in span):
        raise UserError(f"Name tokens from 1 to {len(text) - 1}; token 0 has no probability.")

    def value(trace: Trace, gone: Gone) -> torch.Tensor:
        final, readout = final_of(trace)
        before = torch.tensor([_now(at, gone) - 1 for at in span])
        logprobs = torch.log_softmax(readout.logits(final[before]), -1)
        targets = torch.tensor([text.ids[at] for at in span], device=logprobs.device)
        return logprobs.gather(1, targets[:, None]).sum()

    return Objective(name, "nats", Capture(final=True), value, frozenset(span))


def contrast(text: Tokens, position: int, target: int, other: int) -> Objective:
    """logit[target] − logit[other] of the token after `position`; after a softcap where the model has one.

    Raises:
        UserError: There is no such position.
    """
    if not 0 <= position < len(text):
        raise UserError(f"There is no token {position}; the text has {len(text)}.")

    def value(trace: Trace, gone: Gone) -> torch.Tensor:
        final, readout = final_of(trace)
        logits = readout.logits(final[_now(position, gone)])
        return logits[target] - logits[other]

    return Objective("difference of logits", "logits", Capture(final=True), value, frozenset({position}))


def classifier(head: Head, start: int, stop: int) -> Objective:
    """A classifier's decision score of the reading that pools tokens `start` to `stop`, before calibration.

    The mean over those tokens of activations · weight, plus the bias. In a text of more than a window of own tokens,
    name the window that decided.

    Raises:
        UserError: The range is empty.
    """
    if not 0 <= start < stop:
        raise UserError("A classifier reads at least one token.")
    weight = torch.from_numpy(head.weight.copy())

    def value(trace: Trace, gone: Gone) -> torch.Tensor:
        own = slice(_now(start, gone), _now(stop, gone))
        hidden = torch.cat([trace.hidden[block][own].float() for block in head.blocks], dim=-1)
        return (hidden @ weight.to(hidden.device)).mean() + head.bias

    return Objective(f"classifier {head.category}", "logits", Capture(tuple(sorted(set(head.blocks)))), value)


def _now(at: int, gone: Gone) -> int:
    """Where a token of the whole text, or the place after its last, is once others are gone."""
    return at - sum(lost < at for lost in gone)
