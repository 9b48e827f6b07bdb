"""`safety-kit next` and `curve`: which texts to label next, and whether more of them would help."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_kit import console
from safety_kit.commands import models, rows_options, teach
from safety_kit.errors import DataError, UserError

if TYPE_CHECKING:
    from classifiers.curve import Curve
    from classifiers.sources import Columns

WIDTH = 70
"""Characters of a text that the table shows."""


class Metric(StrEnum):
    """What a learning curve's advice is about."""

    AUROC = "auroc"
    AU_PRC = "au_prc"
    F1 = "f1"
    MACRO_F1 = "macro_f1"


def next_texts(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A classifier folder.")],
    pool: Annotated[
        str,
        typer.Argument(
            metavar="POOL", help='Rows {"text", "prompt"?}, a .txt file with a text a line, or a hub data set hf:….'
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The JSONL file to write; it must not exist.")],
    n: Annotated[int, typer.Option("-n", "--number", help="Texts to choose.", min=1)] = 20,
    category: Annotated[str | None, typer.Option("--category", help="Of a classifier that knows several.")] = None,
    labelled: Annotated[
        str | None,
        typer.Option("--labelled", help="Rows that you have already, in the pool's columns or the kit's: left out."),
    ] = None,
    skip_bad: rows_options.SkipBad = False,
    text_column: rows_options.TextColumn = None,
    prompt_column: rows_options.PromptColumn = None,
    label_column: rows_options.LabelColumn = None,
    as_json: models.Json = False,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Choose the texts that are worth labelling next.

    Those that the classifier doubts most, and no two alike. They are written as rows whose label is null: fill in 1 or
    0, and `train` takes them. Rows of the pool that have a label are left out.
    """
    from safety_kit import artifacts

    if out.exists():
        raise UserError(f"{out} exists and may hold labels; name another file.")
    names = list(artifacts.categories_of(folder))
    if category is None and len(names) > 1:
        raise UserError(f"The classifier knows {', '.join(names)}; name one with --category.")
    if category is not None and category not in names:
        raise UserError(f"The classifier does not know {category}; it knows {', '.join(names)}.")

    from classifiers.pool import read_pool, write_choices

    mapping = rows_options.columns(text_column, prompt_column, label_column)
    known = _known(labelled, mapping) if labelled else ()
    texts = read_pool(pool, category=category or names[0], columns=mapping, known=known, skip_bad=skip_bad)
    gemma = models.load(model, revision, device, dtype)

    from classifiers import ladder
    from classifiers.choose import choose

    classifier = ladder.load(folder, gemma, progress=True)
    probabilities = classifier.category_probabilities(texts.pairs)[:, names.index(category or names[0])]
    choices = choose(texts.pairs, probabilities, n)
    write_choices(out, texts, choices)
    if as_json:
        left_out = {"labelled": texts.labelled, "known": texts.known, "bad": texts.bad}
        console.emit({"out": str(out), "rows": len(choices), "pool": len(texts.pairs), "left_out": left_out})
        return 0
    made = console.table("text", "score", right=["score"])
    for choice in choices:
        console.add_row(made, console.one_line(texts.pairs[choice.row][1], WIDTH), f"{choice.score:.3f}")
    console.show(made)
    print(
        console.safe(
            f"{len(choices)} of {len(texts.pairs)} unlabelled texts → {out}; fill in each label (1 or 0) and add the "
            "rows to those you teach from."
        )
    )
    return 0


def _known(labelled: str, mapping: Columns) -> Sequence[tuple[str | None, str]]:
    """The texts of rows that have the columns named for the pool, or the kit's own as `train` and `next` write them."""
    from classifiers.pool import read_pool

    try:
        return read_pool(labelled, columns=mapping, every=True).pairs
    except DataError as error:
        try:
            return read_pool(labelled, every=True).pairs
        except DataError:
            raise error from None


def curve(
    data: rows_options.Data,
    out: Annotated[Path | None, typer.Option("--out", help="A folder for curve.json, curve.svg and curve.png.")] = None,
    category: rows_options.Category = None,
    reading: Annotated[teach.ReadingName, typer.Option("--reading", help="As in `train`.")] = teach.ReadingName.CAUSAL,
    metric: Annotated[Metric, typer.Option("--metric", help="What the advice is about.")] = Metric.AUROC,
    draws: Annotated[int, typer.Option("--draws", help="Random choices of examples a size.", min=2)] = 5,
    skip_bad: rows_options.SkipBad = False,
    text_column: rows_options.TextColumn = None,
    prompt_column: rows_options.PromptColumn = None,
    label_column: rows_options.LabelColumn = None,
    positive: rows_options.Positive = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the split and the draws.", min=0)] = 0,
    as_json: models.Json = False,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Say whether more examples would help.

    Teaches with 8, 16, 32, … examples of each label, several times each, and measures on texts held out: those marked
    "split": "test", else a quarter.
    """
    mapping = rows_options.columns(text_column, prompt_column, label_column, positive)
    examples = rows_options.read_rows(data, category, skip_bad, mapping)
    if len(examples.categories) > 1:
        raise UserError(f"The rows label {', '.join(examples.categories)}; name one with --category.")
    if out is not None:
        from classifiers import plots

        plots.check_installed()
    gemma = models.load(model, revision, device, dtype)

    from classifiers.curve import learning_curve

    made = learning_curve(
        gemma, examples, metric=metric.value, reading=reading.value, draws=draws, seed=seed, progress=True
    )
    document = {**asdict(made), "sentence": made.sentence}
    written = _write(out, made, document) if out else []
    if as_json:
        console.emit({**document, "files": [str(path) for path in written]})
    else:
        _show(made)
        if written:
            print(console.safe(f"→ {', '.join(map(str, written))}"))
    return 0


def _write(folder: Path, made: Curve, document: dict[str, Any]) -> list[Path]:
    from classifiers.plots import draw_curve, save_plot
    from safety_kit import files

    chart = draw_curve(made)
    path = folder / "curve.json"
    files.write(path, (json.dumps(document, indent=1) + "\n").encode())
    return [path, *save_plot(chart, folder, "curve")]


def _show(made: Curve) -> None:
    from classifiers.metrics import HEADINGS

    marked = "held-out texts, as the rows mark them" if made.marked else "texts held out at random"
    title = f"{made.category}: measured on {made.held_out} {marked}, {made.draws} draws a size; 95 % intervals"
    shown = list(dict.fromkeys([made.metric, "auroc", "f1"]))
    headings = ["of each label", *(HEADINGS[metric] for metric in shown)]
    table = console.table(*headings, title=title, right=headings)
    for size in made.sizes:
        console.add_row(table, str(size.positives), *(teach.figure(size.figures[metric]) for metric in shown))
    console.show(table)
    print(console.safe(made.sentence))
