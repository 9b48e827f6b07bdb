"""Rows as they stand in JSONL, CSV, Parquet or a `datasets.Dataset`: opened, and read one by one."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from classifiers.sources import PLAIN, Columns, class_names, hub_stem, is_hub_name, load_hub
from safety_kit.errors import DataError, MissingExtra

if TYPE_CHECKING:
    import datasets

    Source: TypeAlias = Path | str | datasets.Dataset

_OWN_COLUMNS = frozenset({"text", "prompt", "label", "labels", "split", "pair", "score"})
_LABELS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}
_UNDECODED = re.compile("[\udc80-\udcff]")
_LONGEST_CELL = 1 << 27
"""Characters of a CSV file's cell: else a quotation mark that is never closed takes the rest of the file."""
_BATCH = 1024
"""Rows of a table that are made into Python's values at once."""


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
    if missing(text):
        raise BadRow("no text")
    if not isinstance(text, str):
        raise BadRow("text is not a string")
    if not text.strip():
        raise BadRow("no text")
    if not (missing(prompt) or isinstance(prompt, str)):
        raise BadRow("prompt is not a string")
    labels, listed = _labels(record, category)
    pair, split = record.get("pair"), record.get("split")
    return Row(
        place=place,
        text=text,
        prompt=None if missing(prompt) else prompt,
        labels=labels,
        listed=listed,
        group=sha256(text) if missing(pair) else str(pair),
        held_out=isinstance(split, str) and split.strip().casefold() == "test",
        slices={
            name: str(value)
            for name, value in record.items()
            if name not in _OWN_COLUMNS and isinstance(value, (str, int, float)) and not missing(value)
        },
    )


def _labels(record: Mapping[str, Any], category: str | None) -> tuple[dict[str, float], bool]:
    """Labels by category, and whether the categories not among them are 0."""
    label, labels = record.get("label"), record.get("labels")
    if not missing(label) and not missing(labels):
        raise BadRow("both label and labels")
    if missing(labels):
        if missing(label):
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
        known = {_category(name): _label(value) for name, value in labels.items() if not missing(value)}
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


def missing(value: object) -> bool:
    """None, NaN and an empty cell."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a source, each with its place.

    Attributes:
        name: The source's name, for messages.
        unit: What its rows are counted in: line or row.
        good: Rows that can be used.
        bad: What is wrong with each of the others, by place.
        records: The rows that can be used as they stood, columns renamed, by place.
        columns: All columns that a row has.
    """

    name: str
    unit: str
    good: list[Row]
    bad: dict[int, str]
    records: dict[int, Mapping[str, Any]]
    columns: frozenset[str]


def read_rows(source: Source, *, category: str | None = None, columns: Columns = PLAIN) -> Rows:
    """Every row of a source with its place; nothing is merged, and bad rows are kept apart.

    Args:
        source: As `open_rows` takes it.
        category: What `label` is about; else the source's stem.
        columns: Which columns hold what.

    Raises:
        DataError: The source cannot be read at all.
        MissingExtra: It needs the package `datasets`, which is not installed.
    """
    name, unit, records = open_rows(source, columns)
    default = category or stem(source)
    rows = Rows(name, unit, [], {}, {}, frozenset())
    seen: set[str] = set()
    for place, record in records:
        try:
            rows.good.append(parse_row(place, record, default))
            rows.records[place] = record
        except BadRow as error:
            rows.bad[place] = str(error)
        if isinstance(record, Mapping):
            seen.update(map(str, record))
    return replace(rows, columns=frozenset(seen))


def no_text_column(rows: Rows) -> str:
    """The sentence for rows of which none has the column with the text."""
    names = sorted(rows.columns)
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"no row has the column for the text; the columns are: {listed or 'none'} (name one with --text-column)"


def resolve_labels(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[dict[str, float]]]:
    """The categories that rows label, and each row's known labels: of a list, those not listed are 0."""
    categories = tuple(sorted({name for row in rows for name in row.labels}))
    return categories, [dict.fromkeys(categories, 0.0) | row.labels if row.listed else row.labels for row in rows]


def stem(source: Source) -> str | None:
    """What `label` is about where nobody says it: the name of the file or hub data set without its folder."""
    if isinstance(source, str) and is_hub_name(source):
        return hub_stem(source)
    return Path(source).stem if isinstance(source, (str, Path)) else None


def open_rows(source: Source, columns: Columns = PLAIN) -> tuple[str, str, Iterator[tuple[int, Any]]]:
    """The source's name, what its rows are counted in, and (place, row or what is wrong with it), one by one.

    A file is read as its rows are asked for: memory holds a row, or a batch of a Parquet file's.

    Args:
        source: A `.jsonl`, `.csv` or `.parquet` file, `hf:ORG/NAME[@CONFIG][:SPLIT]`, or a `datasets.Dataset`.
        columns: Which columns hold what; the rows come out with the house's names.
    """
    name, unit, records = _open(source, columns)
    if columns == PLAIN:
        return name, unit, records
    return name, unit, ((place, columns.rename(record)) for place, record in records)


def _open(source: Source, columns: Columns) -> tuple[str, str, Iterator[tuple[int, Any]]]:
    if isinstance(source, str) and is_hub_name(source):
        return source, "row", enumerate(_dataset_rows(load_hub(source), columns), 1)
    if not isinstance(source, (str, Path)):
        return "The data set", "row", enumerate(_dataset_rows(source, columns), 1)
    path = Path(source)
    kind = path.suffix.casefold()
    if kind not in {".jsonl", ".ndjson", ".csv", ".parquet"}:
        raise DataError(
            f"{path} is no .jsonl, .csv or .parquet file; save the rows as one of these, or name a hub data set as "
            "hf:ORG/NAME."
        )
    try:
        with path.open("rb") as file:
            head = file.read(2)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError:
        raise DataError("A NUL character is in the path of the rows.") from None
    if kind == ".parquet":
        return str(path), "row", enumerate(_parquet_rows(path), 1)
    if head in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path} is in UTF-16; save it in UTF-8.")
    records = _csv_rows(path, columns) if kind == ".csv" else _jsonl_rows(path)
    return str(path), "line", _readable(records, path)


def _readable(records: Iterator[tuple[int, Any]], path: Path) -> Iterator[tuple[int, Any]]:
    try:
        yield from records
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or type(error).__name__}.") from None


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for place, line in enumerate(file, 1):
            if place == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                yield place, json.loads(line.decode())
            except UnicodeDecodeError:
                yield place, BadRow("not in UTF-8")
            except (ValueError, RecursionError):
                yield place, BadRow("not JSON")


def _csv_rows(path: Path, columns: Columns) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        header: list[str] | None = None
        while True:
            place = reader.line_num + 1
            try:
                cells = next_cells(reader)
            except csv.Error:
                yield place, BadRow("not CSV; perhaps a quotation mark is missing")
                continue
            if cells is None:
                return
            if not cells:
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if header.count(columns.text or "text") != 1 or len(set(header)) != len(header):
                    raise DataError(
                        f"{path}: the first line must name the columns, each once: {columns.text or 'text'},label; "
                        "--text-column names another one for the texts."
                    )
            elif len(cells) != len(header):
                yield place, BadRow(f"{count(len(cells), 'cell')} for {count(len(header), 'column')}")
            elif any(map(_UNDECODED.search, cells)):
                yield place, BadRow("not in UTF-8")
            else:
                yield place, dict(zip(header, cells, strict=True))


def next_cells(reader: Any) -> list[str] | None:
    """The next row's cells, which may be long; None at the end. The limit is the process's, and holds for this read."""
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def _parquet_rows(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            wanted = [f.name for f in file.schema_arrow if f.name in _OWN_COLUMNS or not pa.types.is_nested(f.type)]
            for batch in file.iter_batches(_BATCH, columns=wanted):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {type(error).__name__}.") from None


def _dataset_rows(source: Any, columns: Columns) -> Iterator[Any]:
    kind = type(source)
    if kind.__module__.partition(".")[0] != "datasets":
        raise DataError(f"Rows come from a file or a datasets.Dataset, not from a {kind.__name__}.")
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "train") from None
    if isinstance(source, datasets.Dataset):
        return _table_rows(class_names(source, columns))
    if isinstance(source, Mapping):
        raise DataError(f"The data set has several splits; pass one of them: {', '.join(map(str, source))}.")
    raise DataError(f"A datasets.{kind.__name__} cannot be read; make a datasets.Dataset of it.")


def _table_rows(source: datasets.Dataset) -> Iterator[Any]:
    for table in source.with_format("arrow").iter(_BATCH):
        yield from table.to_pylist()


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
