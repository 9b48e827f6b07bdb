"""Texts without labels: read from any file of rows or lines, and written as rows for somebody to label."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifiers.data import LISTED
from classifiers.rows import BadRow, count, open_rows, parse_row
from classifiers.sources import PLAIN, Columns
from safety_kit import files
from safety_kit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from classifiers.choose import Choice
    from classifiers.rows import Source

    Pair = tuple[str | None, str]


@dataclass(frozen=True, slots=True)
class Pool:
    """Distinct texts that wait for a label.

    Attributes:
        pairs: (prompt, text) of each.
        labelled: Rows left out because they have a label.
        known: Rows left out because their text was among those known, or came before.
        bad: Rows left out because they hold no text.
    """

    pairs: tuple[Pair, ...]
    labelled: int
    known: int
    bad: int


def read_pool(
    source: Source,
    *,
    category: str | None = None,
    columns: Columns = PLAIN,
    known: Iterable[Pair] = (),
    every: bool = False,
    skip_bad: bool = False,
) -> Pool:
    """The unlabelled texts of a file, each once: texts that differ in case and spaces only are the same.

    Args:
        source: What `read_examples` takes, with or without labels, or a `.txt` file with a text a line.
        category: Of rows with `labels`, those are unlabelled that say nothing of it.
        columns: Which columns hold text, prompt and label, where they are not called so.
        known: Texts to leave out, such as those taught from.
        every: Take the labelled rows too.
        skip_bad: Leave out rows without a text instead of stopping.

    Raises:
        DataError: The file cannot be read, has no column `text`, or bad rows, by line; or nothing is left.
    """
    name, unit, records = _open(source, columns)
    seen = {_plain(pair) for pair in known}
    pairs: list[Pair] = []
    bad: dict[int, str] = {}
    labelled = doubled = rows = 0
    named: set[str] = set()
    for place, record in records:
        rows += 1
        named |= {str(column) for column in record} if isinstance(record, Mapping) else set()
        try:
            pair = _pair(place, record)
        except BadRow as error:
            bad[place] = str(error)
            continue
        if not every and _has_label(record, category):
            labelled += 1
        elif (key := _plain(pair)) in seen:
            doubled += 1
        else:
            seen.add(key)
            pairs.append(pair)
    if named and "text" not in named:
        raise DataError(f"{name} has no column for the text but {_named(named)}; name one with --text-column.")
    if bad and not skip_bad:
        lines = [f"{name} cannot be read:", *(f"  {unit} {place}: {bad[place]}" for place in sorted(bad)[:LISTED])]
        more = [f"  and {count(len(bad) - LISTED, 'more bad row')}"] if len(bad) > LISTED else []
        raise DataError("\n".join([*lines, *more, "Mend these rows, or leave them out with --skip-bad."]))
    if not pairs:
        raise DataError(
            f"{name} has no text left to label: of {count(rows, 'row')} {labelled} have a label, {doubled} are known."
        )
    return Pool(tuple(pairs), labelled, doubled, len(bad))


def write_choices(path: Path, pool: Pool, choices: Iterable[Choice]) -> None:
    """Write chosen texts as JSONL rows {"text", "prompt"?, "label": null, "score"}, in one step.

    `train` refuses a row whose label is still null, by line.
    """
    lines = []
    for choice in choices:
        prompt, text = pool.pairs[choice.row]
        row = {"text": text, **({} if prompt is None else {"prompt": prompt})}
        lines.append(_json({**row, "label": None, "score": round(choice.score, 4)}))
    files.write(path, "".join(line + "\n" for line in lines).encode())


def _json(row: dict[str, Any]) -> str:
    """Readable where it can be shown; escaped where a text has signs that a terminal or an editor would obey."""
    line = json.dumps(row, ensure_ascii=False)
    return line if line.isprintable() else json.dumps(row)


def _open(source: Source, columns: Columns) -> tuple[str, str, Iterator[tuple[int, Any]]]:
    if isinstance(source, (str, Path)) and Path(source).suffix.casefold() == ".txt":
        return str(source), "line", _lines(Path(source))
    return open_rows(source, columns)


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    for place, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            yield place, BadRow("not in UTF-8")
            continue
        if text.strip():
            yield place, {"text": text.strip()}


def _pair(place: int, record: Any) -> Pair:
    if isinstance(record, Mapping):
        record = {"text": record.get("text"), "prompt": record.get("prompt"), "label": 0}
    row = parse_row(place, record, "")
    return row.prompt, row.text


def _has_label(record: Mapping[str, Any], category: str | None) -> bool:
    label, labels = record.get("label"), record.get("labels")
    if label == label and label not in (None, ""):
        return True
    if isinstance(labels, Mapping):
        return labels.get(category) is not None if category else any(value is not None for value in labels.values())
    return labels not in (None, "")


def _plain(pair: Pair) -> tuple[str | None, str]:
    prompt, text = pair
    return None if prompt is None else " ".join(prompt.split()), " ".join(text.split()).casefold()


def _named(columns: set[str]) -> str:
    names = sorted(columns)
    return ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")
