"""What the classifiers saw: a line a category along the tokens, and what the guard does about it, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from debugger_app.charts import strip_chart, strip_table
from debugger_app.visible import plain, visible

if TYPE_CHECKING:
    from debugger_app.document import Document, Part


def safety(name: str, document: Document, token: int | None) -> None:
    """Draw the classifiers' probabilities; without classifiers, say so."""
    for line in wholes(document):
        st.markdown(line)
    if not document.categories:
        st.caption("The policy has no classifier that reads token by token.")
        return
    for line in decisions(document):
        st.markdown(line)
    table = strip_table(document, [visible(token.text) for token in document.tokens])
    highest = table.groupby("category")["probability"].max().sort_values(ascending=False)
    shown = st.multiselect("Categories", document.categories, default=list(highest.index[:4]), key=f"told-{name}")
    if not shown:
        return
    st.altair_chart(strip_chart(table, shown, token), width="stretch")
    st.caption(
        "A line is what the guard would say if the text ended there; a sign on it is where the guard does read. "
        "In a streamed reply it reads every few tokens, so a line above its threshold (dashed) between two signs "
        "blocks nothing."
    )
    with st.expander("The same as a table"):
        st.dataframe(table[table["category"].isin(shown)], hide_index=True)


def wholes(document: Document) -> list[str]:
    """What classifiers that read no token by itself say of each message, as Markdown."""
    return [
        f":material/article: {plain(whole.category)}, of the whole {_called(part)}: {whole.probability:.2f}"
        for part in document.messages
        for whole in part.wholes
        if whole.probability is not None
    ]


def decisions(document: Document) -> list[str]:
    """What the guard does about each message, and where it would have acted had the text ended, as Markdown."""
    made = []
    for part in document.messages:
        role = _called(part)
        for strip in part.strips:
            for action, at in strip.acts.items():
                first, limit = strip.crossings.get(action), strip.thresholds.get(action)
                above = "" if limit is None else f", above {limit:.2f}"
                if at is not None:
                    value = strip.probabilities[at]
                    made.append(
                        f":material/gpp_bad: **{plain(action)}** the {role} for **{plain(strip.category)}** "
                        f"at token {part.start + at} ({value:.2f}{above})"
                    )
                elif first is not None:
                    value = strip.probabilities[first]
                    made.append(
                        f":material/info: {plain(strip.category)} would {plain(action)} the {role} only if it ended at "
                        f"token {part.start + first} ({value:.2f}{above}); the guard reads later, and passes it"
                    )
    return made or [":material/verified_user: No classifier of the policy acts on this conversation."]


def _called(part: Part) -> str:
    return "reply" if part.role == "assistant" else part.role
