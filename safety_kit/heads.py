"""What is taught of a category: a linear reading of activations, and what its scores mean.

A head is linear in the activations, so a text's score is the mean of one number a token (`Head.token_scores`):
that is what lets a prefill or a decoding step classify its own tokens for next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from safety_kit import budget
from safety_kit.errors import ArtifactError
from safety_kit.types import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from safety_kit.artifacts import Calibration

    Floats = NDArray[np.float32]
    Tensor = NDArray[Any]


class Scored:
    """What the decision scores of one category mean: its probabilities, and its thresholds by false-positive budget."""

    if TYPE_CHECKING:

        @property
        def category(self) -> str: ...
        @property
        def calibration(self) -> Mapping[Stage, Calibration]: ...
        @property
        def negatives(self) -> Mapping[Stage, Floats]: ...
        @property
        def lengths(self) -> Mapping[Stage, Tensor]: ...

    def window_at(self, stage: Stage) -> int:
        """Tokens that a reading pools at most at a stage."""
        raise NotImplementedError

    def probability(self, score: float, stage: Stage) -> float:
        """The calibrated probability of a decision score."""
        return float(self.probabilities(np.float64(score), stage))

    def probabilities(self, scores: NDArray[np.float64] | np.float64, stage: Stage) -> NDArray[np.float64]:
        """Those of an array of decision scores, in its shape."""
        scale = self.calibration[stage]
        made: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(scale.slope * scores + scale.intercept, -60, 60)))
        return made

    def threshold_for(self, max_fpr: float, stage: Stage, confidence: float = budget.CONFIDENCE) -> float:
        """The probability above which at most `max_fpr` of texts like the held-out negatives lie.

        Args:
            max_fpr: In (0, 1).
            stage: Where the texts stand.
            confidence: Share of the sets of negatives that could have been drawn for which this holds
                (`budget.tolerance_rank`).

        Raises:
            ArtifactError: Too few negatives to support so small a rate.
        """
        kept = budget.budget_for(self.negatives[stage], max_fpr, confidence)
        if kept.threshold is None:
            raise ArtifactError(
                f"{self.category} at {stage.value}: {budget.unsupported(kept.n, max_fpr, confidence)}; "
                "use a larger rate, teach it more, or calibrate it on your own traffic."
            )
        return self.probability(kept.threshold, stage)

    def budgets(self, stage: Stage) -> dict[str, list[budget.Budget]]:
        """By band of lengths, what the held-out negatives say of `budget.RATES`; thresholds are decision scores."""
        return budget.by_length(self.negatives[stage], self.lengths.get(stage), self.window_at(stage))


@dataclass(frozen=True)
class Head(Scored):
    """A linear reading of one category.

    Attributes:
        category: What it scores.
        blocks: Blocks whose outputs it reads, concatenated in this order.
        weight: len(blocks)·d float32; the features' standardisation is folded in.
        bias: Added once to the mean of the tokens' scores.
        calibration: By stage.
        negatives: By stage, the sorted decision scores of held-out negatives.
        lengths: By stage, their tokens in the same order; empty where nobody counted.
        window: A reading pools at most so many tokens.
        reply_window: The same at output, where a violation must stand out from what came before it; None: `window`.
        stride: In a stream, and in a text longer than a window, a reading is taken every so many tokens.
    """

    category: str
    blocks: tuple[int, ...]
    weight: Floats
    bias: float
    calibration: dict[Stage, Calibration]
    negatives: dict[Stage, Floats]
    window: int
    stride: int
    lengths: dict[Stage, Tensor] = field(default_factory=dict)
    reply_window: int | None = None

    def window_at(self, stage: Stage) -> int:
        """Tokens that a reading pools at most at a stage."""
        return self.reply_window or self.window if stage is Stage.OUTPUT else self.window

    def token_scores(self, hidden: Floats) -> Floats:
        """One score a token: n × (blocks·d) activations → n."""
        return hidden @ self.weight


def reading_ends(length: int, stage: Stage, window: int, stride: int) -> list[int]:
    """Where readings of a text of `length` tokens end; a reading pools the last `window` tokens up to its end.

    At input the text is there at once: one reading of the whole when it fits a window, else one every `stride`
    tokens from the first full window on. At output the reader sees every prefix: one every `stride` tokens from
    2·stride on.
    The text's end is always one.
    """
    if length <= 0:
        return []
    first = window if stage is Stage.INPUT else 2 * stride
    return [*range(first, length, stride), length]


def decision_score(token_scores: Floats, bias: float, stage: Stage, window: int, stride: int) -> tuple[float, int]:
    """The largest reading of a text, which the guard compares with the threshold, and the token where it ends."""
    total = np.concatenate([[0.0], np.cumsum(token_scores, dtype=np.float64)])
    ends = np.array(reading_ends(len(token_scores), stage, window, stride))
    starts = np.maximum(0, ends - window)
    readings = (total[ends] - total[starts]) / (ends - starts)
    best = int(np.argmax(readings))
    return float(readings[best]) + bias, int(ends[best])
