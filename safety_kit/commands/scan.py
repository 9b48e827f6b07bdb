"""`safety-kit scan`: hold a corpus against a policy, a verdict a row."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from safety_kit import __version__, console
from safety_kit.commands import corpus, models, rows_options
from safety_kit.errors import UserError
from safety_kit.types import Action, Stage

PANEL = "Output"


def scan(
    source: corpus.In,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The JSONL file that is written, a line a row.")],
    policy: models.PolicyName = "default",
    stage: Annotated[Stage, typer.Option("--stage", help="Of rows that name none.")] = Stage.INPUT,
    text: rows_options.TextColumn = None,
    prompt: rows_options.PromptColumn = None,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Write a fault for rows that cannot be read.",
            rich_help_panel=rows_options.PANEL,
        ),
    ] = False,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="COLUMN", help="Carry over; repeatable, '*' for all.", rich_help_panel=PANEL),
    ] = None,
    keep_text: Annotated[
        bool, typer.Option("--keep-text", help="Write the text, as it may be passed on.", rich_help_panel=PANEL)
    ] = False,
    processes: Annotated[
        int,
        typer.Option(
            "--processes",
            min=1,
            help="Scan in several; each loads the model, if the policy needs one.",
        ),
    ] = 1,
    as_json: models.Json = False,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Hold a corpus against a policy.

    A verdict a row, in order, and a summary at the end. When the scan was stopped, the same command goes on where it
    was: OUT.scan.json says what it was begun with. Exit 0 when all rows are done, whatever was found.
    """
    from tqdm import tqdm

    from safety_kit.commands.scan_output import Output
    from safety_kit.commands.scan_workers import Settings, scanner

    if Path(source).exists() and out.exists() and out.samefile(source):
        raise UserError("OUT is IN; name another file to write.")
    if out.suffix.lower() in (".csv", ".parquet", ".json"):
        raise UserError(f"{out}: a scan writes JSONL; name it {out.with_suffix('.jsonl').name}.")
    read = corpus.read(source, stage, rows_options.columns(text, prompt), keep or (), skip_bad)
    summary = Summary()
    with scanner(Settings(policy, model, revision, device, dtype, keep_text), processes) as (digest, scanned):
        begun = {
            "input": read.digest,
            "policy": digest,
            "--keep-text": str(keep_text),
            "version of the kit": __version__,
        }
        with Output(out, begun, (entry.place for entry in read), summary.add) as output:
            summary.resumed = output.done
            if output.done:
                console.note(f"{out}: {output.done} rows are there already; going on behind them.")
            with tqdm(
                total=len(read), initial=output.done, unit="row", file=sys.stderr, disable=None, leave=False
            ) as bar:
                for lines in scanned(islice(read, output.done, None)):
                    output.write(lines)
                    for line in lines:
                        summary.add(json.loads(line))
                    bar.update(len(lines))
            output.sync()
    if as_json:
        console.emit({"out": str(out), **summary.to_json(), "policy_digest": digest})
    else:
        summary.show()
        print(console.safe(f"→ {out}"))
    return 0


@dataclass
class Summary:
    """What the rows of an output come to.

    Attributes:
        rows: All of them.
        resumed: Those that an earlier scan had written.
        actions: Rows by action.
        categories: By category, rows by the strongest action of its rules.
        spent: By check, milliseconds in all and the most for one row.
        errors: Rows by check that failed; `row` is a row that could not be read.
        faulty: Rows with an error.
    """

    rows: int = 0
    resumed: int = 0
    actions: Counter[str] = field(default_factory=Counter)
    categories: dict[str, Counter[str]] = field(default_factory=dict)
    spent: dict[str, list[float]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    faulty: int = 0

    def add(self, row: dict[str, Any]) -> None:
        """Count a row of the output."""
        self.rows += 1
        self.actions[row["action"]] += 1
        strongest: dict[str, Action] = {}
        for finding in row["findings"]:
            category, action = finding["category"], Action[finding["action"].upper()]
            strongest[category] = max(strongest.get(category, action), action)
        for category, action in strongest.items():
            self.categories.setdefault(category, Counter())[str(action)] += 1
        for check, ms in row["timings"].items():
            total, most, count = self.spent.get(check, [0.0, 0.0, 0])
            self.spent[check] = [total + ms, max(most, ms), count + 1]
        self.errors.update({error["check"] for error in row["errors"]})
        self.faulty += bool(row["errors"])

    @property
    def slowest(self) -> str | None:
        """The check that took most time in all."""
        return max(self.spent, key=lambda check: self.spent[check][0], default=None)

    def to_json(self) -> dict[str, Any]:
        checks = {
            check: {"ms": round(total, 3), "mean_ms": round(total / count, 3), "most_ms": round(most, 3)}
            for check, (total, most, count) in self.spent.items()
        }
        return {
            "rows": self.rows,
            "resumed": self.resumed,
            "actions": {str(action): self.actions[str(action)] for action in Action},
            "categories": {category: dict(counts) for category, counts in sorted(self.categories.items())},
            "checks": checks,
            "slowest": self.slowest,
            "rows_with_errors": self.faulty,
            "errors": dict(self.errors),
        }

    def show(self) -> None:
        """The summary as a page."""
        counted = " · ".join(f"{self.actions[str(action)]} {action}" for action in Action)
        print(f"{self.rows} rows: {counted}")
        if self.categories:
            done = [str(action) for action in Action if action is not Action.ALLOW]
            found = console.table("category", *done, title="Rows by category and what its rule does", right=done)
            for category, counts in sorted(self.categories.items(), key=lambda one: (-one[1].total(), one[0])):
                console.add_row(found, category, *(str(counts[action]) if counts[action] else "" for action in done))
            console.show(found)
        if self.slowest is not None:
            total, most, count = self.spent[self.slowest]
            print(
                console.safe(f"The slowest check is {self.slowest}: {total / count:.2f} ms a row, {most:.2f} at most.")
            )
        if self.faulty:
            by = ", ".join(f"{check} ({count})" for check, count in self.errors.most_common())
            print(console.safe(f"{self.faulty} rows have errors: {by}. Each says which in its `errors`."))
