"""Direct logit attribution: what each part of the model wrote towards the chosen token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from debugger_app.charts import bars, grid
from debugger_app.frame import Opened, told
from debugger_app.panels.bench import ready, traced
from debugger_app.visible import plain, visible
from safety_kit.analysis import attribution as attribution_

if TYPE_CHECKING:
    from debugger_app.study import Study
    from safety_kit.analysis.attribution import Attribution, Share


def attribution(name: str, study: Study, token: int, here: Opened | None) -> None:
    """Draw a token's logit, or its lead over another, as a sum over the parts of the model."""
    own = study.document.tokens[token]
    if token == 0:
        st.info("Nothing stands before the first token, so nothing is written towards it.")
        return
    if (bench := ready(study, here)) is None:
        return
    others = [other for other in own.top if other.id != own.id]
    against = st.selectbox(
        "Against",
        [None, *range(len(others))],
        format_func=lambda i: "nothing: the token's own logit" if i is None else plain(others[i].text),
        key=f"against-{name}-{token}",
        help="With another token it is the difference of the two logits that is taken apart.",
    )
    contrast = None if against is None else others[against].id
    with told():
        made: Attribution = study.once(
            ("attribution", token, contrast),
            lambda: attribution_.attribute(
                traced(study, bench, attribution_.capture(token - 1)), token - 1, own.id, contrast
            ),
        )
        _draw(made)


def _draw(made: Attribution) -> None:
    cap = "" if made.softcap is None else f"; the model then caps it at ±{made.softcap:g}, to {made.logit:.3f}"
    st.markdown(f":orange-badge[{attribution_.LABEL}]")
    st.caption(
        f"The parts add up to {made.total:.3f}; the model's own number is {made.uncapped:.3f}{cap}. "
        "The norms' scales are taken as they were for this token; what a part does by way of later blocks is not in it."
    )
    if abs(made.total - made.uncapped) > 1e-2 * max(1.0, abs(made.uncapped)):
        st.warning("The parts do not add up to the model's own number: do not trust this chart.")
    table = pd.DataFrame({"part": [_named(share) for share in made.shares], "logits": [s.value for s in made.shares]})
    heads = pd.DataFrame(
        [
            {"block": share.block, "head": head, "logits": value}
            for share in made.shares
            for head, value in enumerate(share.heads)
        ]
    )
    left, right = st.columns([3, 2])
    left.altair_chart(
        bars(table, "part", "logits", "logits written towards the token", height=14),
        width="stretch",
        alt="What each part wrote, from the embedding up; the table below says the same.",
    )
    if len(heads):
        largest = float(heads["logits"].abs().max())
        right.altair_chart(
            grid(heads, "head", "block", "logits", "logits", between=(-largest, largest)).properties(height=460),
            width="stretch",
            alt="What each attention head wrote; the table below says the same.",
        )
    with st.expander("The same as a table"):
        st.dataframe(table, hide_index=True)
        st.dataframe(heads.sort_values("logits", key=abs, ascending=False) if len(heads) else heads, hide_index=True)


def _named(share: Share) -> str:
    return visible("embedding" if share.block < 0 else f"block {share.block:02d} {share.part}")
