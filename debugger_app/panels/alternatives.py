"""One token: what else might have stood there, and a reply that goes on from another one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from debugger_app import history
from debugger_app.frame import Opened, told, working
from debugger_app.study import Live, Study, look
from debugger_app.visible import plain, short, visible
from safety_kit.analysis.pieces import pieces
from safety_kit.analysis.runs import difference, shared_prefix

if TYPE_CHECKING:
    from debugger_app.document import Document


def alternatives(name: str, study: Study, token: int, here: Opened | None) -> None:
    """Draw a token's numbers and alternatives and, in a reply of this session, let it go on from another one."""
    document = study.document
    own = document.tokens[token]
    if own.logprob is None:
        st.info("Nothing stands before the first token, so it has no probability.")
        return
    numbers(document, token)
    st.dataframe(table(document, token), hide_index=True)
    if study.live is None or here is None:
        return
    place = token - study.live.run.start
    if place < 0:
        st.caption("Choose a token of the reply to go on from another one.")
    else:
        _branch(name, study, study.live, token, place, here)
    if len(study.live.tree.runs) > 1:
        tree(study.live)


def numbers(document: Document, token: int) -> None:
    """A token's own numbers, raw and as the sampler saw them."""
    own = document.tokens[token]
    columns = st.columns(5)
    columns[0].metric(
        "probability, raw",
        f"{math.exp(own.logprob or 0):.4g}",
        help="In the model's own distribution: softmax of the logits.",
    )
    if own.sampled is not None and own.sampled.logprob is not None:
        columns[1].metric(
            "probability, sampled",
            f"{math.exp(own.sampled.logprob):.4g}",
            help="After temperature, top-k and top-p: what the reply was drawn from. Greedy: 1 or 0.",
        )
    columns[2].metric("surprisal", f"{own.surprisal:.2f} bits", help="−log2 of the raw probability.")
    columns[3].metric("entropy", f"{own.entropy:.2f} bits", help="Of the raw distribution: how open the choice was.")
    columns[4].metric("rank", own.rank, help="How many tokens have a larger logit; 0 is the likeliest.")


def table(document: Document, token: int) -> pd.DataFrame:
    """A row an alternative."""
    own = document.tokens[token]
    made = pd.DataFrame(
        {
            "id": [other.id for other in own.top],
            "token": [visible(other.text) for other in own.top],
            "probability, raw": [other.probability for other in own.top],
            "": ["this one" if other.id == own.id else "" for other in own.top],
        }
    )
    if own.sampled is not None:
        drawn = {other.id: other.probability for other in own.sampled.top}
        made.insert(3, "probability, sampled", [drawn.get(other.id, 0.0) for other in own.top])
    return made


def _branch(name: str, study: Study, live: Live, token: int, place: int, here: Opened) -> None:
    own = study.document.tokens[token]
    with st.form(f"branch-{name}-{token}", border=False):
        left, middle, right = st.columns([2, 2, 1], vertical_alignment="bottom")
        pick = left.selectbox(
            "Another token",
            range(len(own.top)),
            format_func=lambda i: f"{plain(own.top[i].text)} ({own.top[i].probability:.2f})",
            help="The reply is kept up to here, takes this token, and goes on.",
        )
        typed = middle.text_input("or type one", help="A text to put there instead; it may be several tokens.")
        asked = right.form_submit_button("Go on from it", width="stretch")
    if asked:
        with told(), working("Going on,") as progress, here.model.running() as gemma:
            live.tree.progress = progress
            number = live.tree.branch(live.number, place, typed or own.top[pick or 0].id)
            history.add(look(gemma, here.guard, live.messages, live.tree, number, revision=here.model.revision))
            st.rerun()


def tree(live: Live) -> None:
    """The runs of a prompt, each under the one that it branched off, and where this one differs from its parent."""
    st.markdown("**Runs of this prompt**")
    runs = live.tree.runs
    rows = []
    for number, run in enumerate(runs):
        depth, parent = 0, run.parent
        while parent is not None:
            depth, parent = depth + 1, runs[parent].parent
        rows.append(
            {
                "run": f"{'　' * depth}{number}{'  ← shown' if number == live.number else ''}",
                "branched off": "" if run.parent is None else f"run {run.parent} at reply token {run.at}",
                "reply": short(run.text, 100),
            }
        )
    st.dataframe(pd.DataFrame(rows), hide_index=True)
    run = live.run
    other = runs[run.parent] if run.parent is not None else next(r for r in runs if r is not run)
    shared = shared_prefix(other.reply, run.reply)
    st.caption(f"The first {shared} tokens of the reply are the same, by id. Then:")
    vocabulary = live.tree.gemma.vocabulary

    def said(ids: tuple[int, ...]) -> str:
        return visible("".join(piece.text for piece in pieces(ids, vocabulary) if piece.part <= 1))

    changes = [
        {"there": said(other.reply[slice(*change.before)]), "here": said(run.reply[slice(*change.after)])}
        for change in difference(other.reply, run.reply)
    ]
    st.dataframe(pd.DataFrame(changes, columns=["there", "here"]), hide_index=True)
