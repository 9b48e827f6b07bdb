"""Two of a kind as one table: verdicts that change between two policies, figures of two classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from debugger_app.visible import visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from safety_kit.commands.policy_diff import Change
    from safety_kit.types import Sample


def changed_verdicts(changes: Sequence[Change], samples: Mapping[int, Sample]) -> pd.DataFrame:
    """A row a verdict that changes, with its text.

    Args:
        changes: What `policy_diff.changes` found.
        samples: The rows that it was given.
    """
    rows = [
        {
            "row": one.row,
            "from": str(one.before.action),
            "to": str(one.after.action),
            "found": ", ".join(one.categories),
            "text": visible(samples[one.row].text),
        }
        for one in changes
    ]
    return pd.DataFrame(rows, columns=["row", "from", "to", "found", "text"])


def figures(metrics: Mapping[str, Any], a: str, b: str, which: Mapping[str, str]) -> pd.DataFrame:
    """A row a figure: both classifiers', their difference and its interval.

    Args:
        metrics: Of one category, as `classifiers.compare.compare` gives them.
        a: What the first classifier is called.
        b: What the second is called.
        which: In words, the verdicts ``a``, ``b`` and ``noise``.
    """
    from classifiers.metrics import HEADINGS  # brings scipy, which takes a second

    return pd.DataFrame(
        [
            {
                "figure": HEADINGS[name],
                a: one["a"],
                b: one["b"],
                f"{b} − {a}": one["difference"]["value"],
                "95 % from": one["difference"]["low"],
                "to": one["difference"]["high"],
                "which": which[one["verdict"]],
            }
            for name, one in metrics.items()
        ]
    )
