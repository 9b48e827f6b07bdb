"""Keywords whose words are kept apart by something other than one blank: `project_bluebird`, `project   bluebird`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from safety_kit.checks.windows import Hit

SEPARATOR: Final = re.compile(r"(?<=[^\W_])(?:[^\S\n]{2,4}|[^\S\n]?\n[^\S\n]{1,2}|[./+|-]| ?[_*~`]{1,3} ?)(?=[^\W_])")
"""Blanks, an indented line, the signs of identifiers, paths and Markdown; not what ends a clause or a paragraph."""


def across_separators(scan: Callable[[str], list[Hit]]) -> Callable[[str], list[Hit]]:
    """The same scan over a piece in which each separator is one blank; only hits with one inside count.

    Args:
        scan: Finds hits in a piece.
    """

    def scan_all(piece: str) -> list[Hit]:
        from safety_kit.views.mapped import Edit, edited, identity

        edits = [Edit(match.start(), match.end(), " ") for match in SEPARATOR.finditer(piece)]
        if not edits:
            return []
        view = edited(identity(piece), edits, "separated")
        hits = []
        for hit in scan(view.text):
            start, end = view.to_raw(hit.start, hit.end)
            if piece[start:end] != view.text[hit.start : hit.end]:
                hits.append(replace(hit, start=start, end=end, detail=f"{hit.detail}, separated"))
        return hits

    return scan_all
