"""`safety-kit judge`: a guideline put to a Gemma as a question, and what labelled rows say of the answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_kit import console, files
from safety_kit.commands import models, rows_options
from safety_kit.commands.inputs import STDIN, Row, one_text, read_rows
from safety_kit.errors import UserError

if TYPE_CHECKING:
    from safety_kit.evidence import Guideline
    from safety_kit.gemma import Gemma

WIDTH = 60
"""Characters of a text that the table shows."""


def judge(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts, each in quotes; - reads standard input.")
    ] = None,
    guideline: Annotated[
        str | None, typer.Option("--guideline", help="What a text must not do, in a sentence.")
    ] = None,
    guideline_file: Annotated[Path | None, typer.Option("--guideline-file", help="Or: a file with the text.")] = None,
    rows: rows_options.Input = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Measure on labelled rows (label 1: violates), as `train` reads them.")
    ] = None,
    evidence: Annotated[
        Path | None, typer.Option("--evidence", help="The JSON file to write, for a policy's judge.")
    ] = None,
    category: Annotated[
        str | None, typer.Option("--category", help="What label 1 means; the file's name by default.")
    ] = None,
    skip_bad: rows_options.SkipBad = False,
    text_column: rows_options.TextColumn = None,
    prompt_column: rows_options.PromptColumn = None,
    label_column: rows_options.LabelColumn = None,
    positive: rows_options.Positive = None,
    as_json: models.Json = False,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Ask a model whether texts violate a guideline.

    Prints the probability of Yes, which is not calibrated. With --data it measures the guideline: a judge may block
    only where the 95 % interval of the AUROC lies above .7. Where rows are marked "split": "test", only these are read.
    """
    asked = _guideline(guideline, guideline_file, category)
    mapping = rows_options.columns(text_column, prompt_column, label_column, positive)
    if data is None:
        if evidence is not None:
            raise UserError("--evidence needs labelled rows: name them with --data.")
        if rows is not None and texts:
            raise UserError("Give texts or --input FILE, not both.")
        read = read_rows(rows, mapping) if rows is not None else _rows(texts)
        return _ask(models.load(model, revision, device, dtype), asked, read, as_json)
    if rows is not None or texts:
        raise UserError("Give --data or texts to read, not both.")
    if evidence is not None and not evidence.absolute().parent.is_dir():
        raise UserError(f"The folder of {evidence} does not exist; make it first.")

    examples = rows_options.read_rows(data, category, skip_bad, mapping)
    if examples.held_out.any():
        examples = examples.test()
    gemma = models.load(model, revision, device, dtype)

    from classifiers.zero_shot import evidence as measure

    found = measure(gemma, asked, examples, progress="asking")
    if evidence is not None:
        files.write(evidence, (json.dumps(found, indent=1) + "\n").encode())
    if as_json:
        console.emit(found)
    else:
        _show(found, evidence)
    return 0


def _guideline(text: str | None, file: Path | None, category: str | None) -> Guideline:
    if (text is None) == (file is None):
        raise UserError("Say what a text must not do: with --guideline TEXT or --guideline-file FILE.")
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"The guideline {file} cannot be read; name a text file in UTF-8.") from error
    if not text or not text.strip():
        raise UserError("The guideline is empty; say what a text must not do.")

    from safety_kit.evidence import Guideline

    return Guideline(category or "violation", text)


def _rows(texts: list[str] | None) -> list[Row]:
    if texts and texts != [STDIN]:
        return [Row(text) for text in texts]
    return [Row(one_text(texts[0] if texts else None, "TEXT"))]


def _ask(gemma: Gemma, guideline: Guideline, read: list[Row], as_json: bool) -> int:
    from safety_kit.gemma.judge import yes_probability

    found = yes_probability(gemma, [(row.prompt, row.text) for row in read], guideline, "asking")
    if as_json:
        results = [{"text": row.text, "p_yes": round(p, 6)} for row, p in zip(read, found, strict=True)]
        console.emit({"guideline_digest": guideline.digest, "results": results})
        return 0
    made = console.table("text", "P(Yes)", right=["P(Yes)"])
    for row, p in zip(read, found, strict=True):
        console.add_row(made, console.one_line(row.text, WIDTH), f"{p:.3f}")
    console.show(made)
    return 0


def _show(found: dict[str, Any], path: Path | None) -> None:
    from safety_kit.evidence import Evidence
    from safety_kit.types import Stage

    made = console.table("at", "AUROC", "label 1", "label 0", "may", right=["AUROC", "label 1", "label 0"])
    shown = Evidence.model_validate(found)
    for stage, one in shown.stages.items():
        figure = f"{one.auroc.value:.3f} ({one.auroc.low:.3f}–{one.auroc.high:.3f})"
        may = "block" if shown.may_block(Stage(stage)) else "flag"
        console.add_row(made, stage.value, figure, str(one.positives), str(one.negatives), may)
    console.show(made)
    if path is not None:
        print(console.safe(f"Written: {path}"))
