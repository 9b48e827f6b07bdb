"""Texts to hold against a policy, as they stand in a file, a `datasets` folder or on the hub, unlabelled."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
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
    """All rows of a source.

    Attributes:
        name: The source's name, for messages.
        unit: What its rows are counted in: line or row.
        entries: In order.
    """

    name: str
    unit: str
    entries: tuple[Entry, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over all that is read of the rows, and their places."""
        made = hashlib.sha256()
        for entry in self.entries:
            sample = entry.sample
            read = [sample.text, sample.prompt, sample.stage.value] if sample else [entry.fault]
            made.update(json.dumps([entry.place, read, entry.kept], sort_keys=True).encode() + b"\n")
        return made.hexdigest()


def read(
    source: str,
    stage: Stage = Stage.INPUT,
    columns: Columns | None = None,
    keep: Sequence[str] = (),
    skip_bad: bool = False,
) -> Corpus:
    """Every row of a source.

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
    from classifiers.rows import open_rows
    from classifiers.sources import PLAIN

    named = columns or PLAIN
    own = {"text", "prompt", "stage", named.text, named.prompt}
    if forbidden := [column for column in keep if column in own - {"stage"}]:
        raise DataError(f"--keep {forbidden[0]}: holds a text; use --keep-text for what may be passed on.")
    name, unit, records = open_rows(_opened(source), named)
    seen: dict[str, None] = {}
    entries = []
    for place, record in records:
        if isinstance(record, Mapping):
            seen.update(dict.fromkeys(map(str, record)))
        entries.append(_entry(place, record, stage, own, keep))
    if not entries:
        raise DataError(f"{name} holds no rows.")
    listed = ", ".join(list(seen)[:_SHOWN]) or "none"
    if "text" not in seen and seen:
        raise DataError(
            f"{name}: no row has the column for the text; the columns are: {listed} (name one with --text-column)"
        )
    if missing := [column for column in keep if column != ALL and column not in seen]:
        raise DataError(f"--keep {missing[0]}: no row has this column; the columns are: {listed}.")
    if not skip_bad:
        _refuse(name, unit, [entry for entry in entries if entry.sample is None])
    return Corpus(name, unit, tuple(entries))


def _opened(source: str) -> Source:
    if source.startswith("hf:") or not Path(source).is_dir():
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


def _refuse(name: str, unit: str, bad: Sequence[Entry]) -> None:
    if not bad:
        return
    faults = [f"{unit} {entry.place}: {entry.fault}" for entry in bad[:_SHOWN]]
    more = [f"and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
    told = f"{name} has rows that cannot be read; mend them, or use --skip-bad:"
    raise DataError("\n  ".join([told, *faults, *more]))
