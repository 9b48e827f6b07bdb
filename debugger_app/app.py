"""The debugger: `safety-kit debug` runs this file with Streamlit."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

PAGES = Path(__file__).parent / "pages"

st.set_page_config(page_title="Safety kit debugger", page_icon=str(Path(__file__).with_name("icon.svg")), layout="wide")
st.navigation(
    [
        st.Page(PAGES / "inspect.py", title="Inspect", icon=":material/search:", default=True),
        st.Page(PAGES / "guard.py", title="Guard", icon=":material/shield:"),
        st.Page(PAGES / "data.py", title="Data", icon=":material/table_rows:"),
        st.Page(PAGES / "teach.py", title="Teach", icon=":material/school:"),
        st.Page(PAGES / "compare.py", title="Compare", icon=":material/compare_arrows:"),
        st.Page(PAGES / "runs.py", title="Runs", icon=":material/history:"),
    ]
).run()
