"""What a change inside the model did, beside what the same change did elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

if TYPE_CHECKING:
    from safety_kit.analysis.interventions import Comparison


def comparison(made: Comparison, what: str) -> None:
    """An effect beside those of its controls."""
    rows = [
        {
            "change": name,
            "KL, bits": effect.divergence,
            "probability of the token": effect.probability,
            **{f"{category}": change for category, change in effect.classifiers.items()},
        }
        for name, effect in [(what, made.effect), *zip(made.sites, made.controls, strict=True)]
    ]
    said = (
        ":material/priority_high: larger than every control"
        if made.stands_out
        else "no larger than the same change elsewhere: **no effect to speak of**"
    )
    st.markdown(f"KL {made.effect.divergence:.4f} bits, {said}.")
    st.dataframe(
        pd.DataFrame(rows).style.format(precision=4),
        hide_index=True,
        column_config={"KL, bits": st.column_config.Column(help="KL(before ‖ after) of the prediction of this token.")},
    )
