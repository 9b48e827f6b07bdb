"""`safety-kit explain`: where a score was read out, word by word, and which span it falls without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safety_kit import console
from safety_kit.commands import models
from safety_kit.commands.inputs import one_text

if TYPE_CHECKING:
    from classifiers.explain import Explanation

WORD = 40
"""Characters of a word that the table shows."""

ROWS = {"question": "(question suffix)", "context": "(context: read, not pooled)"}


def explain(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A classifier folder that `train` wrote.")],
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="A text; - reads standard input.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="For a reply: the message that it answers.")] = None,
    category: Annotated[str | None, typer.Option("--category", help="Which, where the classifier has several.")] = None,
    deletions: Annotated[
        bool, typer.Option("--deletions/--no-deletions", help="Look for a cause: some tens of forward passes.")
    ] = True,
    seed: Annotated[int, typer.Option("--seed", help="Of the random spans.")] = 0,
    as_json: models.Json = False,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Show why a classifier scored a text as it did.

    Each word's share of the score, exactly, which says where it was read out; and the spans without which it is
    lower, which says more.
    """
    from safety_kit import artifacts

    given = one_text(text, "TEXT")
    artifacts.load(folder)  # a wrong folder is told before a model is loaded
    gemma = models.load(model, revision, device, dtype)

    from classifiers import SafetyClassifier
    from classifiers.explain import explain as take_apart

    classifier = SafetyClassifier.load(folder, gemma, progress=True)
    item = given if prompt is None else (prompt, given)
    explanation = take_apart(classifier, item, category, deletions=deletions, seed=seed)
    if as_json:
        console.emit(explanation.to_json())
    else:
        show(explanation)
    return 0


def show(explanation: Explanation) -> None:
    """The table of shares with its sum, then the sentence about the cause."""
    from rich.text import Text

    from classifiers.explain import LABEL

    made = console.table("word", "share", right=["share"])
    largest = max((abs(word.share) for word in explanation.words), default=0.0)
    for word in explanation.words:
        style = "bold" if word.share > 0 and word.share > largest / 2 else None
        shown = console.one_line(explanation.text[slice(*word.span)], WORD)
        console.add_row(made, shown, f"{word.share:+.3f}", style=style)
    made.add_section()
    for row in explanation.rows:
        without = "" if row.drop is None else f"; without it the logit is {row.drop:.2f} lower"
        console.add_row(made, ROWS[row.name] + without, f"{row.share:+.3f}")
    console.add_row(made, "(bias)", f"{explanation.bias:+.3f}")
    console.add_row(made, "sum: the logit", f"{explanation.score:+.3f}", style="bold")
    console.show(Text(console.safe(f"{explanation.category}: {LABEL}"), style="bold"))
    console.show(made, Text(f"probability {explanation.probability:.3f}"))
    if len(explanation.tokens) and explanation.words[0].span[0] > 0:
        console.show(Text(f"The reading that decided begins at character {explanation.words[0].span[0]}.", style="dim"))
    console.show(Text(console.safe(explanation.sentence)))
