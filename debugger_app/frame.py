"""What every page stands on: the model and the policy that are open, or a sentence on why they are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from debugger_app import options, resources
from debugger_app.visible import visible
from safety_kit.errors import SafetyKitError
from safety_kit.policy import Policy

if TYPE_CHECKING:
    from safety_kit.guard import Guard


@dataclass(frozen=True, slots=True)
class Opened:
    """A model, and the guard of a policy on it."""

    model: resources.Model
    guard: Guard

    @property
    def policy(self) -> Policy:
        return self.guard.policy


def opened() -> Opened:
    """The model and the policy named in the sidebar; a page ends here where they cannot be had."""
    started = options.read()
    with st.sidebar:
        st.text_input("Model", key="model", value=started.model, help="embedded, a hub id, or a folder.")
        st.text_input("Policy", key="policy", value=started.policy, help="A shipped policy's name, or a YAML file.")
    source, named = st.session_state["model"], st.session_state["policy"]
    try:
        revision = started.revision if source == started.model else None
        model = resources.model(source, revision, started.device, started.dtype)
        policy = Policy.load(named)
        guard = resources.guard(named, policy.digest, model.gemma.digest, model.gemma)
    except SafetyKitError as error:
        tell(error)
        st.stop()
    with st.sidebar:
        gemma = model.gemma
        st.caption(f"{gemma.family}, {gemma.n_blocks} blocks, {gemma.dtype}, {gemma.attention} on {gemma.device}")
        st.caption(f"model {gemma.digest[:12]} · policy {guard.digest[:12]}")
    return Opened(model, guard)


def tell(error: SafetyKitError) -> None:
    """An error of the kit's own, as text that Markdown leaves alone."""
    st.error("Something is in the way:")
    st.text(visible(str(error)))
