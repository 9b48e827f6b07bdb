"""What an experiment stands on: the model that made the run, and the activations that it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from debugger_app import history
from debugger_app.visible import short

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
    if not _within(study, here):
        st.info("The run names tokens that this model does not have; inspect the prompt anew.")
        return None
    return here


def other_runs(study: Study, here: Opened) -> dict[str, Study]:
    """The other runs of this session that this model made, by name, the newest first."""
    kept = {**st.session_state.get("pinned", {}), **history.runs()}
    digest = here.model.gemma.digest
    return {
        name: other
        for name, other in reversed(kept.items())
        if other is not study and other.document.model.digest == digest and _within(other, here)
    }


def named(study: Study) -> str:
    """A run in a few words, to choose it by."""
    return f"{short(study.document.text, 40)} ({len(study.document.tokens)} tokens)"


def _within(study: Study, here: Opened) -> bool:
    """Whether the model has all tokens of a run and their alternatives: one from a file may name others."""
    count = here.model.gemma.readout.vocabulary
    tokens = study.document.tokens
    return all(token.id < count and all(other.id < count for other in token.top) for token in tokens)


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
