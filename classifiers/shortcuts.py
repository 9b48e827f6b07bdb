"""What tells the label without being read: one word, or one property of the rows, measured on rows held out."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import roc_auc_score

from classifiers.duplicates import tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Doubles = NDArray[np.float64]

ALONE = 0.7
"""AUROC on held-out rows from which on one property is said to tell the label alone; .5 is chance."""

_SURE = 0.6  # what the lower end of the AUROC's 95 % interval must exceed: few rows show nothing
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Shortcut:
    """One property that tells the label.

    Attributes:
        name: The property: a column of the rows, length, script, prompt, or word.
        auroc: Of that property alone, on rows held out.
        values: The values or words that tell most, each with its rows of label 1 and its rows.
        rows: For a word, the rows that have one of `values`.
    """

    name: str
    auroc: float
    values: tuple[tuple[str, int, int], ...]
    rows: tuple[int, ...] = ()


def find_shortcuts(
    texts: Sequence[str], columns: Mapping[str, Sequence[str | None]], y: Ints, folds: Sequence[Ints]
) -> list[Shortcut]:
    """The properties that tell the label alone, the strongest first.

    A column's value scores what its rows' labels average in the other folds; of the words, each fold takes the one
    that parts the labels best in the other folds, a decision stump.

    Args:
        texts: n texts.
        columns: Name → n values, None where a row has none.
        y: n labels 0/1, both there.
        folds: Rows held out in each fold.
    """
    own = {"length": _length_bands(texts), "script": [script(text) for text in texts]}
    found = [_column(name, values, y, folds) for name, values in {**own, **columns}.items() if len(set(values)) > 1]
    if (word := _word(texts, y, folds)) is not None:
        found.append(word)
    told = [one for one in found if one.auroc >= ALONE and _low(one.auroc, y) > _SURE]
    return sorted(told, key=lambda one: -one.auroc)


def script(text: str) -> str:
    """The script of most letters, by Unicode's names: Latin, Cyrillic, Cjk …; none without letters."""
    counts: dict[str, int] = {}
    for char in text[:1000]:
        if char.isalpha():
            name = unicodedata.name(char, "other").partition(" ")[0].capitalize()
            counts[name] = counts.get(name, 0) + 1
    return max(counts, key=lambda name: counts[name], default="none")


def _length_bands(texts: Sequence[str]) -> list[str]:
    """The tenth that each text's number of words falls into."""
    lengths = np.array([len(tokens(text)) for text in texts])
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, 11)).astype(int))
    band = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, max(0, len(edges) - 2))
    tops = [*edges[1:-1] - 1, edges[-1]]
    return [f"{edges[b]} to {tops[b]} words" for b in band]


def _column(name: str, values: Sequence[str | None], y: Ints, folds: Sequence[Ints]) -> Shortcut:
    _, codes = np.unique(np.array([value or "" for value in values], dtype=object), return_inverse=True)
    scores = np.zeros(len(y))
    for held in folds:
        rest = np.setdiff1d(np.arange(len(y)), held)
        rows = np.bincount(codes[rest], minlength=codes.max() + 1)
        ones = np.bincount(codes[rest], weights=y[rest], minlength=len(rows))
        scores[held] = ((ones + y[rest].mean()) / (rows + 1))[codes[held]]
    names = {code: values[row] or "none" for row, code in enumerate(codes.tolist())}
    tally = [(names[code], int(y[codes == code].sum()), int((codes == code).sum())) for code in sorted(names)]
    away = sorted(tally, key=lambda value: -abs(value[1] - value[2] * y.mean()))
    return Shortcut(name, float(roc_auc_score(y, scores)), tuple(away[:_SHOWN]))


def _word(texts: Sequence[str], y: Ints, folds: Sequence[Ints]) -> Shortcut | None:
    """The word search; only words without digits, in 2 rows at least, are looked at."""
    reader = CountVectorizer(
        analyzer=lambda text: [one for one in tokens(text) if one.isalpha()], binary=True, min_df=2
    )
    try:
        has = reader.fit_transform(texts).tocsr()
    except ValueError:  # no word is in two texts
        return None

    def gap(rows: Ints) -> Doubles:
        """How much more of label 1 than of label 0 has each word."""
        one, zero = rows[y[rows] == 1], rows[y[rows] == 0]
        return np.asarray(has[one].mean(axis=0) - has[zero].mean(axis=0)).ravel()

    everything = np.arange(len(y))
    scores = np.zeros(len(y))
    for held in folds:
        apart = gap(np.setdiff1d(everything, held))
        best = int(np.argmax(np.abs(apart)))
        scores[held] = np.asarray(has[held][:, [best]].todense()).ravel() * np.sign(apart[best])
    names = reader.get_feature_names_out()
    apart = gap(everything)
    # A single word's AUROC is half its gap above chance.
    telling = [w for w in np.argsort(-np.abs(apart)) if 0.5 + abs(apart[w]) / 2 >= ALONE][:_SHOWN]
    where = {int(w): has[:, [w]].nonzero()[0] for w in telling}
    values = tuple((str(names[w]), int(y[rows].sum()), len(rows)) for w, rows in where.items())
    rows = sorted({int(row) for found in where.values() for row in found})
    return Shortcut("word", float(roc_auc_score(y, scores)), values, tuple(rows)) if values else None


def _low(auroc: float, y: Ints) -> float:
    """The lower end of the AUROC's 95 % interval (Hanley and McNeil 1982)."""
    ones, zeros = int(y.sum()), int(len(y) - y.sum())
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc) + (ones - 1) * (q1 - auroc**2) + (zeros - 1) * (q2 - auroc**2)
    return float(auroc - 1.96 * np.sqrt(max(variance, 0.0) / (ones * zeros)))
