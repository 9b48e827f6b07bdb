"""`safety-kit demo`: the whole main job on the embedded Gemma, from teaching to guarded replies and honest figures."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_kit import console
from safety_kit.commands import models
from safety_kit.commands.inputs import Row, read_rows
from safety_kit.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from safety_kit.commands.demo_figures import Figures
    from safety_kit.gemma import Gemma
    from safety_kit.generate import GuardedGemma, Reply

MAX_TOKENS = 24
HARMLESS = 100
"""Ordinary texts to teach from besides the category's own set: it shall take a minute. `make classifiers` takes all."""
SHOWN = 50
"""Characters of a prompt and of a reply that the table shows."""
TAUGHT = "hate"
"""The category that is taught before your eyes."""

NEXT = """\
What to do next
  safety-kit check "a text"                             hold a text against the default policy
  safety-kit generate --stream "a question"             one guarded reply
  safety-kit train rows.jsonl --out mine --benign       teach your own category: {"text": …, "label": 0 or 1} a line
  safety-kit policy show default --yaml > policy.yaml   start your own policy,
  safety-kit policy add policy.yaml mine                and put your category into it
  safety-kit demo --prompts rows.jsonl                  this demo on your prompts: {"text": …} a line"""


def demo(
    category: Annotated[str, typer.Option("--category", help="The category to teach live.")] = TAUGHT,
    every: Annotated[bool, typer.Option("--all", help="Teach all six live (minutes).")] = False,
    prompts: Annotated[str | None, typer.Option("--prompts", help='Your prompts: rows {"text"}.')] = None,
    as_json: models.Json = False,
) -> int:
    """Teach, guard and generate on the embedded Gemma.

    Teaches a category from its example set, sends prompts through guarded generation, and shows what the guard gets
    wrong on held-out texts and what it costs. Under three minutes on two cores, once the model is converted.
    """
    from safety_kit.data import data_dir

    rows = read_rows(prompts or data_dir() / "demo" / "prompts.jsonl")
    gemma = models.load("embedded", None, "auto", "auto")

    from classifiers.teach import CATEGORIES

    if category not in CATEGORIES:
        raise UserError(f"The kit has no example set for {category!r}; it has: {', '.join(CATEGORIES)}.")
    with tempfile.TemporaryDirectory(prefix="safety-kit-demo-") as scratch:
        folders, taught = _teach(gemma, CATEGORIES if every else [category], Path(scratch))
        run = _Demo(gemma, folders)
        answered = run.answer(rows)
        figures = run.figures()
        costs = run.cost([row.text for row, reply in answered if not reply.blocked][:3])
    if as_json:
        console.emit(
            {
                "taught": taught,
                "prompts": [{"prompt": row.text, **reply.to_json()} for row, reply in answered],
                "held_out": [
                    {"category": f.category, "false_blocks": f.false_blocks.to_json(), "misses": f.misses.to_json()}
                    for f in figures
                ],
                "cost": costs,
            }
        )
        return 0
    _show(taught, answered, figures, costs)
    return 0


def _teach(gemma: Gemma, categories: Sequence[str], scratch: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """Teach each category into a folder; by category also how many texts, how long and how well."""
    from classifiers.cache import FeatureCache
    from classifiers.teach import teach

    folders, told = {}, {}
    fresh = FeatureCache(scratch / "features")  # taught live: nothing is taken from an earlier run
    for category in categories:
        begin = time.perf_counter()
        artifact = teach(category, gemma, scratch / category, harmless=HARMLESS, others=0, cache=fresh, progress=True)
        record = artifact.manifest.categories[category]
        told[category] = {
            "rows": record.positives + record.negatives,
            "seconds": round(time.perf_counter() - begin, 3),
            "metrics": record.metrics,
        }
        folders[category] = artifact.path
    return folders, told


class _Demo:
    """The parts that come after teaching, with a progress bar on a terminal's stderr each."""

    def __init__(self, gemma: Gemma, folders: dict[str, Path]) -> None:
        from safety_kit.gemma import Sampling
        from safety_kit.generate import GuardedGemma
        from safety_kit.guard import Guard
        from safety_kit.policy import Policy

        self.gemma = gemma
        self.guard = Guard(Policy.load("default"), gemma, folders)
        self.guarded: GuardedGemma = GuardedGemma(gemma, self.guard)
        self.sampling = Sampling(max_tokens=MAX_TOKENS)

    def answer(self, rows: Sequence[Row]) -> list[tuple[Row, Reply]]:
        replies = []
        with _bar("prompts", len(rows)) as tick:
            for row in rows:
                replies.append((row, self.guarded.generate(row.text, self.sampling)))
                tick(1)
        return replies

    def figures(self) -> list[Figures]:
        from classifiers.data import read_examples
        from classifiers.teach import benign_examples
        from safety_kit.commands.demo_figures import held_out
        from safety_kit.data import data_dir

        probed = sorted(self.guard.probes.categories) if self.guard.probes else []
        sets = {name: read_examples(data_dir() / "examples" / f"{name}.jsonl").test() for name in probed}
        benign = benign_examples().test()
        with _bar("held-out texts", sum(map(len, sets.values())) + len(benign)) as tick:
            return held_out(self.guard, sets, benign, tick)

    def cost(self, prompts: Sequence[str]) -> dict[str, float] | None:
        from safety_kit.commands.demo_figures import cost

        return cost(self.gemma, self.guarded, prompts, self.sampling) if prompts else None


class _bar:
    """A progress bar that is silent where stderr is no terminal."""

    def __init__(self, what: str, total: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=total, desc=what, disable=None, leave=False, file=sys.stderr)

    def __enter__(self) -> Callable[[int], None]:
        return lambda count: (self._bar.update(count), None)[1]

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _show(
    taught: dict[str, Any], answered: list[tuple[Row, Reply]], figures: list[Figures], costs: dict[str, float] | None
) -> None:
    for category, told in taught.items():
        metrics = told["metrics"]
        print(
            f"Taught {category} from {told['rows']} texts in {told['seconds']:.0f} s: "
            f"cross-validated AUROC {metrics['auroc']:.3f}, F1 {metrics['f1']:.3f} at probability .5"
        )
    title = f"Guarded generation; the replies are a small base model's (Gemma 3 270M), at most {MAX_TOKENS} tokens"
    made = console.table("prompt", "verdict", "what fired", "reply", "ms", title=f"\n{title}", right=["ms"])
    for row, reply in answered:
        verdicts = [v for v in (reply.input, reply.output) if v is not None]
        worst = max(verdicts, key=lambda verdict: verdict.action)
        where = f" at {worst.stage.value}" if worst.action else ""
        fired = ", ".join(filter(None, map(console.fired, verdicts)))
        shown = console.one_line(reply.reply, SHOWN)
        console.add_row(
            made,
            console.one_line(row.text, SHOWN),
            f"{worst.action}{where}",
            fired,
            shown,
            f"{reply.seconds * 1000:.0f}",
        )
    console.show(made)
    table = console.table(
        "category",
        "harmless texts blocked",
        "harmful texts passed",
        title="On texts held out from teaching (95 % intervals)",
        right=["harmless texts blocked", "harmful texts passed"],
    )
    for line in figures:
        console.add_row(table, line.category, str(line.false_blocks), str(line.misses))
    console.show(table)
    print(
        "A category's line: its own rule and its own set, whose harmless texts all look harmful.\n"
        "The last line: any rule, ordinary texts, and the harmful texts of all sets. Texts of yours will differ."
    )
    if costs:
        print(
            f"\nGuarding changes the time of a reply by {costs['ratio'] - 1:+.1%}: the median of "
            f"{costs['replies']:.0f} pairs, {costs['unguarded']:.1f} s each.\n"
            "That is a glimpse; `make bench-house` measures it properly."
        )
    print(f"\n{NEXT}")
