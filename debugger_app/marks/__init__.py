"""A text with what was found marked in it: inert, shown by `textContent` alone."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import streamlit as st

from debugger_app.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safety_kit.types import Finding


def segments(text: str, findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """The text in pieces, each with the categories that cover it, joined; empty where none does.

    Args:
        text: As it was checked.
        findings: Their spans point into it; those without a span mark nothing.
    """
    spans = [(start, end, finding.category) for finding in findings for start, end in finding.spans]
    edges = sorted({0, len(text), *(edge for start, end, _ in spans for edge in (start, end) if edge <= len(text))})
    return [
        (text[a:b], ", ".join(dict.fromkeys(name for start, end, name in spans if start <= a and b <= end)))
        for a, b in pairwise(edges)
    ]


@cache
def _component() -> Any:
    here = files(__package__)
    return st.components.v2.component(
        "marked_text",
        html='<p class="text"></p>',
        css=(here / "marks.css").read_text(encoding="utf-8"),
        js=(here / "marks.js").read_text(encoding="utf-8"),
    )


def marked(text: str, findings: Sequence[Finding], *, key: str) -> None:
    """Show a text with its findings marked, each mark named."""
    pieces = [{"text": visible(piece), "label": visible(label)} for piece, label in segments(text, findings)]
    _component()(key=key, data={"pieces": pieces})
