"""Which rows a command reads: the options, and the one place that reads labelled rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from safety_kit import console

if TYPE_CHECKING:
    from classifiers.data import Examples
    from classifiers.sources import Columns

PANEL = "Rows"

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help='Rows {"text", "label": 0|1} in JSONL, CSV or Parquet, or a hub data set as hf:ORG/NAME@CONFIG:SPLIT.',
    ),
]
Category = Annotated[
    str | None,
    typer.Option("--category", help="What label 1 means; the file's name by default.", rich_help_panel=PANEL),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Drop the rows that cannot be used.", rich_help_panel=PANEL)]
TextColumn = Annotated[
    str | None, typer.Option("--text-column", help="Has the text; text by default.", rich_help_panel=PANEL)
]
PromptColumn = Annotated[
    str | None,
    typer.Option("--prompt-column", help="Has the message that the text answers; prompt.", rich_help_panel=PANEL),
]
LabelColumn = Annotated[
    str | None, typer.Option("--label-column", help="Has the label; label by default.", rich_help_panel=PANEL)
]
Positive = Annotated[
    list[str] | None,
    typer.Option(
        "--positive", metavar="VALUE", help="A label that means 1, all others 0; repeatable.", rich_help_panel=PANEL
    ),
]


Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="ROWS",
        help='Rows {"text", "prompt"?, "stage"?} in JSONL, CSV or Parquet, or a hub data set hf:ORG/NAME@CONFIG:SPLIT.',
        rich_help_panel=PANEL,
    ),
]


def columns(
    text: str | None = None, prompt: str | None = None, label: str | None = None, positive: list[str] | None = None
) -> Columns:
    """The mapping that the four column options ask for."""
    from classifiers.sources import Columns

    return Columns(text, prompt, label, tuple(positive or ()))


def read_rows(
    data: str,
    category: str | None = None,
    skip_bad: bool = False,
    mapping: Columns | None = None,
) -> Examples:
    """The labelled rows of a file or a hub data set; what was merged or left out is told on stderr.

    Raises:
        DataError: They cannot be taught from, by line.
        MissingExtra: A hub data set is named and the package `datasets` is not installed.
    """
    from classifiers.data import read_examples
    from classifiers.sources import PLAIN

    return read_examples(data, category=category, columns=mapping or PLAIN, skip_bad=skip_bad, warn=warn)


def warn(message: str) -> None:
    """A warning on stderr."""
    console.note(f"warning: {message}")
