"""Which rows belong together: exact and near duplicates, contradictions among them, and leaks into the test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from classifiers.duplicates import Pair, Union, key, near_groups, near_matches
from classifiers.rows import Row, Rows, no_text_column, resolve_labels
from safety_kit.errors import DataError


@dataclass(frozen=True, slots=True)
class Relations:
    """Which rows belong together; positions in `rows`.

    Attributes:
        rows: The rows compared.
        categories: What is labelled.
        labels: Row → category → 0 or 1, for the labels that are known.
        same: Exact duplicates: sets of rows of one folded prompt and text.
        contradicting: Of these, by their first row, the categories that they contradict each other in.
        near: Sets of near duplicates, one row of each exact text, and the least similarity.
        leaks: Rows that are taught from and also in the test: (where, similarity).
        together: For each row, the name of what must stay in one fold: its pair, joined by duplicates and near ones.
    """

    rows: tuple[Row, ...]
    categories: tuple[str, ...]
    labels: tuple[dict[str, float], ...]
    same: tuple[tuple[int, ...], ...]
    contradicting: dict[int, tuple[str, ...]]
    near: tuple[tuple[tuple[int, ...], float], ...]
    leaks: dict[int, tuple[str, float]]
    together: tuple[str, ...]

    def places(self, rows: Iterable[int]) -> tuple[int, ...]:
        """Where rows stand in the data."""
        return tuple(sorted(self.rows[i].place for i in rows))

    def once(self) -> list[int]:
        """One row of each exact text, without those of contradicting labels."""
        again = {i for group in self.same for i in (group if group[0] in self.contradicting else group[1:])}
        return [i for i in range(len(self.rows)) if i not in again]


def relate(
    rows: Rows, against: Rows | None = None, *, category: str | None = None, progress: bool = False
) -> Relations:
    """Compare every row with every other, and those taught from with those of the test.

    Args:
        rows: What `read_rows` gave.
        against: The rows of a test; where some are marked "split": "test", only these.
        category: The only category to look at; None: all.
        progress: Show progress bars on stderr.

    Raises:
        DataError: No row can be used, or none has the category.
    """
    for source in (rows, against):
        if source is not None and not source.good:
            problem = next((f"{source.unit} {place}: {text}" for place, text in source.bad.items()), "it has no rows")
            why = no_text_column(source) if source.columns and "text" not in source.columns else problem
            raise DataError(f"No row of {source.name} can be used; {why}.")
    categories, labels = resolve_labels(rows.good)
    if category is not None:
        if category not in categories:
            raise DataError(f"{rows.name} has no labels for {category}; it has: {', '.join(categories)}.")
        categories = (category,)
    pairs = [(row.prompt, row.text) for row in rows.good]
    by_key: dict[Pair, list[int]] = {}
    for i, pair in enumerate(pairs):
        by_key.setdefault(key(pair), []).append(i)
    same = tuple(tuple(group) for group in by_key.values() if len(group) > 1)
    contradicting = {}
    for group in same:
        values = {name: {labels[i][name] for i in group if name in labels[i]} for name in categories}
        if unclear := tuple(name for name, known in values.items() if len(known) > 1):
            contradicting[group[0]] = unclear
    first = [group[0] for group in by_key.values()]
    label = "comparing" if progress else None
    near = near_groups([pairs[i] for i in first], label)
    leaks = dict(_own_leaks(rows, pairs, label))
    if against is not None:
        leaks |= dict(_leaks(rows, pairs, against, label))
    near_sets = tuple((tuple(first[i] for i in group), least) for group, least in near)
    union = Union()
    for joined in (*same, *(group for group, _ in near_sets)):
        for i in joined[1:]:
            union.join(rows.good[joined[0]].group, rows.good[i].group)
    return Relations(
        tuple(rows.good),
        categories,
        tuple(labels),
        same,
        contradicting,
        near_sets,
        leaks,
        tuple(str(union.root(row.group)) for row in rows.good),
    )


def _own_leaks(rows: Rows, pairs: list[Pair], progress: str | None) -> Iterator[tuple[int, tuple[str, float]]]:
    taught, held = _split(rows.good)
    if held:
        found = near_matches([pairs[i] for i in taught], [pairs[i] for i in held], progress)
        for i, (j, alike) in found.items():
            yield taught[i], (f"held out on {rows.unit} {rows.good[held[j]].place}", alike)


def _leaks(
    rows: Rows, pairs: list[Pair], against: Rows, progress: str | None
) -> Iterator[tuple[int, tuple[str, float]]]:
    taught = _split(rows.good)[0]
    some, marked = _split(against.good)
    tested = [against.good[j] for j in marked or some]
    found = near_matches([pairs[i] for i in taught], [(row.prompt, row.text) for row in tested], progress)
    for i, (j, alike) in found.items():
        yield taught[i], (f"{against.unit} {tested[j].place} of {against.name}", alike)


def _split(rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    """Positions of rows taught from, and of rows held out."""
    return [i for i, row in enumerate(rows) if not row.held_out], [i for i, row in enumerate(rows) if row.held_out]
