"""The adapter rung under Google's published protocol: `make bench-lora` → `results/lora.json`.

ETHOS in its order, label = hate >= median, pandas' `sample(frac=1, random_state=32)`, the first 800 rows to teach from,
the last 198 to test on. It takes hours and may be stopped at any time: each finished combination is a line of a work
file in the cache folder, an unfinished one goes on from its last epoch.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit, logit

from benchmarks.result import RESULTS, Figure, figure, seconds, write
from classifiers import SafetyClassifier
from classifiers.calibrate import probabilities
from classifiers.evaluate import scores, with_intervals
from classifiers.lora import AdapterClassifier
from classifiers.metrics import f1_threshold
from safety_kit import __version__
from safety_kit.cache import cache_dir
from safety_kit.gemma import Gemma

DATA = Path(__file__).parents[2] / "shared" / "datasets"
GOOGLE_SHUFFLE, TRAIN, TEST = 32, 800, 198
CATEGORY = "hate speech"
PUBLISHED = {  # Gemma 2B instruct, LoRA of rank 4: https://ai.google.dev/gemma/docs/agile_classifiers
    200: {"f1": 0.80, "auroc": 0.78},
    800: {"f1": 0.84, "auroc": 0.88},
}


GOALS = {200: {"auroc": 0.88, "f1": 0.85}, 800: {"auroc": 0.91, "f1": 0.86}}
"""Of the kit's own recipes, at each of the published sizes."""


@dataclass(frozen=True)
class Split:
    """One shuffle: texts and labels to teach from and to test on."""

    texts: list[str]
    y: np.ndarray
    test: list[str]
    y_test: np.ndarray


@dataclass(frozen=True)
class Job:
    """One combination, and where its epochs are kept."""

    gemma: Gemma
    split: Split
    checkpoint: Path
    epochs: int


def ethos(folder: Path, shuffle: int, n: int) -> Split:
    """The first n rows to teach from and the last 198 to test on, after one shuffle."""
    import pandas as pd

    lines = (folder / "ethos" / "all.jsonl").read_text(encoding="utf-8").splitlines()
    frame = pd.DataFrame([json.loads(line) for line in lines])
    frame["label"] = (frame["hate"] >= frame["hate"].median()).astype(int)
    frame = frame.sample(frac=1, random_state=shuffle)
    train, test = frame[:TRAIN][:n], frame[TRAIN : TRAIN + TEST]
    return Split(train["text"].tolist(), train["label"].to_numpy(), test["text"].tolist(), test["label"].to_numpy())


def probe(job: Job, reading: str) -> dict[str, Any]:
    """The frozen probe."""
    classifier = SafetyClassifier(job.gemma, reading=reading, categories=CATEGORY, progress=True)  # type: ignore[arg-type]
    classifier.fit(job.split.texts, job.split.y)
    return {"p": classifier.predict_proba(job.split.test)[:, 1].tolist()}


def adapter(job: Job, **options: Any) -> dict[str, Any]:
    """An adapter; its held-out part is inside the rows that it is taught from."""
    classifier = AdapterClassifier(
        job.gemma, category=CATEGORY, epochs=job.epochs, checkpoint=job.checkpoint, progress=True, **options
    ).fit(job.split.texts, job.split.y)
    return {
        "p": classifier.predict_proba(job.split.test)[:, 1].tolist(),
        "held": classifier.held_out_.tolist(),
        "held_p": probabilities(classifier.calibration_, classifier.scores_).tolist(),
        "losses": classifier.losses_,
        "best_epoch": classifier.best_epoch_,
    }


def ensemble(job: Job, done: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The mean of the adapter's and the frozen probe's logits; the adapter's held-out part says which it would take."""
    tuned, frozen = done["adapter"], done["probe-alone"]
    held = np.array(tuned["held"])
    rest = np.setdiff1d(np.arange(len(job.split.y)), held)
    apart = SafetyClassifier(job.gemma, reading="alone", categories=CATEGORY, progress=True)
    apart.fit([job.split.texts[row] for row in rest], job.split.y[rest])
    held_p = apart.predict_proba([job.split.texts[row] for row in held])[:, 1]
    candidates = {"adapter": np.array(tuned["held_p"]), "probe-alone": held_p}
    candidates["ensemble"] = mean_logit(*candidates.values())
    briers = {name: float(np.mean((p - job.split.y[held]) ** 2)) for name, p in candidates.items()}
    return {
        "p": mean_logit(tuned["p"], frozen["p"]).tolist(),
        "picked": min(briers, key=briers.__getitem__),
        "held_brier": briers,
    }


def mean_logit(*probabilities: Any) -> np.ndarray:
    """The probability at the mean of the logits."""
    return np.asarray(expit(np.mean([logit(np.clip(p, 1e-6, 1 - 1e-6)) for p in probabilities], axis=0)))


Recipe = Callable[[Job, dict[str, dict[str, Any]]], dict[str, Any]]
RECIPES: dict[str, Recipe] = {
    "constant": lambda job, done: {"p": [1.0] * len(job.split.test)},
    "probe-alone": lambda job, done: probe(job, "alone"),
    "probe-causal": lambda job, done: probe(job, "causal"),
    "adapter": lambda job, done: adapter(job),
    "ensemble": lambda job, done: ensemble(job, done),
    "google": lambda job, done: adapter(job, objective="generative"),
}
NEEDS = {"ensemble": ("adapter", "probe-alone")}


def measure(args: argparse.Namespace, gemma: Gemma, work: Path) -> list[dict[str, Any]]:
    """Run what is not yet in the work file; returns its lines for the combinations asked for."""
    run = f"{gemma.digest[:12]} {__version__} {args.epochs}"
    work.mkdir(parents=True, exist_ok=True)
    path = work / "work.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    chosen = []
    for shuffle in args.shuffles:
        for n in args.n:
            done = {
                line["recipe"]: line for line in lines if [line["run"], line["n"], line["shuffle"]] == [run, n, shuffle]
            }
            split = ethos(args.data, shuffle, n)
            for recipe in args.recipes:
                if missing := [need for need in NEEDS.get(recipe, ()) if need not in done]:
                    print(f"{recipe} needs {' and '.join(missing)}: left out", file=sys.stderr)
                    continue
                if recipe not in done:
                    checkpoint = work / f"{shuffle}-{n}-{recipe}"
                    begin = time.perf_counter()
                    found = RECIPES[recipe](Job(gemma, split, checkpoint, args.epochs), done)
                    seconds = time.perf_counter() - begin
                    line = {"run": run, "shuffle": shuffle, "n": n, "recipe": recipe, "seconds": seconds, **found}
                    lines.append(line)
                    new = path.with_suffix(".new")
                    new.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
                    new.replace(path)  # a kill leaves the old lines or the new ones
                    shutil.rmtree(checkpoint, ignore_errors=True)
                    done[recipe] = line
                chosen.append(done[recipe] | {"y": split.y_test.tolist()})
                show(chosen[-1])
    return chosen


def measured(line: dict[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Metric → labels and what it is measured on; F1 also at the threshold that the probabilities expect to be best."""
    y, p = np.array(line["y"]), np.array(line["p"])
    return {"auroc": (y, p), "f1": (y, p), "f1, own threshold": (y, (p >= f1_threshold(p)).astype(float))}


def show(line: dict[str, Any]) -> None:
    """One combination on a line, the constant answer's F1 beside its own."""
    y, p = np.array(line["y"]), np.array(line["p"])
    found, share = scores(y, p), y.mean()
    own = scores(*measured(line)["f1, own threshold"])["f1"]
    print(
        f"shuffle {line['shuffle']} n {line['n']} {line['recipe']}: AUROC {found['auroc']:.3f}, F1 {found['f1']:.3f}, "
        f"at its own threshold {own:.3f} (constant positive {2 * share / (1 + share):.3f}), {line['seconds']:.0f} s"
        + (f", best epoch {line['best_epoch']}" if "best_epoch" in line else "")
        + (f", held-out part picks {line['picked']}" if "picked" in line else ""),
        flush=True,
    )


def figures(lines: list[dict[str, Any]]) -> list[Figure]:
    """AUROC and F1 of each recipe: Google's split with an interval over texts, all shuffles with one over shuffles."""
    out = []
    for n, recipe in dict.fromkeys((line["n"], line["recipe"]) for line in lines):
        mine = [line for line in lines if (line["n"], line["recipe"]) == (n, recipe)]
        for metric in ("auroc", "f1", "f1, own threshold"):
            kind = metric.partition(",")[0]
            for line in mine:
                if line["shuffle"] == GOOGLE_SHUFFLE:
                    found = with_intervals(*measured(line)[metric])[kind]
                    goal = GOALS.get(n, {}).get(kind) if recipe not in ("constant", "google") else None
                    met = found["value"] >= goal if goal else None
                    told = f"at least {goal:g}" if goal else ""
                    out.append(Figure(f"{recipe}, n = {n}, Google's split", *found.values(), metric, told, met))
            if len(mine) > 1:
                values = [scores(*measured(line)[metric])[kind] for line in mine]
                out.append(figure(f"{recipe}, n = {n}, {len(mine)} shuffles", values, metric))
    return out


def costs(args: argparse.Namespace, gemma: Gemma) -> list[Figure]:
    """Minutes of an epoch of 800 texts and megabytes of the adapter; for a machine that does nothing else."""
    split = ethos(args.data, GOOGLE_SHUFFLE, TRAIN)
    with tempfile.TemporaryDirectory() as folder:
        classifier = AdapterClassifier(gemma, category=CATEGORY, epochs=1, progress=True)
        minutes = seconds(lambda: classifier.fit(split.texts, split.y)) / 60
        classifier.save(Path(folder) / "adapter")
        size = sum(file.stat().st_size for file in (Path(folder) / "adapter").iterdir()) / 1e6
    what = f"an epoch of {TRAIN} texts, the look at its held-out fifth and the calibration included"
    return [figure(f"adapter, {what}", [minutes], "minutes", most=5), figure("adapter, its size", [size], "MB", most=6)]


def combinations(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was run, without its texts' probabilities, after what the result file has of other combinations."""
    again = {(line["shuffle"], line["n"], line["recipe"]) for line in lines}
    path = RESULTS / "lora.json"
    earlier = json.loads(path.read_text(encoding="utf-8"))["combinations"] if path.exists() else []
    kept = [one for one in earlier if (one["shuffle"], one["n"], one["recipe"]) not in again]
    return kept + [{k: v for k, v in line.items() if k not in ("y", "p", "held", "held_p")} for line in lines]


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder with ethos/all.jsonl")
    parser.add_argument("--quick", action="store_true", help="48 rows, one epoch: to see that it runs, not to record")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--n", nargs="+", type=int, default=[200, 800], help="rows to teach from, 20 to 800")
    parser.add_argument(
        "--shuffles", nargs="+", type=int, default=[GOOGLE_SHUFFLE], help="random states; 32 is Google's"
    )
    parser.add_argument("--epochs", type=int, default=6, help="of an adapter, at most")
    parser.add_argument("--costs", action="store_true", help="only what an adapter costs, in time and on disk")
    args = parser.parse_args()
    if not (args.data / "ethos" / "all.jsonl").is_file():
        print(f"{args.data / 'ethos' / 'all.jsonl'} is missing: skipped; name its folder with --data.", file=sys.stderr)
        return 0
    if args.quick:
        args.n, args.epochs = [48], 1
    torch.set_num_threads(2)
    if args.costs:
        found = costs(args, Gemma.load("embedded"))
        print(write("lora", found, {"costs": [one.what for one in found]}, keep=True))
        return 0
    lines = measure(args, Gemma.load("embedded"), cache_dir() / ("bench-lora-quick" if args.quick else "bench-lora"))
    if not args.quick:
        share = float(np.mean(lines[0]["y"])) if lines else 0.0
        published = {str(n): values for n, values in PUBLISHED.items()}
        found = figures(lines)
        parts: dict[str, list[str]] = {}
        for one in found:
            recipe, n, _ = one.what.split(", ", 2)
            parts.setdefault(f"{recipe} ({n})", []).append(one.what)
        print(
            write(
                "lora",
                found,
                parts,
                keep=True,
                note="ETHOS was used in development. Google's split has 198 test texts: about ±.025 on either figure. "
                "Seconds are no cost where other work ran beside.",
                constant_positive_f1=2 * share / (1 + share),
                published_gemma_2b_lora=published,
                combinations=combinations(lines),
            )
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
