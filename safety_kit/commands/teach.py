"""`safety-kit train` and `prepare`: teaching classifiers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from safety_kit import console
from safety_kit.commands import budget_tables, models, rows_options
from safety_kit.errors import UserError

if TYPE_CHECKING:
    from classifiers.data import Examples
    from safety_kit.gemma import Gemma
    from safety_kit.heads import Scored

Report: TypeAlias = Mapping[str, Mapping[str, float]]


class ReadingName(StrEnum):
    """Where a classifier reads its texts."""

    CAUSAL = "causal"
    ALONE = "alone"


class RungName(StrEnum):
    """How much of the model is taught."""

    AUTO = "auto"
    FROZEN = "frozen"
    ADAPTER = "adapter"


def train(
    data: rows_options.Data,
    out: Annotated[Path, typer.Option("--out", help="The classifier folder to write.")],
    category: rows_options.Category = None,
    reading: Annotated[
        ReadingName,
        typer.Option("--reading", help="causal: where it stands in a prompt (a guard needs it); alone: in a question."),
    ] = ReadingName.CAUSAL,
    rung: Annotated[
        RungName,
        typer.Option("--rung", help="frozen: seconds; adapter (LoRA): minutes, from some hundred rows; auto chooses."),
    ] = RungName.AUTO,
    benign: Annotated[
        bool, typer.Option("--benign", help="Add the kit's harmless texts: low false-positive rates need many.")
    ] = False,
    skip_bad: rows_options.SkipBad = False,
    text_column: rows_options.TextColumn = None,
    prompt_column: rows_options.PromptColumn = None,
    label_column: rows_options.LabelColumn = None,
    positive: rows_options.Positive = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the cross-validation's folds.")] = 0,
    as_json: models.Json = False,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Teach a classifier from labelled rows.

    It is written as a folder; the figures shown are cross-validated. Rows marked "split": "test" are left out;
    `evaluate` with the same file then reads only these.
    """
    from safety_kit import artifacts

    artifacts.check_target(out)
    mapping = rows_options.columns(text_column, prompt_column, label_column, positive)
    examples = rows_options.read_rows(data, category, skip_bad, mapping).teach()
    if benign:
        from classifiers.teach import benign_examples

        examples = examples.with_negatives(benign_examples().teach())
    gemma = models.load(model, revision, device, dtype)

    begin = time.perf_counter()
    if len(examples.categories) == 1:
        report, why, heads = _teach_one(gemma, examples, rung, reading, seed, out)
    elif rung is RungName.ADAPTER:
        raise UserError("An adapter is taught for one category; name it with --category.")
    else:
        (report, why), heads = _teach_several(gemma, examples, reading, seed, out), {}
    seconds = time.perf_counter() - begin
    if as_json:
        console.emit(
            {
                "out": str(out),
                "rung": why[0],
                "why": why[1],
                "reading": reading.value if why[0] == "frozen" else "alone",
                "rows": len(examples.texts),
                "categories": report,
                **({"budgets": budget_tables.budget_rows(heads)} if heads else {}),
                "seconds": round(seconds, 3),
            }
        )
    else:
        held = "Cross-validated on the rows taught from" if why[0] == "frozen" else "On a held-out fifth of the rows"
        show_metrics(report, held)
        if heads:
            budget_tables.show_heads(heads, budget_tables.HELD_OUT)
        print(console.safe(f"{why[0]}: {why[1]}\n{len(examples.texts)} rows in {seconds:.1f} s → {out}"))
    return 0


def _teach_one(
    gemma: Gemma, examples: Examples, rung: RungName, reading: ReadingName, seed: int, out: Path
) -> tuple[Report, tuple[str, str], Mapping[str, Scored]]:
    """Teach one category on the rung asked for and save it.

    Returns:
        Its metrics; the rung, and why that one; an adapter's budgets (`calibrate` shows those of frozen classifiers).
    """
    from classifiers import ladder

    [category] = examples.categories
    checkpoint = out.with_name(f".{out.name}-epochs")  # a killed adapter goes on from here
    taught = ladder.fit(
        gemma,
        examples.pairs(),
        examples.labels[:, 0],
        category=category,
        rung=rung.value,
        reading=reading.value,
        groups=examples.groups,
        seed=seed,
        checkpoint=checkpoint,
        progress=True,
    )
    classifier: Any = taught.classifier
    classifier.save(out)
    shutil.rmtree(checkpoint, ignore_errors=True)
    why = taught.rung, taught.why
    if taught.rung == "frozen":
        return classifier.report_, why, {}
    return {category: classifier.report_}, why, classifier.heads_


def _teach_several(
    gemma: Gemma, examples: Examples, reading: ReadingName, seed: int, out: Path
) -> tuple[Report, tuple[str, str]]:
    from classifiers import SafetyClassifier

    classifier = SafetyClassifier(
        gemma, reading=reading.value, categories=examples.categories, seed=seed, progress=True
    )
    classifier.fit(examples.pairs(), examples.labels, groups=examples.groups).save(out)
    return classifier.report_, ("frozen", "Several categories share one forward pass on frozen activations.")


def prepare(
    model: Annotated[str, typer.Option("--model", help="A hub id or a folder; embedded has its classifiers already.")],
    policy: models.PolicyName = "default",
    as_json: models.Json = False,
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Teach a model the classifiers that a policy wants.

    Those that are there already stay; stopped, it goes on where it was.
    """
    from classifiers.teach import estimate, missing, teach_missing
    from safety_kit.policy import Policy

    rules = Policy.load(policy)
    gemma = models.load(model, revision, device, dtype)
    wanted = missing(rules, gemma)
    begin = time.perf_counter()
    if wanted:
        expected = estimate(wanted, gemma)
        console.note(f"{len(wanted)} to teach ({', '.join(wanted)}): about {expected:.0f} s")
    folders = teach_missing(rules, gemma, progress=True) if wanted else []
    seconds = time.perf_counter() - begin
    if as_json:
        taught = [str(folder) for folder in folders]
        console.emit({"model": model, "categories": wanted, "taught": taught, "seconds": round(seconds, 3)})
    elif wanted:
        print(console.safe(f"Taught {', '.join(wanted)} for {model} in {seconds:.0f} s."))
    else:
        print(console.safe(f"{model} has every classifier that {rules.name} wants."))
    return 0


def show_metrics(report: Mapping[str, Mapping[str, float]], title: str) -> None:
    """A table of figures by category."""
    from classifiers.metrics import HEADINGS

    made = console.table("category", *HEADINGS.values(), title=title, right=list(HEADINGS.values()))
    for category, figures in report.items():
        console.add_row(made, category, *(figure(figures.get(name)) for name in HEADINGS))
    console.show(made)


def figure(value: Any) -> str:
    """A figure, with its interval where it has one; a dash where there is none."""
    if isinstance(value, Mapping):
        return f"{value['value']:.3f} ({value['low']:.3f}–{value['high']:.3f})"
    return "–" if value is None else f"{value:.3f}"
