"""The card of an artifact: what was taught, on what, how good it was, and what that does not promise."""

from __future__ import annotations

from typing import Any


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
        "The figures come from held-out folds of the examples themselves, and the same folds chose the blocks and the "
        "regularisation: for texts of another kind expect less, and measure it with `safety-kit evaluate`. "
        "Probabilities are for a prevalence of one half.",
    ]
    return "\n".join(lines) + (f"\n\n{notes.strip()}\n" if notes.strip() else "\n")
