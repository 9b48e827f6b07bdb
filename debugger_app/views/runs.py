"""Runs: what this session has seen, what it keeps, and requests that the gateway kept for review."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from debugger_app import handoff, history, reviews
from debugger_app.frame import Opened, opened, told
from debugger_app.panels.onwards import onwards
from debugger_app.study import Study
from debugger_app.visible import short, visible
from safety_kit.types import Sample, Stage


def main() -> None:
    """The page."""
    st.title("Runs", anchor=False)
    st.caption(f"The last {history.KEPT} runs of this session, and those that are pinned; nothing of them is on disk.")
    here = opened()
    session()
    st.subheader("From the gateway", anchor=False)
    gateway(here)


def session() -> None:
    """The runs of this session."""
    pinned: dict[str, Study] = st.session_state.setdefault("pinned", {})
    runs = {**pinned, **history.runs()}
    if not runs:
        st.info("There is no run yet.")
        st.page_link(handoff.INSPECT, label="Inspect a prompt", icon=":material/search:")
        return
    names = list(reversed(runs))
    table = pd.DataFrame(
        [
            {
                "pinned": name in pinned,
                "text": short(study.document.text, 120),
                "tokens": len(study.document.tokens),
                "model": visible(study.document.model.name),
                "digest": study.document.model.digest[:12],
                "from a file": study.live is None,
                "id": name,
            }
            for name in names
            for study in [runs[name]]
        ]
    )
    event = st.dataframe(
        table, hide_index=True, width="stretch", on_select="rerun", selection_mode="single-row", key="runs-table"
    )
    picked = [i for i in event.get("selection", {}).get("rows", []) if i < len(names)]
    if not picked:
        st.caption("Choose a run to open or to pin it.")
        return
    name = names[picked[0]]
    open_, pin, compare, share = st.columns(4)
    if open_.button("Open", icon=":material/search:", type="primary"):
        if name not in history.runs():
            name = history.add(runs[name])
        st.switch_page(handoff.INSPECT, query_params={"run": name})
    if pin.button("Unpin" if name in pinned else "Pin", icon=":material/keep:", help="A pinned run stays."):
        if name in pinned:
            del pinned[name]
        else:
            pinned[name] = runs[name]
        st.rerun()
    compare.page_link("views/compare.py", label="Compare two", icon=":material/compare_arrows:")
    share.download_button(
        "Export",
        runs[name].document.model_dump_json(indent=1),
        f"run-{name}.json",
        "application/json",
        icon=":material/download:",
        help="Opens again on Inspect, here or elsewhere; it holds the tokens, and so the text.",
    )


def gateway(here: Opened) -> None:
    """Open a request by its id."""
    with st.form("gateway"):
        left, right = st.columns([2, 1])
        source = left.text_input("Review store", key="review-store", help="The gateway's review.folder, or its export.")
        request_id = right.text_input("Request id", help="Stands in the answer's header and in the audit log.")
        asked = st.form_submit_button("Open", type="primary")
    if asked:
        st.session_state.pop("reviewed", None)
        with told():
            st.session_state["reviewed"] = reviews.records(source, request_id.strip() or None)
    rows = st.session_state.get("reviewed")
    if not isinstance(rows, list):
        return
    table = pd.DataFrame(
        [
            {
                "text": short(row["text"], 160),
                "category": visible(str(row.get("category", ""))),
                "score": row.get("score"),
                "outcome": visible(str(row.get("outcome", ""))),
                "stage": visible(str(row.get("stage", ""))),
                "request": visible(str(row.get("request_id", ""))),
            }
            for row in rows
        ]
    )
    event = st.dataframe(
        table, hide_index=True, width="stretch", on_select="rerun", selection_mode="single-row", key="review-table"
    )
    picked = [i for i in event.get("selection", {}).get("rows", []) if i < len(rows)]
    row = rows[picked[0]] if picked else rows[0] if len(rows) == 1 else None
    if row is None:
        st.caption("Choose a text to go on with it.")
        return
    st.text(visible(row["text"]))
    prompt = row["prompt"] if isinstance(row.get("prompt"), str) and row["prompt"] else None
    stage = Stage.OUTPUT if prompt or row.get("stage") == Stage.OUTPUT else Stage.INPUT
    onwards(here, Sample.at(row["text"], stage, prompt), str(row.get("category", "")), 0, key="review")


main()
