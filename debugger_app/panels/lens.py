"""The logit lens: what each block would have predicted where the chosen token stands, and the grid of all tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from debugger_app.charts import grid, lines
from debugger_app.frame import Opened, told, working
from debugger_app.panels.bench import ready, traced
from debugger_app.study import WHOLE, Study
from debugger_app.visible import short
from safety_kit.analysis import lens as lens_
from safety_kit.analysis.pieces import pieces

if TYPE_CHECKING:
    from safety_kit.analysis.lens import Lens
    from safety_kit.gemma.tokens import Vocabulary


def lens(name: str, study: Study, token: int, here: Opened | None) -> None:
    """Draw the lens of one token; and, where it is asked for, of every one."""
    if token == 0:
        st.info("Nothing stands before the first token, so no block predicts it.")
        return
    if (bench := ready(study, here)) is None:
        return
    vocabulary = bench.model.gemma.vocabulary
    with told():
        made: Lens = study.once(("lens", token), lambda: _at(study, bench, token))
        _one(made, vocabulary)
    st.caption(
        "Each block's output is put through the model's own final norm and output matrix, as if it were the last. "
        "KL is the distance from there to what the model said in the end, in bits."
    )
    _all(name, study, bench)


def _at(study: Study, here: Opened, token: int) -> Lens:
    trace = traced(study, here, lens_.capture(here.model.gemma.n_blocks))
    return lens_.lens(trace, [token - 1], choices=[study.document.tokens[token].id])


def _one(made: Lens, vocabulary: Vocabulary) -> None:
    rows = [
        {
            "block": block,
            "place": place + 1,
            "token": short(pieces([int(id_)], vocabulary)[0].text, 14),
            "probability": math.exp(logprob),
        }
        for at, block in enumerate(made.blocks)
        for place, (id_, logprob) in enumerate(zip(made.top_ids[0, at], made.top_logprobs[0, at], strict=True))
    ]
    by_block = pd.DataFrame(
        {"block": made.blocks, "rank of the token": made.ranks[0] + 1, "KL to the output": made.divergences[0]}
    )
    left, right = st.columns([3, 2])
    table = pd.DataFrame(rows)
    left.altair_chart(
        grid(table, "place", "block", "probability", "probability", text="token").properties(height=420),
        width="stretch",
        alt="The five likeliest tokens of each block; the table below says the same.",
    )
    right.altair_chart(
        lines(by_block, "block", "rank of the token", log=True),
        width="stretch",
        alt="Rank of the chosen token by block, from 1.",
    )
    right.altair_chart(lines(by_block, "block", "KL to the output"), width="stretch", alt="KL to the output by block.")
    with st.expander("The same as a table"):
        wide = table.assign(said=table["token"] + " " + table["probability"].map("{:.2f}".format))
        said = wide.pivot(index="block", columns="place", values="said").reset_index()
        said.columns = [str(column) for column in said.columns]
        st.dataframe(said.merge(by_block, on="block"), hide_index=True)


def _all(name: str, study: Study, here: Opened) -> None:
    count = len(study.document.tokens)
    if count > WHOLE:
        st.caption(f"The whole grid is drawn for up to {WHOLE:,} tokens; this run has {count:,}.")
        return
    if ("lens", "all") not in study.results:
        asked = st.button("Every token", key=f"lens-all-{name}", help=f"{count} times the work of one; can be stopped.")
        if not asked:
            return
        with told(), working("Lens of every token,") as progress:
            trace = traced(study, here, lens_.capture(here.model.gemma.n_blocks))
            ids = [*(token.id for token in study.document.tokens[1:])]
            study.results["lens", "all"] = lens_.lens(trace, range(count - 1), choices=ids, top_k=1, progress=progress)
    if (made := study.results.get(("lens", "all"))) is not None:
        _grid(name, made, study, here.model.gemma.vocabulary)


def _grid(name: str, made: Lens, study: Study, vocabulary: Vocabulary) -> None:
    first, last = (
        st.slider("Tokens", 1, len(made.positions), (1, min(80, len(made.positions))), key=f"lens-range-{name}")
        if len(made.positions) > 1
        else (1, 1)
    )
    table = pd.DataFrame(
        [
            {
                "token": position + 1,
                "block": block,
                "KL to the output": float(made.divergences[row, at]),
                "rank": int(made.ranks[row, at]),
                "likeliest": short(pieces([int(made.top_ids[row, at, 0])], vocabulary)[0].text, 14),
                "is": short(study.document.tokens[position + 1].text, 14),
            }
            for row, position in enumerate(made.positions)
            if first <= position + 1 <= last
            for at, block in enumerate(made.blocks)
        ]
    )
    st.altair_chart(
        grid(table, "token", "block", "KL to the output", "KL, bits").properties(height=360),
        width="stretch",
        alt="KL of each block's prediction to the output, for each token; the table below says the same.",
    )
    with st.expander("The grid as a table"):
        st.dataframe(table, hide_index=True)
