"""What an experiment stands on: the model that made the run, and the activations that it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

if TYPE_CHECKING:
    from debugger_app.frame import Opened
    from debugger_app.study import Study
    from safety_kit.gemma.trace import Capture, Trace


def ready(study: Study, here: Opened | None) -> Opened | None:
    """The model, where it is the one that made the run; else None, and a sentence on why."""
    if here is None:
        st.info("This asks the model, which is still being loaded.")
        return None
    gemma = here.model.gemma
    if gemma.digest != study.document.model.digest:
        st.info(
            f"This asks the model that made the run ({study.document.model.digest[:12]}); the one that is open is "
            f"{gemma.digest[:12]}. Name the other one in the sidebar, or inspect the prompt anew."
        )
        return None
    if any(token.id >= gemma.readout.vocabulary for token in study.document.tokens):
        st.info("The run names tokens that this model does not have; inspect the prompt anew.")
        return None
    return here


def traced(study: Study, here: Opened, capture: Capture) -> Trace:
    """Activations of the run: those that its pass kept, where they suffice, else from a pass of their own."""
    kept = study.trace
    if kept is not None and _holds(kept, capture):
        return kept
    with here.model.running() as gemma:
        return gemma.forward([study.tokens], capture)[0]


def _holds(trace: Trace, capture: Capture) -> bool:
    written = trace.writes[0].positions if trace.writes else ()
    return (
        set(capture.blocks) <= trace.hidden.keys()
        and set(capture.attention) <= trace.attention.keys()
        and set(capture.writes) <= set(written)
        and (trace.final is not None or not capture.final)
    )
