"""Salience: how much each token before it matters to a chosen number, and whether that is to be believed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from debugger_app.charts import lines
from debugger_app.colours import Scale
from debugger_app.components import Shown, token_strip
from debugger_app.frame import Opened, told, working
from debugger_app.panels.aims import RATHER, aims
from debugger_app.panels.bench import ready
from debugger_app.panels.tokens import boxed
from debugger_app.visible import plain, visible
from safety_kit.analysis import salience as salience_
from safety_kit.analysis.trust_report import TOLERANCES

if TYPE_CHECKING:
    from collections.abc import Callable

    from debugger_app.document import Document
    from debugger_app.panels.aims import Aim
    from safety_kit.analysis.objectives import Objective
    from safety_kit.analysis.salience import DeletionCurve, Salience
    from safety_kit.gemma import Gemma
    from safety_kit.gemma.tokens import Tokens

_GAP = TOLERANCES["float32"].gap

METHODS = {
    "leave one out": "What the number loses when the token is deleted; exact, and the slowest.",
    "integrated gradients": "Shares of the difference to a text of padding; 32 passes forward and back.",
    "gradient × input": "A first guess: one pass forward and back.",
    "gradient norm": "How fast the number could change there, without a direction.",
}


def salience(name: str, study: Any, token: int, here: Opened | None) -> None:
    """Choose a number and a method, measure, and draw the scores beside their check."""
    if (bench := ready(study, here)) is None:
        return
    every = aims(study, token, bench)
    if not every:
        st.info("Choose a later token: the first one has no probability, and no classifier reads it.")
        return
    left, middle, by, right = st.columns([4, 3, 3, 2], vertical_alignment="bottom")
    aim = left.selectbox(
        "What is explained",
        list(every),
        key=f"aim-{name}-{token}",
        format_func=plain,
        help="The number that the scores are about.",
    )
    methods = [method for method in METHODS if not (aim.startswith(RATHER) and method == "gradient norm")]
    method = middle.selectbox("Method", methods, key=f"method-{name}", help="A norm has no sign to contrast.")
    grain = by.selectbox(
        "By",
        ["token", "word", "sentence", "message"],
        key=f"grain-{name}",
        help="Leave one out deletes each as a whole; the others sum the scores of its tokens.",
    )
    asked = right.button("Measure", key=f"measure-salience-{name}", width="stretch")
    st.caption(METHODS[method])
    key = ("salience", aim, method, token, grain)
    if asked and key not in study.results:
        with told():
            chosen = every[aim]()
            groups = _groups(study.document, chosen.shared, grain)
            work = f"{method.capitalize()}, then its check,"
            with working(work) as progress, bench.model.running() as gemma:
                study.results[key] = _explained(method, gemma, chosen, groups, progress)
    if key in study.results:
        _draw(name, study.document, grain, *study.results[key])


def _explained(
    method: str, gemma: Gemma, aim: Aim, groups: list[list[int]], progress: Callable[[int, int], None]
) -> tuple[Salience, DeletionCurve]:
    """Scores and their check; of a contrast, each reply's own scores, subtracted, and one curve of the difference."""
    made = _measured(method, gemma, aim.text, aim.objective, groups, progress)
    if aim.less is not None:
        other = _measured(method, gemma, *aim.less, groups, progress)
        made = salience_.contrasted(made, other, aim.shared)
    curve = salience_.deletion_curve(gemma, aim.text, aim.objective, made.scores, progress=progress)
    if aim.less is not None:
        other_curve = salience_.deletion_curve(gemma, *aim.less, made.scores, progress=progress)
        curve = salience_.curves_contrasted(curve, other_curve)
    return made, curve


def _measured(
    method: str,
    gemma: Any,
    text: Tokens,
    objective: Objective,
    groups: list[list[int]],
    progress: Callable[[int, int], None],
) -> Salience:
    """Each token with the score of its group."""
    if method == "leave one out":
        return salience_.leave_one_out(gemma, text, objective, groups=groups, progress=progress)
    if method == "integrated gradients":
        made = salience_.integrated_gradients(gemma, text, objective, progress=progress)
    else:
        one_pass = salience_.gradient_x_input if method == "gradient × input" else salience_.gradient_norm
        made = one_pass(gemma, text, objective)
    scores = np.full(len(text), np.nan)
    for group, total in zip(groups, salience_.by_group(made.scores, groups), strict=True):
        scores[group] = total
    return replace(made, scores=scores)


def _draw(name: str, document: Document, grain: str, made: Salience, curve: DeletionCurve) -> None:
    tokens, scores = document.tokens[: len(made.scores)], made.scores
    largest = float(np.nanmax(np.abs(scores))) if np.isfinite(scores).any() else 1.0
    low = 0.0 if made.method == "gradient norm" else -largest
    scale = Scale(f"{made.method}, {made.unit}: what each {grain} adds", low, largest or 1.0, "{:+.2g}")
    shown = [
        Shown(
            boxed(token),
            f"token {at}: {visible(token.text)}, " + ("cannot be deleted" if math.isnan(score) else f"{score:+.3g}"),
            scale.share(score),
            ("control",) if token.control else (),
            breaks=token.text.endswith("\n"),
        )
        for at, (token, score) in enumerate(zip(tokens, scores, strict=True))
    ]
    token_strip(shown, scale, "Salience of each token", key=f"salience-{name}", selected=None)
    left, right = st.columns([3, 2])
    with left:
        st.caption(f"The number: {made.value:.3f} {made.unit}.")
        if made.gap is not None:
            st.caption(
                f"Completeness gap {made.gap:.2g}: the scores add up to the difference to the padded text but for this."
            )
            if made.gap > _GAP * max(1.0, abs(float(np.nansum(made.scores)))):
                st.error("**Do not rely on these scores:** they miss the difference by more than a twentieth of it.")
        if curve.faithful:
            st.markdown(
                ":material/check: Deleting the highest tokens lowers the number faster than any random order did."
            )
        else:
            st.markdown(
                ":material/warning: **Not to be relied on here:** deleting the highest tokens lowers the number no "
                "faster than deleting random ones."
            )
        with st.expander("The same as a table"):
            st.dataframe(
                pd.DataFrame({"token": [visible(token.text) for token in tokens], made.unit: scores}), hide_index=True
            )
    with right:
        rows = [
            {"deleted": share, "number": value, "order": order}
            for order, values in [("highest first", curve.values), ("at random, mean", curve.random.mean(axis=0))]
            for share, value in zip((0.0, *curve.fractions), (curve.value, *values), strict=True)
        ]
        st.altair_chart(
            lines(pd.DataFrame(rows), "deleted", "number", colour="order"),
            width="stretch",
            alt="The number as tokens are deleted, the highest first and at random.",
        )


def _groups(document: Document, count: int, grain: str) -> list[list[int]]:
    """The first `count` tokens in groups; by message those of the template are in none."""
    if grain == "token":
        return [[at] for at in range(count)]
    if grain == "message":
        return [list(range(part.start, min(part.stop, count))) for part in document.messages]
    texts = [token.text for token in document.tokens[:count]]
    ends = np.cumsum([len(text) for text in texts]).tolist()
    offsets = list(zip([0, *ends[:-1]], ends, strict=True))
    return (salience_.words if grain == "word" else salience_.sentences)("".join(texts), offsets)
