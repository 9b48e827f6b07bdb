"""`safety-kit classify`: the probabilities of some texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safety_kit import console
from safety_kit.commands import models, rows_options
from safety_kit.commands.inputs import STDIN, Row, one_text, read_rows
from safety_kit.errors import UserError

WIDTH = 60
"""Characters of a text that the table shows."""


def classify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A classifier folder that `train` wrote.")],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts, each in quotes; - reads standard input.")
    ] = None,
    rows: rows_options.Input = None,
    text_column: rows_options.TextColumn = None,
    prompt_column: rows_options.PromptColumn = None,
    as_json: models.Json = False,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Score texts with a classifier.

    A calibrated probability for each of its categories.
    """
    from safety_kit import artifacts

    if rows is not None and texts:
        raise UserError("Give texts or --input FILE, not both.")
    mapping = rows_options.columns(text_column, prompt_column)
    read = read_rows(rows, mapping) if rows is not None else _rows(texts)
    artifacts.check_folder(folder)  # a wrong folder is told before a model is loaded
    gemma = models.load(model, revision, device, dtype)

    from classifiers import ladder

    classifier = ladder.load(folder, gemma)
    probabilities = classifier.category_probabilities([(row.prompt, row.text) for row in read])
    scored = [
        (row.text, {name: _probability(p) for name, p in zip(classifier.categories_, scores, strict=True)})
        for row, scores in zip(read, probabilities, strict=True)
    ]
    if as_json:
        console.emit({"results": [{"text": text, "scores": scores} for text, scores in scored]})
        return 0
    made = console.table("text", *classifier.categories_, right=list(classifier.categories_))
    for text, scores in scored:
        console.add_row(made, console.one_line(text, WIDTH), *(f"{score:.3f}" for score in scores.values()))
    console.show(made)
    return 0


def _probability(value: float) -> float:
    return 0.0 if value != value else round(float(value), 6)  # a text without tokens holds nothing


def _rows(texts: list[str] | None) -> list[Row]:
    if texts and texts != [STDIN]:
        return [Row(text) for text in texts]
    return [Row(one_text(texts[0] if texts else None, "TEXT"))]
