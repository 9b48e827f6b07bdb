"""Components that draw what Streamlit has no element for: plain JavaScript, text only by `textContent`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import streamlit as st

from debugger_app.colours import Scale


@dataclass(frozen=True, slots=True)
class Shown:
    """A token as the strip draws it.

    Attributes:
        text: What stands in its box; inert already.
        hint: What it says when pointed at, and to a screen reader.
        colour: Behind it.
        ink: Of its text.
        control: A control token of the model.
        crossing: A classifier first crosses its threshold here.
        heading: What stands above it, where a message begins.
        breaks: A line ends after it.
    """

    text: str
    hint: str
    colour: str
    ink: str
    control: bool = False
    crossing: bool = False
    heading: str = ""
    breaks: bool = False


@cache
def _strip() -> Any:
    here = files(__package__)
    return st.components.v2.component(
        "token_strip",
        html='<div class="legend"></div><div class="strip" role="group"></div>',
        css=(here / "token_strip.css").read_text(encoding="utf-8"),
        js=(here / "token_strip.js").read_text(encoding="utf-8"),
    )


def token_strip(tokens: Sequence[Shown], scale: Scale, label: str, *, key: str, selected: int | None) -> int | None:
    """Draw tokens in their colours: the index of the one that was chosen last.

    Args:
        tokens: In order.
        scale: What the colours mean.
        label: What the strip shows, for a screen reader.
        key: Of the element.
        selected: The chosen one so far.
    """
    result = _strip()(
        key=key,
        data={
            "tokens": [asdict(token) for token in tokens],
            "scale": {"title": scale.title, "steps": scale.steps()},
            "selected": selected,
            "label": label,
        },
        default={"selected": selected},
        on_selected_change=lambda: None,
    )
    chosen = result.selected
    return chosen if isinstance(chosen, int) and 0 <= chosen < len(tokens) else None
