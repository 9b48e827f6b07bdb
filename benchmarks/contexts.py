"""What the place of a text does to the shipped classifiers: the same texts in ten contexts → `results/contexts.json`.

Each text is read as guarded generation reads it, with the whole prompt before it. `Gemma.trace_texts` would be cheaper,
as it keeps only the 512 tokens nearest to the text, but then a system prompt of 2,000 tokens would never be read.
One pass serves all categories.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.context_texts import CONTEXTS, Context
from benchmarks.losses import auroc_loss, rate
from benchmarks.result import Figure, write
from classifiers.data import Examples
from classifiers.teach import CATEGORIES, examples_for
from safety_kit.gemma import Gemma
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.types import Finding, Sample, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

MOST_LOSS = 0.02
CHUNK = 8
"""Texts whose activations are held at a time."""


def held_out(texts: int | None, seed: int = 0) -> Examples:
    """The kit's held-out rows, or an even draw of about so many: the same share of each category and label."""
    rows = Examples.concat(*(examples_for(category).test() for category in CATEGORIES))
    if texts is None or texts >= len(rows):
        return rows
    rng = np.random.default_rng(seed)
    kinds: dict[tuple[float, ...], list[int]] = {}
    for row, labels in enumerate(np.nan_to_num(rows.labels, nan=-1).tolist()):
        kinds.setdefault(tuple(labels), []).append(row)
    drawn = [rng.permutation(some)[: max(1, round(len(some) * texts / len(rows)))] for some in kinds.values()]
    return rows.select(sorted(int(row) for some in drawn for row in some))


def read_in(gemma: Gemma, guard: Guard, rows: Examples, context: Context) -> tuple[Doubles, int]:
    """Calibrated probabilities, texts × the guard's categories, and the tokens read.

    NaN where a text cannot stand in this context, or the policy does not ask for the category at its stage.
    """
    assert guard.probes is not None
    assert guard.probes.capture is not None
    names = [probe.head.category for probe in guard.probes.probes]
    out = np.full((len(rows), len(names)), np.nan)
    todo = []
    for row, (prompt, text) in enumerate(rows.pairs()):
        if (messages := context.place(prompt, text)) is not None:
            todo.append((row, messages[-1], gemma.render(messages)))
    todo.sort(key=lambda one: len(one[2].tokens))
    with tqdm(total=len(todo), desc=context.name, unit="text", disable=None, leave=False) as bar:
        for at in range(0, len(todo), CHUNK):
            part = todo[at : at + CHUNK]
            traces = gemma.forward([prompt.tokens for _, _, prompt in part], guard.probes.capture)
            samples = [
                Sample(
                    message.content,
                    message.role,
                    Stage.OUTPUT if message.role == "assistant" else Stage.INPUT,
                    trace=trace.view(*prompt.ranges[-1]),
                )
                for (_, message, prompt), trace in zip(part, traces, strict=True)
            ]
            for (row, _, _), findings in zip(part, guard.probes.run(samples), strict=True):
                for finding in findings:
                    out[row, names.index(finding.category)] = finding.score
            bar.update(len(part))
    return out, sum(len(prompt.tokens) for _, _, prompt in todo)


def stopped(guard: Guard, category: str, probability: float, stage: Stage) -> bool:
    """Whether the policy does anything about a probability."""
    return guard.policy.rule_for(Finding("probe", category, probability, "calibrated"), stage) is not None


def compare(
    guard: Guard, rows: Examples, plain: Doubles, here: Doubles, budgets: Mapping[str, float | None]
) -> dict[str, dict[str, Any]]:
    """By category: AUROC here and its loss against `plain` on the same texts; false positives against the budget."""
    assert guard.probes is not None
    report: dict[str, dict[str, Any]] = {}
    for column, probe in enumerate(guard.probes.probes):
        category = probe.head.category
        if category not in rows.categories:
            continue
        labels = rows.labels[:, rows.categories.index(category)]
        known = np.flatnonzero(~np.isnan(labels) & ~np.isnan(plain[:, column]) & ~np.isnan(here[:, column]))
        y = labels[known].astype(np.int64)
        if len(set(y.tolist())) < 2:
            continue
        stages = [Stage.INPUT if rows.prompts[row] is None else Stage.OUTPUT for row in known]
        false = {}
        for name, scores in (("before", plain), ("here", here)):
            hits = [
                stopped(guard, category, float(scores[row, column]), stage)
                for row, stage, label in zip(known, stages, y, strict=True)
                if label == 0
            ]
            false[name] = rate(sum(hits), len(hits))
        losses = auroc_loss(y, plain[known, column], here[known, column])
        budget = budgets.get(category)
        over = budget is not None and false["here"]["low"] > budget  # beyond what so few texts leave to chance
        report[category] = {
            **losses,
            "texts": len(y),
            "positives": int(y.sum()),
            "false_positives": false["here"],
            "false_positives_before": false["before"],
            "budget": budget,
            "needs_alone": bool(losses["loss"]["value"] > MOST_LOSS or over),
        }
    return report


def budgets_of(policy: Policy) -> dict[str, float | None]:
    """The largest `max_fpr` of each category's rules."""
    rates = sorted((rule.max_fpr, rule.category) for rule in policy.rules if rule.max_fpr is not None)
    return {category: rate for rate, category in rates}  # the largest comes last


def figures_of(name: str, report: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """A context's worst category, by AUROC loss and by false positives."""
    category, worst = max(report.items(), key=lambda item: item[1]["loss"]["value"])
    loss = worst["loss"]
    figures = [
        Figure(
            f"AUROC loss, {name} (worst: {category})",
            loss["value"],
            loss["low"],
            loss["high"],
            "",
            f"at most {MOST_LOSS:g}",
            loss["value"] <= MOST_LOSS,
        )
    ]
    budgeted = {key: one for key, one in report.items() if one["budget"] is not None}
    if budgeted:
        category, worst = max(budgeted.items(), key=lambda item: item[1]["false_positives"]["value"])
        false, budget = worst["false_positives"], worst["budget"]
        figures.append(
            Figure(
                f"false positives, {name} (worst: {category})",
                false["value"],
                false["low"],
                false["high"],
                "",
                f"at most {budget:g}",
                false["value"] <= budget,
            )
        )
    return figures


def paragraph(contexts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Which contexts cost a category more than is allowed, as a sentence each."""
    lines = []
    for name, report in contexts.items():
        bad = [
            f"{category} (AUROC loss {one['loss']['value']:.3f}, false positives "
            f"{100 * one['false_positives']['value']:.1f} %)"
            for category, one in report.items()
            if one["needs_alone"]
        ]
        if bad:
            lines.append(f"- {name}: {', '.join(bad)}")
    if not lines:
        return f"In no context does a category lose more than {MOST_LOSS:g} AUROC or its false-positive budget."
    return "Read these with a classifier of the reading *alone*, or expect this of the causal one:\n\n" + "\n".join(
        lines
    )


def run(
    gemma: Gemma, guard: Guard, rows: Examples, contexts: Sequence[Context], budgets: Mapping[str, float | None]
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Each context's report, and the tokens that it took; the first context is what the others are held against."""
    plain, tokens = read_in(gemma, guard, rows, contexts[0])
    reports = {contexts[0].name: compare(guard, rows, plain, plain, budgets)}
    spent = {contexts[0].name: tokens}
    for context in contexts[1:]:
        here, spent[context.name] = read_in(gemma, guard, rows, context)
        reports[context.name] = compare(guard, rows, plain, here, budgets)
    return reports, spent


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few texts, three contexts: to see that it runs")
    parser.add_argument("--texts", type=int, help="about so many, evenly drawn; all held-out rows by default")
    options = parser.parse_args()
    torch.set_num_threads(2)
    gemma = Gemma.load("embedded")
    policy = Policy.load("default")
    guard = Guard(policy, gemma)
    rows = held_out(options.texts or (24 if options.quick else None))
    contexts = [CONTEXTS[i] for i in (0, 1, 9)] if options.quick else CONTEXTS
    print(f"{len(rows)} texts in {len(contexts)} contexts")
    reports, tokens = run(gemma, guard, rows, contexts, budgets_of(policy))
    figures = [one for name, report in reports.items() for one in figures_of(name, report)]
    for one in figures:
        print(
            f"{one.what}: {one.value:.3f} [{one.low:.3f}, {one.high:.3f}] {one.goal} {'met' if one.met else 'NOT MET'}"
        )
    print(paragraph(reports))
    if not options.quick:
        print(write("contexts", figures, texts=len(rows), tokens=tokens, contexts=reports))


if __name__ == "__main__":
    main()
