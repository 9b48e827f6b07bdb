"""A run as a file: out as a document or a page, in as a document."""

from __future__ import annotations

import streamlit as st

from debugger_app import history
from debugger_app.document import opened as read
from debugger_app.frame import told
from debugger_app.study import Study
from safety_kit.commands.inspect_page import page


def share(name: str, study: Study) -> None:
    """Two downloads: what is shown, as JSON and as one HTML file that asks for nothing else."""
    with st.popover("Share", icon=":material/ios_share:"):
        st.caption(
            "The files hold prompt and reply. The address of this page does not, and opens in this browser only."
        )
        st.download_button(
            "Run as JSON",
            lambda: study.document.model_dump_json(),
            f"run-{name}.json",
            "application/json",
            help="Model digest, token ids, settings, seed, versions and every number; opens here again.",
            on_click="ignore",
            width="stretch",
        )
        st.download_button(
            "Run as one HTML page",
            lambda: page(study.document.model_dump(mode="json")),
            f"run-{name}.html",
            "text/html",
            help="Opens without a network, without scripts.",
            on_click="ignore",
            width="stretch",
        )


def take_in() -> None:
    """A field for a run's file; what cannot be shown is refused with a sentence."""
    given = st.file_uploader(
        "Open a run's file", type="json", help="As exported here, or printed by safety-kit inspect --json."
    )
    if given is None or st.session_state.get("taken") == given.file_id:
        return
    opened = None
    with told():
        opened = history.add(Study(read(given.getvalue())))
    st.session_state["taken"] = given.file_id  # after the work: a click may end this script at any line
    if opened is not None:
        st.rerun()  # the whole page, since another run is open now
