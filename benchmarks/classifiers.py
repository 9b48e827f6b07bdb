"""Few-shot classifiers side by side on published sets: `make bench-classifiers` → `results/classifiers.json`.

Every contender is taught from the same draws of the even half and measured on the same odd half. Finished draws are
kept in the cache folder, so that a stopped run goes on where it was (`--fresh` begins anew).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.contenders import MiniLM, Ours, PolicyRung, SetFit, Tfidf
from benchmarks.result import Figure, figure, write
from benchmarks.sets import FOLDER, MOST, SETS, BenchSet, draw, load
from classifiers.cache import FeatureCache
from classifiers.evaluate import scores
from safety_kit.cache import cache_dir
from safety_kit.data import data_dir
from safety_kit.gemma import Gemma

if TYPE_CHECKING:
    from benchmarks.contenders import Contender

SIZES: tuple[int | str, ...] = (0, 8, 16, 32, 64, "200 in all")
AIM = 32
"""Examples a class at which the contenders are held against each other."""

TRANSFERS = (("ethos", "toxicity"), ("slabs", "bastion"))
METRICS = ("au_prc", "auroc", "f1", "recall_at_1pct_fpr", "ece")


class Log:
    """One JSON line a finished draw: what is there is not run again."""

    def __init__(self, path: Path, fresh: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.rows: dict[tuple[Any, ...], dict[str, float]] = {}
        for line in lines:
            row = json.loads(line)
            self.rows[tuple(row["key"])] = row["metrics"]

    def add(self, key: tuple[Any, ...], metrics: dict[str, float]) -> None:
        self.rows[key] = metrics
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"key": key, "metrics": metrics}) + "\n")


def run_draws(contenders: list[Contender], sets: dict[str, BenchSet], draws: int, log: Log) -> None:
    """Teach and measure every contender on every draw; a set with a transfer target is scored there too."""
    targets = dict(TRANSFERS)
    jobs = [
        (one, size, seed, contender)
        for contender in contenders
        for one in sets.values()
        for size in SIZES
        for seed in range(draws)
        if seed < contender.draws and size in (contender.sizes or SIZES[1:])
    ]
    with tqdm(jobs, unit="draw", disable=None) as bar:
        for one, size, seed, contender in bar:
            bar.set_description(f"{one.name}, {size}, {contender.name}")
            key = (one.name, contender.name, size, seed)
            examples = draw(one.pool, size, seed)
            if key in log.rows or examples is None:
                continue
            contender.teach(examples, one.question)
            log.add(key, scores(one.test.y, contender.score(one.test.texts)))
            target = sets.get(targets.get(one.name, ""))
            if target and size == AIM:
                transferred = scores(target.test.y, contender.score(target.test.texts))
                log.add((f"{one.name} → {target.name}", contender.name, size, seed), transferred)


def shipped_six(gemma: Gemma, sets: dict[str, BenchSet], cache: FeatureCache) -> dict[str, dict[str, float]]:
    """AUROC of each shipped classifier on each set's held-out half: taught on none of them."""
    from classifiers import SafetyClassifier

    table: dict[str, dict[str, float]] = {}
    for folder in sorted((data_dir() / "classifiers").iterdir()):
        classifier = SafetyClassifier.load(folder, gemma)
        classifier.cache = cache
        table[folder.name] = {
            name: round(scores(one.test.y, classifier.predict_proba(one.test.texts)[:, 1])["auroc"], 3)
            for name, one in sets.items()
        }
    return table


def costs(contenders: list[Contender], one: BenchSet, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds to teach from 32 a class and milliseconds a text to score, nothing cached; interleaved; and megabytes."""
    examples = draw(one.pool, AIM, 0)
    assert examples is not None
    texts = one.test.texts[:64]
    teaching: dict[str, list[float]] = defaultdict(list)
    scoring: dict[str, list[float]] = defaultdict(list)
    size = {}
    for _ in range(repeats):
        for contender in contenders:
            begin = time.perf_counter()
            contender.teach(examples, one.question)
            taught = time.perf_counter()
            contender.score(texts)
            teaching[contender.name].append(taught - begin)
            scoring[contender.name].append(1000 * (time.perf_counter() - taught) / len(texts))
            size[contender.name] = contender.megabytes()
    return {
        name: {
            "seconds to teach": float(np.median(teaching[name])),
            "ms a text": float(np.median(scoring[name])),
            "MB": size[name],
        }
        for name in teaching
    }


def paired(log: Log, ours: str, other: str, sets: list[str], size: int | str = AIM) -> list[float]:
    """AU-PRC of ours minus the other's, mean over the sets, for each draw that both have."""
    differences = []
    for seed in sorted({key[3] for key in log.rows}):
        own = [log.rows.get((name, ours, size, seed)) for name in sets]
        their = [log.rows.get((name, other, size, seed)) for name in sets]
        both = [(a["au_prc"], b["au_prc"]) for a, b in zip(own, their, strict=True) if a and b]
        if len(both) == sum(any(key[0] == name and key[2] == size for key in log.rows) for name in sets):
            differences.append(float(np.mean([a - b for a, b in both])))
    return differences


def summary(log: Log, sets: list[str], contenders: list[str]) -> list[dict[str, Any]]:
    """Each contender at each size: metrics as means over the sets, median and range over draws; AU-PRC by set."""
    table = []
    for size in SIZES:
        for name in contenders:
            by_set = {one: [log.rows[key] for key in log.rows if key[:3] == (one, name, size)] for one in sets}
            by_set = {one: rows for one, rows in by_set.items() if rows}
            there = {key[0] for key in log.rows if key[0] in sets and key[2] == size}
            if not by_set or set(by_set) != there:  # a mean over fewer sets would stand beside means over all
                continue
            row: dict[str, Any] = {"size": size, "contender": name, "draws": min(map(len, by_set.values()))}
            for metric in METRICS:
                row[metric] = float(np.mean([np.mean([r[metric] for r in rows]) for rows in by_set.values()]))
            draws = [np.mean([rows[i]["au_prc"] for rows in by_set.values()]) for i in range(row["draws"])]
            row["au_prc_low"], row["au_prc_high"] = float(min(draws)), float(max(draws))
            row["by_set"] = {one: float(np.mean([r["au_prc"] for r in rows])) for one, rows in by_set.items()}
            table.append(row)
    return table


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=FOLDER, help="the folder of the published sets")
    parser.add_argument("--rows", type=int, default=MOST, help="rows of a set at most, both halves together")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="three sets, 200 rows, two draws, no SetFit")
    parser.add_argument("--fresh", action="store_true", help="forget finished draws of a stopped run")
    parser.add_argument("--no-setfit", action="store_true", help="leave SetFit out, which takes most of the time")
    options = parser.parse_args()
    options.no_setfit |= options.quick
    if not options.data.is_dir():
        print(f"The published sets are not at {options.data}; name their folder with --data.", file=sys.stderr)
        return 0
    torch.set_num_threads(2)
    rows, draws = (200, 2) if options.quick else (options.rows, options.draws)
    names = ["ethos", "toxicity", "bastion"] if options.quick else list(SETS)
    sets = {name: load(name, options.data, rows) for name in names}
    gemma, cache = Gemma.load("embedded"), FeatureCache(cache_dir() / "bench" / "features", limit=4 << 30)
    contenders: list[Contender] = [Ours(gemma, "causal", cache), Ours(gemma, "alone", cache), Tfidf(), MiniLM()]
    if not options.quick:
        contenders.append(PolicyRung(gemma))
    if not options.no_setfit:
        contenders.append(SetFit())
    log = Log(cache_dir() / "bench" / f"classifiers-{rows}.jsonl", options.fresh)
    run_draws(contenders, sets, draws, log)
    uncached: list[Contender] = [Ours(gemma, "causal", False), Ours(gemma, "alone", False), Tfidf(), MiniLM(False)]
    cost = costs(uncached, sets["ethos"], 1 if options.quick else 3)
    if not options.no_setfit:
        cost |= costs([SetFit()], sets["ethos"], 1)
    ours = ("ours, alone", "ours, causal")
    figures: list[Figure] = []
    for other in ("MiniLM + LR", "SetFit (MiniLM)"):
        if gaps := paired(log, ours[0], other, names):
            what = f"AU-PRC at {AIM} a class, mean over the sets, ours alone minus {other} ({len(gaps)} draws)"
            one = figure(what, gaps, "")
            figures.append(replace(one, goal="above 0, the interval clear of 0", met=one.low > 0))
    gaps = paired(log, ours[0], ours[1], names)
    figures.append(figure(f"AU-PRC lost by the causal reading against alone at {AIM} a class", gaps, "", most=0.03))
    for one in figures:
        print(f"{one.what}: {one.value:.3f} [{one.low:.3f}, {one.high:.3f}] {one.goal} {one.met}")
    table = summary(log, names, [contender.name for contender in contenders])
    for row in table:
        print({k: (round(v, 3) if isinstance(v, float) else v) for k, v in row.items()})
    print(json.dumps(cost, indent=1))
    if not options.quick:
        transfers = summary(log, [f"{a} → {b}" for a, b in TRANSFERS], [contender.name for contender in contenders])
        six = shipped_six(gemma, sets, cache)
        sizes = {name: {"pool": len(one.pool.y), "test": len(one.test.y)} for name, one in sets.items()}
        print(write("classifiers", figures, table=table, costs=cost, transfers=transfers, shipped=six, rows=sizes))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
