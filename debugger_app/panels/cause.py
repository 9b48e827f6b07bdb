"""Cause: change one thing inside the model and see what follows, always beside the same change made at random."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import streamlit as st

from debugger_app.frame import Opened, told, working
from debugger_app.panels.bench import named, other_runs, ready
from debugger_app.panels.effect import comparison
from debugger_app.visible import plain, short
from safety_kit.analysis import interventions
from safety_kit.analysis.inspection import heads_at, stage_of
from safety_kit.analysis.replacing import Other, Place, Source, replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from debugger_app.document import Document, Part
    from debugger_app.study import Study
    from safety_kit.analysis.interventions import Comparison, Watch
    from safety_kit.gemma import Gemma
    from safety_kit.heads import Head

    Change: TypeAlias = Callable[[Gemma, Watch, Callable[[int, int], None]], Comparison]
    """Makes the change and measures it."""

PLACES = {
    "a head": "One attention head's output, at every token. Controls: other heads.",
    "an MLP": "The MLP's output of one block, at every token. Controls: the MLPs of other blocks.",
    "the stream at a token": "The residual stream after one block, at one token. Controls: random directions, each as "
    "long as what the change adds there.",
    "a classifier's direction": "The classifier's own direction, of length 1, times the strength is added to the "
    "stream at every token. Controls: random directions of equal length.",
}

SOURCES = {
    "zero": "It is set to zero.",
    "mean": "It is set to its own mean over this text: less of a shock than zero.",
    "patch": "It is taken from another run of this session; a head's and an MLP's token by token, as far as both go.",
}


def cause(name: str, study: Study, token: int, here: Opened | None) -> None:
    """Choose a change, make it, and draw what it did to this token and to every classifier."""
    if token == 0:
        st.info("Choose a later token: what is watched is its probability, and the first one has none.")
        return
    if (bench := ready(study, here)) is None:
        return
    part = study.document.part_of(token)
    heads = _classifiers(bench, part)
    where = [place for place in PLACES if heads or place != "a classifier's direction"]
    place = st.segmented_control("Change", where, default=where[0], key=f"place-{name}") or where[0]
    if place == "a classifier's direction":
        said = PLACES[place]
        chosen: tuple[tuple[str, ...], Change] | None = _steering(name, study, heads)
    else:
        how = st.segmented_control("How", list(SOURCES), default="zero", key=f"how-{name}") or "zero"
        said, chosen = f"{PLACES[place]} {SOURCES[how]}", _replacing(name, place, how, study, token, bench)
    st.caption(f"{said} Watched: the prediction of token {token}, and each classifier at the end of its message.")
    if chosen is None:
        return
    what, change = chosen
    key = ("cause", *what, token)
    if st.button("Change it and see", key=f"cause-{name}") and key not in study.results:
        watch = _watch(study, token, heads, part)
        with told(), working("Reading it changed, and with each control,") as progress, bench.model.running() as gemma:
            study.results[key] = change(gemma, watch, progress)
    if key in study.results:
        comparison(study.results[key], ", ".join(what))
    else:
        st.markdown("**No effect measured** yet.")


def _replacing(
    name: str, where: str, how: str, study: Study, token: int, here: Opened
) -> tuple[tuple[str, ...], Change] | None:
    """Place and source, as a person chose them: what they are called, and what makes the change; None without one."""
    place = _place(name, where, study.document, token, here.model.gemma)
    chosen = (how, _own(how)) if how != "patch" else _patch(name, place, other_runs(study, here))
    if chosen is None:
        st.info("There is no other run of this model in this session; inspect a second prompt, then come back.")
        return None
    called, source = chosen

    def change(gemma: Gemma, watch: Watch, progress: Callable[[int, int], None]) -> Comparison:
        return replace(gemma, study.tokens, place, source, watch, progress=progress)

    return (str(place), called), change


def _place(name: str, where: str, document: Document, token: int, gemma: Gemma) -> Place:
    left, right = st.columns(2)
    block = left.selectbox("Block", range(gemma.n_blocks), key=f"cause-block-{name}")
    if where == "an MLP":
        return Place(block, "mlp")
    if where == "a head":
        every = range(interventions.heads_of(gemma)[block])
        return Place(block, "heads", right.selectbox("Head", every, key=f"cause-head-{name}"))
    before = range(token)  # what stands at the token or behind it cannot have led to it
    key = f"cause-at-{name}-{token}"
    at = right.selectbox("At token", before, token - 1, format_func=partial(_piece, document), key=key)
    return Place(block, "block", at)


def _own(how: str) -> Source:
    return "zero" if how == "zero" else "mean"


def _patch(name: str, place: Place, runs: dict[str, Study]) -> tuple[str, Source] | None:
    """Another run, and where it matters its token; None where there is no other run."""
    if not runs:
        return None
    left, right = st.columns(2)
    run = left.selectbox("From run", list(runs), format_func=lambda run: named(runs[run]), key=f"from-{name}")
    other = runs[run]
    if place.site != "block":
        return f"patched from {named(other)}", Other(other.tokens)
    every = range(len(other.document.tokens))
    key = f"from-at-{name}-{run}-{place.index}"
    same = min(place.index, len(every) - 1)
    taken = right.selectbox("Its token", every, same, format_func=partial(_piece, other.document), key=key)
    return f"patched from token {taken} of {named(other)}", Other(other.tokens, taken)


def _steering(name: str, study: Study, heads: list[Head]) -> tuple[tuple[str, ...], Change]:
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

    def change(gemma: Gemma, watch: Watch, progress: Callable[[int, int], None]) -> Comparison:
        direction = interventions.direction_of(head, block)
        return interventions.steer(gemma, study.tokens, block, direction, strength, watch, progress=progress)

    return (head.category, f"block {block}", f"strength {strength:g}"), change


def _piece(document: Document, at: int) -> str:
    return f"{at}: {short(document.tokens[at].text, 20)}"


def _classifiers(here: Opened, part: Part | None) -> list[Head]:
    if part is None or part.stop == part.start:
        return []
    return heads_at(here.guard, stage_of(part.role))


def _watch(study: Study, token: int, heads: list[Head], part: Part | None) -> Watch:
    target = study.document.tokens[token].id
    if part is None or not heads:
        return interventions.Watch(token - 1, target)
    return interventions.Watch(token - 1, target, tuple(heads), (part.start, part.stop), stage_of(part.role))
