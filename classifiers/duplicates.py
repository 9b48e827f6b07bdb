"""Texts that are the same, or nearly: exact ones by their folded form, near ones by MinHash (Broder 1997)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from datasketch import MinHash, MinHashLSH
from tqdm import tqdm

NEAR = 0.7
"""Jaccard similarity of two texts' words and pairs of neighbouring words from which on they are near duplicates."""

_BANDS = (32, 4)  # of the index: it misses one pair in 6,000 at the threshold, and what it proposes is compared
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


@dataclass(frozen=True, slots=True)
class Shingles:
    """The words and pairs of neighbouring words of a text, and of its prompt; that of no prompt is empty."""

    text: frozenset[str]
    prompt: frozenset[str]

    @classmethod
    def of(cls, pair: Pair) -> Shingles:
        prompt, text = pair
        return cls(_shingles(tokens(text)), _shingles(tokens(prompt or "")))

    def similarity(self, other: Shingles) -> float:
        """The Jaccard similarity of the texts or of the prompts, whichever is less: 0 to 1."""
        return min(_jaccard(self.text, other.text), _jaccard(self.prompt, other.prompt))

    def sketch(self) -> Any:
        """The MinHash of all of them; as similar as text and prompt are where both are."""
        made = MinHash(num_perm=_PERMUTATIONS)
        made.update_batch(
            [one.encode(errors="surrogatepass") for one in (*self.text, *(f"\n{o}" for o in self.prompt))]
        )
        return made


def _shingles(words: list[str]) -> frozenset[str]:
    return frozenset([*words, *(f"{a} {b}" for a, b in pairwise(words))])


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a or b else 1.0


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


def _index() -> Any:
    return MinHashLSH(num_perm=_PERMUTATIONS, params=_BANDS)


def near_groups(pairs: Sequence[Pair], progress: str | None = None) -> list[tuple[list[int], float]]:
    """Sets of texts that near duplicates join, directly or by way of others; and the least similarity that joined.

    Args:
        pairs: (prompt, text) of each; exact duplicates count as near ones.
        progress: Label of a progress bar on stderr.
    """
    index, union = _index(), Union()
    seen: list[Shingles] = []
    least: dict[Hashable, float] = {}
    for i, pair in enumerate(_bar(pairs, progress)):
        mine = Shingles.of(pair)
        sketch = mine.sketch()
        for j in sorted(index.query(sketch)):
            one, two = union.root(j), union.root(i)
            if one != two and (alike := mine.similarity(seen[j])) >= NEAR:
                union.join(one, two)
                least[one] = min(alike, least.get(one, 1.0), least.get(two, 1.0))
        index.insert(i, sketch)
        seen.append(mine)
    groups: dict[Hashable, list[int]] = {}
    for i in range(len(pairs)):
        groups.setdefault(union.root(i), []).append(i)
    return [(group, least[root]) for root, group in groups.items() if len(group) > 1]


def near_matches(
    pairs: Sequence[Pair], others: Sequence[Pair], progress: str | None = None
) -> dict[int, tuple[int, float]]:
    """For each text that is among others, or nearly: which of them it is, and how similar."""
    index, tested = _index(), [Shingles.of(other) for other in others]
    same: dict[Pair, int] = {}
    for j, (other, its) in enumerate(zip(others, tested, strict=True)):
        index.insert(j, its.sketch())
        same.setdefault(key(other), j)
    out: dict[int, tuple[int, float]] = {}
    for i, pair in enumerate(_bar(pairs, progress)):
        if (exact := same.get(key(pair))) is not None:
            out[i] = (exact, 1.0)
            continue
        mine = Shingles.of(pair)
        alike = {j: mine.similarity(tested[j]) for j in sorted(index.query(mine.sketch()))}
        best = max(alike, key=lambda j: alike[j], default=None)
        if best is not None and alike[best] >= NEAR:
            out[i] = (best, alike[best])
    return out


def key(pair: Pair) -> Pair:
    """What exact duplicates share."""
    prompt, text = pair
    return None if prompt is None else fold(prompt), fold(text)


def _bar(items: Sequence[Any], progress: str | None) -> Iterable[Any]:
    bar: Iterable[Any] = tqdm(items, desc=progress, unit="row", disable=None if progress else True, leave=False)
    return bar
