"""`safety-kit inspect`: one prompt and its reply, token by token."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safety_kit import console
from safety_kit.commands import models, sampling_options
from safety_kit.commands.inputs import one_text
from safety_kit.commands.sampling_options import PANEL
from safety_kit.errors import UserError
from safety_kit.types import Message

if TYPE_CHECKING:
    from safety_kit.analysis.inspection import Inspection, Part
    from safety_kit.analysis.trust_report import Trust
    from safety_kit.gemma import Sampling

SHOWN = 3
"""Alternatives that the table names."""


def inspect(
    prompt: sampling_options.Prompt = None,
    policy: models.PolicyName = "default",
    system: sampling_options.System = None,
    reply: Annotated[str | None, typer.Option("--reply", help="Inspect this reply instead of decoding one.")] = None,
    classifier: Annotated[
        list[Path] | None,
        typer.Option(
            "--classifier", metavar="DIR", help="Also score each message as a whole by this folder; may be repeated."
        ),
    ] = None,
    as_json: models.Json = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write one self-contained page.")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Hold the numbers against plain transformers: a few passes more.")
    ] = False,
    alternatives: Annotated[int, typer.Option("--alternatives", min=1, max=50, help="Likeliest tokens of each.")] = 5,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=0, help="Of the reply; 0 decodes none.", rich_help_panel=PANEL)
    ] = 32,
    temperature: sampling_options.Temperature = 0.0,
    top_k: sampling_options.TopK = 0,
    top_p: sampling_options.TopP = 1.0,
    seed: sampling_options.Seed = None,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Show what the model and each classifier saw at every token.

    Surprisal, rank, entropy and alternatives of each token of prompt and reply; and each classifier's probability if
    the text ended there. The guard does not hold the texts back here: nothing is blocked or redacted.
    """
    if as_json and html is not None:
        raise UserError("Give --json or --html FILE, not both.")
    text = one_text(prompt, "PROMPT")

    from safety_kit import artifacts
    from safety_kit.analysis.inspection import examine
    from safety_kit.gemma import Sampling
    from safety_kit.guard import Guard
    from safety_kit.policy import Policy

    for folder in classifier or ():
        artifacts.check_folder(folder)  # a wrong folder is told before a model is loaded
    sampling = Sampling(max(1, max_tokens), temperature, top_k, top_p, seed=seed)
    rules = Policy.load(policy)
    gemma = models.load(model, revision, device, dtype)
    guard = Guard(rules, gemma)
    messages = [
        *([Message("system", system)] if system else []),
        Message("user", text),
        *([Message("assistant", reply)] if reply is not None else []),
    ]
    made = examine(
        gemma, messages, guard, sampling=sampling if max_tokens or reply is not None else None, top_k=alternatives
    )
    if classifier:
        from classifiers import ladder
        from safety_kit.analysis.wholes import with_wholes

        made = with_wholes(made, messages, [ladder.load(folder, gemma) for folder in classifier])
    held = held_against_plain(made, revision) if trust else None
    document = made.to_json() | ({"trust": held.to_json()} if held is not None else {})
    if as_json:
        console.emit(document)
    elif html is not None:
        from safety_kit.commands.inspect_page import page

        try:
            html.write_text(page(document), encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{html} cannot be written ({error.strerror}); name a file in a folder of yours."
            ) from error
        console.note(f"wrote {html}")
    else:
        for part in made.parts:
            show(made, part)
        if held is not None:
            show_trust(held)
    return 1 if held is not None and held.failed else 0


def held_against_plain(made: Inspection, revision: str | None) -> Trust:
    """The checks of an inspection."""
    from safety_kit.analysis.trust import trust
    from safety_kit.analysis.trust_report import Record

    return trust(made.gemma, Record.of(made, revision))


def show_trust(held: Trust) -> None:
    """A row a check, a failed one red, and what must not be believed for it."""
    from rich.text import Text

    table = console.table("check", "difference", "at most", "", "compared", right=["difference", "at most"])
    for check in held.checks:
        said = "passed" if check.passed else "FAILED"
        cells = [check.name, f"{check.value:.3g}", f"{check.tolerance:.3g}", said, check.compared]
        console.add_row(table, *cells, style=None if check.passed else "bold red")
    title = f"trust: {len(held.checks) - len(held.failed)} of {len(held.checks)} checks passed"
    console.show(Text(title, style="bold red" if held.failed else "bold"), table)
    for check in held.failed:
        console.show(Text(f"Do not rely on {', '.join(check.charts)}: {check.name} failed.", style="red"))
    for note in held.notes:
        console.show(Text(note))


def show(made: Inspection, part: Part) -> None:
    """One message's table, a token a row, and where its classifiers first lie above a threshold."""
    from rich.text import Text

    from safety_kit.analysis.pieces import visible

    raw, sampled, sampling = made.probabilities.raw, made.probabilities.sampled, made.probabilities.sampling
    drawn = sampled if sampling is not None and sampling.temperature > 0 else None  # greedy draws with 0 or 1
    names = [f"p, {_settings(sampling)}"] if sampling is not None and drawn is not None else []
    table = console.table(
        *("token", "bits", "rank", "entropy", *names, "likeliest", "highest classifier"),
        right=["bits", "rank", "entropy", *names],
    )
    for at in range(part.start, part.stop):
        piece = made.pieces[at]
        split = f" ({piece.part} of {piece.parts})" if piece.parts else ""
        cells = [f"{raw.surprisals[at]:.2f}", str(raw.ranks[at]), f"{raw.entropies[at]:.2f}"]
        if drawn is not None:
            cells.append(f"{math.exp(drawn.logprobs[at]):.2f}")
        likeliest = " ".join(f"“{visible(other.text)}” {p:.2f}" for other, p in made.alternatives(raw, at)[:SHOWN])
        classifier, crosses = _classifier(part, at - part.start)
        token = f"{visible(piece.text)}{split}"
        console.add_row(table, token, *cells, likeliest, classifier, style="bold" if crosses else None)
    console.show(Text(f"{part.role}: {part.stop - part.start} tokens", style="bold"), table)
    for whole in (one for one in part.wholes if math.isfinite(one.probability)):
        console.show(Text(console.safe(f"{whole.category}, of the whole message: {whole.probability:.2f}")))
    for strip in part.strips:
        for action, token_ in strip.crossings.items():
            if token_ is not None:
                above = f"{strip.category} lies above {strip.thresholds[action]:.2f} ({action})"
                console.show(Text(console.safe(f"{above} first at token {token_} of {part.stop - part.start}")))


def _settings(sampling: Sampling) -> str:
    """Temperature and what else narrows a sampler's choice."""
    named = {"top-k": sampling.top_k or None, "top-p": sampling.top_p if sampling.top_p < 1 else None}
    said = [f"{name} {value}" for name, value in named.items() if value is not None]
    return ", ".join([f"temperature {sampling.temperature}", *said])


def _classifier(part: Part, at: int) -> tuple[str, bool]:
    """The classifier with the highest probability at a token, and whether any first lies above a threshold there."""
    if not part.strips:
        return "", False
    worst = max(part.strips, key=lambda strip: float(strip.probabilities[at]))
    crosses = any(token == at for strip in part.strips for token in strip.crossings.values())
    return f"{worst.category} {worst.probabilities[at]:.2f}", crosses
