"""Texts to hold against a policy, as they stand in a file, a `datasets` folder or on the hub, unlabelled.

A source is gone through twice: once to see that all of its rows can be read, and what they are, then row by row as they
are asked for. Memory holds a few of them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_kit.errors import DataError, MissingExtra
from safety_kit.types import Sample, Stage

if TYPE_CHECKING:
    from classifiers.rows import Source
    from classifiers.sources import Columns

ALL = "*"
"""Keeps every column."""

_SHOWN = 20

In = Annotated[
    str,
    typer.Argument(
        metavar="IN",
        help='Rows {"text", "prompt"?, "stage"?} in JSONL, CSV or Parquet, a folder that `datasets` saved, or a hub '
        "data set as hf:ORG/NAME@CONFIG:SPLIT.",
    ),
]


@dataclass(frozen=True, slots=True)
class Entry:
    """One row.

    Attributes:
        place: Its line or row, from 1.
        sample: What the guard reads; None where the row cannot be read.
        fault: Why not.
        kept: Columns that are carried over.
    """

    place: int
    sample: Sample | None
    fault: str = ""
    kept: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Corpus:
    """All rows of a source; each iteration reads it anew.

    Attributes:
        name: The source's name, for messages.
        unit: What its rows are counted in: line or row.
        digest: SHA-256 over all that is read of the rows, and their places.
    """

    name: str
    unit: str
    digest: str
    _count: int
    _entries: Callable[[], Iterator[Entry]]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        """The rows in order.

        Raises:
            DataError: After the last one: they are not those that were seen at first.
        """
        made = hashlib.sha256()
        for entry in self._entries():
            _add(made, entry)
            yield entry
        if made.hexdigest() != self.digest:
            raise DataError(f"{self.name} was changed while it was read; begin anew, into another file.")


def _add(made: hashlib._Hash, entry: Entry) -> None:
    sample = entry.sample
    read = [sample.text, sample.prompt, sample.stage.value] if sample else [entry.fault]
    made.update(json.dumps([entry.place, read, entry.kept], sort_keys=True).encode() + b"\n")


def read(
    source: str,
    stage: Stage = Stage.INPUT,
    columns: Columns | None = None,
    keep: Sequence[str] = (),
    skip_bad: bool = False,
) -> Corpus:
    """A source whose rows can all be read.

    Args:
        source: As the command line names it.
        stage: Of rows that name none.
        columns: Which columns hold the text and the prompt.
        keep: Other columns to carry over; `ALL` for every one.
        skip_bad: Let rows that cannot be read be entries with a fault.

    Raises:
        DataError: The source or some of its rows cannot be read, by place; or a column is not there.
        MissingExtra: It needs the package `datasets`, which is not installed.
    """
    from classifiers.sources import PLAIN

    named = columns or PLAIN
    own = {"text", "prompt", "stage", named.text, named.prompt}
    if forbidden := [column for column in keep if column in own - {"stage"}]:
        raise DataError(f"--keep {forbidden[0]}: holds a text; use --keep-text for what may be passed on.")
    name, unit, records = _opener(source, named)
    seen = _Seen({"text", *keep})
    for place, record in records():
        seen.add(record, _entry(place, record, stage, own, keep))
    if not seen.rows:
        raise DataError(f"{name} holds no rows.")
    listed = ", ".join(seen.columns) or "none"
    if "text" not in seen.there and seen.columns:
        raise DataError(
            f"{name}: no row has the column for the text; the columns are: {listed} (name one with --text-column)"
        )
    if missing := [column for column in keep if column != ALL and column not in seen.there]:
        raise DataError(f"--keep {missing[0]}: no row has this column; the columns are: {listed}.")
    if not skip_bad:
        _refuse(name, unit, seen)
    return Corpus(
        name,
        unit,
        seen.digest.hexdigest(),
        seen.rows,
        lambda: (_entry(place, record, stage, own, keep) for place, record in records()),
    )


@dataclass(slots=True)
class _Seen:
    """What going through all rows has shown, in bounded memory.

    Attributes:
        asked: Columns of which it matters whether a row has them.
        there: Those that a row has.
        columns: The first columns that rows have, by name.
        rows: How many there are.
        bad: How many cannot be read.
        faults: What is wrong with the first of these.
        digest: Of all.
    """

    asked: set[str]
    there: set[str] = field(default_factory=set)
    columns: dict[str, None] = field(default_factory=dict)
    rows: int = 0
    bad: int = 0
    faults: list[Entry] = field(default_factory=list)
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, record: Any, entry: Entry) -> None:
        self.rows += 1
        if isinstance(record, Mapping):
            names = list(map(str, record))
            self.there.update(self.asked.intersection(names))
            if len(self.columns) < _SHOWN:
                self.columns.update(dict.fromkeys(names[: _SHOWN - len(self.columns)]))
        if entry.sample is None:
            self.bad += 1
            if len(self.faults) < _SHOWN:
                self.faults.append(entry)
        _add(self.digest, entry)


def _opener(source: str, columns: Columns) -> tuple[str, str, Callable[[], Iterator[tuple[int, Any]]]]:
    """The source's name, what its rows are counted in, and a function that begins to read them; loaded only once."""
    from classifiers.rows import open_rows
    from classifiers.sources import is_hub_name

    rows = opened(source)
    name, unit, _ = open_rows(rows, columns)
    return source if is_hub_name(source) else name, unit, lambda: open_rows(rows, columns)[2]


def opened(source: str) -> Source:
    """What `open_rows` takes of a source as the command line names it: hub data sets and saved folders are loaded.

    Raises:
        DataError: It is no such folder, or has several splits; or the hub cannot be reached.
        MissingExtra: It needs the package `datasets`, which is not installed.
    """
    from classifiers.sources import is_hub_name, load_hub

    if is_hub_name(source):
        return load_hub(source)
    if not Path(source).is_dir():
        return source
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "train") from None
    try:
        loaded = datasets.load_from_disk(source)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{source} is no folder that `datasets` saved ({type(error).__name__}).") from None
    if isinstance(loaded, Mapping):
        splits = list(loaded)
        if len(splits) > 1:
            raise DataError(f"{source} has several splits; name the folder of one: {', '.join(map(str, splits))}.")
        loaded = loaded[splits[0]]
    return loaded


def _entry(place: int, record: Any, stage: Stage, own: set[str | None], keep: Sequence[str]) -> Entry:
    try:
        return _read(place, record, stage, own, keep)
    except ValueError as error:
        return Entry(place, None, str(error))
    except RecursionError:
        return Entry(place, None, "nested too deeply")


def _read(place: int, record: Any, stage: Stage, own: set[str | None], keep: Sequence[str]) -> Entry:
    from classifiers.rows import missing

    if isinstance(record, Exception):
        raise ValueError(str(record))
    if not isinstance(record, Mapping):
        raise ValueError("no object with a text")
    text, prompt, at = record.get("text"), record.get("prompt"), record.get("stage")
    if not isinstance(text, str):
        raise ValueError("text is missing or no string")
    if not (missing(prompt) or isinstance(prompt, str)):
        raise ValueError("prompt is no string")
    if not (missing(at) or at in tuple(Stage)):
        raise ValueError("stage is neither input nor output")
    stage = stage if missing(at) else Stage(str(at))
    kept = {
        str(name): _plain(value) for name, value in record.items() if name in keep or (ALL in keep and name not in own)
    }
    return Entry(place, Sample.at(text, stage, None if missing(prompt) else prompt), "", kept)


def _plain(value: object) -> Any:
    """A value as JSON has it: numbers that are none become null, dates and the like are written out."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, bytes) else str(value)


def _refuse(name: str, unit: str, seen: _Seen) -> None:
    if not seen.bad:
        return
    faults = [f"{unit} {entry.place}: {entry.fault}" for entry in seen.faults]
    more = [f"and {seen.bad - len(faults)} more"] if seen.bad > len(faults) else []
    told = f"{name} has rows that cannot be read; mend them, or use --skip-bad:"
    raise DataError("\n  ".join([told, *faults, *more]))
