"""Two runs side by side: their tokens aligned, and which differences are more than rounding."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from debugger_app.document import Document

ROUNDING: Final = 3e-4
"""Bits by which one model's surprisal of one token behind the same tokens may differ for no reason of its own: another
attention implementation or batch rounds differently (2e-4 nats)."""

SCORE_ROUNDING: Final = 1e-3
"""The same for a classifier's probability."""

MOST: Final = 4_000
"""Tokens of a run that are aligned; difflib takes seconds beyond."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A token of the first run beside one of the second; one of the two may be missing.

    Attributes:
        a: Place in the first, or None.
        b: Place in the second, or None.
        same: Whether both are there and are one token.
    """

    a: int | None
    b: int | None
    same: bool


@dataclass(frozen=True, slots=True)
class ScorePair:
    """A category's probability of a whole message in either run; None where it was not scored."""

    message: str
    category: str
    a: float | None
    b: float | None

    @property
    def noise(self) -> bool:
        """Whether the difference is no more than rounding."""
        return self.a is not None and self.b is not None and abs(self.a - self.b) <= SCORE_ROUNDING


def align(a: Sequence[int], b: Sequence[int]) -> list[Pair]:
    """Token ids aligned by their longest common pieces (Ratcliff and Metzener 1988); what was replaced stands in pairs.

    Every token of either stands in exactly one pair, in order.
    """
    a, b = a[:MOST], b[:MOST]
    pairs: list[Pair] = []
    for kind, a0, a1, b0, b1 in SequenceMatcher(None, list(a), list(b), autojunk=False).get_opcodes():
        pairs += [Pair(x, y, kind == "equal") for x, y in zip_longest(range(a0, a1), range(b0, b1))]
    return pairs


def is_noise(a: float | None, b: float | None, same_model: bool) -> bool:
    """Whether two surprisals of one token, in bits, differ by no more than rounding explains."""
    return same_model and a is not None and b is not None and abs(a - b) <= ROUNDING


def scores(a: Document, b: Document) -> list[ScorePair]:
    """What each classifier says of each message of two runs, the messages taken by their order."""
    pairs = []
    for number, (left, right) in enumerate(zip_longest(a.messages, b.messages)):
        of_a = {strip.category: strip.probabilities[-1] for strip in left.strips if strip.probabilities} if left else {}
        of_b = (
            {strip.category: strip.probabilities[-1] for strip in right.strips if strip.probabilities} if right else {}
        )
        role = (left or right).role
        pairs += [ScorePair(f"{number}: {role}", name, of_a.get(name), of_b.get(name)) for name in {**of_a, **of_b}]
    return pairs
