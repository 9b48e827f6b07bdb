"""Scored rows as tables: sorted, cut into slices, one a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pandas as pd

from debugger_app.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from debugger_app.triage import Scored

WIDTH: Final = 200
"""Characters of a text that the table shows."""

FEW: Final = 30
"""Values up to which a column cuts the rows into slices."""

ORDERS: Final = ("score", "disagreement", "surprisal", "place")
"""What rows are sorted by; all but the place with the largest first."""


def categories(rows: Sequence[Scored]) -> list[str]:
    """What the rows were scored for, in order."""
    return list(dict.fromkeys(name for row in rows for name in row.scores))


def table(rows: Sequence[Scored], category: str, order: str) -> tuple[pd.DataFrame, list[Scored]]:
    """A row a text, in an order, and the rows in that order.

    Args:
        rows: Scored.
        category: Whose score, and whose label; empty takes each row's highest score.
        order: One of `ORDERS`.
    """
    made = pd.DataFrame(
        {
            "place": [row.place for row in rows],
            "text": [visible(row.sample.text[:WIDTH]) for row in rows],
            "action": [row.action for row in rows],
            "score": [_score(row, category) for row in rows],
            "category": [category or max(row.scores, key=lambda c: row.scores[c], default="") for row in rows],
            "label": [row.labels.get(category) for row in rows],
            "disagreement": [row.disagreement(category) for row in rows],
            "surprisal": [row.surprisal for row in rows],
            "found": [", ".join(row.fired) for row in rows],
            "stage": [row.sample.stage.value for row in rows],
            "tokens": [row.tokens for row in rows],
            "note": ["; ".join([*(["read in windows"] if row.windows else []), *row.errors]) for row in rows],
        }
    ).astype({"score": "float64", "label": "float64", "disagreement": "float64", "surprisal": "float64"})
    made = made.sort_values(order, ascending=order == "place", kind="stable")
    return made.dropna(axis=1, how="all"), [rows[i] for i in made.index]


def slice_columns(rows: Sequence[Scored]) -> list[str]:
    """Columns of the rows that have between two and `FEW` values."""
    names = dict.fromkeys(name for row in rows for name, value in row.kept.items() if isinstance(value, str | int))
    return [name for name in names if 2 <= len({row.kept.get(name) for row in rows}) <= FEW]


def slices(rows: Sequence[Scored], column: str, category: str) -> pd.DataFrame:
    """By value of a column: how many rows, how many are blocked, the mean score, and labels that are contradicted."""
    heading = visible(column)
    made = pd.DataFrame(
        {
            heading: [visible(str(row.kept.get(column, "–"))) for row in rows],
            "blocked": [row.action == "block" for row in rows],
            "score": [_score(row, category) for row in rows],
            "contradicted": [(row.disagreement(category) or 0.0) > 0.5 for row in rows],
        }
    )
    grouped = made.groupby(heading)
    counts = grouped.size().rename("rows")
    return pd.concat([counts, grouped.mean(numeric_only=False)], axis=1).reset_index()


def _score(row: Scored, category: str) -> float | None:
    return row.scores.get(category) if category else max(row.scores.values(), default=None)
