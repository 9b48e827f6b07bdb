"""`safety-kit data`: what is wrong with labelled rows, and a cleaned copy of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_kit import console
from safety_kit.commands import models, rows_options
from safety_kit.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from classifiers.datacheck import Report

app = typer.Typer(help="Check labelled rows before teaching from them.", no_args_is_help=True)

SHOWN = 10
"""Issues of one kind, and places of one issue, that the page shows; --json has all."""


@app.callback()
def options() -> None:
    """Check labelled rows before teaching from them."""


@app.command()
def check(
    data: rows_options.Data,
    against: Annotated[
        str | None, typer.Option("--against", metavar="TEST", help="Rows that nothing taught from may be among.")
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Write a cleaned copy to --out; DATA stays as it is.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The .jsonl file that --fix writes.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --out replace a file (never DATA or TEST).")] = False,
    category: rows_options.Category = None,
    text_column: rows_options.TextColumn = None,
    prompt_column: rows_options.PromptColumn = None,
    label_column: rows_options.LabelColumn = None,
    positive: rows_options.Positive = None,
    as_json: models.Json = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Look for label errors with this Gemma instead of with words: a forward a text.",
            rich_help_panel=models.PANEL,
        ),
    ] = None,
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Report what is wrong with labelled rows, by line; no text is shown.

    Errors: rows that cannot be used, contradicting labels, rows taught from that are also (nearly) in TEST or held out,
    and labels that are all the same. Warnings: duplicates, near duplicates, words or columns that tell the label alone,
    likely label errors, personal data.

    --fix drops bad, contradicting and leaking rows, merges duplicates and puts near duplicates into one pair.

    Exit 0 with no error, 1 with one (after --fix: in the copy), 2 where DATA cannot be read.
    """
    from classifiers.clean import clean, write_rows
    from classifiers.datacheck import check as look
    from classifiers.rows import read_rows, stem

    target = _target(fix, out, force, [data, *([against] if against else [])])
    mapping = rows_options.columns(text_column, prompt_column, label_column, positive)
    about = category or stem(data)
    rows = read_rows(data, category=about, columns=mapping)
    test = read_rows(against, category=about, columns=mapping) if against else None
    gemma = models.load(model, revision, device, dtype) if model else None
    report = look(rows, test, category=category, gemma=gemma, progress=True)
    document: dict[str, Any] = {"data": data, "against": against, **_document(report)}
    left = report
    if target is not None:
        cleaned = clean(rows, report.known)
        write_rows(target, cleaned.records)
        left = look(read_rows(target, category=about), test, category=category, thorough=False)
        document["fixed"] = {"out": str(target), **cleaned.counts, "errors": len(left.errors)}
    if as_json:
        console.emit(document)
    else:
        _show(report)
        if target is not None:
            _show_fixed(target, cleaned.counts, left)
    return 1 if left.errors else 0


def _target(fix: bool, out: Path | None, force: bool, sources: Sequence[str]) -> Path | None:
    """Where the copy goes.

    Raises:
        UserError: It would replace what must stay, or one of --fix and --out is missing.
    """
    if not fix and out is None:
        return None
    if out is None or not fix:
        raise UserError("--fix and --out FILE belong together: the cleaned copy never replaces DATA.")
    if out.suffix.casefold() != ".jsonl":
        raise UserError(f"{out} does not end in .jsonl; the cleaned copy is written as JSONL.")
    if out.is_dir() or (out.exists() and any(Path(one).exists() and out.samefile(one) for one in sources)):
        raise UserError(f"{out} is one of the inputs or a folder; name another file.")
    if out.exists() and not force:
        raise UserError(f"{out} is there already; name another file, or replace it with --force.")
    return out


def _document(report: Report) -> dict[str, Any]:
    return {
        "rows": report.rows,
        "unit": report.unit,
        "errors": len(report.errors),
        "warnings": len(report.warnings),
        "issues": [asdict(issue) for issue in report.issues],
        "notes": list(report.notes),
    }


def _show(report: Report) -> None:
    made = console.table("issue", "", report.unit, "what it is")
    shown: Counter[str] = Counter()
    for issue in report.issues:
        shown[issue.kind] += 1
        if shown[issue.kind] <= SHOWN:
            places = ", ".join(map(str, issue.places[:SHOWN])) + (", …" if len(issue.places) > SHOWN else "")
            style = "red" if issue.severity == "error" else None
            console.add_row(made, issue.kind.replace("_", " "), issue.severity, places, issue.detail, style=style)
    if report.issues:
        console.show(made)
    for kind, number in shown.items():
        if number > SHOWN:
            console.note(f"{number - SHOWN} more of the kind {kind.replace('_', ' ')}; --json lists all.")
    for note in report.notes:
        console.note(f"note: {note}.")
    counted = f"{len(report.errors)} errors, {len(report.warnings)} warnings"
    print(console.safe(f"{report.name}: {report.rows} rows, {counted}"))


def _show_fixed(target: Path, counts: Mapping[str, int], left: Report) -> None:
    done = ", ".join(f"{number} {what}" for what, number in counts.items())
    print(console.safe(f"{target}: {done}; {len(left.errors)} errors left"))
    for issue in left.errors:
        console.note(f"left: {issue.detail}")
