"""Texts that are the same, or nearly: exact ones by their folded form, near ones by MinHash (Broder 1997)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

from datasketch import MinHash, MinHashLSH
from tqdm import tqdm

NEAR = 0.7
"""Jaccard similarity of two texts' words and pairs of neighbouring words from which on they are near duplicates."""

_CANDIDATES = 0.5  # the index is asked for less, so that it misses next to none of those that count
_PERMUTATIONS = 128
# A word; or a sign of a script without spaces between words; or a symbol such as an emoji, but no punctuation.
_TOKEN = re.compile(
    "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[\u2190-\u2bff\U0001f000-\U0001faff]"
)

Pair: TypeAlias = tuple[str | None, str]


def fold(text: str) -> str:
    """The text without what two copies of it may differ in: case, spaces, and how characters are composed (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def tokens(text: str) -> list[str]:
    """Words of the folded text; the characters of one that has no words."""
    folded = fold(text)
    return _TOKEN.findall(folded) or [char for char in folded if not char.isspace()]


def shingles(pair: Pair) -> frozenset[str]:
    """Words and pairs of neighbouring words of a text, and those of its prompt, marked as such."""
    prompt, text = pair
    found = _shingles(tokens(text))
    return found if prompt is None else found | {f"\n{one}" for one in _shingles(tokens(prompt))}


def _shingles(words: list[str]) -> frozenset[str]:
    return frozenset([*words, *(f"{a} {b}" for a, b in pairwise(words))])


class Union:
    """Disjoint sets: what is joined has one root."""

    def __init__(self) -> None:
        self._above: dict[Hashable, Hashable] = {}

    def root(self, item: Hashable) -> Hashable:
        path = []
        while (above := self._above.get(item, item)) != item:
            path.append(item)
            item = above
        for passed in path:
            self._above[passed] = item
        return item

    def join(self, a: Hashable, b: Hashable) -> None:
        self._above[self.root(b)] = self.root(a)


class Neighbours:
    """An index of texts that gives the likely near duplicates of another one, and how similar they are."""

    def __init__(self) -> None:
        self._index = MinHashLSH(threshold=_CANDIDATES, num_perm=_PERMUTATIONS)
        self._sets: dict[int, frozenset[str]] = {}

    def candidates(self, minhash: Any) -> list[int]:
        """Keys of texts that may be near."""
        return sorted(self._index.query(minhash))

    def similarity(self, key: int, found: frozenset[str]) -> float:
        """Jaccard similarity of a text of the index and another one's shingles, 0 to 1."""
        own = self._sets[key]
        return len(found & own) / len(found | own) if found or own else 1.0

    def add(self, key: int, minhash: Any, found: frozenset[str]) -> None:
        self._index.insert(key, minhash)
        self._sets[key] = found


def sketch(found: frozenset[str]) -> Any:
    """The MinHash of a set of shingles."""
    made = MinHash(num_perm=_PERMUTATIONS)
    made.update_batch([one.encode(errors="surrogatepass") for one in found])
    return made


def near_groups(pairs: Sequence[Pair], progress: str | None = None) -> list[tuple[list[int], float]]:
    """Sets of texts that near duplicates join, directly or by way of others; and the least similarity that joined.

    Args:
        pairs: (prompt, text) of each; exact duplicates count as near ones.
        progress: Label of a progress bar on stderr.
    """
    index, union = Neighbours(), Union()
    least: dict[Hashable, float] = {}
    for i, pair in enumerate(_bar(pairs, progress)):
        found = shingles(pair)
        minhash = sketch(found)
        for j in index.candidates(minhash):
            one, two = union.root(j), union.root(i)
            if one != two and (alike := index.similarity(j, found)) >= NEAR:
                union.join(one, two)
                least[one] = min(alike, least.get(one, 1.0), least.get(two, 1.0))
        index.add(i, minhash, found)
    groups: dict[Hashable, list[int]] = {}
    for i in range(len(pairs)):
        groups.setdefault(union.root(i), []).append(i)
    return [(group, least[root]) for root, group in groups.items() if len(group) > 1]


def near_matches(
    pairs: Sequence[Pair], others: Sequence[Pair], progress: str | None = None
) -> dict[int, tuple[int, float]]:
    """For each text that is among others, or nearly: which of them it is, and how similar."""
    index = Neighbours()
    same: dict[Pair, int] = {}
    for j, other in enumerate(others):
        found = shingles(other)
        index.add(j, sketch(found), found)
        same.setdefault(key(other), j)
    out: dict[int, tuple[int, float]] = {}
    for i, pair in enumerate(_bar(pairs, progress)):
        found = shingles(pair)
        if (exact := same.get(key(pair))) is not None:
            out[i] = (exact, 1.0)
            continue
        alike = [(index.similarity(j, found), -j) for j in index.candidates(sketch(found))]
        best, j = max(alike, default=(0.0, 0))
        if best >= NEAR:
            out[i] = (-j, best)
    return out


def key(pair: Pair) -> Pair:
    """What exact duplicates share."""
    prompt, text = pair
    return None if prompt is None else fold(prompt), fold(text)


def _bar(items: Sequence[Any], progress: str | None) -> Iterable[Any]:
    bar: Iterable[Any] = tqdm(items, desc=progress, unit="row", disable=None if progress else True, leave=False)
    return bar
