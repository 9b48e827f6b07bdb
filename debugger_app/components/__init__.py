"""Components that draw what Streamlit has no element for: plain JavaScript, text only by `textContent`."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import streamlit as st

from debugger_app.colours import Scale

if TYPE_CHECKING:
    from safety_kit.analysis.attention import Tile


@dataclass(frozen=True, slots=True)
class Shown:
    """A token as the strip draws it.

    Attributes:
        text: What stands in its box; inert already.
        hint: What it says when pointed at, and to a screen reader.
        share: Strength of its colour, as `Scale.share` gives it; None has none.
        marks: Of `MARKS`, and ``control``.
        heading: What stands above it, where a message begins.
        breaks: A line ends after it.
    """

    text: str
    hint: str
    share: float | None
    marks: tuple[str, ...] = ()
    heading: str = ""
    breaks: bool = False


MARKS: Final = {
    "ends": "the guard reads up to here and decides",
    "acts": "the guard acts here",
    "above": "above a threshold, if the text ended here",
}
"""What a token can be marked with, and what that means."""


@cache
def component(name: str, html: str) -> Any:
    """A component of this folder: its style and script lie beside it."""
    here = files(__package__)
    return st.components.v2.component(
        name,
        html=html,
        css=(here / f"{name}.css").read_text(encoding="utf-8"),
        js=(here / f"{name}.js").read_text(encoding="utf-8"),
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
    used = {mark for token in tokens for mark in token.marks}
    result = component("token_strip", '<div class="legend"></div><div class="strip" role="group"></div>')(
        key=key,
        data={
            "tokens": [asdict(token) for token in tokens],
            "scale": {"title": scale.title, "steps": scale.steps()},
            "marks": [{"kind": kind, "means": means} for kind, means in MARKS.items() if kind in used],
            "selected": selected,
            "label": label,
        },
        default={"selected": selected},
        on_selected_change=lambda: None,
    )
    chosen = result.selected
    return chosen if isinstance(chosen, int) and 0 <= chosen < len(tokens) else None


def heat_map(
    tiles: Sequence[tuple[str, Tile]], texts: Sequence[str], first: int, *, key: str
) -> tuple[int, int] | None:
    """Draw rectangles of attention weights: the query and the key that were clicked just now.

    Args:
        tiles: Each with its title; together well below a megabyte.
        texts: Of the tokens from `first` on, inert already; the others are told by number.
        first: See above.
        key: Of the element.
    """
    html = '<div class="heat"><div class="row"></div><output></output></div>'
    result = component("heat_map", html)(
        key=key,
        data={
            "tiles": [
                {
                    "title": title,
                    "values": b64encode(tile.weights.astype("<f4").tobytes()).decode(),
                    "rows": tile.weights.shape[0],
                    "columns": tile.weights.shape[1],
                    "row": tile.row,
                    "column": tile.column,
                    "step": tile.step,
                }
                for title, tile in tiles
            ],
            "texts": list(texts),
            "first": first,
            "help": "Rows read, columns are read. Point at a cell, or use the arrow keys; click or Enter chooses it.",
        },
        on_cell_change=lambda: None,
    )
    cell = result.cell
    if not (isinstance(cell, list | tuple) and len(cell) == 2 and all(isinstance(at, int) for at in cell)):
        return None
    return int(cell[0]), int(cell[1])
