"""A cleaned copy of labelled rows: one row a text, none that contradict or leak, near duplicates in one pair."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safety_kit import files
from safety_kit.errors import DataError, SafetyKitError

if TYPE_CHECKING:
    from pathlib import Path

    from classifiers.relations import Relations
    from classifiers.rows import Rows


_COUNTED = ("bad", "contradicting", "leaking", "merged", "paired")


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Rows to write, and how many of the old ones were what.

    Attributes:
        records: JSON objects, in the old order.
        bad: Left out because they cannot be used.
        contradicting: Left out because the same text has another label.
        leaking: Left out because the test has them too.
        merged: Merged into an earlier row of the same text.
        paired: Given a pair, so that near duplicates stay in one fold.
    """

    records: tuple[dict[str, Any], ...]
    bad: int
    contradicting: int
    leaking: int
    merged: int
    paired: int

    @property
    def counts(self) -> dict[str, int]:
        """How many rows there are, and how many old ones were what."""
        return {"rows": len(self.records), **{name: getattr(self, name) for name in _COUNTED}}


def clean(rows: Rows, known: Relations) -> Cleaned:
    """Rows without what can be mended by leaving out, merging and pairing.

    Of exact duplicates the first row stays, with all labels that are known, held out if any of them is. A row taught
    from that the test has too, exactly or nearly, goes.

    Args:
        rows: What `read_rows` gave.
        known: What `relate` found in them.
    """
    contradicting = {i for group in known.same if group[0] in known.contradicting for i in group}
    merged: dict[int, list[int]] = {
        group[0]: list(group) for group in known.same if group[0] not in known.contradicting
    }
    again = {i for group in merged.values() for i in group[1:]}
    kept, leaking = [], 0
    for i in range(len(known.rows)):
        if i in contradicting or i in again:
            continue
        group = merged.get(i, [i])
        held_out = any(known.rows[j].held_out for j in group)
        if not held_out and any(j in known.leaks for j in group):
            leaking += len(group)
            merged.pop(i, None)
            continue
        kept.append((i, group, held_out))
    # A pair is written where rows that are kept come from several, and only there.
    joined: dict[str, set[str]] = {}
    for i, group, _ in kept:
        joined.setdefault(known.together[i], set()).update(known.rows[j].group for j in group[:1])
    names = _pair_names(known, [i for i, _, _ in kept])
    # "label" is about the file's name, which the copy changes: rows that name their categories keep the names.
    plain = all("label" in rows.records[row.place] for row in known.rows)
    records, paired = [], 0
    for i, group, held_out in kept:
        record = _record(rows, known, i, group, plain)
        if held_out:
            record["split"] = "test"
        if len(joined[known.together[i]]) > 1:
            record["pair"] = names[known.together[i]]
            paired += 1
        records.append(record)
    return Cleaned(
        tuple(records),
        len(rows.bad),
        len(contradicting),
        leaking,
        sum(len(group) - 1 for group in merged.values()),
        paired,
    )


def _pair_names(known: Relations, kept: Sequence[int]) -> dict[str, str]:
    """For rows that stay together, the pair of the first of them, or the digest of its text where it has none."""
    names: dict[str, str] = {}
    for i in kept:
        names.setdefault(known.together[i], known.rows[i].group)
    return names


def _record(rows: Rows, known: Relations, i: int, group: Sequence[int], plain: bool) -> dict[str, Any]:
    row = known.rows[i]
    record = {
        str(name): value for name, value in rows.records[row.place].items() if value == value and value is not None
    }
    labels = {name: int(value) for j in reversed(group) for name, value in sorted(known.labels[j].items())}
    del record["label" if "label" in record else "labels"]
    if plain:
        return record | {"label": next(iter(labels.values()))}
    return record | {"labels": dict(sorted(labels.items())) or []}


def write_rows(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write JSONL in one step: no reader sees a part, and nothing is left behind where it fails.

    Raises:
        DataError: There is no row to write.
        SafetyKitError: The disk is full, or the folder cannot be written to.
    """
    if not records:
        raise DataError("Cleaning leaves no row, so nothing is written; see what is wrong with them without --fix.")
    try:
        files.write(path, "".join(_line(record) + "\n" for record in records).encode())
    except OSError as error:
        raise SafetyKitError(
            f"{path} cannot be written: {error.strerror or type(error).__name__}; nothing was left there."
        ) from None


def _line(record: dict[str, Any]) -> str:
    """Readable; escaped where a text has half a character, or signs that a terminal or an editor would obey."""
    line = json.dumps(record, ensure_ascii=False, default=str)
    return line if line.isprintable() else json.dumps(record, default=str)
