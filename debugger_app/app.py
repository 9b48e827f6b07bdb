"""The debugger: `safety-kit debug` runs this file with Streamlit."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

VIEWS = Path(__file__).parent / "views"  # a folder `pages` would be served by Streamlit on its own

st.set_page_config(page_title="Safety kit debugger", page_icon=str(Path(__file__).with_name("icon.svg")), layout="wide")
st.navigation(
    [
        st.Page(VIEWS / "inspect.py", title="Inspect", icon=":material/search:", default=True),
        st.Page(VIEWS / "guard.py", title="Guard", icon=":material/shield:"),
        st.Page(VIEWS / "data.py", title="Data", icon=":material/table_rows:"),
        st.Page(VIEWS / "teach.py", title="Teach", icon=":material/school:"),
        st.Page(VIEWS / "compare.py", title="Compare", icon=":material/compare_arrows:"),
        st.Page(VIEWS / "runs.py", title="Runs", icon=":material/history:"),
    ]
).run()
