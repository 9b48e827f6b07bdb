"""What the commands write: one JSON document or a short page on stdout, everything else on stderr.

A user's text is only ever shown with its control characters made visible, and never read as markup.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, RenderableType
    from rich.table import Table

    from safety_kit.types import Finding, Verdict

debug = False
"""Whether a fault shows its trace; set by `safety-kit --debug`."""

COLOURS = {"allow": "green", "flag": "yellow", "redact": "yellow", "block": "red"}

_TERMINAL = {*range(0x20), *range(0x7F, 0xA0)} - {ord("\n"), ord("\t")}
_DIRECTION = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}


@cache
def _unsafe() -> dict[int, str]:
    shown = {code: f"\\x{code:02x}" for code in _TERMINAL}
    return shown | {code: f"\\u{code:04x}" for code in (*_DIRECTION, 0x2028, 0x2029, *range(0xD800, 0xE000))}


def safe(text: str) -> str:
    """The text with terminal control characters, direction overrides and lone surrogates written as escapes."""
    return text.translate(_unsafe())


def one_line(text: str, width: int = 0) -> str:
    """`safe` on a single line, cut to `width` characters where that is above 0."""
    line = " ".join(safe(text).split())
    return line if not width or len(line) <= width else line[: width - 1].rstrip() + "…"


def prepare() -> None:
    """Let no character crash the output, whatever the terminal's encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def note(text: str) -> None:
    """A line on stderr."""
    print(safe(text), file=sys.stderr)


def fail(text: str) -> None:
    """The sentence that says what went wrong, on stderr."""
    note(f"safety-kit: {text}")


def show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
    line: str | None = None,
) -> None:  # fmt: skip
    """A warning as a plain line; those of other packages only under --debug."""
    if category.__module__.split(".")[0] in {"safety_kit", "classifiers"} or debug:
        note(f"warning: {message}")


def emit(document: Any) -> None:
    """A JSON document, ASCII only, on one line of stdout."""
    print(json.dumps(document, ensure_ascii=True), flush=True)


def show(*renderables: RenderableType) -> None:
    """Rich tables and texts on stdout."""
    for renderable in renderables:
        _console().print(renderable)


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 110, highlight=False, markup=False, soft_wrap=False)


def table(*headings: str, title: str | None = None, right: Sequence[str] = ()) -> Table:
    """An empty table; columns named in `right` are aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for heading in headings:
        made.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    return made


def add_row(to: Table, *cells: str, style: str | None = None) -> None:
    """A row of plain texts, made safe."""
    from rich.text import Text

    to.add_row(*(Text(safe(cell)) for cell in cells), style=style)


def milliseconds(ms: float) -> str:
    """A duration for people."""
    return f"{ms / 1000:.1f} s" if ms >= 1000 else f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def score(finding: Finding) -> str:
    """A finding's score for people."""
    return f"{finding.score:.2f}"


def fired(verdict: Verdict) -> str:
    """What set a verdict off, in one line: the strongest score of each category."""
    best: dict[str, Finding] = {}
    for finding in verdict.findings:
        if finding.category not in best or finding.score > best[finding.category].score:
            best[finding.category] = finding
    named = [f"{category} {score(finding)}" for category, finding in best.items()]
    return ", ".join([*named, *(f"error: {error.check}" for error in verdict.errors)])


def show_verdict(verdict: Verdict) -> None:
    """A verdict as a short page: the action, what fired and where, what may be passed on, the time."""
    from rich.text import Text

    action = str(verdict.action)
    headline = Text(action.upper(), style=f"bold {COLOURS[action]}")
    why = f" · {verdict.code} · request {verdict.request_id}" if verdict.blocked else ""
    show(headline.append(safe(f" at {verdict.stage.value}{why}"), style="not bold default"))
    if verdict.findings:
        findings = table("category", "score", "kind", "characters", "check", "detail", right=["score"])
        for finding in verdict.findings:
            where = ", ".join(f"{start}–{end}" for start, end in finding.spans)
            add_row(
                findings, finding.category, score(finding), finding.score_kind, where, finding.check, finding.detail
            )
        show(findings)
    for error in verdict.errors:
        show(Text(safe(f"check {error.check}: {error.message}"), style="red"))
    if action == "redact":
        show(Text(safe(verdict.text or "")))
    spent = ", ".join(f"{name} {milliseconds(ms)}" for name, ms in verdict.timings.items())
    show(Text(f"{spent or 'no checks'} · policy {verdict.policy_digest[:12]}", style="dim"))
