"""The house's figures, in one run on one machine: `make bench-house` → `results/house.json`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.result import Figure, figure, seconds, write
from classifiers import SafetyClassifier, read_examples
from classifiers.cache import FeatureCache
from safety_kit import artifacts
from safety_kit.data import data_dir
from safety_kit.gemma import Capture, Gemma, Sampling
from safety_kit.generate import GuardedGemma
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.types import Message, Sample

if TYPE_CHECKING:
    from safety_kit.gemma import Prompt

TOKENS = 64
TEXT_ONLY = """
version: 1
name: text-only
on_error: block
checks:
  banned: {type: patterns, category: banned, keywords: [forbidden]}
rules:
  - {category: banned, stages: [input, output], action: block}
messages: {default: "No."}
"""


def guarded_ratio(gemma: Gemma, guard: Guard, pairs: int) -> tuple[list[Figure], int]:
    """Guarded over unguarded generation of exactly 64 greedy tokens, interleaved, on prompts that neither run
    blocks."""
    render = gemma.render

    def endless(messages: list[Message]) -> Prompt:  # both runs shall make all their tokens
        return replace(render(messages), stop=())

    gemma.render = endless  # type: ignore[method-assign, assignment]
    guarded, sampling = GuardedGemma(gemma, guard), Sampling(max_tokens=TOKENS)
    benign = read_examples(data_dir() / "examples" / "benign.jsonl", one_class=True).test()
    prompts = [text for prompt, text in benign.pairs() if prompt is None and 5 <= len(text.split()) <= 60]
    ratios, speeds, left_out = [], [], 0
    guarded.generate(prompts[0], Sampling(max_tokens=4))  # warm up
    for number, prompt in enumerate(prompts):
        if len(ratios) == pairs:
            break
        times, made = {}, {}
        for name in ("plain", "guarded") if number % 2 else ("guarded", "plain"):
            begin = time.perf_counter()
            if name == "plain":
                made[name] = len(gemma.generate(gemma.render([Message("user", prompt)]), sampling).token_ids)
            else:
                reply = guarded.generate(prompt, sampling)
                made[name] = 0 if reply.blocked else reply.completion_tokens
            times[name] = time.perf_counter() - begin
        if made != {"plain": TOKENS, "guarded": TOKENS}:
            left_out += 1
            continue
        ratios.append(times["guarded"] / times["plain"])
        speeds.append(TOKENS / times["guarded"])
    gemma.render = render  # type: ignore[method-assign]
    return [
        figure("guarded over unguarded generation, default policy, 64 greedy tokens", ratios, "ratio", most=1.03),
        figure("guarded generation, prompt included", speeds, "tokens/s"),
    ], left_out


def reading_cost(gemma: Gemma, guard: Guard, repeats: int) -> list[Figure]:
    """Milliseconds to check a text that the guard alone must read."""
    words = "The museum opens at nine and the guide waits near the old gate with a map of the town. " * 200
    figures = []
    for length in (50, 500, 2000):
        tokens = gemma.vocabulary.content(words)
        text = words[: tokens.offsets[length][0]]
        guard.check_text(text)
        times = [1000 * seconds(lambda text=text: guard.check_text(text)) for _ in range(repeats)]
        figures.append(
            figure(f"checking a text of {length} tokens that no generation reads, default policy", times, "ms")
        )
    return figures


def scoring_speed(gemma: Gemma, guard: Guard, repeats: int) -> Figure:
    """Tokens a second of scoring all categories, over a bare trunk forward of the same depth and batches."""
    assert guard.capture is not None
    rows = read_examples(data_dir() / "examples" / "benign.jsonl", one_class=True).texts[:48]
    tokens = [gemma.render([Message("user", text)]).tokens for text in rows]
    depth = max(guard.capture.blocks)
    bare = Capture((depth,))
    ratios = []

    samples = [Sample(text) for text in rows]

    def score() -> None:
        guard.check(samples, "probe")

    for _ in range(repeats + 1):
        trunk = seconds(lambda: gemma.forward(tokens, bare))
        ratios.append(trunk / seconds(score))
    return figure("scoring all categories, over a bare trunk forward of the same depth", ratios[1:], "ratio", least=0.9)


def teaching(gemma: Gemma, repeats: int) -> list[Figure]:
    """Seconds to teach one category from 200 short examples, features included and features in the cache."""
    rows = read_examples(data_dir() / "examples" / "dangerous_content.jsonl").teach()
    alone = [i for i, prompt in enumerate(rows.prompts) if prompt is None]
    chosen = rows.select(sorted(sorted(alone, key=lambda i: len(rows.texts[i]))[:200]))
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for what, most, cache in (
            ("features included", 15, False),
            ("features in the cache", 1, FeatureCache(Path(folder))),
        ):

            def teach(cache: FeatureCache | bool = cache) -> None:
                classifier = SafetyClassifier(gemma, categories="dangerous_content", cache=cache)
                classifier.fit(chosen.pairs(), chosen.labels, groups=chosen.groups)

            if cache:
                teach()
            times = [seconds(teach) for _ in range(repeats)]
            what = f"teaching one category from {len(chosen)} short examples, {what}"
            figures.append(figure(what, times, "s", most=most))
    return figures


def artifact(repeats: int) -> list[Figure]:
    """Milliseconds to load a taught classifier, every checksum included, and its size on disk."""
    folder = data_dir() / "classifiers" / "hate"
    artifacts.load(folder)
    times = [1000 * seconds(lambda: artifacts.load(folder)) for _ in range(10 * repeats)]
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    return [
        figure("loading a taught classifier", times, "ms", most=50),
        figure("its size on disk", [size], "MB", most=1),
    ]


def commands(repeats: int) -> list[Figure]:
    """Whole-process times of the command line, and the second start of the embedded model."""
    kit = [sys.executable, "-m", "safety_kit"]
    load = (
        "import time; begin = time.perf_counter(); from safety_kit.gemma import Gemma; "
        "Gemma.load('embedded'); print(time.perf_counter() - begin)"
    )
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy.yaml"
        policy.write_text(TEXT_ONLY, encoding="utf-8")
        check = [*kit, "check", "--policy", str(policy), "hello there"]

        def run(command: list[str]) -> str:
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        run([*kit, "--help"])
        run(check)
        helps = [seconds(lambda: run([*kit, "--help"])) for _ in range(repeats)]
        checks = [seconds(lambda: run(check)) for _ in range(repeats)]
        starts = [float(run([sys.executable, "-c", load])) for _ in range(max(3, repeats // 2))]
    return [
        figure("safety-kit --help, whole process", helps, "s", most=0.6),
        figure("safety-kit check with a text-only policy, whole process", checks, "s", most=1.0),
        figure("second start of Gemma.load('embedded'), imports included", starts, "s", most=6.0),
    ]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats: to see that it runs, not for the record")
    quick = parser.parse_args().quick
    torch.set_num_threads(2)
    figures = commands(3 if quick else 9)
    gemma = Gemma.load("embedded")
    guard = Guard(Policy.load("default"), gemma)
    ratio, left_out = guarded_ratio(gemma, guard, 3 if quick else 20)
    figures += ratio
    figures += reading_cost(gemma, guard, 3 if quick else 9)
    figures.append(scoring_speed(gemma, guard, 3 if quick else 9))
    figures += teaching(gemma, 1 if quick else 3)
    figures += artifact(1 if quick else 3)
    for one in figures:
        mark = {True: "met", False: "NOT MET", None: ""}[one.met]
        print(f"{one.what}: {one.value:.3g} [{one.low:.3g}, {one.high:.3g}] {one.unit} {one.goal} {mark}")
    if not quick:
        print(write("house", figures, prompts_left_out=left_out))


if __name__ == "__main__":
    main()
