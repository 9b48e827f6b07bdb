"""One figure, one result file, and how both are measured."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safety_kit import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NOT_RUN = "not run"
"""The unit of a figure that was not measured."""

RESULTS = Path(__file__).parent / "results"
MEASURED = ("date", "machine", "versions")
"""When and on what: of a whole file, and of each of its parts."""


@dataclass(frozen=True)
class Figure:
    """One measured figure: its median and interval, and the goal it is held against."""

    what: str
    value: float
    low: float
    high: float
    unit: str
    goal: str
    met: bool | None


def figure(
    what: str, values: Sequence[float], unit: str, *, most: float | None = None, least: float | None = None
) -> Figure:
    """The median with a 95 % bootstrap interval, against a goal (`most` or `least`), or none."""
    sample = np.asarray(values, dtype=float)
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(sample, (2000, len(sample))), axis=1)
    value = float(np.median(sample))
    goal = f"at most {most:g}" if most is not None else f"at least {least:g}" if least is not None else ""
    met = value <= most if most is not None else value >= least if least is not None else None
    return Figure(what, value, *map(float, np.quantile(medians, [0.025, 0.975])), unit, goal, met)


def not_run(what: str) -> Figure:
    """The row of a contender that is not there."""
    return Figure(what, 0, 0, 0, NOT_RUN, "", None)


def _joined(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """A result file in which some parts were measured again; date and machine at its top are of the others."""
    before = earlier.get("parts", {})
    again = {what for part in later["parts"] for what in before.get(part, {}).get("figures", ())}
    again |= {one["what"] for one in later["figures"]}
    figures = [one for one in earlier["figures"] if one["what"] not in again] + later["figures"]
    of_the_others = {name: earlier[name] for name in MEASURED}
    return {**earlier, **later, **of_the_others, "figures": figures, "parts": {**before, **later["parts"]}}


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def write(
    name: str,
    figures: Sequence[Figure],
    parts: Mapping[str, Sequence[str]] | None = None,
    keep: bool = False,
    **more: Any,
) -> Path:
    """Write `results/NAME.json`.

    Args:
        name: Of the benchmark.
        figures: What was measured.
        parts: The `what` of the figures by the part of the benchmark that measured them, where it has parts.
        keep: What the file has of other parts stays.
        more: Stands in the document as it is.
    """
    import torch

    path = RESULTS / f"{name}.json"
    document: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "system": platform.system(),
        },
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers", "scikit-learn")},
            "safety-kit": __version__,
        },
        "figures": [asdict(one) for one in figures],
        **more,
    }
    if parts is not None:
        measured = {name: document[name] for name in MEASURED}
        document["parts"] = {part: {**measured, "figures": list(whats)} for part, whats in parts.items()}
    if keep and path.exists():
        document = _joined(json.loads(path.read_text(encoding="utf-8")), document)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
