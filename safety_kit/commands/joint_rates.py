"""The share of harmless texts that a policy blocks: counted on rows that are read for it, and how it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from safety_kit.types import Stage

if TYPE_CHECKING:
    from safety_kit.commands.corpus import Corpus
    from safety_kit.guard import Guard
    from safety_kit.joint import Joint

BATCH = 32


def measured(texts: Corpus, guard: Guard) -> list[Joint]:
    """The joint rate of all checks, a stage, on texts that are taken to be harmless."""
    from safety_kit.joint import counted

    samples = [entry.sample for entry in texts if entry.sample is not None]
    blocked: Counter[Stage] = Counter()
    for start in range(0, len(samples), BATCH):
        blocked.update(verdict.stage for verdict in guard.check(samples[start : start + BATCH]) if verdict.blocked)
    n = Counter(sample.stage for sample in samples)
    return [counted(stage, n[stage], blocked[stage]) for stage in Stage if n[stage]]


def show_joint(rates: Sequence[Joint]) -> None:
    """A line a stage, and what could not be known."""
    if rates:
        print("Harmless texts that are blocked, all rules together:")
    for one in rates:
        most = f"at most {one.bound:.2%} at 95 % confidence"
        match one.source:
            case "examples":
                share = f"{one.low:.2%} to {one.high:.2%} of the probes' held-out examples"
            case "traffic":
                share = f"{one.low:.2%} of {one.n} rows of your traffic, by the probes"
            case "texts":
                share = f"{one.low:.2%} of {one.n} rows given, by any check"
        print(f"  at {one.stage.value}: {share}; {most}")
    if any(one.source == "examples" for one in rates):
        print(
            "Which held-out examples two probes share is not known, as no texts are kept: the least is the largest\n"
            "probe's share, the most is their sum. --on ROWS counts on harmless texts of yours."
        )
