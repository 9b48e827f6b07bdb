"""Scores to probabilities: Platt scaling on scores that the head gave to texts it was not fitted on.

One method for every sample size: docs/decisions/0006 has what isotonic regression did on large ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from safety_kit.artifacts import Calibration

if TYPE_CHECKING:
    from numpy.typing import NDArray


def platt(y: NDArray[np.int64], scores: NDArray[np.float64]) -> Calibration:
    """Fit p = sigmoid(slope · score + intercept) with Platt's smoothed targets (Platt 1999), the slope kept positive.

    The classes count equally: the probability is for a prevalence of one half, whatever the examples' share was.
    Two numbers are fitted, so it needs few scores, and it is strictly increasing: no ranking or threshold is lost.
    """
    positives, negatives = int(np.sum(y == 1)), int(np.sum(y == 0))
    target = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    weight = np.where(y == 1, 0.5 / positives, 0.5 / negatives)
    spread = float(np.std(scores)) or 1.0
    centre = float(np.mean(scores))
    standard = (scores - centre) / spread

    def loss(theta: NDArray[np.float64]) -> float:
        z = np.exp(theta[0]) * standard + theta[1]
        p = np.clip(expit(z), 1e-12, 1 - 1e-12)
        return float(-np.sum(weight * (target * np.log(p) + (1 - target) * np.log(1 - p))))

    found = minimize(loss, np.array([0.0, 0.0]), method="L-BFGS-B", bounds=[(-6, 4), (-30, 30)])
    slope = float(np.exp(found.x[0])) / spread
    return Calibration(n=len(y), slope=slope, intercept=float(found.x[1]) - slope * centre)


def probabilities(scale: Calibration, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """n decision scores → n calibrated probabilities; -inf, the score of nothing, is 0."""
    p = expit(np.clip(scale.slope * scores + scale.intercept, -60, 60))
    return np.where(np.isneginf(scores), 0.0, p)
