"""How much worse the same texts are told apart in another form: paired losses and rates with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binomtest

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 1000


def interval(value: float, draws: NDArray[np.float64]) -> dict[str, float]:
    """A value with the 95 % interval of its resamples."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"value": float(value), "low": float(low), "high": float(high)}


def auroc_loss(
    y: NDArray[np.int64], before: NDArray[np.float64], after: NDArray[np.float64], seed: int = 0
) -> dict[str, dict[str, float]]:
    """AUROC of the same texts' scores before and after, and the loss.

    Args:
        y: n labels 0/1, both there.
        before: n scores.
        after: n scores of the same texts in another form.
        seed: Of the bootstrap, which resamples texts within each label and keeps the two scores of a text together.

    Returns:
        `before`, `auroc` (after) and `loss` as {value, low, high}.
    """
    rng = np.random.default_rng(seed)
    positives, negatives = (_counts(rng, int((y == label).sum())) for label in (1, 0))
    first, then = (_wins(scores[y == 1], scores[y == 0]) for scores in (before, after))
    drawn = [np.einsum("rp,pn,rn->r", positives, wins, negatives, optimize=True) for wins in (first, then)]
    return {
        "before": interval(first.mean(), drawn[0]),
        "auroc": interval(then.mean(), drawn[1]),
        "loss": interval(first.mean() - then.mean(), drawn[0] - drawn[1]),
    }


def _wins(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where a positive scores above a negative, one half for a tie: the mean is the AUROC (Mann & Whitney 1947)."""
    above = (positives[:, None] > negatives[None, :]).astype(np.float64)
    return above + 0.5 * (positives[:, None] == negatives[None, :])


def _counts(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """How often each of n texts is drawn in each resample, as a share."""
    return rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n


def rate(hits: int, of: int) -> dict[str, float]:
    """A share with its exact 95 % interval (Clopper & Pearson 1934)."""
    found = binomtest(hits, of).proportion_ci(method="exact")
    return {"value": hits / of, "low": float(found.low), "high": float(found.high), "hits": hits, "of": of}
