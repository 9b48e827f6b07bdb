"""Attention: every head in a few numbers, and one head at a time: what the chosen token reads, and who reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from debugger_app.charts import bars, grid
from debugger_app.components import heat_map
from debugger_app.frame import Opened, told, working
from debugger_app.panels.bench import ready, traced
from debugger_app.panels.effect import comparison
from debugger_app.study import WHOLE, Study
from debugger_app.visible import short
from safety_kit.analysis import attention as attention_
from safety_kit.analysis.interventions import Watch, heads_of
from safety_kit.analysis.replacing import Place, replace

if TYPE_CHECKING:
    from safety_kit.analysis.attention import Summary, Tile

LISTED = 12
"""Tokens that a bar chart names."""

MEASURES = {
    "share on the first token": "first",
    "share on the previous token": "previous",
    "entropy, bits": "entropy",
    "distance, tokens": "distance",
}


def attention(name: str, study: Study, token: int, here: Opened | None) -> None:
    """Draw the grid of heads, then one of them."""
    st.info(f"{attention_.NOTE} What a head does is measured below, by removing it.", icon=":material/lightbulb:")
    if (bench := ready(study, here)) is None:
        return
    with told():
        summaries = _summaries(name, study, bench)
        if summaries:
            _heads(name, study, summaries)
        _head(name, study, token, bench)


def _summaries(name: str, study: Study, here: Opened) -> list[Summary]:
    """Of every block: at once where the run's pass kept what that takes, else when they are asked for."""
    if ("summaries",) not in study.results:
        blocks = range(here.model.gemma.n_blocks)
        ranges = [(part.start, part.stop) for part in study.document.messages]
        if study.trace is None or len(study.document.tokens) > WHOLE:
            asked = st.button(
                "Every head in numbers", key=f"summaries-{name}", help="Reads the text again, a block at a time."
            )
            if not asked:
                return []
        made = []
        with working("Attention of block") as progress:
            for block in blocks:
                progress(block + 1, len(blocks))
                made.append(attention_.summary(traced(study, here, attention_.capture(block)), block, ranges))
        study.results[("summaries",)] = made
    found: list[Summary] = study.results[("summaries",)]
    return found


def _heads(name: str, study: Study, summaries: list[Summary]) -> None:
    parts = study.document.messages
    shares = {f"share on message {i + 1}, {part.role}": i for i, part in enumerate(parts)}
    what = st.selectbox(
        "Every head by",
        [*MEASURES, *shares],
        key=f"measure-{name}",
        help="Means over all queries. Many heads rest on the first token; that says little.",
    )
    table = pd.DataFrame(
        [
            {
                "block": f"{summary.block:02d}{'L' if summary.window else 'G'}",
                "head": f"{head}, group {summary.groups[head]}",
                what: float(
                    getattr(summary, MEASURES[what])[head] if what in MEASURES else summary.messages[shares[what], head]
                ),
            }
            for summary in summaries
            for head in range(len(summary.groups))
        ]
    )
    st.altair_chart(
        grid(table, "block", "head", what, what).properties(height=40 + 26 * table["head"].nunique()),
        width="stretch",
        alt=f"Each head's {what}; the table below says the same.",
    )
    windows = sorted({summary.window for summary in summaries if summary.window})
    st.caption(
        f"L: a local block, which sees {', '.join(map(str, windows)) or 'some'} tokens back; "
        "G: a global one, which sees all. Heads of a group share their keys and values."
    )
    with st.expander("The same as a table"):
        st.dataframe(table, hide_index=True)


def _head(name: str, study: Study, token: int, here: Opened) -> None:
    gemma = here.model.gemma
    counts = heads_of(gemma)
    columns = st.columns([3, 2, 3, 3], vertical_alignment="bottom")
    block = columns[0].selectbox(
        "Block", range(gemma.n_blocks), key=f"block-{name}", format_func=lambda b: f"{b}, {_kind(gemma.windows[b])}"
    )
    head = columns[1].selectbox("Head", range(counts[block]), key=f"head-{name}")
    hide = columns[2].toggle(
        "Hide the first token", key=f"hide-{name}", help="Its weight is left out and the rest divided by its sum."
    )
    by_value = columns[3].toggle(
        "Weigh by value", key=f"value-{name}", help="Weight × length of the value that it moves: what really arrives."
    )
    trace = None

    def inputs() -> Any:
        nonlocal trace
        trace = trace or traced(study, here, attention_.capture(block))
        return attention_.inputs_of(trace, block)

    def row() -> Any:
        if by_value:
            return attention_.reads(inputs(), head, token, by_value=True)
        return attention_.weights(inputs(), [head], token, token + 1, hide_first=hide)[0, 0].numpy()

    read = study.once(("reads", block, head, token, by_value, hide), row)
    readers = study.once(
        ("readers", block, head, token, by_value),
        lambda: attention_.readers(inputs(), head, token, by_value=by_value),
    )
    unit = "weight × length of value" if by_value else "weight"
    note = ", without the first token, renormalised" if hide and not by_value else ""
    left, right = st.columns(2)
    with left:
        st.markdown(f"**What token {token} reads**{note}")
        _bars(study, read, unit)
    with right:
        st.markdown(f"**Who reads token {token}**")
        _bars(study, readers, unit)
    window = gemma.windows[block]
    if window is not None:
        st.caption(
            f"A local block: a token reads itself and the {window - 1} before it; all other weights are exactly 0."
        )
    _map(name, study, block, head, hide, inputs)
    _effect(name, study, token, block, head, here)


def _bars(study: Study, weights: Any, unit: str) -> None:
    order = [int(at) for at in np.argsort(-weights)[:LISTED] if weights[at] > 0]
    if not order:
        st.caption("Nothing.")
        return
    table = pd.DataFrame(
        {
            "token": [f"{at}  {short(study.document.tokens[at].text, 20)}" for at in order],
            unit: [float(weights[at]) for at in order],
        }
    )
    st.altair_chart(
        bars(table, "token", unit, unit),
        width="stretch",
        alt="; ".join(f"{t} {w:.3f}" for t, w in table.values.tolist()),
    )


def _map(name: str, study: Study, block: int, head: int, hide: bool, inputs: Any) -> None:
    """The whole head: exact up to 256 tokens, else the largest weight of each cell, and exact where one clicks."""
    overview: Tile = study.once(
        ("overview", block, head, hide), lambda: attention_.overview(inputs(), head, hide_first=hide)
    )
    at: tuple[int, int] | None = st.session_state.get(f"tile-{name}")
    title = (
        "all tokens, exact" if overview.step == 1 else f"all tokens, the largest of {overview.step} × {overview.step}"
    )
    tiles, first, last = [(title, overview)], 0, min(len(study.document.tokens), attention_.TILE)
    if overview.step > 1 and at is not None:
        row, column = (max(0, min(place - attention_.TILE // 2, overview_end(study))) for place in at)
        exact: Tile = study.once(
            ("tile", block, head, hide, row, column),
            lambda: attention_.tile(inputs(), head, row, column, hide_first=hide),
        )
        tiles.append((f"exact around token {at[0]} and token {at[1]}", exact))
        first, last = min(row, column), max(row, column) + attention_.TILE
    texts = [short(token.text, 12) for token in study.document.tokens[first : min(last, first + 2_048)]]
    clicked = heat_map(tiles, texts, first, key=f"map-{name}")
    if clicked is not None and clicked != at:
        st.session_state[f"tile-{name}"] = clicked
        if overview.step > 1:
            st.rerun()
    st.caption("Stronger is more; the colour is the root of the weight, so that small ones can be seen.")


def overview_end(study: Study) -> int:
    """The last place at which a tile begins."""
    return max(0, len(study.document.tokens) - attention_.TILE)


def _effect(name: str, study: Study, token: int, block: int, head: int, here: Opened) -> None:
    key = ("ablation", block, head, token)
    if key not in study.results:
        st.markdown("**No effect measured** of this head yet.")
        if not st.button("Remove it and see", key=f"ablate-{name}", disabled=token == 0):
            return
        watch = Watch(token - 1, study.document.tokens[token].id)
        place = Place(block, "heads", head)
        with told(), working("Reading without it and without others,") as progress, here.model.running() as gemma:
            study.results[key] = replace(gemma, study.tokens, place, "zero", watch, progress=progress)
    if key in study.results:
        comparison(study.results[key], f"block {block}, head {head} set to zero")


def _kind(window: int | None) -> str:
    return attention_.kind(window) + ("" if window is None else f" {window}")
