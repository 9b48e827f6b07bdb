"""The strip of tokens: prompt and reply in the colours of one number, with what the guard would do and where."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import streamlit as st

from debugger_app.colours import ENTROPY, PROBABILITY, SURPRISAL, Scale
from debugger_app.components import Shown, token_strip
from debugger_app.visible import visible

if TYPE_CHECKING:
    from debugger_app.document import Document, Token


def tokens(name: str, document: Document, *, key: str = "strip") -> int | None:
    """Draw the strip of a run: the token that was chosen.

    Args:
        name: Of the run.
        document: What is drawn.
        key: Tells two strips of one page apart.
    """
    by = st.segmented_control(
        "Colour by",
        ["surprisal", "entropy", *document.categories],
        default="surprisal",
        key=f"{key}-by-{name}",
        help="Surprisal: how unexpected the model found a token. A category: that classifier's probability there.",
    )
    values, scale = measured(document, by or "surprisal")
    kept = f"{key}-token-{name}"
    if kept not in st.session_state:
        st.session_state[kept] = _from_address(name, len(document.tokens))
    before: int | None = st.session_state[kept]
    shown = drawn(document, values, scale, None if by in (None, "surprisal", "entropy") else by)
    clicked = token_strip(shown, scale, "Tokens of prompt and reply", key=f"{key}-{name}", selected=before)
    chosen = before if clicked is None else clicked
    st.session_state[kept] = chosen
    if chosen is not None and st.query_params.get("run") == name:
        st.query_params["token"] = str(chosen)
    return chosen


def _from_address(name: str, count: int) -> int | None:
    """The token that the address names, where it names this run."""
    said = st.query_params.get("token", "")
    named = st.query_params.get("run") == name and said.isdecimal() and len(said) < 6
    return int(said) if named and int(said) < count else None


def measured(document: Document, by: str) -> tuple[list[float], Scale]:
    """One number a token, nan where there is none, and what it means."""
    if by in ("surprisal", "entropy"):
        found = [getattr(token, by) for token in document.tokens]
        return [math.nan if x is None else x for x in found], SURPRISAL if by == "surprisal" else ENTROPY
    values = [math.nan] * len(document.tokens)
    for part in document.messages:
        for strip in part.strips:
            if strip.category == by:
                values[part.start : part.stop] = strip.probabilities
    return values, PROBABILITY


def marks(document: Document, category: str | None = None) -> list[tuple[str, ...]]:
    """For each token what the guard does there, of one category or of all.

    ``acts``: the guard reads up to here and lies above a threshold for the first time. ``ends``: it reads up to here.
    ``above``: a text that ended here would be met with an action, but this one goes on and no reading ends here.
    """
    made: list[dict[str, None]] = [{} for _ in document.tokens]  # a set that keeps its order
    for part in document.messages:
        for strip in part.strips:
            if category not in (None, strip.category):
                continue
            lowest = min(strip.thresholds.values(), default=1.0)
            acts, ends = set(strip.acts.values()), set(strip.ends)
            for at, probability in enumerate(strip.probabilities):
                if at in acts:
                    made[part.start + at]["acts"] = None
                if at in ends:
                    made[part.start + at]["ends"] = None
                elif probability > lowest:
                    made[part.start + at]["above"] = None
    return [tuple(found) for found in made]


def drawn(document: Document, values: list[float], scale: Scale, category: str | None = None) -> list[Shown]:
    """The tokens as the strip draws them."""
    starts = {part.start: part.role for part in document.messages if part.stop > part.start}
    made = []
    for at, (token, value, found) in enumerate(zip(document.tokens, values, marks(document, category), strict=True)):
        made.append(
            Shown(
                boxed(token),
                hint(at, token, "" if math.isnan(value) else scale.form.format(value), found),
                scale.share(value),
                (*found, "control") if token.control else found,
                _heading(starts[at]) if at in starts else "",
                token.text.endswith("\n"),
            )
        )
    return made


def boxed(token: Token) -> str:
    """What stands in a token's box: a part of a split character says which."""
    return f"{visible(token.text) or '∅'}{f'·{token.part}' if token.parts else ''}"


def hint(at: int, token: Token, value: str, found: tuple[str, ...]) -> str:
    """A token in words, for whoever points at it or has it read out."""
    said = [f"token {at}: {visible(token.text) or 'nothing'}"]
    if token.parts:
        said.append(f"part {token.part} of {token.parts} of one character")
    if token.control:
        said.append("control token")
    if token.logprob is not None:
        said.append(f"probability {math.exp(token.logprob):.3g}, rank {token.rank}")
    if value:
        said.append(value)
    told = {"acts": "the guard acts here", "ends": "the guard reads up to here", "above": "above if it ended here"}
    return ", ".join([*said, *(told[mark] for mark in found)])


def _heading(role: str) -> str:
    return "reply" if role == "assistant" else role
