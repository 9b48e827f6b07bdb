"""`safety-kit policy diff`: which verdicts change from one policy to another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_kit import console
from safety_kit.commands import corpus, models, rows_options
from safety_kit.types import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from safety_kit.guard import Guard
    from safety_kit.types import Sample, Verdict

BATCH = 32
SHOWN = 50
"""Rows that the table shows; --json lists all."""

WIDTH = 60


@dataclass(frozen=True, slots=True)
class Change:
    """A row whose verdicts differ.

    Attributes:
        row: Its place.
        before: The first policy's verdict.
        after: The second's.
    """

    row: int
    before: Verdict
    after: Verdict

    @property
    def categories(self) -> list[str]:
        """What differs: ``+`` is found by the second only, ``-`` by the first only, ``~`` elsewhere in the text."""
        before, after = (_spans(verdict) for verdict in (self.before, self.after))
        signs = {name: "~" for name in before.keys() & after.keys() if before[name] != after[name]}
        signs |= dict.fromkeys(before.keys() - after.keys(), "-") | dict.fromkeys(after.keys() - before.keys(), "+")
        return [signs[name] + name for name in sorted(signs)]


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A policy: a YAML file, or a shipped policy's name.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    source: Annotated[str, typer.Argument(metavar="CORPUS", help="Rows, as for `scan`.")],
    stage: Annotated[Stage, typer.Option("--stage", help="Of rows that name none.")] = Stage.INPUT,
    text: rows_options.TextColumn = None,
    prompt: rows_options.PromptColumn = None,
    show_text: Annotated[bool, typer.Option("--show-text", help="Also show the texts of these rows.")] = False,
    as_json: models.Json = False,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """List the verdicts that change from policy A to policy B.

    A verdict changes with its action, with the categories that were found, or with their places in the text. Exit 0
    where none does, 1 where some do.
    """
    from safety_kit.guard import Guard
    from safety_kit.policy import Policy

    read = corpus.read(source, stage, rows_options.columns(text, prompt))
    policies = [Policy.load(name) for name in (first, second)]
    gemma = models.gemma_for(policies, model, revision, device, dtype)
    a, b = (Guard(policy, gemma) for policy in policies)
    samples = {entry.place: entry.sample for entry in read if entry.sample is not None}
    found = changes(a, b, samples)
    moves = Counter(f"{one.before.action} → {one.after.action}" for one in found)
    if as_json:
        console.emit(
            {
                "rows": len(samples),
                "changed": len(found),
                "policies": [{"name": guard.policy.name, "digest": guard.digest} for guard in (a, b)],
                "moves": dict(moves),
                "changes": [_json(one, samples[one.row] if show_text else None) for one in found],
            }
        )
        return int(bool(found))
    print(f"{len(found)} of {len(samples)} verdicts change" + "".join(f" · {n} {move}" for move, n in moves.items()))
    if found:
        headings = [read.unit, "at", "from", "to", "categories"]
        made = console.table(*headings, *(["text"] if show_text else []))
        for one in found[:SHOWN]:
            cells = [str(one.row), one.after.stage.value, str(one.before.action), str(one.after.action)]
            cells.append(", ".join(_named(one)))
            console.add_row(made, *cells, *([console.one_line(samples[one.row].text, WIDTH)] if show_text else []))
        console.show(made)
    if len(found) > SHOWN:
        print(f"and {len(found) - SHOWN} more; --json lists all.")
    return int(bool(found))


def changes(
    a: Guard, b: Guard, samples: Mapping[int, Sample], progress: Callable[[int], None] = lambda _: None
) -> list[Change]:
    """The rows of which two guards say different things, in order.

    Args:
        a: The first.
        b: The second.
        samples: The rows, by their place.
        progress: Called with the number of rows done, after each batch.
    """
    places = list(samples)
    found: list[Change] = []
    for start in range(0, len(places), BATCH):
        part = places[start : start + BATCH]
        checked = [guard.check([samples[place] for place in part]) for guard in (a, b)]
        found += [
            Change(place, before, after)
            for place, before, after in zip(part, *checked, strict=True)
            if _differ(before, after)
        ]
        progress(start + len(part))
    return found


def _differ(before: Verdict, after: Verdict) -> bool:
    return (
        before.action is not after.action
        or _spans(before) != _spans(after)
        or {error.check for error in before.errors} != {error.check for error in after.errors}
    )


def _spans(verdict: Verdict) -> dict[str, set[tuple[tuple[int, int], ...]]]:
    found: dict[str, set[tuple[tuple[int, int], ...]]] = {}
    for finding in verdict.findings:
        found.setdefault(finding.category, set()).add(finding.spans)
    return found


def _named(change: Change) -> list[str]:
    """What differs; of a change of action alone, what was found; and the checks that failed."""
    found = change.categories or sorted(_spans(change.after))
    errors = {error.check for verdict in (change.before, change.after) for error in verdict.errors}
    return [*found, *(f"error: {check}" for check in sorted(errors))]


def _json(change: Change, sample: Sample | None) -> dict[str, Any]:
    made = {
        "row": change.row,
        "stage": change.after.stage.value,
        "from": str(change.before.action),
        "to": str(change.after.action),
        "categories": change.categories,
        "found": sorted(_spans(change.after)),
        "errors": sorted({e.check for verdict in (change.before, change.after) for e in verdict.errors}),
    }
    return made if sample is None else made | {"text": sample.text}
