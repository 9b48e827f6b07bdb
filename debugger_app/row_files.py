"""Rows of a file that is in memory: an upload is never written to disk."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from classifiers.rows import next_cells
from classifiers.sources import is_hub_name
from safety_kit.errors import DataError
from safety_kit.types import Sample, Stage

if TYPE_CHECKING:
    from classifiers.data import Examples

MOST_BYTES: Final = 200 * 2**20
"""Of a file of rows."""

LONGEST: Final = 1_000_000
"""Characters of a text that is read here."""

_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        place: Its line, or its number, from 1.
        sample: Its text.
        kept: Its other columns, those that hold text, numbers or labels.
    """

    place: int
    sample: Sample
    kept: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RowFile:
    """All rows of a source; `left_out` counts those that cannot be read."""

    name: str
    rows: tuple[Row, ...]
    left_out: int = 0


def read_path(path: str, stage: Stage, skip_bad: bool = False) -> RowFile:
    """The rows of a file on this machine; see `read`."""
    return read(path, bytes_of(path), stage, skip_bad)


def bytes_of(path: str) -> bytes:
    """What a file on this machine holds.

    Raises:
        DataError: There is no such file, or it is too large to be read here.
    """
    _check(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}); see that it is an ordinary file that you may read."
        ) from error


def labelled(source: str, category: str | None = None) -> Examples:
    """Labelled rows of a file on this machine, or of a hub data set; see `classifiers.data.read_examples`.

    Raises:
        DataError: There is no such file, it is too large, or nothing can be taught or measured with it.
    """
    from classifiers.data import read_examples

    if not is_hub_name(source):
        _check(source)
    return read_examples(source, category=category, warn=lambda _: None)


def _check(path: str) -> None:
    """See that a file is there and small enough to be read here: a device or a pipe may have no end."""
    if not os.path.isfile(path):  # unlike Path's, it answers for a name that no file can have, too
        raise DataError(f"There is no file {path} to read; name a .jsonl, .csv or .parquet file.")
    _check_size(os.path.getsize(path))


def read(name: str, content: bytes, stage: Stage = Stage.INPUT, skip_bad: bool = False) -> RowFile:
    """The rows of a file's content: {"text", "prompt"?, "stage"?} and other columns, in JSONL, CSV or Parquet.

    Args:
        name: Of the file; its ending tells its kind.
        content: Of the file.
        stage: Where texts stand that do not say.
        skip_bad: Leave out rows that cannot be read.

    Raises:
        DataError: It is too large, no such file, or has rows that cannot be read, by place. It never repeats a text.
    """
    _check_size(len(content))
    kind = Path(name).suffix.casefold()
    if kind == ".parquet":
        return rows_of(name, _parquet(content, name), stage, skip_bad)
    if kind not in {".jsonl", ".ndjson", ".csv"}:
        raise DataError(f"{name} is no .jsonl, .csv or .parquet file; save the rows as one of these.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name} is not in UTF-8 (line {line}); save it in UTF-8.") from None
    return rows_of(name, _csv(text, name) if kind == ".csv" else _jsonl(text), stage, skip_bad)


def rows_of(
    name: str, records: Iterable[tuple[int, Any]], stage: Stage = Stage.INPUT, skip_bad: bool = False
) -> RowFile:
    """Records, each with its place, as rows.

    Raises:
        DataError: None has a text, or some cannot be read.
    """
    rows: list[Row] = []
    bad: list[str] = []
    columns: dict[str, None] = {}
    for place, record in records:
        if isinstance(record, Mapping):
            columns.update(dict.fromkeys(map(str, record)))
        made = _row(place, record, stage)
        if isinstance(made, Row):
            rows.append(made)
        else:
            bad.append(made)
    if columns and "text" not in columns:
        raise DataError(
            f"{name} has no column “text”; its columns are: {', '.join(list(columns)[:20])}. Rename the one to read."
        )
    if bad and not skip_bad:
        more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise DataError(
            f"{name} has rows that cannot be read: {'; '.join(bad[:_NAMED])}{more}. Mend them, or leave them out."
        )
    if not rows:
        raise DataError(f"{name} holds no row with a text.")
    return RowFile(name, tuple(rows), len(bad))


def _row(place: int, record: Any, stage: Stage) -> Row | str:
    """A record as a row, or what is wrong with it."""
    if not isinstance(record, Mapping):
        return f"{place}: {record if isinstance(record, str) else 'no object with a text'}"
    text, prompt, at = record.get("text"), record.get("prompt"), record.get("stage")
    if not isinstance(text, str) or not text.strip():
        return f"{place}: no text"
    if len(text) > LONGEST:
        return f"{place}: a text of more than {LONGEST} characters"
    if at not in (None, "", *Stage):
        return f"{place}: stage is neither input nor output"
    kept = {str(name): value for name, value in record.items() if name not in ("text", "prompt", "stage")}
    where = Stage(at) if at else stage
    return Row(place, Sample.at(text, where, prompt if isinstance(prompt, str) and prompt else None), kept)


def _jsonl(text: str) -> Iterator[tuple[int, Any]]:
    for place, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield place, json.loads(line)
            except (ValueError, RecursionError):
                yield place, "not JSON"


def _csv(text: str, name: str) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    try:
        while (cells := next_cells(reader)) is not None:
            if header is None:
                header = [cell.strip() for cell in cells]
            elif cells:
                right = len(cells) == len(header)
                yield (
                    reader.line_num,
                    dict(zip(header, cells, strict=True)) if right else "not as many cells as columns",
                )
    except csv.Error as error:
        raise DataError(f"{name} is no CSV at line {reader.line_num} ({error}); save it as JSONL.") from None


def _parquet(content: bytes, name: str) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            wanted = [f.name for f in file.schema_arrow if f.name == "labels" or not pa.types.is_nested(f.type)]
            place, size = 0, 0
            for batch in file.iter_batches(256, columns=wanted):
                size += batch.nbytes
                _check_size(size)  # a small file may hold one text a million times
                for record in batch.to_pylist():
                    place += 1
                    yield place, record
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{name} cannot be read as Parquet ({type(error).__name__}).") from None


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise DataError(
            f"The file holds over {size // 2**20} MB, and at most {MOST_BYTES // 2**20} MB are read here; cut it, or "
            "use safety-kit scan, which writes its verdicts to a file."
        )
