"""What a category taught in English loses on the same texts in Chinese, Spanish and Arabic → `languages.json`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.losses import auroc_loss, rate
from benchmarks.result import Figure, write
from classifiers.data import read_examples
from classifiers.fit import SafetyClassifier
from classifiers.teach import examples_for
from safety_kit.data import data_dir
from safety_kit.gemma import Gemma
from safety_kit.types import Stage

if TYPE_CHECKING:
    from classifiers.data import Examples

SETS = ("harassment", "prompt_injection")
TAUGHT = "en"
LANGUAGES = {"zh": "Chinese", "es": "Spanish", "ar": "Arabic"}
MAX_FPR = 0.03


def english(examples: Examples) -> Examples:
    """The rows in English."""
    return examples.select([lang == TAUGHT for lang in examples.slices["lang"]])


def parallel(category: str) -> Examples:
    """The parallel texts of a category."""
    return read_examples(data_dir() / "languages" / f"{category}.jsonl")


def measure(classifier: SafetyClassifier, category: str, texts: Examples) -> dict[str, dict[str, Any]]:
    """By language: AUROC, its loss against English on the same texts, and both rates at the policy's budget."""
    scores = classifier.category_probabilities(texts.pairs())[:, classifier.categories_.index(category)]
    threshold = classifier.heads_[category].threshold_for(MAX_FPR, Stage.INPUT)
    langs = np.array(texts.slices["lang"])
    labels = texts.labels[:, texts.categories.index(category)].astype(np.int64)
    first = np.flatnonzero(langs == TAUGHT)
    report = {}
    for lang in (TAUGHT, *LANGUAGES):
        rows = np.flatnonzero(langs == lang)
        _same(texts, first, rows)
        y = labels[rows]
        fired = scores[rows] > threshold
        report[lang] = {
            **auroc_loss(y, scores[first], scores[rows]),
            "texts": len(rows),
            "recall": rate(int(fired[y == 1].sum()), int((y == 1).sum())),
            "false_positives": rate(int(fired[y == 0].sum()), int((y == 0).sum())),
        }
    return report


def _same(texts: Examples, first: np.ndarray, rows: np.ndarray) -> None:
    """The texts of two languages stand in the same order, pair by pair and label by label."""
    named = [[(texts.groups[i], texts.labels[i].tolist()) for i in some] for some in (first, rows)]
    if named[0] != named[1]:
        raise ValueError("the parallel texts do not stand in the same order in every language")


def figures_of(category: str, report: dict[str, dict[str, Any]]) -> list[Figure]:
    """AUROC in English, and each other language's with its loss."""

    def one(what: str, found: dict[str, float]) -> Figure:
        return Figure(what, found["value"], found["low"], found["high"], "", "", None)

    figures = [one(f"{category}, taught in English: AUROC in English", report[TAUGHT]["auroc"])]
    for lang, name in LANGUAGES.items():
        figures.append(one(f"{category}, taught in English: AUROC in {name}", report[lang]["auroc"]))
        figures.append(one(f"{category}, taught in English: loss in {name}", report[lang]["loss"]))
    return figures


def main() -> None:
    """Teach, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one category, few examples: to see that it runs")
    parser.add_argument("--reading", choices=("causal", "alone"), default="causal")
    options = parser.parse_args()
    torch.set_num_threads(2)
    gemma = Gemma.load("embedded")
    figures: list[Figure] = []
    reports = {}
    for category in SETS[:1] if options.quick else SETS:
        taught = english(examples_for(category, 0 if options.quick else None).teach())
        if options.quick:
            taught = taught.select([len(text) < 80 for text in taught.texts])
        # known=None: the kit's own classifiers were taught in six languages, and would bring them in.
        classifier = SafetyClassifier(gemma, reading=options.reading, categories=category, known=None, progress=True)
        classifier.fit(taught.pairs(), taught.labels, groups=taught.groups)
        report = measure(classifier, category, parallel(category))
        reports[category] = {"taught": len(taught), "languages": report}
        figures += figures_of(category, report)
        for lang, found in report.items():
            shares = [f"{name} {found[name]['hits']} of {found[name]['of']}" for name in ("recall", "false_positives")]
            print(f"{category}, {lang}: {', '.join(shares)}")
    for one in figures:
        print(f"{one.what}: {one.value:.3f} [{one.low:.3f}, {one.high:.3f}]")
    if not options.quick:
        print(write("languages", figures, reading=options.reading, max_fpr=MAX_FPR, categories=reports))


if __name__ == "__main__":
    main()
