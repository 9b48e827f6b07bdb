"""A benchmark in parts: each is kept when it is done, so that a stopped run goes on where it was."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.result import NOT_RUN, Figure, write
from safety_kit.cache import cache_dir


def run(name: str, parts: Mapping[str, Callable[[], Sequence[Figure]]], options: Namespace) -> None:
    """Measure, print and write `results/NAME.json`.

    Args:
        name: Of the benchmark.
        parts: What gives the figures, by name.
        options: ``quick``: nothing is written; ``only``: these parts alone, whose figures take the place of the
            earlier ones in the result file, the others staying with their own dates; ``fresh``: forget what a stopped
            run has finished.
    """
    kept = cache_dir() / "bench" / f"{name}{'-quick' if options.quick else ''}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    if options.fresh or options.only:
        kept.unlink(missing_ok=True)
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    done: dict[str, list[dict[str, Any]]] = dict(map(json.loads, lines))
    figures: list[Figure] = []
    measured: dict[str, list[str]] = {}
    for part, measure in parts.items():
        if options.only and part not in options.only:
            continue
        if part not in done:
            done[part] = [asdict(one) for one in measure()]
            with kept.open("a", encoding="utf-8") as log:
                log.write(json.dumps([part, done[part]]) + "\n")
        for one in (Figure(**fields) for fields in done[part]):
            mark = {True: "met", False: "NOT MET", None: ""}[one.met]
            told = f"{one.value:.3g} [{one.low:.3g}, {one.high:.3g}] " if one.unit != NOT_RUN else ""
            print(f"{one.what}: {told}{one.unit} {one.goal} {mark}", flush=True)
            figures.append(one)
            measured.setdefault(part, []).append(one.what)
    if not options.quick:
        print(write(name, figures, measured, keep=bool(options.only)))
        kept.unlink(missing_ok=True)
