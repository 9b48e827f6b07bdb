"""Labelled example rows: read from JSONL, CSV, Parquet or a `datasets.Dataset`, checked, merged.

A row is `{"text", "prompt"?, "label": 0|1}`, or `{"text", "prompt"?, "labels": {category: 0|1|null}}`, or the same with
`labels` as a list: those listed are 1, the file's other categories 0. `"split": "test"` holds a row out of teaching;
rows of one `pair` stay together in every fold; any other plain column is a slice that results can be broken down by.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from classifiers.rows import Row, count, no_text_column, read_rows, resolve_labels, sha256
from classifiers.sources import PLAIN, Columns
from safety_kit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from classifiers.rows import Source

    Labels: TypeAlias = NDArray[np.float64]
    Mask: TypeAlias = NDArray[np.bool_]

LISTED = 20
"""Bad rows named in one message; the others are counted."""


class DataWarning(UserWarning):
    """Rows were merged or left out."""


@dataclass(frozen=True, eq=False, repr=False)
class Examples:
    """Texts with what is known of their labels; no (prompt, text) occurs twice.

    Attributes:
        texts: What is classified.
        prompts: For a reply, the message that it answers.
        categories: One a column of `labels`.
        labels: Texts × categories: 1, 0, or NaN where nobody has said.
        held_out: Whether a text is kept from teaching.
        groups: Texts of one group belong in the same fold.
        slices: Other columns of the rows, such as `lang`; None where a row has no value.
    """

    texts: tuple[str, ...]
    prompts: tuple[str | None, ...]
    categories: tuple[str, ...]
    labels: Labels
    held_out: Mask
    groups: tuple[str, ...]
    slices: dict[str, tuple[str | None, ...]]

    def __post_init__(self) -> None:
        sizes = {len(self.texts), len(self.prompts), len(self.labels), len(self.held_out), len(self.groups)}
        if len(sizes | {len(column) for column in self.slices.values()}) != 1:
            raise ValueError("texts, prompts, labels, held_out, groups and slices differ in length")
        if self.labels.shape != (len(self.texts), len(self.categories)):
            raise ValueError("labels is not texts × categories")
        self.labels.setflags(write=False)
        self.held_out.setflags(write=False)

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        known = ", ".join(
            f"{name}: {int((column == 1).sum())} of {int((~np.isnan(column)).sum())}"
            for name, column in zip(self.categories, self.labels.T, strict=True)
        )
        return f"<Examples {len(self)} texts, {int(self.held_out.sum())} held out; {known}>"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the texts, prompts, labels, groups and split, in whatever order they stand."""
        rows = zip(self.texts, self.prompts, self.labels.tolist(), self.groups, self.held_out.tolist(), strict=True)
        order = sorted(range(len(self.categories)), key=self.categories.__getitem__)
        names = [self.categories[i] for i in order]
        hashed = sorted(
            sha256(json.dumps([text, prompt, [_plain(labels[i]) for i in order], group, out]))
            for text, prompt, labels, group, out in rows
        )
        return sha256(json.dumps([names, hashed]))

    def select(self, which: ArrayLike) -> Examples:
        """The texts that a mask or a list of positions names."""
        named = np.asarray(which)
        chosen = np.arange(len(self))[named if named.size else named.astype(int)]
        return self._take(chosen.tolist(), self.labels[chosen], self.held_out[chosen])

    def teach(self) -> Examples:
        """The texts to learn from: those not held out."""
        return self.select(~self.held_out)

    def test(self) -> Examples:
        """The texts held out from teaching."""
        return self.select(self.held_out)

    def pairs(self) -> list[tuple[str | None, str]]:
        """(prompt, text) of each, as `SafetyClassifier` takes them."""
        return list(zip(self.prompts, self.texts, strict=True))

    @classmethod
    def concat(cls, *parts: Examples) -> Examples:
        """All parts as one: a category that a part does not know stays unknown for its texts.

        A (prompt, text) that several parts have becomes one with all that is known of it, held out if any of them is.

        Raises:
            DataError: Two parts give it different labels.
        """
        categories = tuple(dict.fromkeys(name for part in parts for name in part.categories))
        labels = np.full((sum(map(len, parts)), len(categories)), np.nan)
        start = 0
        for part in parts:
            for column, name in enumerate(part.categories):
                labels[start : start + len(part), categories.index(name)] = part.labels[:, column]
            start += len(part)
        names = dict.fromkeys(name for part in parts for name in part.slices)
        slices = {n: tuple(v for part in parts for v in part.slices.get(n) or [None] * len(part)) for n in names}
        whole = cls(
            texts=tuple(text for part in parts for text in part.texts),
            prompts=tuple(prompt for part in parts for prompt in part.prompts),
            categories=categories,
            labels=labels,
            held_out=np.concatenate([part.held_out for part in parts]) if parts else np.zeros(0, dtype=bool),
            groups=tuple(group for part in parts for group in part.groups),
            slices=slices,
        )
        merged, contradicting, _ = whole._merged()
        if contradicting.any():
            raise DataError(f"{int(contradicting.sum())} texts have one label in one set and another in the next.")
        return merged

    def with_negatives(self, benign: Examples) -> Examples:
        """These texts, and harmless ones that count as label 0 in each category here.

        Raises:
            DataError: A text among the harmless ones is labelled 1.
        """
        if (benign.labels == 1).any():
            raise DataError("A set of harmless texts has texts of label 1.")
        own = set(self.pairs())
        new = benign.select([pair not in own for pair in benign.pairs()])
        zeros = np.zeros((len(new), len(self.categories)))
        columns = (new.texts, new.prompts, self.categories, zeros, new.held_out, new.groups, new.slices)
        return Examples.concat(self, Examples(*columns))

    def _take(self, rows: Sequence[int], labels: Labels, held_out: Mask) -> Examples:
        return Examples(
            texts=tuple(self.texts[i] for i in rows),
            prompts=tuple(self.prompts[i] for i in rows),
            categories=self.categories,
            labels=labels,
            held_out=held_out,
            groups=tuple(self.groups[i] for i in rows),
            slices={name: tuple(column[i] for i in rows) for name, column in self.slices.items()},
        )

    def _merged(self) -> tuple[Examples, Mask, list[int]]:
        """One of each (prompt, text); which of these have contradicting labels; for each row here, which it became."""
        places: dict[tuple[str | None, str], int] = {}
        became = [places.setdefault(pair, len(places)) for pair in self.pairs()]
        high = np.full((len(places), len(self.categories)), np.nan)
        low = high.copy()
        held_out = np.zeros(len(places), dtype=bool)
        at = np.array(became, dtype=np.intp)
        np.fmax.at(high, at, self.labels)
        np.fmin.at(low, at, self.labels)
        np.logical_or.at(held_out, at, self.held_out)
        first: dict[int, int] = {}
        for row, place in enumerate(became):
            first.setdefault(place, row)
        contradicting = np.asarray((low < high).any(axis=1))
        return self._take(list(first.values()), high, held_out), contradicting, became


def read_examples(
    source: Source,
    *,
    category: str | None = None,
    columns: Columns = PLAIN,
    one_class: bool = False,
    skip_bad: bool = False,
    warn: Callable[[str], None] | None = None,
) -> Examples:
    """Rows as `Examples`, each checked.

    Args:
        source: A `.jsonl`, `.csv` or `.parquet` file, `hf:ORG/NAME[@CONFIG][:SPLIT]`, or a `datasets.Dataset`.
        category: What `label` is about; else the file's stem. Of rows with `labels`, only this category is read.
        columns: Which columns hold text, prompt and label, where they are not called so.
        one_class: Whether a category may have texts of one label only, as a set of harmless texts has.
        skip_bad: Leave bad rows out, with a warning, instead of stopping. All of several contradicting rows go.
        warn: Called with what was merged or left out; else a `DataWarning` is given.

    Raises:
        DataError: Bad rows, by line; or nothing that can be read or taught from. It never repeats a text.
        MissingExtra: The source is of the package `datasets`, which is not installed.
    """
    read = read_rows(source, category=category, columns=columns)
    name, unit, rows, bad = read.name, read.unit, read.good, read.bad
    examples, contradicting, became = _assemble(rows)._merged()
    first: dict[int, int] = {}
    doubled: list[int] = []
    for row, entry in zip(rows, became, strict=True):
        start = first.setdefault(entry, row.place)
        if contradicting[entry]:
            bad[row.place] = f"the text of {unit} {start} has contradicting labels"
        elif start != row.place:
            doubled.append(row.place)
    examples = examples.select(~contradicting)
    if category is not None and len(examples):
        examples = _only(category, examples, name)
    faults = [] if one_class or not (len(examples) or skip_bad or not bad) else _one_sided(examples)
    if not len(examples) and not bad:
        faults = [f"no rows; the first could be {json.dumps({'text': 'some text', 'label': 1})}"]
    if read.columns and "text" not in read.columns:
        faults.append(no_text_column(read))
    if faults or not len(examples) or (bad and not skip_bad):
        raise DataError(_complaint(name, unit, bad, faults, skip_bad))
    tell = warn or (lambda message: warnings.warn(message, DataWarning, stacklevel=3))
    if bad:
        tell(f"{name}: {count(len(bad), 'bad row')} left out ({_places(unit, bad)}).")
    if doubled:
        tell(f"{name}: {count(len(doubled), 'duplicate')} merged ({_places(unit, doubled)}).")
    return examples


def _assemble(rows: list[Row]) -> Examples:
    categories, resolved = resolve_labels(rows)
    labels = np.array([[known.get(name, np.nan) for name in categories] for known in resolved], dtype=np.float64)
    labels = labels.reshape(len(rows), len(categories))
    names = dict.fromkeys(name for row in rows for name in row.slices)
    return Examples(
        texts=tuple(row.text for row in rows),
        prompts=tuple(row.prompt for row in rows),
        categories=categories,
        labels=labels,
        held_out=np.array([row.held_out for row in rows], dtype=bool),
        groups=tuple(row.group for row in rows),
        slices={name: tuple(row.slices.get(name) for row in rows) for name in names},
    )


def _only(category: str, examples: Examples, name: str) -> Examples:
    if category not in examples.categories:
        raise DataError(
            f"{name} has no labels for {category}; it has labels for: {', '.join(examples.categories) or 'nothing'}."
        )
    column = examples.categories.index(category)
    some = examples.select(~np.isnan(examples.labels[:, column]))
    columns = (some.texts, some.prompts, (category,), some.labels[:, [column]])
    return Examples(*columns, some.held_out, some.groups, some.slices)


def _one_sided(examples: Examples) -> list[str]:
    faults = [] if examples.categories else ["no category is named by any row"]
    for name, labels in zip(examples.categories, examples.labels.T, strict=True):
        known = set(labels[~np.isnan(labels)].tolist())
        if not known:
            faults.append(f"{name}: no row with a label is left")
        elif len(known) == 1:
            only = int(known.pop())
            faults.append(f"{name}: every label is {only}; it needs examples of {1 - only} too")
    return faults


def _complaint(name: str, unit: str, bad: Mapping[int, str], faults: list[str], skip_bad: bool) -> str:
    lines = [f"{name} cannot be taught from:"]
    lines += [f"  {unit} {place}: {bad[place]}" for place in sorted(bad)[:LISTED]]
    if len(bad) > LISTED:
        lines.append(f"  and {count(len(bad) - LISTED, 'more bad row')}")
    lines += [f"  {fault}" for fault in faults]
    if bad and not skip_bad:
        lines.append("Mend these rows, or leave them out with --skip-bad.")
    return "\n".join(lines)


def _places(unit: str, places: Iterable[int]) -> str:
    listed = sorted(places)
    more = ", …" if len(listed) > LISTED else ""
    return f"{unit} " + ", ".join(map(str, listed[:LISTED])) + more


def _plain(label: float) -> int | None:
    return None if math.isnan(label) else int(label)
