"""Write the benchmark tables into the docs, between their markers: `python -m benchmarks.tables [--check]`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from benchmarks.result import RESULTS

ROOT = Path(__file__).parent.parent
PLACES = {"house": ROOT / "README.md"}


def table(name: str) -> str:
    """A result file as Markdown."""
    result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    machine = result["machine"]
    lines = ["| what | median | 95 % interval | goal |", "|---|---|---|---|"]
    for one in result["figures"]:
        goal = f"{one['goal']}: {'met' if one['met'] else '**not met**'}" if one["goal"] else ""
        lines.append(
            f"| {one['what']} | {one['value']:.3g} {one['unit']} | {one['low']:.3g} to {one['high']:.3g} | {goal} |"
        )
    versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
    lines += ["", f"Measured {result['date']} on {machine['cores']} cores ({machine['cpu']}); {versions}."]
    return "\n".join(lines)


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
