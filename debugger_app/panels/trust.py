"""Trust: whether the numbers of a run are those of plain transformers, and the warning where they are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pandas as pd
import streamlit as st

from debugger_app import preflight
from debugger_app.document import Trust
from debugger_app.frame import Opened, told, working
from debugger_app.panels.bench import ready
from debugger_app.visible import plain, visible
from safety_kit.analysis.trust import cost
from safety_kit.analysis.trust import trust as held_against_plain
from safety_kit.analysis.trust_report import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamlit.delta_generator import DeltaGenerator

    from debugger_app.document import Document
    from debugger_app.study import Study
    from safety_kit.gemma import Gemma

AT_ONCE: Final = 30.0
"""Seconds that the checks may take, as estimated, to be made without being asked for."""

_RED: Final = "#d55e0066"

_DRAWN: Final = ("trust", "drawn")
"""In a run's results: its page was drawn without the checks."""

_WORK: Final = "Holding the numbers against plain transformers, step"


def warning(study: Study, chart: str) -> None:
    """A line above a chart, where a check that it rests on failed."""
    failed = study.document.trust.failed if study.document.trust is not None else []
    names = [plain(check.name) for check in failed if chart in check.charts]
    if names:
        st.error(f"**Do not rely on this.** It failed to agree with plain transformers: {', '.join(names)}.")


def trust(place: DeltaGenerator, study: Study, here: Opened | None) -> None:
    """Draw the checks of a run, and make them where they have not been.

    Args:
        place: Where they are drawn, above what rests on them.
        study: The run.
        here: The model, where there is one.
    """
    with place:
        if study.document.trust is not None:
            _draw(study.document.trust)
            return
        slot = st.empty()
    with slot.container():
        with st.expander("Trust: not checked", icon=":material/help:"):
            bench = ready(study, here)
        if bench is None:
            return
        if not _wanted(study, bench):
            study.results[_DRAWN] = True
            return
        if _DRAWN not in study.results:
            _draw_again(study)
            return
        with told(), working(_WORK) as progress, bench.model.running() as gemma:
            study.document = checked(study.document, gemma, progress)
    made = study.document.trust
    if made is None:
        return
    if made.failed:
        st.rerun()  # the charts above are drawn again, with their warnings
    with slot.container():
        _draw(made)


@st.fragment(run_every=0.2)
def _draw_again(study: Study) -> None:
    """Have the page drawn once more: until a script has ended, what it replaces stands beside what is new."""
    if _DRAWN in study.results:
        st.rerun()
    study.results[_DRAWN] = True


def checked(document: Document, gemma: Gemma, progress: Callable[[int, int], None] | None = None) -> Document:
    """The run with its checks."""
    made = held_against_plain(gemma, record_of(document), progress=progress)
    return document.model_copy(update={"trust": Trust.model_validate(made.to_json())})


def record_of(document: Document) -> Record:
    """What a run says of itself."""
    model = document.model
    return Record(
        tuple(token.id for token in document.tokens),
        tuple(token.logprob for token in document.tokens),
        model.digest,
        model.dtype,
        model.attention,
        model.revision,
    )


def _wanted(study: Study, here: Opened) -> bool:
    """Whether to begin: at once where it is cheap and was not cancelled, else when it is asked for."""
    gemma = here.model.gemma
    rate = preflight.rates(gemma.digest, str(gemma.device), gemma.dtype).prompt
    tokens = cost(gemma, len(study.document.tokens))
    seconds = None if rate is None else rate * tokens
    if _cancelled():
        study.results["trust", "cancelled"] = True
    if ("trust", "cancelled") not in study.results and (seconds is None or seconds <= AT_ONCE):
        return True
    about = "" if seconds is None else f", about {max(1, round(seconds))} s"
    return st.button("Check the numbers", help=f"Reads some {tokens:,} tokens{about}.", key="trust")


def _cancelled() -> bool:
    """Whether it was Cancel that ended the last attempt; after any other click the checks begin again."""
    return bool(st.session_state.get(f"cancel-{_WORK}"))


def _draw(made: Trust) -> None:
    failed, count = made.failed, len(made.checks)
    if failed:
        st.error(
            f"**{len(failed)} of {count} checks failed.** What rests on them carries a warning: "
            f"{', '.join(sorted({plain(chart) for check in failed for chart in check.charts}))}.",
            icon=":material/gpp_bad:",
        )
    label = f"Trust: {count - len(failed)} of {count} checks passed"
    with st.expander(label, icon=":material/gpp_bad:" if failed else ":material/verified:", expanded=bool(failed)):
        st.caption(
            f"Plain transformers has read the first {made.tokens:,} of {made.of:,} tokens again, with the same "
            "weights, float type and attention, and once more with eager attention: a few passes, once a run."
        )
        table = pd.DataFrame(
            {
                "check": [visible(check.name) for check in made.checks],
                "": ["passed" if check.passed else "failed" for check in made.checks],
                "difference": [check.value for check in made.checks],
                "at most": [check.tolerance for check in made.checks],
                "compared": [visible(check.compared) for check in made.checks],
                "matters to": [visible(", ".join(check.charts)) for check in made.checks],
            }
        )
        red = [f"background-color: {_RED}" if not check.passed else "" for check in made.checks]
        st.dataframe(
            table.style.apply(lambda _: red, axis=0).format(
                {"difference": "{:.2g}", "at most": "{:.2g}"}, na_rep="none"
            ),
            hide_index=True,
        )
        for note in made.notes:
            st.caption(visible(note))
