"""Guard: a text through the whole policy, every check, finding and time."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from debugger_app.frame import opened
from debugger_app.visible import visible
from safety_kit.types import Stage

st.title("Guard", anchor=False)
here = opened()
guard = here.guard
stage = st.segmented_control("Where it stands", ["input", "output"], default="input")
text = st.text_area("Text", value="My card is 4111 1111 1111 1111, call me on 020 7946 0018.")
if st.button("Check", type="primary"):
    with here.model.running():
        verdict = guard.check_text(text, Stage(stage or "input"))
    st.metric("action", str(verdict.action), help="The strongest of all rules that fired.")
    if verdict.message:
        st.write(visible(verdict.message))
    elif verdict.text is not None:
        st.text(f"Passed on: {visible(verdict.text)}")
    rows = [
        {
            "check": finding.check,
            "category": finding.category,
            "score": finding.score,
            "kind": finding.score_kind,
            "where": ", ".join(f"{start}–{end}" for start, end in finding.spans),
            "what": "; ".join(visible(text[start:end]) for start, end in finding.spans),
            "detail": visible(finding.detail),
        }
        for finding in verdict.findings
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True)
    st.bar_chart(pd.Series(dict(verdict.timings), name="milliseconds"), horizontal=True)
