"""Where a command's texts come from: an argument, standard input (`-`), or a JSONL file of rows."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from safety_kit.errors import DataError, UserError
from safety_kit.types import Sample, Stage

if TYPE_CHECKING:
    from pathlib import Path

STDIN = "-"
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Row:
    """A text to read.

    Attributes:
        text: The text.
        prompt: For a reply, the message that it answers.
        stage: Where it stands; None is the command's own.
        line: Of the file.
    """

    text: str
    prompt: str | None = None
    stage: Stage | None = None
    line: int = 0

    def sample(self, stage: Stage) -> Sample:
        """The row as the guard reads it; `stage` holds where the row names none."""
        return Sample.at(self.text, self.stage or stage, self.prompt)


def standard_input() -> str:
    """All of standard input, exactly; bytes that are no UTF-8 become U+FFFD."""
    return sys.stdin.buffer.read().decode("utf-8", errors="replace")


def one_text(text: str | None, name: str) -> str:
    """The text of an argument; `-`, or nothing where something is piped in, is standard input.

    Raises:
        UserError: There is nothing to read.
    """
    if text is None and sys.stdin.isatty():
        raise UserError(f"There is no {name}: give one in quotes, or pipe one in and name it with -.")
    return standard_input() if text in (None, STDIN) else text


def read_rows(path: Path) -> list[Row]:
    """Rows of a JSONL file: {"text", "prompt"?, "stage"?} each; other keys are left alone. `-` is standard input.

    Raises:
        DataError: The file cannot be read, or some lines are no rows; all of these are named, none is quoted.
    """
    try:
        content = standard_input() if str(path) == STDIN else path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name a JSONL file.") from error
    rows: list[Row] = []
    faults: list[str] = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(replace(_row(line), line=number))
        except ValueError as error:
            faults.append(f"line {number}: {error}")
    if faults:
        more = [f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        listed = "\n  ".join([*faults[:_SHOWN], *more])
        raise DataError(f'{path} has lines that are no rows {{"text", "prompt"?, "stage"?}}:\n  {listed}')
    if not rows:
        raise DataError(f"{path} holds no rows; write one JSON object a line.")
    return rows


def _row(line: str) -> Row:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("no valid JSON") from error
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    text, prompt, stage = row.get("text"), row.get("prompt"), row.get("stage")
    if not isinstance(text, str):
        raise ValueError("text is missing or no string")
    if not isinstance(prompt, str | None):
        raise ValueError("prompt is no string")
    if stage not in (None, *Stage):
        raise ValueError("stage is neither input nor output")
    return Row(text, prompt, Stage(stage) if stage else None)
