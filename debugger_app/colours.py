"""Colours for one number a token: one hue, stronger the larger the number, and a second one below zero.

The hues are Okabe and Ito's blue and vermilion (2008), which the colour-blind can tell apart; what stands on them keeps
a contrast of 4.5 in the light and in the dark theme, since no colour covers the page by more than 60 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Scale:
    """From a number to the strength of a colour.

    Attributes:
        title: What is measured, with its unit.
        low: The number without colour, or, below zero, with the second hue at its fullest.
        high: The number at the strongest; larger ones look the same.
        form: How a number is written.
    """

    title: str
    low: float
    high: float
    form: str = "{:.2g}"

    def share(self, value: float | None) -> float | None:
        """In [0, 1], and in [−1, 1] for a scale that begins below zero; None for a missing number."""
        if value is None or math.isnan(value):
            return None
        if self.low < 0:
            return max(-1.0, min(1.0, value / max(-self.low, self.high)))
        span = self.high - self.low
        return min(1.0, max(0.0, (value - self.low) / span if span else 0.0))

    def steps(self, count: int = 5) -> list[dict[str, Any]]:
        """The legend: evenly spaced numbers, each with its share."""
        values = [self.low + (self.high - self.low) * i / (count - 1) for i in range(count)]
        return [{"label": self.form.format(value), "share": self.share(value)} for value in values]


SURPRISAL: Final = Scale("surprisal in bits: how unexpected the model found each token", 0, 16, "{:.0f}")
ENTROPY: Final = Scale("entropy in bits: how open the model was before each token", 0, 12, "{:.0f}")
PROBABILITY: Final = Scale("the classifier's calibrated probability if the text ended at each token", 0, 1, "{:.2f}")
