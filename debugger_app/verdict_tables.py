"""What a guard said of a conversation, as tables and charts; every number of a chart is in a table beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt
import pandas as pd

from debugger_app.visible import visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from debugger_app.flow import Flow
    from debugger_app.redecide import Heard, Judged, Limit, Remembering
    from safety_kit.types import Message


def said(guard: Remembering, messages: Sequence[Message], judged: Judged) -> pd.DataFrame:
    """A row a check, text and category: the score, what it was held against, and whether a rule fired."""
    names = {
        place.verdict.text: f"{place.message}: {messages[place.message].role}, redacted"
        for place in judged.places
        if place.kind == "content" and place.verdict.text is not None
    }
    names |= {message.content: f"{number}: {message.role}" for number, message in enumerate(messages)}
    return pd.DataFrame(
        [row for heard in guard.heard for row in _rows(guard, heard, names.get(heard.sample.text, "read together"))]
    )


def _rows(guard: Remembering, heard: Heard, at: str) -> list[dict[str, Any]]:
    sample = heard.sample
    rows = []
    for finding in heard.findings:
        rule = guard.policy.rule_for(finding, sample.stage)
        limits = [
            r.threshold
            for r in guard.policy.rules
            if r.threshold is not None and r.category == finding.category and sample.stage in r.stages
        ]
        rows.append(
            {
                "message": at,
                "stage": sample.stage.value,
                "check": heard.check,
                "category": finding.category,
                "score": finding.score,
                "above": min(limits, default=None),
                "action": str(rule.action) if rule else "–",
                "kind": finding.score_kind,
                "where": ", ".join(f"{start}–{end}" for start, end in finding.spans),
                "detail": visible(finding.detail),
            }
        )
    return rows


def limits_table(limits: Sequence[Limit], tried: Mapping[int, float]) -> pd.DataFrame:
    """A row a rule on a taught category, with the column in which another threshold is tried."""
    columns = ["rule", "category", "action", "input above", "output above", "try"]
    rows = [
        [
            limit.number,
            limit.category,
            str(limit.action),
            *(limit.thresholds.get(stage) for stage in ("input", "output")),  # type: ignore[call-overload]
            tried.get(limit.number),
        ]
        for limit in limits
    ]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype(dict.fromkeys(columns[3:], "float64"))


def times(judged: Judged) -> pd.DataFrame:
    """A row a message and check: milliseconds."""
    return pd.DataFrame(
        [
            {"message": str(place.message), "check": check, "milliseconds": ms}
            for place in judged.places
            if place.kind == "content"
            for check, ms in place.verdict.timings.items()
        ]
    )


def times_chart(table: pd.DataFrame) -> alt.Chart:
    """Bars by check, a colour a message."""
    chart: alt.Chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("sum(milliseconds):Q", title="milliseconds"),
            y=alt.Y("check:N", title=None, sort="-x"),
            color=alt.Color("message:N", scale=alt.Scale(scheme="cividis")),
            tooltip=["check", "message", alt.Tooltip("milliseconds", format=".2f")],
        )
        .properties(height=160)
    )
    return chart


def flow_table(flow: Flow) -> pd.DataFrame:
    """A row a token fed: what was read, released and held back after it."""
    return pd.DataFrame(
        [
            {
                "token": number,
                "text": visible(one.text) if one.text or number < len(flow.fed) - 1 else "end of the reply",
                "read": one.read,
                "held back": one.held,
                "released": visible(one.released),
                "milliseconds": one.ms,
            }
            for number, one in enumerate(flow.fed)
        ]
    )


def flow_chart(table: pd.DataFrame) -> alt.Chart:
    """Characters read and characters held back after each token."""
    long = table.melt("token", ["read", "held back"], var_name="characters", value_name="count")
    chart: alt.Chart = (
        alt.Chart(long)
        .mark_line(interpolate="step-after", point=True)
        .encode(
            x=alt.X("token:Q", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("count:Q", title="characters"),
            color=alt.Color(
                "characters:N", scale=alt.Scale(domain=["read", "held back"], range=["#0072B2", "#D55E00"])
            ),
            strokeDash=alt.StrokeDash("characters:N", legend=None),
            tooltip=["token", "characters", "count"],
        )
        .properties(height=220)
    )
    return chart
