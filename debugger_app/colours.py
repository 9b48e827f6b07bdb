"""Colours for one number a token: a scale that stays readable to the colour-blind, and an ink that stands out on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_CIVIDIS: Final = ((0, 34, 78), (60, 77, 110), (124, 123, 120), (188, 175, 111), (254, 232, 56))
"""Five stops of cividis (Nuñez, Anderton and Renslow 2018), which looks alike with and without red-green blindness."""

MISSING: Final = "rgb(128, 128, 128)"


@dataclass(frozen=True, slots=True)
class Scale:
    """From a number to a colour.

    Attributes:
        title: What is measured, with its unit.
        low: The number at the dark end.
        high: The number at the bright end; larger ones look the same.
        form: How a number is written.
    """

    title: str
    low: float
    high: float
    form: str = "{:.2g}"

    def colour(self, value: float | None) -> tuple[str, str]:
        """Background and ink; a missing number is grey."""
        if value is None or math.isnan(value):
            return MISSING, "white"
        span = self.high - self.low
        place = min(1.0, max(0.0, (value - self.low) / span if span else 0.0)) * (len(_CIVIDIS) - 1)
        below = min(int(place), len(_CIVIDIS) - 2)
        rest = place - below
        mixed = [round(a + (b - a) * rest) for a, b in zip(_CIVIDIS[below], _CIVIDIS[below + 1], strict=True)]
        red, green, blue = mixed
        return f"rgb({red}, {green}, {blue})", "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 115 else "white"

    def steps(self, count: int = 5) -> list[dict[str, str]]:
        """The legend: evenly spaced numbers, each on its colour."""
        made = []
        for i in range(count):
            value = self.low + (self.high - self.low) * i / (count - 1)
            colour, ink = self.colour(value)
            made.append({"label": self.form.format(value), "colour": colour, "ink": ink})
        return made


SURPRISAL: Final = Scale("surprisal in bits: how unexpected the model found each token", 0, 16, "{:.0f}")
ENTROPY: Final = Scale("entropy in bits: how open the model was before each token", 0, 12, "{:.0f}")
PROBABILITY: Final = Scale("the classifier's calibrated probability if the text ended at each token", 0, 1, "{:.2f}")
