"""Cause: change one thing inside the model and see what follows, always beside the same change made at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from debugger_app.frame import Opened, told
from debugger_app.panels.bench import ready
from debugger_app.panels.effect import comparison
from debugger_app.visible import plain
from safety_kit.analysis import interventions
from safety_kit.analysis.inspection import heads_at, stage_of

if TYPE_CHECKING:
    from debugger_app.document import Part
    from debugger_app.study import Study
    from safety_kit.analysis.interventions import Comparison, Watch
    from safety_kit.artifacts import Head

KINDS = {
    "zero a head": "Its output is set to zero at every token.",
    "mean of a head": "Its output is set to its own mean over this text: less of a shock than zero.",
    "steer along a classifier": "The classifier's own direction, of length 1, times the strength is added to the "
    "stream at every token; controls are random directions of equal length.",
}


@st.fragment
def cause(name: str, study: Study, token: int, here: Opened | None) -> None:
    """Choose a change, make it, and draw what it did to this token and to every classifier."""
    if token == 0:
        st.info("Choose a later token: what is watched is its probability, and the first one has none.")
        return
    if (bench := ready(study, here)) is None:
        return
    part = study.document.part_of(token)
    heads = _classifiers(bench, part)
    kinds = [kind for kind in KINDS if heads or not kind.startswith("steer")]
    kind = st.segmented_control("Change", kinds, default=kinds[0], key=f"kind-{name}") or kinds[0]
    st.caption(
        f"{KINDS[kind]} Watched: the prediction of token {token}, and each classifier at the end of its message."
    )
    key, make = (_steering if kind.startswith("steer") else _ablation)(name, kind, study, token, bench, heads, part)
    if st.button("Change it and see", key=f"cause-{name}") and key not in study.results:
        with told(), st.spinner("Reading it changed, and five controls …"), bench.model.running() as gemma:
            study.results[key] = make(gemma)
    if key in study.results:
        comparison(study.results[key], ", ".join(str(part_) for part_ in key[1:-1]))
    else:
        st.markdown("**No effect measured** yet.")


def _ablation(
    name: str, kind: str, study: Study, token: int, here: Opened, heads: list[Head], part: Part | None
) -> tuple[tuple[Any, ...], Any]:
    gemma = here.model.gemma
    left, right = st.columns(2)
    block = left.selectbox("Block", range(gemma.n_blocks), key=f"cause-block-{name}")
    head = right.selectbox("Head", range(interventions.heads_of(gemma)[block]), key=f"cause-head-{name}")
    watch = _watch(study, token, heads, part)

    def make(gemma: Any) -> Comparison:
        mean = None
        if kind.startswith("mean"):
            mean = interventions.mean_of(interventions.record(gemma, study.tokens, block, "heads"))[head]
        return interventions.ablate_head(gemma, study.tokens, block, head, watch, replacement=mean)

    return ("cause", kind, f"block {block}", f"head {head}", token), make


def _steering(
    name: str, kind: str, study: Study, token: int, here: Opened, heads: list[Head], part: Part | None
) -> tuple[tuple[Any, ...], Any]:
    left, middle, right = st.columns([2, 1, 2])
    chosen = left.selectbox(
        "Classifier", range(len(heads)), format_func=lambda i: plain(heads[i].category), key=f"steer-{name}"
    )
    head = heads[chosen]
    block = middle.selectbox("Block", head.blocks, key=f"steer-block-{name}-{chosen}")
    strength = right.slider(
        "Strength",
        -200.0,
        200.0,
        50.0,
        step=5.0,
        key=f"strength-{name}",
        help="Negative steers away from the category.",
    )
    watch = _watch(study, token, heads, part)

    def make(gemma: Any) -> Comparison:
        direction = interventions.direction_of(head, block)
        return interventions.steer(gemma, study.tokens, block, direction, strength, watch)

    return ("cause", kind, head.category, f"block {block}", f"strength {strength:g}", token), make


def _classifiers(here: Opened, part: Part | None) -> list[Head]:
    if part is None or part.stop == part.start:
        return []
    return heads_at(here.guard, stage_of(part.role))


def _watch(study: Study, token: int, heads: list[Head], part: Part | None) -> Watch:
    target = study.document.tokens[token].id
    if part is None or not heads:
        return interventions.Watch(token - 1, target)
    return interventions.Watch(token - 1, target, tuple(heads), (part.start, part.stop), stage_of(part.role))
