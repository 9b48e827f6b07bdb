"""The runs of one browser session: kept in memory, bounded, opened by an id that tells nothing of the prompt."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import streamlit as st

if TYPE_CHECKING:
    from debugger_app.study import Study

KEPT: Final = 12
"""Runs that a session remembers; the oldest goes first."""

WITH_ACTIVATIONS: Final = 2
"""Of these, the last that keep their activations; the others read their text again where an experiment needs them."""


def add(study: Study) -> str:
    """Remember a run and open it: its id."""
    runs = _runs()
    name = secrets.token_hex(6)  # a Streamlit component refuses a key with two underscores in a row
    runs[name] = study
    while len(runs) > KEPT:
        del runs[next(iter(runs))]
    for old in list(runs.values())[:-WITH_ACTIVATIONS]:
        if old.live is not None:
            old.live.trace = None
    st.query_params.from_dict({"run": name})
    return name


def current() -> tuple[str, Study] | None:
    """The run that the address names, where this session has it; else its last."""
    runs = _runs()
    name = st.query_params.get("run", "")
    if name in runs:
        return name, runs[name]
    return next(reversed(runs.items()), None)


def runs() -> dict[str, Study]:
    """All that are kept, the oldest first."""
    return dict(_runs())


def _runs() -> dict[str, Study]:
    made: dict[str, Study] = st.session_state.setdefault("runs", {})
    return made
