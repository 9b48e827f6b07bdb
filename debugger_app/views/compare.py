"""Compare: two runs, or two policies, side by side; and which differences are noise."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from debugger_app import handoff, history, row_files
from debugger_app.align import align, is_noise, scores
from debugger_app.difference_tables import changed_verdicts, figures
from debugger_app.document import Document
from debugger_app.frame import Opened, opened, say, told, working
from debugger_app.redecide import Remembering, judge
from debugger_app.visible import short, visible
from safety_kit.commands.policy_diff import changes
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.types import Message, Stage

VERDICTS = {"a": "the first is better", "b": "the second is better", "noise": "noise"}


def main() -> None:
    """The page."""
    st.title("Compare", anchor=False)
    here = opened()
    runs, policies, classifiers = st.tabs(["Two runs", "Two policies", "Two classifiers"])
    with runs:
        two_runs()
    with policies:
        two_policies(here)
    with classifiers:
        two_classifiers(here)


def two_runs() -> None:
    """Two prompts, or one prompt under two models: any two runs of this session."""
    kept = history.runs()
    if len(kept) < 2:
        st.info(
            "Inspect two prompts first, or one prompt with two models named in the sidebar; then compare them here."
        )
        st.page_link(handoff.INSPECT, label="Inspect", icon=":material/search:")
        return
    names = list(kept)
    left, right = st.columns(2)
    first = left.selectbox("First", names, len(names) - 2, format_func=lambda name: named(kept[name].document))
    second = right.selectbox("Second", names, len(names) - 1, format_func=lambda name: named(kept[name].document))
    a, b = kept[first].document, kept[second].document
    same_model = (a.model.digest, a.model.dtype) == (b.model.digest, b.model.dtype)
    if not same_model:
        st.caption("Two models, or two float types: every difference may be real.")
    table = pd.DataFrame(
        [
            {"message": p.message, "category": p.category, "first": p.a, "second": p.b, "noise": p.noise and same_model}
            for p in scores(a, b)
        ]
    )
    if len(table):
        st.dataframe(table.assign(difference=table["second"] - table["first"]), hide_index=True, width="stretch")
        st.caption("The probability of each whole message; “noise” marks a difference no larger than rounding.")
    st.dataframe(tokens(a, b, same_model), hide_index=True, width="stretch")
    st.caption("Tokens aligned by their ids; surprisal in bits. A token behind different ones may well differ.")


def named(document: Document) -> str:
    """A run in a line."""
    return f"{short(document.text)} ({len(document.tokens)} tokens, {visible(document.model.name)})"


def tokens(a: Document, b: Document, same_model: bool) -> pd.DataFrame:
    """A row a pair of tokens."""
    rows = []
    for pair in align([token.id for token in a.tokens], [token.id for token in b.tokens]):
        left = a.tokens[pair.a] if pair.a is not None else None
        right = b.tokens[pair.b] if pair.b is not None else None
        of_a, of_b = left.surprisal if left else None, right.surprisal if right else None
        difference = of_b - of_a if pair.same and of_a is not None and of_b is not None else None
        rows.append(
            {
                "first": visible(left.text) if left else "",
                "second": visible(right.text) if right else "",
                "": "" if pair.same else "≠",
                "surprisal, first": of_a,
                "surprisal, second": of_b,
                "difference": difference,
                "noise": pair.same and is_noise(of_a, of_b, same_model),
            }
        )
    return pd.DataFrame(rows).astype(dict.fromkeys(["surprisal, first", "surprisal, second", "difference"], "float64"))


def two_policies(here: Opened) -> None:
    """One text, or a file, under the policy that is open and another one."""
    with st.form("policies"):
        other = st.text_input("The other policy", placeholder="a shipped policy's name, or a YAML file")
        left, right = st.columns(2)
        text = left.text_area("A text", height=80)
        path = right.text_input("Or a file of rows", placeholder=".jsonl, .csv or .parquet")
        asked = st.form_submit_button("Compare", type="primary")
    if not asked:
        return
    if not other or not (text.strip() or path):
        say("Name another policy, and a text or a file.")
        return
    with told(), here.model.running() as gemma:
        second = Guard(Policy.load(other), gemma)
        if path:
            samples = {row.place: row.sample for row in row_files.read_path(path, Stage.INPUT).rows}
            with working("Checking") as progress:
                found = changes(here.guard, second, samples, lambda done: progress(done, len(samples)))
            st.text(f"{len(found)} of {len(samples)} verdicts change.")
            table = changed_verdicts(found, samples)
        else:
            table = pd.DataFrame([verdict_on(text, guard) for guard in (here.guard, second)])
        st.dataframe(table, hide_index=True, width="stretch")


def verdict_on(text: str, guard: Guard) -> dict[str, str]:
    """A policy's verdict on a user's message, as a row."""
    judged = judge(Remembering.of(guard), [Message("user", text)])
    return {
        "policy": visible(guard.policy.name),
        "action": str(judged.action),
        "found": ", ".join(f"{f.category} {f.score:.3f}" for f in judged.places[0].verdict.findings),
    }


def two_classifiers(here: Opened) -> None:
    """Two classifier folders on labelled rows: each figure with the interval of its difference."""
    with st.form("classifiers"):
        left, right = st.columns(2)
        a, b = left.text_input("First folder"), right.text_input("Second folder")
        path = st.text_input("Labelled rows", help="Of rows marked “split”: “test”, where there are any, only these.")
        asked = st.form_submit_button("Compare", type="primary")
    if not asked:
        return
    if not (a and b and path):
        say("Name two classifier folders and a file of labelled rows.")
        return
    from classifiers import ladder
    from classifiers.compare import compare

    with told():
        examples = row_files.labelled(path)
        held = examples.test() if examples.held_out.any() else examples
        with st.spinner("Scoring …"), here.model.running() as gemma:
            report = compare(ladder.load(a, gemma), ladder.load(b, gemma), held)
        for category, found in report.items():
            st.text(f"{visible(category)}: {found['n']} rows, {found['positives']} positive")
            st.dataframe(figures(found["metrics"], "first", "second", VERDICTS), hide_index=True, width="stretch")


main()
