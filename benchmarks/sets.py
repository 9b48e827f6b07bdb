"""The published sets that classifiers are measured on, read from a folder outside the project.

Rows whose text's SHA-256 is even are what may be taught from and developed on; odd ones are held out, for figures only.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Text = str | tuple[str | None, str]
    Labels = NDArray[np.int64]

FOLDER = Path("../shared/datasets")
MOST = 1000
"""Rows of a set at most, both halves together."""


@dataclass(frozen=True)
class Split:
    """One half of a set."""

    texts: list[Text]
    y: Labels

    def take(self, rows: NDArray[np.int64]) -> Split:
        return Split([self.texts[i] for i in rows], self.y[rows])


@dataclass(frozen=True)
class BenchSet:
    """A set: what label 1 means, what is taught from and what is held out."""

    name: str
    question: str
    pool: Split
    test: Split


def _label(row: dict[str, Any]) -> int:
    return int(row["label"])


def _majority(row: dict[str, Any]) -> int:
    return int(row["hate"] >= 0.5)


SETS: dict[str, tuple[str, str, Callable[[dict[str, Any]], int]]] = {
    "ethos": ("ethos/all.jsonl", "hate speech against a group of people", _majority),
    "toxicity": ("toxicity/train.jsonl", "a toxic or insulting comment", _label),
    "sexism": ("sexism/train.jsonl", "sexism", _label),
    "unsafe_replies": ("unsafe_replies/train.jsonl", "an unsafe reply", _label),
    "slabs": (
        "prompt_injection/slabs_train.jsonl",
        "an attempt to override instructions",
        _label,
    ),
    "bastion": ("prompt_injection/bastion.jsonl", "an attempt to override instructions", _label),
    "emoji_hate": ("emoji_hate/train.jsonl", "hate, in words or emoji", _label),
}
"""Name → file, what the question asks after, and a row's label."""


def is_held_out(text: str) -> bool:
    """Whether a text belongs to the held-out half."""
    return int(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), 16) % 2 == 1


def load(name: str, folder: Path, most: int = MOST) -> BenchSet:
    """A set, cut to `most` rows by a seeded draw that keeps the share of labels.

    Raises:
        FileNotFoundError: The folder does not hold it.
    """
    file, question, label = SETS[name]
    rows = [json.loads(line) for line in (folder / file).read_text(encoding="utf-8").splitlines()]
    labelled: dict[tuple[str | None, str], int] = {}
    for row in rows:
        if row["text"].strip():
            labelled.setdefault((row.get("prompt"), row["text"]), label(row))
    halves = []
    for held_out in (False, True):
        own = sorted((item for item in labelled.items() if is_held_out(item[0][1]) is held_out), key=repr)
        order = np.random.default_rng(0).permutation(len(own))[: most // 2]
        texts: list[Text] = [own[i][0] if own[i][0][0] is not None else own[i][0][1] for i in order]
        halves.append(Split(texts, np.array([own[i][1] for i in order], dtype=np.int64)))
    return BenchSet(name, question, *halves)


def draw(pool: Split, size: int | str, seed: int) -> Split | None:
    """Examples to teach from: `size` a class, or "200 in all" by the pool's own share; None where there are too few."""
    rng = np.random.default_rng(seed)
    if size == "200 in all":
        if len(pool.y) < 200:
            return None
        chosen = rng.permutation(len(pool.y))[:200]
        return pool.take(chosen)
    if size == 0:
        return Split([], pool.y[:0])
    classes = [rng.permutation(np.flatnonzero(pool.y == label))[: int(size)] for label in (0, 1)]
    if min(map(len, classes)) < int(size):
        return None
    return pool.take(rng.permutation(np.concatenate(classes)))
