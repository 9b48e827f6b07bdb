"""False-positive budgets: which threshold keeps one, which examples support it, and what a mixed log does to it.

The promise is a one-sided nonparametric tolerance bound (Wilks 1941): of all the calibration sets that could have been
drawn, at least 95 % give a threshold whose true false-positive rate is within the budget, whatever the scores'
distribution. Ties and jumps in it only make the bound safer, because a text is stopped above the threshold, not at it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

RATES = (0.001, 0.005, 0.01, 0.02, 0.05)
"""The budgets that tables show."""

CONFIDENCE = 0.95

ALL = "all lengths"


@dataclass(frozen=True, slots=True)
class Budget:
    """What n harmless texts say of one budget.

    Attributes:
        fpr: The budget: a share of harmless texts, in (0, 1).
        threshold: A text is stopped above this score; None where the texts do not support the budget.
        n: Harmless texts.
        confidence: Share of the calibration sets that keep the budget.
    """

    fpr: float
    threshold: float | None
    n: int
    confidence: float = CONFIDENCE

    @property
    def supported(self) -> bool:
        return self.threshold is not None


def tolerance_rank(n: int, fpr: float, confidence: float = CONFIDENCE) -> int:
    """The largest k for which the k-th largest of n harmless scores keeps the budget; 0 where none does.

    The true rate above the k-th largest is Beta(k, n − k + 1) distributed, so it is at most `fpr` with probability
    P(Binomial(n, fpr) ≥ k) (Wilks 1941).

    Args:
        n: Harmless texts.
        fpr: In (0, 1).
        confidence: In (0, 1).
    """
    j = np.arange(1, n + 1)
    steps = np.log((n - j + 1) / j) + math.log(fpr) - math.log1p(-fpr)
    mass = np.exp(n * math.log1p(-fpr) + np.concatenate([[0.0], np.cumsum(steps)]))
    return int(np.searchsorted(np.cumsum(mass), 1 - confidence, side="right"))


def needed(fpr: float, confidence: float = CONFIDENCE) -> int:
    """Error-free harmless texts without which no threshold keeps the budget: 299 for 1 % at 95 % confidence."""
    return math.ceil(math.log1p(-confidence) / math.log1p(-fpr))


def smallest_supported(n: int, confidence: float = CONFIDENCE) -> float:
    """The smallest budget that n harmless texts support: 1 − (1 − confidence)^(1/n); 1 for none."""
    return 1.0 if n < 1 else -math.expm1(math.log1p(-confidence) / n)


def unsupported(n: int, fpr: float, confidence: float = CONFIDENCE) -> str:
    """Why n harmless texts do not support a budget, and what they do support."""
    digits = -math.floor(math.log10(low := 100 * smallest_supported(n, confidence))) + 1
    smallest = math.ceil(low * 10**digits) / 10**digits  # rounded up: what is read here can be written down
    return (
        f"{100 * fpr:.3g} % needs at least {needed(fpr, confidence)} harmless texts for {100 * confidence:.3g} % "
        f"confidence, there are {n}; the smallest budget that they support is {smallest:g} %"
    )


def budget_for(scores: NDArray[Any], fpr: float, confidence: float = CONFIDENCE) -> Budget:
    """The lowest threshold that keeps a budget.

    Args:
        scores: n decision scores (a text's largest reading) of harmless texts, in any order and on any scale.
        fpr: In (0, 1).
        confidence: In (0, 1).
    """
    rank = tolerance_rank(len(scores), fpr, confidence)
    return Budget(fpr, float(np.sort(scores)[-rank]) if rank else None, len(scores), confidence)


def by_length(
    scores: NDArray[Any], lengths: NDArray[Any] | None, window: int, rates: Sequence[float] = RATES
) -> dict[str, list[Budget]]:
    """Budgets for all texts, and for each band of lengths: a longer text has more readings, and so a higher largest.

    Args:
        scores: n decision scores of harmless texts.
        lengths: Their tokens; None where nobody counted: then there are no bands.
        window: Tokens of one reading; the bands are one window, up to four, and more.
        rates: The budgets.

    Returns:
        Band → a budget for each rate; bands without a text are left out.
    """
    bands = {ALL: np.ones(len(scores), dtype=bool)}
    if lengths is not None:
        bands[f"up to {window} tokens"] = lengths <= window
        bands[f"{window + 1}–{4 * window} tokens"] = (lengths > window) & (lengths <= 4 * window)
        bands[f"over {4 * window} tokens"] = lengths > 4 * window
    return {name: [budget_for(scores[band], rate) for rate in rates] for name, band in bands.items() if band.any()}


@dataclass(frozen=True, slots=True)
class Tail:
    """An exponential upper tail of one category's harmless logits: it makes those of several categories comparable.

    Attributes:
        start: Where the upper tenth begins.
        scale: Its mean excess, above 0.
    """

    start: float
    scale: float

    @classmethod
    def of(cls, logits: NDArray[Any]) -> Tail:
        """Of n ≥ 1 logits."""
        start = float(np.quantile(logits, 0.9))
        above = logits[logits > start]
        return cls(start, max(float(np.mean(above - start)) if len(above) else 1.0, 1e-6))


def joint_thresholds(
    logits: Doubles, tails: Sequence[Tail], fpr: float, confidence: float = CONFIDENCE
) -> list[float] | None:
    """A logit for each category, so that at most `fpr` of harmless texts are above any of them.

    Each text counts by its largest tail level, (logit − start) / scale, over the categories. The tails must come from
    other texts: then the levels are n draws of one number, and its order statistics keep the joint promise exactly,
    however the categories hang together. (Ranks among the same n texts would not: with each category's threshold at
    its own largest none of the n is stopped, yet m categories stop m / (n + 1) of new texts.)

    Args:
        logits: n texts × m categories; −inf where a text has nothing to read.
        tails: m.
        fpr: In (0, 1), for all categories together.
        confidence: In (0, 1).

    Returns:
        m thresholds; None where n texts do not support the budget.
    """
    start, scale = (np.array([getattr(tail, name) for tail in tails]) for name in ("start", "scale"))
    levels = np.max((logits - start) / scale, axis=1)
    level = budget_for(levels, fpr, confidence).threshold
    if level is None:
        return None
    # Rounding must not put a text of the level itself above it: a text that is sent a thousand times would be stopped.
    reached = np.max(logits[levels <= level], axis=0)
    return [float(threshold) for threshold in np.maximum(start + scale * level, reached)]


def contaminated(n: int, fpr: float, share: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """What harmful texts among those that set a threshold do to it.

    The budget still holds for the mixture, and of n texts fewer than the threshold's rank are above it.

    Args:
        n: Texts of the log.
        fpr: The budget, in (0, 1).
        share: Harmful share of the log, in (0, 1).
        confidence: In (0, 1).

    Returns:
        The largest false-positive rate on the harmless ones, fpr / (1 − share), and the largest share of the log's
        harmful texts that the threshold stops.
    """
    return min(1.0, fpr / (1 - share)), min(1.0, max(tolerance_rank(n, fpr, confidence) - 1, 0) / (share * n))
