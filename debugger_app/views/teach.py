"""Teach: say what a text really is, teach its category again, see what that changes, and put it into the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from classifiers.metrics import HEADINGS
from classifiers.teach import CATEGORIES
from debugger_app import handoff, lesson, row_files
from debugger_app.difference_tables import changed_verdicts, figures
from debugger_app.frame import Opened, opened, say, told, working
from debugger_app.kept import Saved, Taught
from debugger_app.lesson import Correction, Held, Lesson
from debugger_app.versions import next_folder, policy_text, put_into_policy
from debugger_app.visible import visible
from safety_kit.commands.policy_diff import changes
from safety_kit.errors import DataError, SafetyKitError
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.types import Sample, Stage

VERDICTS = {"a": "the old one is better", "b": "the new one is better", "noise": "noise on these rows"}


def main() -> None:
    """The page."""
    st.title("Teach it", anchor=False)
    st.caption("Label what went wrong, teach the category again in seconds, see what changes, keep the old version.")
    here = opened()
    label(here)
    taught = st.session_state.get("taught")
    if not isinstance(taught, Taught):
        st.info("A text and its label are enough; one or two variants of it make the lesson hold.")
        return
    compare(taught)
    keep(taught, here)
    saved = st.session_state.get("kept")
    if isinstance(saved, Saved):
        with told():
            effects(saved, taught, here)


def label(here: Opened) -> None:
    """Step 1: what the texts are."""
    brought = handoff.complaint() or handoff.Complaint("")
    probed = sorted(here.guard.probes.categories) if here.guard.probes else []
    st.subheader("1 · What is it really?", anchor=False)
    with st.form("label"):
        text = st.text_area("Text", value=brought.text, height=80)
        prompt = st.text_input("The message that it answers", value=brought.prompt or "", placeholder="it is no reply")
        columns = st.columns(3, vertical_alignment="bottom")
        start = probed.index(brought.category) if brought.category in probed else None
        chosen = columns[0].selectbox("Category", probed, start, placeholder="of the policy, or a new one →")
        named = columns[1].text_input("New category", placeholder="such as personal_medical_dosing")
        is_it = columns[2].radio("It is", ["not of this category", "of this category"], brought.label or 0)
        variants = st.data_editor(
            pd.DataFrame({"variant": pd.Series(dtype=str), "of this category": pd.Series(dtype=bool)}),
            num_rows="dynamic",
            hide_index=True,
            width="stretch",
            key="variants",
            column_config={"variant": st.column_config.TextColumn("Variants, one a line", width="large")},
        )
        source = st.text_input(
            "Rows that it was taught from",
            placeholder="a category of the kit: its own set; else a .jsonl, .csv or .parquet file",
            help="Rows marked “split”: “test” are held out, and the old and the new classifier are measured on them.",
        )
        asked = st.form_submit_button("Teach again", type="primary")
    if not asked:
        return
    category = named.strip() or chosen or ""
    yes = int(is_it == "of this category")
    answers = prompt or None
    rows = [Correction(text, yes, answers)] if text.strip() else []
    rows += [
        Correction(one[0], int(one[1] is True), answers)
        for one in variants.itertuples(index=False)
        if isinstance(one[0], str) and one[0].strip()
    ]
    if not category:
        say("Choose a category, or name a new one.")
        return
    with told():
        base = lesson.base_rows(category, source)
        lesson.corrected(base, category, rows)
        with here.model.running() as gemma:
            old = lesson.held_by(here.policy, category, gemma)
            with working("Reading the rows") as progress:
                made = lesson.retrain(gemma, category, base, rows, progress=progress)
            with st.spinner("Measuring …"):
                st.session_state["taught"] = measured(made, old)
        st.session_state.pop("kept", None)


def measured(made: Lesson, old: Held | None) -> Taught:
    """A lesson beside what the policy has so far; it reads the rows held out."""
    after = lesson.on_rows(made.classifier, made.category, made.corrections)
    if old is None:
        return Taught(made, None, after, [], "A new category: cross-validated on its own rows.")
    before = lesson.on_rows(old.classifier, made.category, made.corrections)
    try:
        return Taught(made, old, after, before, lesson.against(old.classifier, made))
    except DataError as error:
        return Taught(made, old, after, before, str(error))


def compare(taught: Taught) -> None:
    """Step 2: old against new."""
    st.subheader("2 · Old against new", anchor=False)
    made, report = taught.lesson, taught.report
    shown: dict[str, list[Any]] = {
        "text": [visible(row.text) for row in made.corrections],
        "label": [row.label for row in made.corrections],
        "new": taught.after,
    }
    if taught.before:
        shown["old"] = taught.before
    st.dataframe(pd.DataFrame(shown), hide_index=True, width="stretch")
    st.caption("Calibrated probability of the category, of each text alone. The new one was taught these very texts.")
    if isinstance(report, str):
        own = {HEADINGS[name]: value for name, value in made.classifier.report_[made.category].items()}
        st.dataframe(pd.DataFrame([own]), hide_index=True)
        st.text(visible(report))
        return
    st.dataframe(figures(report["metrics"], "old", "new", VERDICTS), hide_index=True, width="stretch")
    st.caption(f"On {report['n']} rows held out, {report['positives']} of the category; paired bootstrap.")
    if made.category in CATEGORIES:
        st.caption(f"The old one was taught from more ordinary texts than the {lesson.HARMLESS} that are taken here.")


def keep(taught: Taught, here: Opened) -> None:
    """Step 3: a new folder, and a new version of the policy."""
    st.subheader("3 · Keep it", anchor=False)
    source = st.session_state["policy"]
    _, path = policy_text(source)
    own = Path(source).exists()
    category = taught.lesson.category
    with st.form("keep"):
        home = st.text_input("Folder", str(path.parent if own else Path.cwd()), help="Nothing in it is overwritten.")
        stages: list[str] = [str(Stage.INPUT)]
        threshold = 0.5
        if taught.old is None:
            left, right = st.columns(2)
            stages = left.multiselect("Where the new rule blocks", [str(stage) for stage in Stage], stages)
            threshold = right.number_input("Above the probability", 0.001, 0.999, threshold, 0.01)
        asked = st.form_submit_button("Save the classifier and a new version of the policy")
    if asked:
        try:
            folder = next_folder(Path(home) / category)
            taught.lesson.classifier.save(folder, notes="Taught again in the debugger.")
            made = put_into_policy(
                source,
                folder,
                category,
                [Stage(stage) for stage in stages],
                "block",
                threshold=threshold,
                check=taught.old.check if taught.old else None,
                folder=Path(home),
            )
            st.session_state["kept"] = Saved(made, folder)
        except (SafetyKitError, OSError) as error:
            say(str(error))


def effects(saved: Saved, taught: Taught, here: Opened) -> None:
    """Step 4: what changes on a log and on the texts themselves, then use it."""
    st.subheader("4 · What it changes", anchor=False)
    st.text(visible(f"Saved: {saved.folder} and {saved.policy}"))
    policy = Policy.load(saved.policy)
    needed = policy.calibration is not None and not policy.calibration.exists()
    with st.form("effects"):
        path = st.text_input(
            "A log of your traffic",
            placeholder="a .jsonl, .csv or .parquet file" + (": needed to calibrate" if needed else ""),
            help="Its verdicts under both versions are compared; a policy with a calibration is calibrated on it.",
        )
        asked = st.form_submit_button("Compare and check again", type="primary")
    if asked:
        if needed and not path:
            say("The policy is calibrated on traffic: name a log, so that the new classifier's threshold can be set.")
            return
        with told():
            table, verified = measure(taught, policy, path, here)
            if table is not None:
                st.text(f"{len(table)} verdicts on the log change.")
                st.dataframe(table, hide_index=True, width="stretch")
            st.dataframe(verified, hide_index=True, width="stretch")
            st.caption("The texts again, by the new version of the policy.")
    st.button("Use the new version from now on", on_click=use, args=(saved.policy,))


def measure(taught: Taught, policy: Policy, path: str, here: Opened) -> tuple[pd.DataFrame | None, pd.DataFrame]:
    """The verdicts that change, and those on the texts of the lesson."""
    table = None
    with here.model.running() as gemma:
        if path:
            file = row_files.read_path(path, Stage.INPUT)
            log = [row.sample for row in file.rows]
            with working("Reading the log") as progress:
                new = lesson.guard_on_log(policy, gemma, log, lesson.digest_of(log), progress)
                samples = {row.place: row.sample for row in file.rows}
                changed = changes(here.guard, new, samples, lambda done: progress(done, len(log)))
            table = changed_verdicts(changed, samples)
        else:
            new = Guard(policy, gemma)
        rows = taught.lesson.corrections
        verified = new.check(
            [Sample.at(row.text, Stage.OUTPUT if row.prompt else Stage.INPUT, row.prompt) for row in rows]
        )
    shown = {
        "text": [visible(row.text) for row in rows],
        "label": [row.label for row in rows],
        "action": [str(verdict.action) for verdict in verified],
        "found": [", ".join(f"{f.category} {f.score:.3f}" for f in verdict.findings) for verdict in verified],
    }
    return table, pd.DataFrame(shown)


def use(policy: Path) -> None:
    """Open a version of the policy in this session."""
    st.session_state["policy"] = str(policy)
    st.session_state.pop("kept", None)
    st.session_state.pop("taught", None)


main()
