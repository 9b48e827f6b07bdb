"""Tables of budgets and thresholds, and the rows and the warning that a calibration shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from safety_kit import console

if TYPE_CHECKING:
    from safety_kit.artifacts import Artifact
    from safety_kit.budget import Budget
    from safety_kit.heads import Head, Scored
    from safety_kit.policy import Policy
    from safety_kit.thresholds import Calibrated, Resolved
    from safety_kit.types import Stage

SHARES = (0.001, 0.01, 0.05)
"""Harmful shares of a log that the warning about contamination works out."""

WIDTH = 60

HELD_OUT = "the harmless ones held out of training"
"""What an adapter's budgets are for."""


def show_budgets(policy: Policy, budgets: Sequence[Resolved]) -> None:
    """What each budget of a policy came to."""
    if not budgets:
        return
    title = "At most so many harmless texts like those it was calibrated on are stopped, at 95 % confidence"
    made = console.table("category", "at", "budget", "calibrated on", "stopped above", title=title)
    for one in budgets:
        budget = f"{one.max_fpr:.2%}" if one.max_fpr else f"{policy.budget:.2%} together"
        on = f"{one.n} rows of your traffic" if one.source == "traffic" else f"{one.n} held-out examples"
        console.add_row(made, one.category, one.stage.value, budget, on, f"{one.threshold:.4f}")
    console.show(made)


def show_thresholds(thresholds: Sequence[Calibrated], policy: Policy) -> None:
    """What a log set."""
    made = console.table("category", "at", "budget", "n", "stopped above", title="For texts like the log's")
    for one in thresholds:
        budget = f"{one.max_fpr:.2%}" if one.max_fpr else f"{policy.budget:.2%} together"
        console.add_row(made, one.category, one.stage.value, budget, str(one.n), f"{one.threshold:.4f}")
    console.show(made)


def show_nearest(listed: Sequence[dict[str, Any]], texts: bool) -> None:
    """The rows nearest to a threshold, the highest first."""
    if not listed:
        return
    headings = ["line", "at", "category", "probability", "threshold", ""]
    made = console.table(*headings, *(["text"] if texts else []), title="Nearest to a threshold", right=headings[3:5])
    for entry in listed:
        cells = [str(entry["line"]), entry["stage"], entry["category"], f"{entry['score']:.4f}"]
        cells += [f"{entry['threshold']:.4f}", "above" if entry["above"] else ""]
        console.add_row(made, *cells, *([console.one_line(entry["text"], WIDTH)] if texts else []))
    console.show(made)


def contamination(thresholds: Sequence[Calibrated], policy: Policy) -> list[str]:
    """What harmful rows among the log's would do, a line a share, for the largest budget."""
    from safety_kit.budget import contaminated

    fpr, n = max((one.max_fpr or policy.budget or 0.0, one.n) for one in thresholds)
    lines = [f"If some of the log is really harmful (worked out for the budget of {fpr:.2%}, {n} rows):"]
    for share in SHARES:
        if (rows := round(share * n)) < 1:
            continue
        rate, stopped = contaminated(n, fpr, rows / n)
        falls = f", and at most {round(stopped * rows)} of these rows are stopped" if stopped < 1 else ""
        lines.append(f"  {share:.1%} of it ({rows}): the true false-positive rate is at most {rate:.2%}{falls}.")
    return lines


def show_classifier(artifact: Artifact, heads: Mapping[str, Head], like: str, as_json: bool) -> int:
    """Each head's budgets by length: what `heads` hold, on `artifact`'s scales."""
    if as_json:
        console.emit({"classifier": str(artifact.path), "for_texts_like": like, "budgets": budget_rows(heads)})
    else:
        show_heads(heads, like)
    return 0


def budget_rows(heads: Mapping[str, Scored]) -> list[dict[str, Any]]:
    """Each head's budgets by length, as JSON."""
    return [
        {"category": name, "stage": stage.value, "lengths": band, **_budget(head, stage, budget)}
        for name, head in heads.items()
        for stage in sorted(head.negatives)
        for band, row in head.budgets(stage).items()
        for budget in row
    ]


def show_heads(heads: Mapping[str, Scored], like: str) -> None:
    """Each head's budgets by length, as a table; a dash where the texts do not support one."""
    from safety_kit.budget import CONFIDENCE, RATES, smallest_supported

    rates = [f"{rate:.1%}" for rate in RATES]
    title = f"For texts like {like}, at {CONFIDENCE:.0%} confidence: the probability above which a text is stopped"
    made = console.table("category", "at", "texts", "n", "smallest", *rates, title=title, right=["n", *rates])
    for name, head in heads.items():
        for stage in sorted(head.negatives):
            for band, row in head.budgets(stage).items():
                cells = ["–" if b.threshold is None else f"{head.probability(b.threshold, stage):.4f}" for b in row]
                least = f"{smallest_supported(row[0].n):.2%}"
                console.add_row(made, name, stage.value, band, str(row[0].n), least, *cells)
    console.show(made)


def _budget(head: Scored, stage: Stage, budget: Budget) -> dict[str, Any]:
    from safety_kit.budget import needed

    return {
        "fpr": budget.fpr,
        "n": budget.n,
        "needed": needed(budget.fpr),
        "threshold": None if budget.threshold is None else round(head.probability(budget.threshold, stage), 6),
    }
