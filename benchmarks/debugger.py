"""What looking into a run costs: `make bench-debugger` → `results/debugger.json`.

The analyses beside what they are held against, in one run: a plain forward, one forward a deletion, captum, the bare
trunk; then the pages, in this process and in Chromium.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.debugger_pages import browser, selections
from benchmarks.guard_cost import STORY
from benchmarks.parts import run
from benchmarks.result import Figure, figure, seconds
from safety_kit.analysis import attention, lens, objectives, salience
from safety_kit.analysis.inspection import Inspection, examine
from safety_kit.gemma import Capture, Gemma, Tokens
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.types import Message, Sample

TOKENS, LONG, STEPS, TRIAGED = 128, 8_000, 32, 1_000


def prompt_of(gemma: Gemma, tokens: int) -> list[Message]:
    """A user's message that makes a prompt of so many tokens."""
    around = len(gemma.render([Message("user", "")]).tokens)
    content = gemma.vocabulary.content(STORY * (tokens // 10))
    text = (STORY * (tokens // 10))[: content.offsets[tokens - around][0]]
    return [Message("user", text)]


@contextmanager
def counted(gemma: Gemma) -> Iterator[list[int]]:
    """Tokens of each pass of the trunk while the context is."""
    read: list[int] = []
    plain = gemma.trunk.run

    def run(ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        read.append(ids.numel())
        return plain(ids, *args, **kwargs)

    gemma.trunk.run = run  # type: ignore[method-assign]
    try:
        yield read
    finally:
        gemma.trunk.run = plain  # type: ignore[method-assign]


def screen(gemma: Gemma, guard: Guard, messages: Sequence[Message], token: int) -> Inspection:
    """All that the first screen of a run shows: strips, probabilities, heads in numbers, the lens of one token."""
    blocks = range(gemma.n_blocks)
    seen = examine(gemma, messages, guard, top_k=10, also=lens.capture(gemma.n_blocks) | attention.capture(*blocks))
    ranges = [(part.start, part.stop) for part in seen.parts]
    for block in blocks:
        attention.summary(seen.trace, block, ranges)
    lens.lens(seen.trace, [token])
    return seen


def one_pass(gemma: Gemma, guard: Guard, repeats: int) -> list[Figure]:
    """The first screen of a prompt over a plain forward with logits."""
    messages = prompt_of(gemma, TOKENS)
    tokens = gemma.render(messages).tokens
    plain, look = partial(gemma.forward, [tokens], Capture(logits="all")), partial(screen, gemma, guard, messages, 100)
    with counted(gemma) as read:
        look()
    plain()
    times = [(seconds(plain), seconds(look)) for _ in range(repeats)]
    what = f"strips, probabilities, attention in numbers and one lens of {len(tokens)} tokens"
    return [
        figure(f"{what}: passes over the text", [len(read)], "", most=1),
        figure(f"{what}: over a plain forward with logits", [b / a for a, b in times], "ratio", most=1.5),
        figure(f"{what}: time", [1000 * b for _, b in times], "ms"),
    ]


def integrated(gemma: Gemma, _guard: Guard, repeats: int) -> list[Figure]:
    """Integrated gradients beside captum's on transformers' own model: the same numbers, and the times."""
    from captum.attr import IntegratedGradients

    tokens = gemma.render(prompt_of(gemma, TOKENS)).tokens
    target, at = 1_000, len(tokens) - 1
    objective = objectives.contrast(tokens, at, target, target + 1)
    base = salience.pad_baseline(gemma, tokens).unsqueeze(0)
    own = gemma.model.get_input_embeddings()(torch.tensor([tokens.ids])).detach()

    def value(embeddings: torch.Tensor) -> torch.Tensor:
        logits = gemma.model(inputs_embeds=embeddings, use_cache=False, logits_to_keep=1).logits[:, -1]
        return torch.Tensor(logits[:, target] - logits[:, target + 1])

    theirs = partial(IntegratedGradients(value).attribute, own, base, n_steps=STEPS, internal_batch_size=8)
    ours = partial(salience.integrated_gradients, gemma, tokens, objective, steps=STEPS)
    expected, made = theirs()[0].sum(-1).numpy(), ours().scores
    times = [(seconds(ours), seconds(theirs)) for _ in range(max(1, repeats // 3))]
    what = f"integrated gradients, {STEPS} steps, {len(tokens)} tokens"
    apart = float(np.abs(made - expected).max() / np.abs(expected).max())
    return [
        figure(f"{what}: largest difference from captum's, of the largest score", [apart], "", most=1e-3),
        figure(f"{what}: ours", [ours for ours, _ in times], "s"),
        figure(f"{what}: captum's", [theirs for _, theirs in times], "s"),
    ]


def deletions(gemma: Gemma, _guard: Guard, repeats: int) -> list[Figure]:
    """Leave-one-out over separate forwards."""
    tokens = gemma.render(prompt_of(gemma, TOKENS)).tokens
    objective = objectives.logprob(tokens, [len(tokens) - 1])
    shorter = [
        Tokens(tokens.ids[:at] + tokens.ids[at + 1 :], tokens.offsets[:at] + tokens.offsets[at + 1 :])
        for at in salience.deletable(tokens, objective)
    ]

    def separate() -> None:
        for text in shorter:
            gemma.forward([text], objective.capture)

    ours = partial(salience.leave_one_out, gemma, tokens, objective)
    ratios = [seconds(ours) / seconds(separate) for _ in range(max(1, repeats // 3))]
    return [figure(f"leave-one-out over {len(tokens)} tokens, over separate forwards", ratios, "ratio", most=0.5)]


def long_prompt(_gemma: Gemma, _guard: Guard, repeats: int) -> list[Figure]:
    """Attention of a long prompt on demand, over a forward: peak memory, each in a process of its own."""
    runs: dict[str, list[dict[str, float]]] = {"forward": [], "attention": []}
    for _ in range(max(1, repeats // 3)):
        for what, found in runs.items():
            command = [sys.executable, "-m", "benchmarks.debugger", "--long", what]
            found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    pairs = list(zip(runs["attention"], runs["forward"], strict=True))
    what = f"attention on demand, {LONG} tokens"
    return [
        figure(
            f"{what}: peak memory over a forward's without logits",
            [a["MB"] / b["MB"] for a, b in pairs],
            "ratio",
            most=1.5,
        ),
        figure(f"{what}: time, the forward included", [a["seconds"] for a, _ in pairs], "s"),
        figure(f"a forward of {LONG} tokens without logits", [b["seconds"] for _, b in pairs], "s"),
    ]


def read_long(what: str) -> None:
    """In a process of its own: a forward of the long prompt, or one head of it; prints seconds and peak megabytes."""
    import resource

    gemma = Gemma.load("embedded")
    tokens = gemma.render(prompt_of(gemma, LONG)).tokens

    def look() -> None:
        if what == "forward":
            gemma.forward([tokens], Capture(final=True))
            return
        (trace,) = gemma.forward([tokens], attention.capture(5) | Capture(final=True))
        attention.summary(trace, 5)
        inputs = attention.inputs_of(trace, 5)
        attention.overview(inputs, 1)
        attention.readers(inputs, 1, 100)
        attention.tile(inputs, 1, LONG - 1_000, LONG - 1_100)

    took = seconds(look)
    print(json.dumps({"seconds": took, "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def triage(gemma: Gemma, guard: Guard, _repeats: int) -> list[Figure]:
    """Scoring many short texts, as the Data page does, over the bare trunk."""
    from classifiers import read_examples
    from debugger_app import triage as page
    from debugger_app.row_files import Row
    from safety_kit.data import data_dir

    assert guard.capture is not None
    bare = Capture((max(guard.capture.blocks),))
    texts = [
        text
        for file in sorted((data_dir() / "examples").glob("*.jsonl"))
        for prompt, text in read_examples(file, one_class=True).pairs()
        if prompt is None and len(text) < 200
    ][:TRIAGED]
    ratios = []
    for part in (texts[at : at + 250] for at in range(0, len(texts), 250)):
        rows = [Row(place, Sample(text), {}) for place, text in enumerate(part, 1)]
        tokens = [gemma.render([Message("user", text)]).tokens for text in part]
        trunk = seconds(lambda tokens=tokens: gemma.forward(tokens, bare))
        ratios.append(trunk / seconds(lambda rows=rows: list(page.score(gemma, guard, rows))))
    return [figure(f"triage of {len(texts)} short texts, over the bare trunk's tokens/s", ratios, "ratio", least=0.8)]


def parts(repeats: int) -> dict[str, Callable[[], Sequence[Figure]]]:
    """What is measured, by name; the model is loaded once, where it is first needed."""
    opened: list[tuple[Gemma, Guard]] = []

    def with_model(measure: Callable[[Gemma, Guard, int], list[Figure]]) -> list[Figure]:
        if not opened:
            gemma = Gemma.load("embedded")
            opened.append((gemma, Guard(Policy.load("default"), gemma)))
        return measure(*opened[0], repeats)

    inside: dict[str, Callable[[Gemma, Guard, int], list[Figure]]] = {
        "one pass": one_pass,
        "integrated gradients": integrated,
        "leave-one-out": deletions,
        "long prompt": long_prompt,
        "triage": triage,
        "selection": selections,
    }
    return {
        "browser": lambda: browser(repeats),
        **{name: partial(with_model, measure) for name, measure in inside.items()},
    }


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats: to see that it runs, not for the record")
    parser.add_argument("--fresh", action="store_true", help="forget the finished parts of a stopped run")
    parser.add_argument("--only", nargs="+", help="these parts alone; the others' figures stay in the file")
    parser.add_argument("--long", choices=["forward", "attention"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.long:
        read_long(options.long)
    else:
        run("debugger", parts(2 if options.quick else 9), options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
