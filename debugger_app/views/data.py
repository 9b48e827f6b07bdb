"""Data: many texts scored at once, to find those that are worth a look."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from debugger_app import reviews, row_files, triage
from debugger_app.frame import Opened, opened, say, told, working
from debugger_app.kept import Job
from debugger_app.panels.onwards import onwards
from debugger_app.triage import Scored
from debugger_app.triage_tables import ORDERS, categories, slice_columns, slices, table
from debugger_app.visible import visible
from safety_kit.types import Stage

KINDS = ["jsonl", "ndjson", "csv", "parquet"]


def main() -> None:
    """The page."""
    st.title("Triage data", anchor=False)
    st.caption("Score a file or the gateway's review store, find what is odd, and open it.")
    here = opened()
    begin(here)
    job = st.session_state.get("job")
    if not isinstance(job, Job):
        st.info("Rows are {“text”, “prompt”?, “stage”?, “label”?} in JSONL, CSV or Parquet; other columns are kept.")
        return
    if job.guard != here.guard.digest:
        st.caption("These rows were scored under another policy or model; score them again to see this one's verdicts.")
    elif len(job.done) < job.total:
        if st.session_state.pop("score", False):
            run(job, here)
        if job.left:
            st.caption(f"{len(job.done)} of {job.total} rows are scored.")
            st.button("Go on", on_click=lambda: st.session_state.update(score=True))
    if job.file.left_out:
        st.caption(f"{job.file.left_out} rows could not be read and are left out.")
    if job.done:
        show(job.done, job.about, here)


def begin(here: Opened) -> None:
    """Choose the rows, and start."""
    kind = st.segmented_control("From", ["upload", "path", "review store"], default="upload", key="data-from")
    with st.form("rows"):
        upload = path = None
        if kind == "upload":
            upload = st.file_uploader(
                "File", KINDS, help=f"At most {row_files.MOST_BYTES // 2**20} MB; stays in memory."
            )
        else:
            hint = "A file on this machine." if kind == "path" else "The gateway's review.folder, or its export."
            path = st.text_input("Path", help=hint)
        columns = st.columns(4, vertical_alignment="bottom")
        stage = Stage(columns[0].selectbox("Texts stand at", [str(s) for s in Stage], help="Where a row does not say."))
        category = columns[1].text_input("What “label” is about", placeholder="the file's name")
        surprisal = columns[2].checkbox("Surprisal, too", help="How unexpected each text is; several times the work.")
        skip = columns[3].checkbox("Skip bad rows", help="Rows without a text, or not in UTF-8.")
        asked = st.form_submit_button("Score", type="primary")
    if not asked:
        return
    with told():
        if upload is not None:
            file = row_files.read(upload.name, upload.getvalue(), stage, skip)
        elif path and kind == "review store":
            file = row_files.rows_of(path, enumerate(reviews.records(path), 1))
        elif path:
            file = row_files.read_path(path, stage, skip)
        else:
            say("There is nothing to score yet: choose a file, or name one.")
            return
        about = category or Path(file.name).stem
        st.session_state.update(job=Job(file, about, surprisal, here.guard.digest), score=True)


def run(job: Job, here: Opened) -> None:
    """Score what is left; Cancel keeps what is done. The model is free between two batches."""
    with told(), working("Scoring") as progress:
        gemma, guard = here.model.gemma, here.guard
        batches = triage.score(gemma, guard, job.left, category=job.about, surprisal=job.surprisal)
        progress(len(job.done), job.total)
        while True:
            with here.model.running():
                batch = next(batches, None)
            if batch is None:
                break
            job.done += batch
            progress(len(job.done), job.total)


@st.fragment
def show(rows: list[Scored], about: str, here: Opened) -> None:
    """The rows, as they are asked for."""
    names = ["", *categories(rows)]
    columns = st.columns(4, vertical_alignment="bottom")
    start = names.index(about) if about in names else 0
    category = columns[0].selectbox("Category", names, start, format_func=lambda name: name or "each row's highest")
    order = columns[1].selectbox("Sort by", [o for o in ORDERS if o != "surprisal" or any(r.surprisal for r in rows)])
    actions = columns[2].multiselect("Action", sorted({row.action for row in rows}))
    by = columns[3].selectbox("Slices by", ["", *slice_columns(rows)], format_func=lambda name: visible(name) or "–")
    chosen = [row for row in rows if not actions or row.action in actions]
    if by:
        st.dataframe(slices(chosen, by, category), hide_index=True, width="stretch")
    shown, ordered = table(chosen, category, order)
    st.caption(f"{len(ordered)} rows. Choose one to open it; score: calibrated probability; surprisal: bits a token.")
    event = st.dataframe(
        shown,
        hide_index=True,
        width="stretch",
        on_select="rerun",
        selection_mode="single-row",
        key="rows-table",
        column_config={"score": st.column_config.ProgressColumn(format="%.3f", min_value=0, max_value=1)},
    )
    picked = [i for i in event.get("selection", {}).get("rows", []) if i < len(ordered)]
    if picked:
        row(ordered[picked[0]], category, here)


def row(one: Scored, category: str, here: Opened) -> None:
    """One row, and where to go with it."""
    sample = one.sample
    with st.container(border=True):
        if sample.prompt is not None:
            st.text(visible(f"Prompt: {sample.prompt}"))
        st.text(visible(sample.text))
        about = category or max(one.scores, key=lambda name: one.scores[name], default="")
        label = one.labels.get(about)
        onwards(here, sample, about, None if label is None else int(label), key="row")


main()
