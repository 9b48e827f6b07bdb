"""The card of an artifact: what was taught, on what, how good it was, and what that does not promise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifiers.lora_artifact import AdapterManifest
    from safety_kit.artifacts import CategoryRecord, Manifest


def artifact_card(manifest: dict[str, Any], notes: str) -> str:
    """Markdown from a manifest's fields and the owner's notes."""
    model = manifest["model"]
    lines = [
        f"# {', '.join(manifest['categories'])}",
        "",
        f"A linear probe ({manifest['reading']} reading) on blocks {', '.join(map(str, manifest['blocks']))} of "
        f"{model['name']} ({model['family']}, {model['dtype']}). It works with that model only.",
        "",
        "| category | examples | harmful | AUROC | AU-PRC | F1 | recall at 1 % FPR | ECE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, record in manifest["categories"].items():
        metrics = record["metrics"]
        figures = [f"{metrics[key]:.3f}" for key in ("auroc", "au_prc", "f1", "recall_at_1pct_fpr", "ece")]
        lines.append(
            f"| {name} | {record['positives'] + record['negatives']} | {record['positives']} | {' | '.join(figures)} |"
        )
    lines += [
        "",
        "The figures come from held-out folds of the examples themselves, each with the regularisation and calibration "
        "of the other folds: for texts of another kind expect less, and measure it with `safety-kit evaluate`. "
        "Probabilities are for a prevalence of one half, by Platt scaling on held-out folds "
        f"({'; '.join(map(_sample, manifest['categories'].items()))}).",
    ]
    return "\n".join(lines) + (f"\n\n{notes.strip()}\n" if notes.strip() else "\n")


def _sample(category: tuple[str, dict[str, Any]]) -> str:
    """How many held-out texts a category was calibrated on."""
    name, record = category
    return f"{name}: " + ", ".join(f"{scale['n']} texts at {stage}" for stage, scale in record["calibration"].items())


def use_and_limits(manifest: Manifest | AdapterManifest, repo_id: str) -> str:
    """What stands below the card where an artifact is published: how to load it, intended use, data card, limits."""
    model = manifest.model
    names = ", ".join(manifest.categories)
    estimator = "AdapterClassifier" if manifest.kind == "lora" else "SafetyClassifier"
    records: Mapping[str, CategoryRecord | AdapterManifest] = manifest.categories
    rows = [f"| {name} | {one.positives} | {one.negatives} |" for name, one in records.items()]
    known = [] if manifest.kind == "lora" else manifest.sources
    sources = [f"- {source.category}: artifact `{source.digest}`" for source in known]
    built = ["", "Built on other artifacts:", "", *sources] if sources else []
    lines = [
        "## Use",
        "",
        "```python",
        f"from classifiers import {estimator}",
        "from safety_kit import Gemma",
        "",
        f"classifier = {estimator}.from_pretrained({repo_id!r}, Gemma.load({model.name!r}))",
        'print(classifier.category_probabilities(["A text."]))',
        "```",
        "",
        f"It reads the activations of {model.name} and is nothing without that model. It holds numbers only: "
        "loading runs no code and checks every file's SHA-256. The model in another float type, quantised or "
        "fine-tuned is held against the golden texts in the manifest, and refused where it reads them differently.",
        "",
        "## Intended use",
        "",
        f"One signal among several, before or behind that Gemma, for texts about: {names}. Choose the "
        "threshold on texts of your own, and let a person look before anything is decided against a person. It is "
        "not made to judge people, to prove that a text is safe, or to find what it was not taught; no classifier of "
        "this kind may be relied on for child sexual abuse material.",
        "",
        "## Data",
        "",
        "| category | examples of it | others |",
        "|---|---|---|",
        *rows,
        "",
        f"The texts are not in this repository; SHA-256 of texts and labels: `{manifest.data_digest}`. Where they came "
        "from stands above, if whoever taught this wrote it down.",
        *built,
        "",
        "## Limits",
        "",
        "- Held-out figures say how well new texts of the same making are told apart. On others expect less.",
        "- A probability is calibrated for traffic of which one half is harmful; real traffic holds less, so more of "
        "what is stopped is harmless.",
        "- A false-positive rate below one in the number of harmless examples cannot be set.",
        "- Languages, dialects, topics and disguises that the examples leave out were not measured. Someone who can "
        "try again and again will find a text that passes.",
    ]
    return "\n".join(lines) + "\n"
