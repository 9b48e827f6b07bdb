"""Write the benchmark tables into the docs, between their markers: `python -m benchmarks.tables [--check]`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.result import NOT_RUN, RESULTS

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs" / "FIGURES.md"
PLACES = {
    "house": ROOT / "README.md",
    "classifiers": ROOT / "README.md",
    "guard": FIGURES,
    "lora": FIGURES,
    "contexts": FIGURES,
    "languages": FIGURES,
    "gateway": FIGURES,
    "debugger": FIGURES,
}


def table(name: str) -> str:
    """A result file as Markdown."""
    result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    machine = result["machine"]
    lines = contenders(result) if name == "classifiers" else []
    lines += ["| what | median | 95 % interval | goal |", "|---|---|---|---|"]
    for one in result["figures"]:
        goal = f"{one['goal']}: {'met' if one['met'] else '**not met**'}" if one["goal"] else ""
        if one["unit"] == NOT_RUN:
            lines.append(f"| {one['what']} | {NOT_RUN} |  |  |")
            continue
        lines.append(
            f"| {one['what']} | {one['value']:.3g} {one['unit']} | {one['low']:.3g} to {one['high']:.3g} | {goal} |"
        )
    if name == "contexts":
        from benchmarks.contexts import paragraph  # loads torch, which the other tables do not want

        lines += ["", paragraph(result["contexts"])]
    versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
    lines += ["", f"Measured {result['date']} on {machine['cores']} cores ({machine['cpu']}); {versions}."]
    others = apart(result)
    lines += [f"Apart from these: {'; '.join(others)}."] if others else []
    return "\n".join(lines)


def apart(result: dict[str, Any]) -> list[str]:
    """The parts that were measured on another day or another machine than the rest, by when and where."""
    parts: dict[tuple[str, str], list[str]] = {}
    for part, told in result.get("parts", {}).items():
        date, cpu = told["date"], told.get("machine", result["machine"])["cpu"]
        if (date, cpu) != (result["date"], result["machine"]["cpu"]):
            parts.setdefault((date, "" if cpu == result["machine"]["cpu"] else f" ({cpu})"), []).append(part)
    return [f"{', '.join(names)}: {date}{cpu}" for (date, cpu), names in parts.items()]


def contenders(result: dict[str, Any]) -> list[str]:
    """The benchmark of classifiers: quality and cost of one artifact in one reading stand in one row."""
    lines = [
        "| examples | contender | AU-PRC | over draws | AUROC | F1 | recall at 1 % FPR | ECE "
        "| s to teach | ms a text | MB |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in result["table"]:
        size = row["size"] if isinstance(row["size"], str) else f"{row['size']} a class" if row["size"] else "none"
        cost = result["costs"].get(row["contender"], {}) if row["size"] == 32 else {}
        figures = [f"{row[name]:.3f}" for name in ("auroc", "f1", "recall_at_1pct_fpr", "ece")]
        costs = [f"{cost[name]:.3g}" if cost else "" for name in ("seconds to teach", "ms a text", "MB")]
        spread = f"{row['au_prc_low']:.3f} to {row['au_prc_high']:.3f} ({row['draws']})"
        cells = [size, row["contender"], f"{row['au_prc']:.3f}", spread, *figures, *costs]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "AU-PRC by set, 32 examples a class; by transfer to a set that was not taught from:", ""]
    rows = [row for row in result["table"] if row["size"] == 32]
    moved = {row["contender"]: row["by_set"] for row in result["transfers"] if row["size"] == 32}
    names = list(dict.fromkeys(name for row in rows for name in row["by_set"]))
    across = list(dict.fromkeys(name for by_set in moved.values() for name in by_set))
    lines += ["| contender | " + " | ".join([*names, *across]) + " |", "|---|" + "--:|" * len([*names, *across])]
    for row in rows:
        known = row["by_set"] | moved.get(row["contender"], {})
        cells = [f"{known[name]:.3f}" if name in known else "" for name in [*names, *across]]
        lines.append(f"| {row['contender']} | " + " | ".join(cells) + " |")
    lines += ["", "AUROC of the shipped classifiers, taught on none of these sets:", ""]
    sets = list(next(iter(result["shipped"].values())))
    lines += ["| classifier | " + " | ".join(sets) + " |", "|---|" + "--:|" * len(sets)]
    for name, by_set in result["shipped"].items():
        lines.append(f"| {name} | " + " | ".join(f"{by_set[one]:.2f}" for one in sets) + " |")
    return [*lines, ""]


def main() -> int:
    """Rewrite the tables, or with `--check` say whether they are current."""
    stale = 0
    for name, place in PLACES.items():
        if not (RESULTS / f"{name}.json").exists():
            continue
        text = place.read_text(encoding="utf-8")
        pattern = rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)"
        new = re.sub(pattern, lambda found: f"{found[1]}{table(name)}\n{found[2]}", text, flags=re.DOTALL)  # noqa: B023
        if new != text and "--check" in sys.argv:
            print(f"{place.name}: the table {name} is stale; run: python -m benchmarks.tables", file=sys.stderr)
            stale = 1
        elif new != text:
            place.write_text(new, encoding="utf-8")
    return stale


if __name__ == "__main__":
    raise SystemExit(main())
