"""`safety-kit evaluate` and `compare`: how good a classifier is, and whether another is better."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_kit import console
from safety_kit.commands import budget_tables, models, rows_options, teach

if TYPE_CHECKING:
    from classifiers.data import Examples

FEW = 30
"""Rows of a label below which resampling makes intervals too narrow."""

FLOORS = {"constant_positive": "always positive", "tfidf_logistic_regression": "TF-IDF + LR"}
VERDICTS = {"a": "A is better", "b": "B is better", "noise": "noise on these rows"}

WIDTH = 40
"""Characters of a slice's name that the tables show."""


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A classifier folder.")],
    data: rows_options.Data,
    category: rows_options.Category = None,
    skip_bad: rows_options.SkipBad = False,
    text_column: rows_options.TextColumn = None,
    prompt_column: rows_options.PromptColumn = None,
    label_column: rows_options.LabelColumn = None,
    positive: rows_options.Positive = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the resamples.", min=0)] = 0,
    as_json: models.Json = False,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Measure a classifier on labelled rows.

    Each figure comes with its 95 % interval, beside the floors on the same rows: calling every row positive, and TF-IDF
    with a logistic regression. Other columns of the rows are slices. Where rows are marked "split": "test", only these
    are read.
    """
    from safety_kit import artifacts

    mapping = rows_options.columns(text_column, prompt_column, label_column, positive)
    examples, held_out = _to_measure(rows_options.read_rows(data, category, skip_bad, mapping))
    artifacts.check_folder(folder)  # a wrong folder is told before a model is loaded
    gemma = models.load(model, revision, device, dtype)

    from classifiers import AdapterClassifier, ladder
    from classifiers.evaluate import evaluate as measure

    classifier = ladder.load(folder, gemma, progress=True)
    report = measure(classifier, examples, seed=seed)
    _note_few(report)
    heads = classifier.heads_ if isinstance(classifier, AdapterClassifier) else {}
    if isinstance(classifier, AdapterClassifier) and not heads:
        rows_options.warn("this adapter keeps no scores of harmless examples; teach it again for budgets.")
    if as_json:
        budgets = {"budgets": budget_tables.budget_rows(heads)} if heads else {}
        console.emit({"rows": len(examples.texts), "held_out": held_out, "categories": report, **budgets})
    else:
        for name, figures in report.items():
            _show_category(name, figures, held_out)
        if heads:
            budget_tables.show_heads(heads, budget_tables.HELD_OUT)
    return 0


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A classifier folder.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one, of the same model.")],
    data: rows_options.Data,
    category: rows_options.Category = None,
    skip_bad: rows_options.SkipBad = False,
    text_column: rows_options.TextColumn = None,
    prompt_column: rows_options.PromptColumn = None,
    label_column: rows_options.LabelColumn = None,
    positive: rows_options.Positive = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the resamples.", min=0)] = 0,
    as_json: models.Json = False,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Say whether one classifier is better than another.

    Both are measured on the same rows; each difference comes with its 95 % interval, and is noise where that holds 0.
    Where rows are marked "split": "test", only these are read.
    """
    from safety_kit import artifacts

    mapping = rows_options.columns(text_column, prompt_column, label_column, positive)
    examples, held_out = _to_measure(rows_options.read_rows(data, category, skip_bad, mapping))
    for folder in (a, b):
        artifacts.check_folder(folder)
    gemma = models.load(model, revision, device, dtype)

    from classifiers import ladder
    from classifiers.compare import compare as measure

    first, second = (ladder.load(folder, gemma, progress=True) for folder in (a, b))
    report = measure(first, second, examples, seed=seed)
    _note_few(report)
    if as_json:
        document = {"a": str(a), "b": str(b), "rows": len(examples.texts), "held_out": held_out, "categories": report}
        console.emit(document)
        return 0
    for name, figures in report.items():
        _show_differences(name, figures, f"A = {a}, B = {b}, {_rows(figures, held_out)}")
    return 0


def _to_measure(examples: Examples) -> tuple[Examples, bool]:
    """The rows held out, where there are any, else all; and which it was."""
    held_out = bool(examples.held_out.any())
    return (examples.test() if held_out else examples), held_out


def _note_few(report: Mapping[str, Any]) -> None:
    few = [name for name, one in report.items() if min(one["positives"], one["n"] - one["positives"]) < FEW]
    if few:
        rows_options.warn(
            f"fewer than {FEW} rows of a label for {', '.join(few)}: intervals from so few are too narrow."
        )


def _rows(figures: Mapping[str, Any], held_out: bool) -> str:
    return f"{figures['n']} {'held-out ' if held_out else ''}rows, {figures['positives']} positive"


def _show_category(name: str, report: Mapping[str, Any], held_out: bool) -> None:
    from classifiers.metrics import HEADINGS

    floors = report["floors"]
    columns = ["classifier", *(FLOORS[floor] for floor in floors)]
    title = f"{name}: {_rows(report, held_out)}; 95 % intervals"
    made = console.table("", *columns, title=title, right=columns)
    for metric, heading in HEADINGS.items():
        console.add_row(made, heading, *(teach.figure(of[metric]) for of in (report, *floors.values())))
    console.show(made)
    if "tfidf_logistic_regression" in floors:
        print("TF-IDF + LR is cross-validated on these very rows: it has learned from rows of their kind.")
    else:
        print("There is no floor of TF-IDF + LR: a label has too few groups to be cross-validated.")
    share = report["prevalence"]
    print(
        f"Probabilities are for a prevalence of {share['probabilities']:.0%}; {share['rows']:.1%} of these rows are "
        f"positive. Moved to that, ECE is {teach.figure(share['ece_moved_to_rows'])}.\n"
    )
    curve = console.table("said", "was", "rows", title="Reliability", right=["said", "was", "rows"])
    for point in report["reliability"]:
        was = teach.figure({"value": point["was"], "low": point["low"], "high": point["high"]})
        console.add_row(curve, f"{point['said']:.3f}", was, str(point["n"]))
    console.show(curve)
    for column, slices in report["slices"].items():
        _show_slices(column, slices)


def _show_slices(column: str, slices: Mapping[str, Any]) -> None:
    from classifiers.evaluate import ENOUGH
    from classifiers.metrics import HEADINGS

    if slices["values"]:
        shown = ("auroc", "f1", "recall_at_1pct_fpr")
        headings = ["rows", "positive", *(HEADINGS[metric] for metric in shown), "TF-IDF + LR: AUROC"]
        made = console.table(column, *headings, title=f"By {console.one_line(column, WIDTH)}", right=headings)
        for value, figures in slices["values"].items():
            floor = figures["floors"].get("tfidf_logistic_regression", {}).get("auroc")
            cells = [teach.figure(figures[metric]) for metric in shown]
            counts = (str(figures["n"]), str(figures["positives"]))
            console.add_row(made, console.one_line(value, WIDTH), *counts, *cells, teach.figure(floor))
        console.show(made)
    few = slices["too_few"]
    if few["values"] and (few["named"] or slices["values"]):  # a column of other things, such as ids, says nothing
        named = ", ".join(f"{console.one_line(value, WIDTH)} ({one['n']})" for value, one in few["named"].items())
        print(
            f"{console.one_line(column, WIDTH)}: too few rows for figures (below {ENOUGH} of a label): "
            f"{named or str(few['values']) + ' values'}\n"
        )


def _show_differences(name: str, report: Mapping[str, Any], title: str) -> None:
    from classifiers.metrics import HEADINGS

    made = console.table("", "A", "B", "B − A (95 %)", "", title=f"{name}: {title}", right=["A", "B", "B − A (95 %)"])
    for metric, one in report["metrics"].items():
        by = one["difference"]
        cells = [f"{one['a']:.3f}", f"{one['b']:.3f}", f"{by['value']:+.3f} ({by['low']:+.3f} to {by['high']:+.3f})"]
        console.add_row(made, HEADINGS[metric], *cells, VERDICTS[one["verdict"]])
    console.show(made)
    print(verdict_in_words(report["metrics"]))


def verdict_in_words(metrics: Mapping[str, Any]) -> str:
    """Which of the two is better in what, in a sentence."""
    from classifiers.metrics import HEADINGS

    parts = []
    for side in ("a", "b"):
        better = [HEADINGS[metric] for metric, one in metrics.items() if one["verdict"] == side]
        if better:
            parts.append(f"{side.upper()} is better in {', '.join(better)}")
    if not parts:
        return "Every difference is noise on these rows: none of the intervals leaves 0 out."
    noise = any(one["verdict"] == "noise" for one in metrics.values())
    return f"{'; '.join(parts)}{'; the rest is noise on these rows' if noise else ''}."
