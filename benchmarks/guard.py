"""What the guard costs and what it catches, in one run: `make bench-guard` → `results/guard.json`.

Finished parts are kept in the cache folder, so that a stopped run goes on where it was (`--fresh` begins anew).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import guard_cost, guard_quality, leaks, pii
from benchmarks.house import guarded_ratio
from benchmarks.parts import run
from benchmarks.result import Figure
from benchmarks.sets import FOLDER
from safety_kit import console
from safety_kit.gemma import Gemma
from safety_kit.guard import Guard
from safety_kit.policy import Policy


def parts(data: Path, quick: bool, peer: Path | None = None) -> dict[str, Callable[[], list[Figure]]]:
    """Each part of the benchmark by name; the model is loaded by the first that needs it."""
    loaded: list[tuple[Gemma, Guard]] = []

    def model() -> tuple[Gemma, Guard]:
        if not loaded:
            gemma = Gemma.load("embedded")
            loaded.append((gemma, Guard(Policy.load("default"), gemma)))
        return loaded[0]

    few = 3 if quick else 15
    most = 20 if quick else 300
    return {
        "text checks": lambda: guard_cost.text_checks(data, 1 if quick else 3),
        "llm-guard": lambda: guard_cost.llm_guard(data, 1 if quick else 3, peer),
        "keywords": lambda: [guard_cost.keywords(few)],
        "start": lambda: [guard_cost.cold_start(few)],
        "pii": lambda: pii.figures(data),
        "leaks": lambda: leaks.figures(quick),
        "probes": lambda: guard_cost.probes(model()[0], few),
        "generation": lambda: guarded_ratio(*model(), 3 if quick else 20)[0][:1],
        "published": lambda: shown(*guard_quality.published(model()[1], data, most)),
        "disguises": lambda: guard_quality.disguised(model()[1], data, 2 if quick else 6),
        "replies": lambda: guard_quality.replies(*model(), *((5, 2) if quick else (60, 100))),
    }


def shown(figures: list[Figure], wrong: dict[str, dict[str, list[str]]]) -> list[Figure]:
    """The figures; what went wrong is printed and kept nowhere, for the texts are not ours."""
    for kind, by_category in wrong.items():
        for category, texts in by_category.items():
            print(f"{kind}: {len(texts)} " + (f"blocked as {category}" if category else "passed"))
            for text in texts[:20]:
                print(f"  {console.safe(text[:100])}")
    return figures


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=FOLDER, help="the folder of the published sets")
    parser.add_argument("--quick", action="store_true", help="few repeats: to see that it runs, not for the record")
    parser.add_argument("--fresh", action="store_true", help="forget the finished parts of a stopped run")
    parser.add_argument("--llm-guard", type=Path, help="the Python of an environment with llm-guard: a row beside ours")
    parser.add_argument("--only", nargs="+", help="these parts alone; the others' figures stay in the file")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"The published sets are not at {options.data}; name their folder with --data.", file=sys.stderr)
        return 0
    torch.set_num_threads(2)
    run("guard", parts(options.data, options.quick, options.llm_guard), options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
