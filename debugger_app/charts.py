"""Charts of one run, by altair; each has its numbers beside it as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import altair as alt
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from debugger_app.document import Document

Drawn: TypeAlias = alt.Chart | alt.LayerChart | alt.FacetChart

OKABE_ITO: Final = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#999999"]
"""Eight colours that the colour-blind can tell apart (Okabe and Ito 2008)."""

DIVERGING: Final = ["#d55e00", "#f7f7f7", "#0072b2"]
"""Below zero, at it, above it."""

SHAPES: Final = [
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
]
"""Beside the colours, so that they are not the only sign."""


def strip_table(document: Document, texts: Sequence[str]) -> pd.DataFrame:
    """A row a token and category, with the probability, what the guard does there, and the threshold of a block."""
    rows: list[dict[str, Any]] = []
    for part in document.messages:
        for strip in part.strips:
            acts = {at: action for action, at in strip.acts.items() if at is not None}
            ends = set(strip.ends)
            for offset, probability in enumerate(strip.probabilities):
                at = part.start + offset
                rows.append(
                    {
                        "position": at,
                        "token": texts[at],
                        "part": f"{part.role} {part.start}",
                        "category": strip.category,
                        "probability": probability,
                        "change": probability - strip.probabilities[offset - 1] if offset else float("nan"),
                        "guard": acts.get(offset) or ("reads" if offset in ends else ""),
                        "block above": strip.thresholds.get("block", float("nan")),
                    }
                )
    return pd.DataFrame(rows)


def strip_chart(table: pd.DataFrame, categories: Sequence[str], selected: int | None) -> Drawn:
    """Each category's probability at each token: a dashed line where it blocks, a sign where the guard reads."""
    table = table[table["category"].isin(categories)]
    colour = alt.Color("category:N", scale=alt.Scale(domain=list(categories), range=OKABE_ITO), title="category")
    shape = alt.Shape("category:N", scale=alt.Scale(domain=list(categories), range=SHAPES), title="category")
    x = alt.X("position:Q", title="token", axis=alt.Axis(tickMinStep=1, grid=False))
    y = alt.Y("probability:Q", title="calibrated probability", scale=alt.Scale(domain=[0, 1]))
    base = alt.Chart(table)
    tip = ["position", "token", "part", "category", alt.Tooltip("probability", format=".3f"), "guard"]
    layers: list[Any] = [
        base.mark_line(interpolate="step-after", strokeWidth=1.5).encode(
            x=x, y=y, color=colour, detail="part:N", tooltip=tip
        ),
        base.mark_line(strokeDash=[4, 3], opacity=0.6).encode(x=x, y="block above:Q", color=colour, detail="part:N"),
        base.transform_filter("datum.guard != ''")
        .mark_point(filled=True, size=70, opacity=1)
        .encode(x=x, y=y, color=colour, shape=shape, tooltip=tip),
    ]
    if selected is not None:
        layers.append(alt.Chart(pd.DataFrame({"position": [selected]})).mark_rule(opacity=0.5).encode(x=x))
    return alt.layer(*layers).properties(height=220)


def bars(table: pd.DataFrame, label: str, value: str, title: str, *, height: int = 18) -> Drawn:
    """A bar a row, in the order of the table; those below zero in another colour and on the other side."""
    made: alt.Chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X(f"{value}:Q", title=title),
            y=alt.Y(f"{label}:N", sort=None, title=None, axis=alt.Axis(labelLimit=220, labelOverlap=False)),
            color=alt.condition(f"datum['{value}'] < 0", alt.value(OKABE_ITO[4]), alt.value(OKABE_ITO[0])),
            tooltip=list(table.columns),
        )
        .properties(height=alt.Step(height))
    )
    return made


def lines(table: pd.DataFrame, x: str, y: str, *, log: bool = False, colour: str | None = None) -> Drawn:
    """A line along x, one a colour."""
    scale = alt.Scale(type="log") if log else alt.Scale(zero=True)
    encoding: dict[str, Any] = {
        "x": alt.X(f"{x}:Q", axis=alt.Axis(tickMinStep=1, grid=False)),
        "y": alt.Y(f"{y}:Q", scale=scale, axis=alt.Axis(grid=not log)),
        "tooltip": list(table.columns),
    }
    if colour is not None:
        encoding["color"] = alt.Color(f"{colour}:N", scale=alt.Scale(range=OKABE_ITO))
        encoding["strokeDash"] = alt.StrokeDash(f"{colour}:N")
    else:
        encoding["color"] = alt.value(OKABE_ITO[0])
    made: alt.Chart = alt.Chart(table).mark_line(point=True).encode(**encoding).properties(height=200)
    return made


def grid(
    table: pd.DataFrame,
    x: str,
    y: str,
    value: str,
    title: str,
    *,
    text: str | None = None,
    between: tuple[float, float] | None = None,
) -> Drawn:
    """A cell a row: stronger the larger; with a text in it where one is named.

    Args:
        table: A row a cell.
        x: Column.
        y: Column; rises upwards.
        value: Column that is coloured.
        title: Of the legend.
        text: Column that is written into the cell.
        between: Ends of a scale around zero, with a second hue below it.
    """
    base = alt.Chart(table)
    scale = alt.Scale(scheme="blues") if between is None else alt.Scale(range=DIVERGING, domain=[*between])
    rising = alt.EncodingSortField(y, order="descending")
    cells: alt.Chart = base.mark_rect().encode(
        x=alt.X(f"{x}:O", title=x, axis=alt.Axis(labelAngle=0, labelOverlap=True)),
        y=alt.Y(f"{y}:O", title=y, sort=rising, axis=alt.Axis(labelOverlap=False)),
        color=alt.Color(f"{value}:Q", title=title, scale=scale),
        tooltip=list(table.columns),
    )
    if text is None:
        return cells
    middle = float(table[value].min() + 0.6 * (table[value].max() - table[value].min()))
    words = base.mark_text(fontSize=10, limit=90).encode(
        x=f"{x}:O",
        y=alt.Y(f"{y}:O", sort=rising),
        text=f"{text}:N",
        color=alt.condition(f"datum['{value}'] > {middle}", alt.value("white"), alt.value("black")),
    )
    return alt.layer(cells, words)
