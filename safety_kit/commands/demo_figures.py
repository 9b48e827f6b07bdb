"""What the demo measures: false blocks and misses on held-out texts, and the cost of guarding."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from safety_kit.types import Action, Message, Sample, Stage, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from classifiers.data import Examples
    from safety_kit.gemma import Gemma, Sampling
    from safety_kit.generate import GuardedGemma
    from safety_kit.guard import Guard

Z = 1.959964  # 95 %, two-sided
BATCH = 32
ANY = "any category"


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something happened: `hits` of `n`."""

    hits: int
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the rate (Wilson 1927); the whole of [0, 1] where nothing was seen."""
        if not self.n:
            return 0.0, 1.0
        rate, spread = self.hits / self.n, Z * Z / self.n
        centre = rate + spread / 2
        reach = Z * math.sqrt((rate * (1 - rate) + spread / 4) / self.n)
        return max(0.0, (centre - reach) / (1 + spread)), min(1.0, (centre + reach) / (1 + spread))

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval
        return {"hits": self.hits, "n": self.n, "low": round(low, 4), "high": round(high, 4)}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.hits} of {self.n} ({low:.0%} to {high:.0%})" if self.n else "none to read"


@dataclass(frozen=True, slots=True)
class Figures:
    """One line of the table.

    Attributes:
        category: Whose rule is looked at, or `ANY`.
        false_blocks: Harmless texts that were blocked.
        misses: Harmful texts that were not.
    """

    category: str
    false_blocks: Rate
    misses: Rate


@dataclass(frozen=True, slots=True)
class _Row:
    sample: Sample
    category: str  # "" for a text of the harmless set
    harmful: bool


def held_out(
    guard: Guard, sets: dict[str, Examples], benign: Examples, tick: Callable[[int], None] = lambda _: None
) -> list[Figures]:
    """Hold the texts that no teaching saw against the guard.

    A category's line looks at its own rule and its own set, half of which only looks harmful; the last line looks at
    any rule: the false blocks on ordinary texts, the misses on the harmful ones of all sets.

    Args:
        guard: The guard.
        sets: Held-out rows by category.
        benign: Held-out ordinary texts.
        tick: Called with the number of texts read.
    """
    rows = [_Row(sample, "", False) for sample in _samples(benign)]
    for category, examples in sets.items():
        labels = examples.labels[:, examples.categories.index(category)]
        rows += [
            _Row(sample, category, bool(label))
            for sample, label in zip(_samples(examples), labels, strict=True)
            if label == label and sample.stage in guard.policy.stages_of(category)
        ]
    blocked: list[set[str]] = []
    for start in range(0, len(rows), BATCH):
        batch = [row.sample for row in rows[start : start + BATCH]]
        blocked += [_blocking(guard, verdict) for verdict in guard.check(batch)]
        tick(len(batch))
    seen = list(zip(rows, blocked, strict=True))
    figures = []
    for category in sets:
        own = [(row, category in hit) for row, hit in seen if row.category == category]
        false_blocks = _rate(hit for row, hit in own if not row.harmful)
        figures.append(Figures(category, false_blocks, _rate(not hit for row, hit in own if row.harmful)))
    ordinary = _rate(bool(hit) for row, hit in seen if not row.category)
    missed = _rate(not hit for row, hit in seen if row.harmful)
    return [*figures, Figures(ANY, ordinary, missed)]


def _samples(examples: Examples) -> list[Sample]:
    """A text without a prompt is a user's, one with a prompt is a model's reply."""
    return [
        Sample(text, "user", Stage.INPUT) if prompt is None else Sample(text, "assistant", Stage.OUTPUT, prompt)
        for prompt, text in examples.pairs()
    ]


def _blocking(guard: Guard, verdict: Verdict) -> set[str]:
    """Categories whose rule blocks; a fault that blocks counts as one."""
    categories = {
        finding.category
        for finding in verdict.findings
        if (rule := guard.policy.rule_for(finding, verdict.stage)) and rule.action is Action.BLOCK
    }
    return categories or ({"fault"} if verdict.blocked else set())


def _rate(happened: Any) -> Rate:
    events = list(happened)
    return Rate(sum(events), len(events))


def cost(gemma: Gemma, guarded: GuardedGemma, prompts: Sequence[str], sampling: Sampling) -> dict[str, float]:
    """Median seconds a reply with and without the guard, taken in turn, and the median of the paired ratios."""
    with_guard, without = [], []
    for prompt in prompts:
        begin = time.perf_counter()
        gemma.generate(gemma.render([Message("user", prompt)]), sampling)
        without.append(time.perf_counter() - begin)
        with_guard.append(guarded.generate(prompt, sampling).seconds)
    ratios = [a / b for a, b in zip(with_guard, without, strict=True)]
    return {
        "unguarded": median(without),
        "guarded": median(with_guard),
        "ratio": median(ratios),
        "replies": len(ratios),
    }
