"""One text that was found somewhere, and the pages to go on with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from debugger_app import handoff
from debugger_app.frame import told
from safety_kit.types import Message, Stage

if TYPE_CHECKING:
    from debugger_app.frame import Opened
    from safety_kit.types import Sample


def onwards(here: Opened, sample: Sample, category: str, label: int | None, *, key: str) -> None:
    """Three buttons: what the model saw in it, what the whole policy says of it, and what it should have said.

    Args:
        here: Model and policy.
        sample: The text.
        category: What it is about; empty where nobody said.
        label: 1 of the category, 0 not; None where nobody said.
        key: Tells the buttons from those of another text on the page.
    """
    inspect, guard, teach = st.columns(3)
    if inspect.button("Inspect", icon=":material/search:", help="Token by token.", key=f"{key}-inspect"):
        asked = [Message("user", sample.prompt)] if sample.prompt is not None else []
        with told():
            handoff.inspect(here, [*asked, Message(sample.role, sample.text)])
    if guard.button("Guard", icon=":material/shield:", help="Every check of the policy.", key=f"{key}-guard"):
        if sample.stage is Stage.OUTPUT:
            handoff.guard(sample.prompt or "", sample.text)
        else:
            handoff.guard(sample.text)
    if teach.button("Teach", icon=":material/school:", help="Say what it is, and teach it.", key=f"{key}-teach"):
        handoff.teach(handoff.Complaint(sample.text, sample.prompt, category, label))
