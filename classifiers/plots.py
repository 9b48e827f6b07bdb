"""Plots as SVG and PNG files, drawn without a browser and without a network."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from classifiers.metrics import HEADINGS
from safety_kit import files
from safety_kit.errors import MissingExtra

if TYPE_CHECKING:
    from pathlib import Path

    from classifiers.curve import Curve

SCALE = 2
"""Pixels of the PNG for each of the SVG."""


def check_installed() -> None:
    """Ask for the packages that draw, before minutes of work.

    Raises:
        MissingExtra: One is not installed.
    """
    for module, package in (("altair", "altair"), ("vl_convert", "vl-convert-python")):
        if find_spec(module) is None:
            raise MissingExtra(package, "train")


def draw_curve(curve: Curve) -> Any:
    """The chart of a learning curve: the mean over draws as a line, its 95 % interval as a band.

    Returns:
        An `altair.LayerChart`.
    """
    import altair

    heading = HEADINGS[curve.metric]
    points = [{"examples": float(size.positives), **size.figures[curve.metric]} for size in curve.sizes]
    examples = altair.X(
        "examples:Q",
        title="examples of each label",
        scale=altair.Scale(type="log", base=2, nice=False),
        axis=altair.Axis(values=[float(size.positives) for size in curve.sizes], grid=False),
    )
    base = altair.Chart(altair.InlineData(values=points)).encode(x=examples)
    band = base.mark_area(opacity=0.2).encode(
        y=altair.Y("low:Q", title=heading, scale=altair.Scale(zero=False)), y2="high:Q"
    )
    line = base.mark_line(point=True).encode(y="value:Q")
    held = f"{curve.held_out} held-out texts, {curve.draws} draws a size, 95 % intervals"
    title = altair.TitleParams(f"{curve.category}: {heading} by number of examples", subtitle=held, anchor="start")
    return (band + line).properties(width=440, height=280, title=title)


def save_plot(chart: Any, folder: Path, name: str) -> list[Path]:
    """Write a chart as NAME.svg and NAME.png, each in one step."""
    import vl_convert

    spec = chart.to_json()
    drawn = {
        folder / f"{name}.svg": vl_convert.vegalite_to_svg(spec).encode(),
        folder / f"{name}.png": vl_convert.vegalite_to_png(spec, scale=SCALE),
    }
    for path, content in drawn.items():
        files.write(path, content)
    return list(drawn)
