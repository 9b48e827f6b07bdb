"""What one page hands to the next: kept in the browser's session, never in an address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import streamlit as st

from debugger_app import inspecting
from safety_kit.gemma import Sampling
from safety_kit.types import Message

if TYPE_CHECKING:
    from debugger_app.frame import Opened

INSPECT: Final = "views/inspect.py"
GUARD: Final = "views/guard.py"
DATA: Final = "views/data.py"
TEACH: Final = "views/teach.py"

REPLY: Final = 40
"""Most tokens of the reply where a text is sent to Inspect."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """A text that went wrong.

    Attributes:
        text: What the verdict was about.
        prompt: For a reply, the message that it answers.
        category: What was found in it, or missed; empty where nobody said.
        label: What it is: 1 of that category, 0 not; None where nobody said.
    """

    text: str
    prompt: str | None = None
    category: str = ""
    label: int | None = None


def inspect(here: Opened, messages: list[Message]) -> None:
    """Read a conversation as Inspect does, and go there.

    Raises:
        UserError: It cannot be read.
    """
    name = inspecting.inspect(here, messages, Sampling(max_tokens=REPLY, seed=0))
    st.switch_page(INSPECT, query_params={"run": name})


def teach(complaint: Complaint) -> None:
    """Go to Teach with a text that went wrong."""
    st.session_state["complaint"] = complaint
    st.switch_page(TEACH)


def complaint() -> Complaint | None:
    """What was brought to Teach last."""
    brought = st.session_state.get("complaint")
    return brought if isinstance(brought, Complaint) else None


def guard(prompt: str, reply: str = "", system: str = "") -> None:
    """Go to Guard with a conversation."""
    st.session_state.update({"guard-user": prompt, "guard-reply": reply, "guard-system": system})
    st.switch_page(GUARD)
