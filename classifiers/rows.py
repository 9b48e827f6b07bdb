"""Rows as they stand in JSONL, CSV, Parquet or a `datasets.Dataset`: opened, and read one by one."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safety_kit.errors import DataError, MissingExtra

if TYPE_CHECKING:
    import datasets

_OWN_COLUMNS = frozenset({"text", "prompt", "label", "labels", "split", "pair"})
_LABELS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}
_UNDECODED = re.compile("[\udc80-\udcff]")


class BadRow(Exception):
    """What is wrong with one row; never its text."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row that can be used."""

    place: int
    text: str
    prompt: str | None
    labels: dict[str, float]
    listed: bool
    group: str
    held_out: bool
    slices: dict[str, str]


def parse_row(place: int, record: Any, category: str | None) -> Row:
    """A record as a row; `category` is what its `label` is about.

    Raises:
        BadRow: It cannot be used.
    """
    if isinstance(record, BadRow):
        raise record
    if not isinstance(record, Mapping):
        raise BadRow("not an object with text and label")
    text, prompt = record.get("text"), record.get("prompt")
    if _missing(text):
        raise BadRow("no text")
    if not isinstance(text, str):
        raise BadRow("text is not a string")
    if not text.strip():
        raise BadRow("no text")
    if not (_missing(prompt) or isinstance(prompt, str)):
        raise BadRow("prompt is not a string")
    labels, listed = _labels(record, category)
    pair, split = record.get("pair"), record.get("split")
    return Row(
        place=place,
        text=text,
        prompt=None if _missing(prompt) else prompt,
        labels=labels,
        listed=listed,
        group=sha256(text) if _missing(pair) else str(pair),
        held_out=isinstance(split, str) and split.strip().casefold() == "test",
        slices={
            name: str(value)
            for name, value in record.items()
            if name not in _OWN_COLUMNS and isinstance(value, (str, int, float)) and not _missing(value)
        },
    )


def _labels(record: Mapping[str, Any], category: str | None) -> tuple[dict[str, float], bool]:
    """Labels by category, and whether the categories not among them are 0."""
    label, labels = record.get("label"), record.get("labels")
    if not _missing(label) and not _missing(labels):
        raise BadRow("both label and labels")
    if _missing(labels):
        if _missing(label):
            raise BadRow("no label")
        if category is None:
            raise BadRow("a label without a category; name it by the option category")
        return {category: _label(label)}, False
    if isinstance(labels, str):  # a cell of a CSV file
        try:
            labels = json.loads(labels)
        except (ValueError, RecursionError):
            raise BadRow("labels is neither a list nor a mapping in JSON") from None
    if isinstance(labels, Sequence) and labels and all(isinstance(item, tuple) for item in labels):
        labels = dict(labels)  # a Parquet map
    if isinstance(labels, Mapping):
        known = {_category(name): _label(value) for name, value in labels.items() if not _missing(value)}
        if not known:
            raise BadRow("no label")
        return known, False
    if isinstance(labels, list):
        return {_category(name): 1.0 for name in labels}, True
    raise BadRow("labels is neither a list nor a mapping")


def _label(value: object) -> float:
    if isinstance(value, str):
        value = _LABELS.get(value.strip().casefold())
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return float(value)
    raise BadRow("a label is neither 0 nor 1")


def _category(name: object) -> str:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise BadRow("a category in labels has no proper name")
    return name


def _missing(value: object) -> bool:
    """None, NaN and an empty cell."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def open_rows(source: Path | str | datasets.Dataset) -> tuple[str, str, Iterator[tuple[int, Any]]]:
    """The source's name, what its rows are counted in, and (place, row or what is wrong with it)."""
    if not isinstance(source, (str, Path)):
        return "The data set", "row", enumerate(_dataset_rows(source), 1)
    path = Path(source)
    readers = {".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows, ".csv": _csv_rows}
    kind = path.suffix.casefold()
    if kind not in {*readers, ".parquet"}:
        raise DataError(f"{path} is no .jsonl, .csv or .parquet file; save the rows as one of these.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError:
        raise DataError("A NUL character is in the path of the rows.") from None
    if kind == ".parquet":
        return str(path), "row", enumerate(_parquet_rows(content, path), 1)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is in UTF-16; save it in UTF-8.")
    return str(path), "line", readers[kind](content.removeprefix(b"\xef\xbb\xbf"), path)


def _jsonl_rows(content: bytes, path: Path) -> Iterator[tuple[int, Any]]:
    for place, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield place, json.loads(line.decode())
        except UnicodeDecodeError:
            yield place, BadRow("not in UTF-8")
        except (ValueError, RecursionError):
            yield place, BadRow("not JSON")


def _csv_rows(content: bytes, path: Path) -> Iterator[tuple[int, Any]]:
    text = content.decode(errors="surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    damaged = _UNDECODED.search(text) is not None
    limit = csv.field_size_limit(sys.maxsize)
    try:
        header: list[str] | None = None
        while True:
            place = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                yield place, BadRow("not CSV; perhaps a quotation mark is missing")
                continue
            if not cells:
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if header.count("text") != 1 or len(set(header)) != len(header):
                    raise DataError(f"{path}: the first line must name the columns, each once: text,label")
            elif len(cells) != len(header):
                yield place, BadRow(f"{count(len(cells), 'cell')} for {count(len(header), 'column')}")
            elif damaged and any(map(_UNDECODED.search, cells)):
                yield place, BadRow("not in UTF-8")
            else:
                yield place, dict(zip(header, cells, strict=True))
    finally:
        csv.field_size_limit(limit)


def _parquet_rows(content: bytes, path: Path) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(content))
        wanted = [f.name for f in table.schema if f.name in _OWN_COLUMNS or not pa.types.is_nested(f.type)]
        rows: list[Any] = table.select(wanted).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {type(error).__name__}.") from None
    return rows


def _dataset_rows(source: Any) -> list[Any]:
    kind = type(source)
    if kind.__module__.partition(".")[0] != "datasets":
        raise DataError(f"Rows come from a file or a datasets.Dataset, not from a {kind.__name__}.")
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "train") from None
    if isinstance(source, datasets.Dataset):
        rows: list[Any] = source.to_list()
        return rows
    if isinstance(source, Mapping):
        raise DataError(f"The data set has several splits; pass one of them: {', '.join(map(str, source))}.")
    raise DataError(f"A datasets.{kind.__name__} cannot be read; make a datasets.Dataset of it.")


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
