"""What guarding costs: text checks a text, probes a prompt, keywords by the thousand, the start of the command."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.pii import joined, read_rows
from benchmarks.result import Figure, figure, not_run, seconds
from safety_kit.catalogue import COUNTRIES
from safety_kit.gemma import Capture, Gemma
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.types import Message, Sample

TEXT_CHECKS = f"""
version: 1
name: every-text-check
checks:
  words: {{type: patterns, keywords: [project bluebird, swordfish, forbidden word], regexes: ['\\bPRJ-\\d{{4}}\\b']}}
  pii: {{type: pii, countries: [{", ".join(COUNTRIES)}]}}
  secrets: {{type: secrets}}
  urls: {{type: urls}}
  invisible: {{type: invisible}}
rules:
  - {{category: words, action: block}}
  - {{category: pii.*, action: redact}}
  - {{category: secrets.*, action: redact}}
  - {{category: urls.*, action: flag}}
  - {{category: invisible.*, action: redact}}
"""
STORY = "The museum opens at nine and the guide waits near the old gate with a map of the town. "


def percentile(what: str, times: list[float], share: int, most: float | None = None) -> Figure:
    """The 95th percentile or another of single times, with a bootstrap interval."""
    sample, rng = np.array(times), np.random.default_rng(0)
    drawn = np.percentile(rng.choice(sample, (1000, len(sample))), share, axis=1)
    value = float(np.percentile(sample, share))
    goal = f"at most {most:g}" if most is not None else ""
    met = value <= most if most is not None else None
    return Figure(what, value, *map(float, np.quantile(drawn, [0.025, 0.975])), "ms", goal, met)


def text_checks(folder: Path, repeats: int) -> list[Figure]:
    """All text checks over the PII set, one text at a time, warm."""
    guard = Guard(Policy.parse(TEXT_CHECKS))
    pieces = joined(read_rows(folder / "pii"))
    for piece in pieces[:20]:
        guard.check_text(piece)
    best = [1000 * min(seconds(lambda t=piece: guard.check_text(t)) for _ in range(repeats)) for piece in pieces]
    what = f"patterns, pii of all countries, secrets, urls and invisible text, {len(pieces)} texts of 500 characters"
    return [figure(f"{what}: median", best, "ms", most=3), percentile(f"{what}: p95", best, 95, most=6)]


def llm_guard(folder: Path, repeats: int, python: Path | None) -> list[Figure]:
    """The same texts through llm-guard, in an environment of its own: it wants another transformers.

    Args:
        folder: Of the published sets.
        repeats: The least of so many times counts.
        python: The interpreter of an environment with `pip install llm-guard`; None: the rows say that it was not run.
    """
    what = "llm-guard's BanSubstrings, Regex, Secrets and InvisibleText (no personal data), the same texts"
    if python is None:
        return [not_run(f"{what}: median"), not_run(f"{what}: p95")]
    asked = json.dumps({"texts": joined(read_rows(folder / "pii")), "repeats": repeats})
    script = Path(__file__).with_name("peer_llm_guard.py")
    one_core = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    answer = subprocess.run(
        [python, "-I", script], input=asked, env=one_core, check=True, stdout=subprocess.PIPE, text=True
    )
    best = json.loads(answer.stdout)
    return [figure(f"{what}: median", best, "ms"), percentile(f"{what}: p95", best, 95)]


def keywords(repeats: int) -> Figure:
    """5,000 keywords over 100,000 characters."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(5, 12))) for _ in range(5000)]
    listed = "\n".join(f"      - {word}" for word in words)
    policy = (
        "version: 1\nname: words\nviews: false\nchecks:\n  words:\n    type: patterns\n    keywords:\n"
        f"{listed}\nrules:\n  - {{category: words, action: flag}}\n"
    )
    guard = Guard(Policy.parse(policy))
    text = (STORY * 1200)[:100_000]
    guard.check_text(text)
    times = [1000 * seconds(lambda: guard.check_text(text)) for _ in range(repeats)]
    return figure("5,000 keywords over 100,000 characters, views off", times, "ms", most=10)


def probes(gemma: Gemma, repeats: int) -> list[Figure]:
    """All taught categories beside any upstream: a prompt of 100 tokens over a bare trunk forward, and by length."""
    guard = Guard(Policy.load("default"), gemma)
    assert guard.capture is not None
    bare = Capture((max(guard.capture.blocks),))
    content = gemma.vocabulary.content(STORY * 600)
    text = (STORY * 600)[: content.offsets[100][0]]
    tokens = [gemma.render([Message("user", text)]).tokens]
    sample = [Sample(text)]
    ratios = []
    for _ in range(repeats + 1):
        trunk = seconds(lambda: gemma.forward(tokens, bare))
        ratios.append(seconds(lambda: guard.check(sample, "probe")) / trunk)
    what = "all taught categories on a prompt of 100 tokens, over a bare trunk forward of the same depth"
    figures = [figure(what, ratios[1:], "ratio", most=1.15)]
    for length in (50, 500, 2000, 8000):
        piece = [Sample((STORY * 600)[: content.offsets[length][0]])]
        times = [1000 * seconds(lambda s=piece: guard.check(s)) for _ in range(repeats if length < 2000 else 5)]
        name = f"full default policy on a text of {length} tokens"
        figures += [figure(f"{name}: p50", times, "ms"), percentile(f"{name}: p95", times, 95)]
    return figures


def cold_start(repeats: int) -> Figure:
    """`safety-kit check` with every text check, whole process."""
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy.yaml"
        policy.write_text(TEXT_CHECKS, encoding="utf-8")
        command = [sys.executable, "-m", "safety_kit", "check", "--policy", str(policy), "hello there"]

        def run() -> None:
            subprocess.run(command, check=True, capture_output=True)

        run()
        times = [seconds(run) for _ in range(repeats)]
    return figure("safety-kit check with every text check, whole process", times, "s", most=1)
