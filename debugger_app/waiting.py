"""While the model is on its way: a line that says so, and a page that is drawn again once it is there."""

from __future__ import annotations

import streamlit as st

from debugger_app.frame import opening_is_done


@st.fragment(run_every=1)
def for_the_model() -> None:
    """Say that the model is being loaded; then draw the page with it."""
    if opening_is_done():
        st.rerun()
    st.caption(":material/hourglass_top: The model is being loaded; the embedded one takes some seconds …")
