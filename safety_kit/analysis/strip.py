"""What each classifier would say if the text ended at each of its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from safety_kit.heads import reading_ends
from safety_kit.policy_schema import covers
from safety_kit.types import Action, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from safety_kit.gemma.trace import TraceView
    from safety_kit.heads import Head
    from safety_kit.policy import Policy
    from safety_kit.types import Span


@dataclass(frozen=True, slots=True)
class Strip:
    """One category's probability at each of a text's n tokens.

    Attributes:
        category: What is scored.
        stage: Which calibration was taken.
        spans: n: each token in the raw text.
        probabilities: n float64 in [0, 1]: what the guard would compare with a threshold if the text ended there.
        readings: n float64: the same of the window of tokens that ends there, alone.
        changes: n float64: the probability less that at the token before; at the first token nan.
        thresholds: By action, the policy's lowest for this category at this stage.
        crossings: By action, the first token at which the probability lies above it, or None: a text that ended there
            would be met with that action.
        ends: Tokens at which the guard reads the text (`heads.reading_ends`), the last one always among them.
        acts: By action, the first of `ends` at which the probability lies above the threshold: what the guard does, and
            in a stream when. None where it does nothing, though a crossing may lie between two readings.
    """

    category: str
    stage: Stage
    spans: tuple[Span, ...]
    probabilities: NDArray[np.float64]
    readings: NDArray[np.float64]
    changes: NDArray[np.float64]
    thresholds: Mapping[Action, float]
    crossings: Mapping[Action, int | None]
    ends: tuple[int, ...]
    acts: Mapping[Action, int | None]


def strips(view: TraceView, heads: Sequence[Head], stage: Stage, policy: Policy | None = None) -> list[Strip]:
    """A strip a head, from one pass.

    The value at token t is the head's calibrated `decision_score` of tokens 0 to t: the largest mean of token scores
    over the windows that a guard reads (`heads.reading_ends`). A guard cuts a text of more than 512 tokens into
    overlapping passes; here it is read as it stands in the trace.

    Args:
        view: A text's own tokens; its trace holds the heads' blocks.
        heads: Causal classifiers.
        stage: Where the text stands.
        policy: With thresholds resolved, as `Guard.policy`.
    """
    hidden = {
        block: view.hidden(block).detach().float().cpu().numpy()
        for block in sorted({block for head in heads for block in head.blocks})
    }
    return [_strip(view, head, hidden, stage, thresholds(policy, head.category, stage)) for head in heads]


def thresholds(policy: Policy | None, category: str, stage: Stage) -> dict[Action, float]:
    """By action, the lowest threshold of a resolved policy's rules for a category at a stage."""
    found: dict[Action, float] = {}
    for rule in policy.rules if policy else ():
        if stage in rule.stages and covers(rule.category, category):
            limit = 0.0 if rule.threshold is None else rule.threshold
            found[rule.action] = min(limit, found.get(rule.action, 1.0))
    return found


def _strip(
    view: TraceView, head: Head, hidden: Mapping[int, NDArray[np.float32]], stage: Stage, limits: dict[Action, float]
) -> Strip:
    scores = head.token_scores(np.concatenate([hidden[block] for block in head.blocks], axis=1))
    window = head.window_at(stage)
    last = _window_means(scores, window)
    decided = _decisions(last, stage, window, head.stride)
    probability = head.probabilities(decided + head.bias, stage)
    ends = tuple(dict.fromkeys(end - 1 for end in reading_ends(len(probability), stage, window, head.stride)))
    return Strip(
        head.category,
        stage,
        view.offsets,
        probability,
        head.probabilities(last + head.bias, stage),
        np.diff(probability, prepend=np.nan),
        limits,
        {action: _first_above(probability, limit, range(len(probability))) for action, limit in limits.items()},
        ends,
        {action: _first_above(probability, limit, ends) for action, limit in limits.items()},
    )


def _first_above(probability: NDArray[np.float64], limit: float, places: Iterable[int]) -> int | None:
    return next((at for at in places if probability[at] > limit), None)


def _window_means(scores: NDArray[np.float32], window: int) -> NDArray[np.float64]:
    """The mean of the last `window` scores up to each token."""
    total = np.concatenate([[0.0], np.cumsum(scores, dtype=np.float64)])
    ends = np.arange(1, len(scores) + 1)
    starts = np.maximum(0, ends - window)
    means: NDArray[np.float64] = (total[ends] - total[starts]) / (ends - starts)
    return means


def _decisions(means: NDArray[np.float64], stage: Stage, window: int, stride: int) -> NDArray[np.float64]:
    """`decision_score` of each prefix, without its bias: a prefix's own last reading, or a larger one at an earlier
    place of `reading_ends`."""
    ends = np.arange(1, len(means) + 1)
    first = window if stage is Stage.INPUT else 2 * stride
    kept = np.where((ends >= first) & ((ends - first) % stride == 0), means, -np.inf)
    earlier = np.concatenate([[-np.inf], np.maximum.accumulate(kept)[:-1]])[: len(means)]
    decided: NDArray[np.float64] = np.maximum(means, earlier)
    return decided
