"""Guard: a conversation through the whole policy, and what other thresholds would make of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from debugger_app import handoff, preflight
from debugger_app.flow import Flow, flow
from debugger_app.frame import Opened, opened, told, working
from debugger_app.kept import Seen
from debugger_app.marks import marked
from debugger_app.redecide import Judged, Placed, Remembering, judge
from debugger_app.verdict_tables import flow_chart, flow_table, limits_table, said, times, times_chart
from debugger_app.versions import policy_text, save_policy, with_thresholds
from debugger_app.visible import plain, visible
from safety_kit.analysis.runs import RunTree
from safety_kit.errors import SafetyKitError
from safety_kit.gemma import Sampling
from safety_kit.policy import Policy
from safety_kit.types import Action, Message, Stage

EXAMPLE = "My card is 4111 1111 1111 1111, can you see whether the refund came?"
REPLY = "I cannot see your account. Please write to refunds@example.org about it."
ICONS = {Action.ALLOW: ":material/check:", Action.FLAG: ":material/flag:", Action.REDACT: ":material/ink_eraser:"}


def main() -> None:
    """The page."""
    st.title("Guard a conversation", anchor=False)
    st.caption("Every check of the policy, on every message; the reply also as it would stream.")
    here = opened()
    asked = conversation()
    if asked is not None:
        with told():
            messages = answered(here, asked[0]) if asked[1] else asked[0]
            with st.spinner("Checking …"):
                st.session_state["guarded"] = check(here, messages)
    seen = st.session_state.get("guarded")
    if isinstance(seen, Seen):
        show(seen, here)
    else:
        st.info("Press Check: the conversation goes through the policy as the gateway would send it.")


def conversation() -> tuple[list[Message], bool] | None:
    """The messages to check, once they are asked for, and whether the model is to write the reply to them."""
    st.session_state.setdefault("guard-user", EXAMPLE)
    st.session_state.setdefault("guard-reply", REPLY)
    with st.form("conversation"):
        system = st.text_input("System prompt", key="guard-system", placeholder="none")
        with st.expander("Earlier messages"):
            earlier = st.data_editor(
                pd.DataFrame({"role": pd.Series(dtype=str), "text": pd.Series(dtype=str)}),
                num_rows="dynamic",
                hide_index=True,
                width="stretch",
                key="guard-earlier",
                column_config={
                    "role": st.column_config.SelectboxColumn(options=["user", "assistant", "tool"], required=True),
                    "text": st.column_config.TextColumn(width="large"),
                },
            )
        user = st.text_area("User", key="guard-user", height=80)
        reply = st.text_area("Reply", key="guard-reply", height=80, help="What the model said; may be empty.")
        left, right = st.columns([1, 3], vertical_alignment="center")
        asked = left.form_submit_button("Check", type="primary")
        answer = right.checkbox("Let the model write the reply", help="Unguarded, at most 40 tokens, the likeliest.")
    if not asked:
        return None
    before = [Message(row.role, str(row.text or "")) for row in earlier.itertuples() if row.role]
    messages = [*([Message("system", system)] if system.strip() else []), *before, Message("user", user)]
    return [*messages, *([Message("assistant", reply)] if reply and not answer else [])], answer


def answered(here: Opened, messages: list[Message]) -> list[Message]:
    """The messages and what the model, unguarded, answers; nothing where it says nothing.

    Raises:
        UserError: It is not to be asked; see `preflight.estimate`.
    """
    expected = preflight.estimate(here.model.gemma, messages, handoff.REPLY)
    with working(f"{expected}. Answering,") as progress, here.model.running() as gemma:
        tree = RunTree.start(gemma, gemma.render(messages), Sampling(max_tokens=handoff.REPLY), progress)
    reply = tree.runs[0].text
    return [*messages, *([Message("assistant", reply)] if reply else [])]


def check(here: Opened, messages: list[Message]) -> Seen:
    """Check a conversation, and stream its reply."""
    with here.model.running() as gemma:
        guard = Remembering.of(here.guard)
        judged = judge(guard, messages)
        streamed = None
        if messages[-1].role == "assistant":
            system = next((m.content for m in messages if m.role == "system"), None)
            asked = next((m.content for m in reversed(messages[:-1]) if m.role == "user"), None)
            streamed = flow(guard, gemma, messages[-1].content, asked, system)
    return Seen(messages, guard, judged, streamed)


@st.fragment
def show(seen: Seen, here: Opened) -> None:
    """What came of it; another threshold draws this again, and no model reads anything."""
    verdict, scores, tries, time, stream = st.tabs(["Verdict", "Every score", "Thresholds", "Time", "Stream"])
    with tries:
        judged, guard = tried(seen, here)
    with verdict:
        headline(judged, seen.judged)
        messages(judged, seen)
        onwards(judged, seen, here)
    with scores:
        st.caption("What each check said, below its threshold too; “above” is what a rule holds a score against.")
        st.dataframe(said(guard, seen.messages, seen.judged), hide_index=True, width="stretch")
    with time:
        table = times(seen.judged)
        st.altair_chart(times_chart(table), width="stretch")
        st.caption("A pass that several texts share is divided evenly among them.")
        with st.expander("The same as a table"):
            st.dataframe(table, hide_index=True)
    with stream:
        streaming(seen.flow)


def headline(judged: Judged, before: Judged) -> None:
    """The action, and the one that the policy as it stands would take."""
    changed = judged.action is not before.action
    st.metric(
        "action, with the thresholds tried" if changed else "action",
        str(judged.action),
        delta=f"was {before.action}" if changed else None,
        delta_color="off",
        help="The strongest of all rules that fired on any message: allow < flag < redact < block.",
    )


def messages(judged: Judged, seen: Seen) -> None:
    """Each message with its findings marked, and what the policy does about it."""
    for number, message in enumerate(seen.messages):
        places = [place for place in judged.places if place.message == number]
        action = max((place.verdict.action for place in places), default=Action.ALLOW)
        st.markdown(f"**{plain(message.role)}** {ICONS.get(action, ':material/block:')} {action}")
        own = next((place.verdict for place in places if place.kind == "content"), None)
        marked(message.content, own.findings if own else (), key=f"marks-{number}")
        for place in places:
            explain(place)


def explain(place: Placed) -> None:
    """One verdict in words."""
    verdict = place.verdict
    where = "" if place.kind == "content" else "Read together with the messages before: "
    whole = [f"{f.category} {f.score:.3f}" for f in verdict.findings if not f.spans]
    found = where + ("found in the whole: " + ", ".join(whole) if whole else "")
    if whole or (where and verdict.findings):
        st.text(visible(found))
    for error in verdict.errors:
        st.text(visible(f"The check {error.check} failed: {error.message}"))
    if verdict.blocked and verdict.message:
        st.text(visible(f"Shown instead: {verdict.message}"))
    elif verdict.action is Action.REDACT and verdict.text is not None:
        st.text(visible(f"Passed on: {verdict.text}"))


def onwards(judged: Judged, seen: Seen, here: Opened) -> None:
    """The next step: why, or what to mend."""
    inspect, teach = st.columns(2)
    if inspect.button("Why? Inspect the conversation", icon=":material/search:"):
        with told():
            handoff.inspect(here, seen.messages)
    if teach.button("Wrong? Teach it", icon=":material/school:"):
        worst = max(judged.places, key=lambda place: place.verdict.action)
        message = seen.messages[worst.message]
        calibrated = [f for f in worst.verdict.findings if f.score_kind == "calibrated"]
        category = max(calibrated, key=lambda f: f.score).category if calibrated else ""
        at_output = worst.verdict.stage is Stage.OUTPUT
        prompt = next((m.content for m in reversed(seen.messages[: worst.message]) if m.role == "user"), "")
        label = 0 if category else None
        handoff.teach(handoff.Complaint(message.content, prompt if at_output else None, category, label))


def tried(seen: Seen, here: Opened) -> tuple[Judged, Remembering]:
    """The verdict under the thresholds that are tried, and the table to try them in."""
    source = st.session_state["policy"]
    file = Policy.load(source)
    limits = seen.guard.limits(file)
    if not limits:
        st.info("The policy has no taught category, and so no threshold to move.")
        return seen.judged, seen.guard
    st.caption("Write another probability into “try”: the verdict is decided again, and nothing is read again.")
    probability = st.column_config.NumberColumn(format="%.3f")
    edited = st.data_editor(
        limits_table([limit for limit in limits if limit.own], {}),
        hide_index=True,
        key="limits",
        disabled=["rule", "category", "action", "input above", "output above"],
        column_config={
            "input above": probability,
            "output above": probability,
            "try": st.column_config.NumberColumn(format="%.3f", min_value=0.001, max_value=0.999, step=0.001),
        },
    )
    if any(not limit.own for limit in limits):
        st.caption("Rules under the policy's budget are left out: `safety-kit calibrate` sets these together.")
    changes = {int(row["rule"]): float(row["try"]) for row in edited.to_dict("records") if pd.notna(row["try"])}
    if not changes:
        return seen.judged, seen.guard
    guard = seen.guard.with_thresholds(file, changes)
    with here.model.running():
        judged = judge(guard, seen.messages)
    st.text(f"With these: {judged.action}; as the policy stands: {seen.judged.action}.")
    _, path = policy_text(source)
    home = st.text_input("Folder for the new version", str(path.parent if Path(source).exists() else Path.cwd()))
    st.button("Save as a new version of the policy", on_click=save, args=(source, changes, home))
    if told := st.session_state.pop("saved", None):
        st.text(visible(told))
    return judged, guard


def save(source: str, changes: dict[int, float], home: str) -> None:
    """Write the thresholds into a new version, and open that."""
    try:
        text, path = policy_text(source)
        made = save_policy(with_thresholds(text, changes), path, Path(home))
    except SafetyKitError as error:
        st.session_state["saved"] = str(error)
        return
    st.session_state["policy"] = str(made)
    st.session_state["saved"] = f"Saved and opened: {made}"


def streaming(seen: Flow | None) -> None:
    """What was released when."""
    if seen is None:
        st.info("There is no reply to stream.")
        return
    table = flow_table(seen)
    columns = st.columns(3)
    columns[0].metric("verdict on the stream", str(seen.verdict.action))
    columns[1].metric("most held back", f"{seen.most_held} characters", help="Read, and not yet proven safe.")
    columns[2].metric("tokens", len(seen.fed) - 1)
    if seen.withheld:
        st.caption(f"Released only at the end, because of: {plain(', '.join(seen.withheld))}.")
    st.altair_chart(flow_chart(table), width="stretch")
    st.dataframe(table, hide_index=True, width="stretch")


main()
