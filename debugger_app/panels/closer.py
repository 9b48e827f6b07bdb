"""The panels under the strip: one at a time, each about the chosen token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from debugger_app.panels.alternatives import alternatives
from debugger_app.panels.attention import attention
from debugger_app.panels.attribution import attribution
from debugger_app.panels.cause import cause
from debugger_app.panels.lens import lens
from debugger_app.panels.salience import salience
from debugger_app.panels.tokens import boxed
from debugger_app.panels.trust import warning
from debugger_app.visible import plain

if TYPE_CHECKING:
    from debugger_app.frame import Opened
    from debugger_app.study import Study

PANELS = {
    "Alternatives": alternatives,
    "Lens": lens,
    "Attention": attention,
    "Attribution": attribution,
    "Salience": salience,
    "Cause": cause,
}
"""By the name that people read: each takes the run's name, the run, the token, and the model where there is one."""

RESTS_ON = {"Alternatives": "probabilities"}
"""The trust panel's name for what a panel shows, where it is another."""


def look_closer(name: str, study: Study, token: int | None, here: Opened | None) -> None:
    """Let a person choose a panel, and draw it for the chosen token."""
    st.subheader("A closer look", anchor=False)
    if token is None:
        st.info("Choose a token above: with the mouse, or Tab, the arrow keys and Enter.")
        return
    chosen = st.segmented_control(
        "Panel", list(PANELS), default="Alternatives", key="panel", label_visibility="collapsed"
    )
    st.markdown(f"**Token {token}**: {plain(boxed(study.document.tokens[token]))}")
    panel = chosen or "Alternatives"
    warning(study, RESTS_ON.get(panel, panel.lower()))
    PANELS[panel](name, study, token, here)
