"""Where a command's texts come from: an argument, standard input (`-`), or rows of a file or data set."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safety_kit.errors import DataError, UserError
from safety_kit.types import Sample, Stage

if TYPE_CHECKING:
    from classifiers.sources import Columns

STDIN = "-"
_SHOWN = 20
_TABLES = (".csv", ".parquet")


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


def read_rows(source: str | Path, columns: Columns | None = None) -> list[Row]:
    """Rows {"text", "prompt"?, "stage"?}; other columns are left alone.

    Args:
        source: A `.csv` or `.parquet` file, a folder that `datasets` saved, a hub data set `hf:ORG/NAME`, `-` for
            JSONL from standard input, or any other file as JSONL.
        columns: Which columns hold text and prompt, where they are not called so.

    Raises:
        DataError: The source cannot be read, or some rows are none; all of these are named, none is quoted.
        MissingExtra: It needs the package `datasets`, which is not installed.
    """
    from classifiers.sources import PLAIN

    named = columns or PLAIN
    unit, records = _records(str(source), named)
    rows: list[Row] = []
    faults: list[str] = []
    seen: dict[str, None] = {}
    for place, record in records:
        if isinstance(record, Mapping):
            seen.update(dict.fromkeys(map(str, record)))
        try:
            rows.append(replace(_row(record), line=place))
        except ValueError as error:
            faults.append(f"{unit} {place}: {error}")
    if seen and "text" not in seen:
        raise DataError(
            f"{source}: no row has the column for the text; the columns are: {', '.join([*seen][:_SHOWN])} "
            "(name one with --text-column)"
        )
    if faults:
        more = [f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        listed = "\n  ".join([*faults[:_SHOWN], *more])
        raise DataError(f'{source} has {unit}s that are no rows {{"text", "prompt"?, "stage"?}}:\n  {listed}')
    if not rows:
        raise DataError(f"{source} holds no rows; write one JSON object a line.")
    return rows


def _records(source: str, columns: Columns) -> tuple[str, Iterable[tuple[int, Any]]]:
    """What a source's rows are counted in, and (place, row or what is wrong with it)."""
    from classifiers.sources import is_hub_name

    table = is_hub_name(source) or Path(source).suffix.casefold() in _TABLES or (source != STDIN and _is_dir(source))
    if not table:
        return "line", ((place, columns.rename(record)) for place, record in _lines(source))

    from classifiers.rows import open_rows
    from safety_kit.commands.corpus import opened

    _, unit, records = open_rows(opened(source), columns)
    return unit, records


def _is_dir(source: str) -> bool:
    try:
        return Path(source).is_dir()
    except OSError:  # told when it is read
        return False


def _lines(source: str) -> Iterator[tuple[int, Any]]:
    """JSONL, whatever the file is called: a pipe has no ending."""
    try:
        content = (
            standard_input() if source == STDIN else Path(source).read_bytes().decode("utf-8-sig", errors="replace")
        )
    except OSError as error:
        raise DataError(
            f"{source} cannot be read ({error.strerror}); name a JSONL, CSV or Parquet file, or hf:ORG/NAME."
        ) from error
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, ValueError("no valid JSON")


def _row(row: Any) -> Row:
    from classifiers.rows import missing

    if isinstance(row, Exception):
        raise ValueError(str(row))
    if not isinstance(row, Mapping):
        raise ValueError("no JSON object")
    text, prompt, stage = row.get("text"), row.get("prompt"), row.get("stage")
    if not isinstance(text, str):
        raise ValueError("text is missing or no string")
    if not (missing(prompt) or isinstance(prompt, str)):
        raise ValueError("prompt is no string")
    if not (missing(stage) or stage in tuple(Stage)):
        raise ValueError("stage is neither input nor output")
    return Row(text, None if missing(prompt) else prompt, None if missing(stage) else Stage(str(stage)))
