"""Charts of one run, by altair; each has its numbers beside it as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from debugger_app.study import Study

_OKABE_ITO = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#999999"]
"""Eight colours that the colour-blind can tell apart (Okabe and Ito 2008)."""


def strip_table(study: Study, texts: Sequence[str]) -> pd.DataFrame:
    """A row a token and category: position, token, part, category, probability, threshold of a block or nan."""
    rows: list[dict[str, Any]] = []
    for part in study.parts:
        for strip in part.strips:
            block = {str(action): limit for action, limit in strip.thresholds.items()}.get("block", float("nan"))
            for offset, probability in enumerate(strip.probabilities):
                at = part.start + offset
                rows.append(
                    {
                        "position": at,
                        "token": texts[at],
                        "part": part.name,
                        "category": strip.category,
                        "probability": float(probability),
                        "block above": block,
                    }
                )
    return pd.DataFrame(rows)


def strip_chart(table: pd.DataFrame, categories: Sequence[str], selected: int | None) -> alt.LayerChart:
    """Each category's probability at each token, a dashed line where it blocks, and a rule at the selected token."""
    table = table[table["category"].isin(categories)]
    colour = alt.Color("category:N", scale=alt.Scale(domain=list(categories), range=_OKABE_ITO), title="category")
    x = alt.X("position:Q", title="token", axis=alt.Axis(tickMinStep=1))
    base = alt.Chart(table)
    layers: list[Any] = [
        base.mark_line(point=True, interpolate="step-after").encode(
            x=x,
            y=alt.Y("probability:Q", title="calibrated probability", scale=alt.Scale(domain=[0, 1])),
            color=colour,
            detail="part:N",
            tooltip=["position", "token", "part", "category", alt.Tooltip("probability", format=".3f")],
        ),
        base.mark_line(strokeDash=[4, 3], opacity=0.6).encode(x=x, y="block above:Q", color=colour, detail="part:N"),
    ]
    if selected is not None:
        layers.append(alt.Chart(pd.DataFrame({"position": [selected]})).mark_rule(opacity=0.5).encode(x=x))
    return alt.layer(*layers).properties(height=240)
