"""Why a classifier fired: where its score was read out, and what the text loses when a span is deleted.

The two are kept apart. Shares are exact and say where the score was read out, not what caused it: a token's activation
holds what stands before it. A cause is claimed only by experiment: a span is named where the text without it scores
lower than it does without 95 % of random spans of the same number of words.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifiers.features import own_place, split_text
from classifiers.shares import split_scores
from safety_kit.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifiers.features import Text
    from classifiers.fit import SafetyClassifier
    from classifiers.shares import Item, Split
    from safety_kit.types import Span

LABEL = "where the score was read out, not why"

TOP = 6
"""Words that candidate spans are made of, and at most a quarter of all."""

CANDIDATES = 3
"""Spans that are deleted at most."""

RANDOM = 20
"""Random spans that a candidate is held against."""

FEWEST = 5
"""With fewer other spans of its length in the text a candidate cannot be told from chance, and is not named."""

_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
"""A run without white space; in Chinese and Japanese, which write none, a character."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a token, or all tokens of a word, add to the score; `span` is in the raw text."""

    span: Span
    share: float


@dataclass(frozen=True, slots=True)
class Row:
    """What is read but is not the text.

    Attributes:
        name: ``question`` or ``context``.
        share: What its own tokens add to the score; 0 where they are read and not pooled.
        drop: How much lower the logit is without it, where that was tried.
    """

    name: str
    share: float
    drop: float | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """A span whose deletion lowers the logit by `drop`; 95 % of random spans of its length by no more than `random`."""

    span: Span
    drop: float
    random: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """One text's score, taken apart.

    Attributes:
        category: What was scored.
        reading: ``causal`` or ``alone``.
        text: The raw text that all spans point into.
        score: The logit; the sum of `tokens`, `rows` and `bias`.
        probability: The calibrated probability of that score; no threshold comes into it.
        bias: The head's.
        tokens: One share for each token of the reading that decided.
        rows: The question after the text and the context before it, where there are such.
        cause: Named spans, the largest drop first; empty for no localised cause.
        candidates: How many spans could be held against random ones; None where no deletion was tried.
    """

    category: str
    reading: str
    text: str
    score: float
    probability: float
    bias: float
    tokens: tuple[Share, ...]
    rows: tuple[Row, ...]
    cause: tuple[Cause, ...]
    candidates: int | None

    @property
    def words(self) -> tuple[Share, ...]:
        """The tokens' shares by word; they have the same sum."""
        return tuple(by_words(self.text, self.tokens))

    @property
    def sentence(self) -> str:
        """What may be said of the cause."""
        if self.candidates is None:
            return "No deletion was tried, so nothing is said of the cause."
        if not self.candidates and len(self.words) <= FEWEST:
            return "No localised cause: the text is too short to hold a span against others of its length."
        if not self.candidates:
            return "No localised cause: no word's share stands out."
        if not self.cause:
            return "No localised cause: no deleted span lowers the logit more than random spans of its length do."
        named = [
            f"without “{self.text[slice(*one.span)]}” the logit falls by {one.drop:.2f}; without a random span of that "
            f"length it {f'falls by at most {one.random:.2f}' if one.random > 0 else 'does not fall'} in 95 % of cases"
            for one in self.cause
        ]
        return f"Localised: {'. '.join(named)}."

    def to_json(self) -> dict[str, Any]:
        """The explanation as the JSON document that `safety-kit explain --json` prints."""
        return {
            "label": LABEL,
            "category": self.category,
            "reading": self.reading,
            "text": self.text,
            "score": self.score,
            "probability": self.probability,
            "bias": self.bias,
            "tokens": [{"span": list(one.span), "share": one.share} for one in self.tokens],
            "rows": [{"name": row.name, "share": row.share, "drop": row.drop} for row in self.rows],
            "cause": [{"span": list(one.span), "drop": one.drop, "random": one.random} for one in self.cause],
            "candidates": self.candidates,
            "sentence": self.sentence,
        }


def explain(
    classifier: SafetyClassifier,
    item: Text,
    category: str | None = None,
    *,
    deletions: bool = True,
    seed: int = 0,
) -> Explanation:
    """Take one score apart.

    Deletions cost a forward pass each, some tens in all, of the text or, where it is long, of the window that decided:
    the drop is then that window's own.

    Args:
        classifier: Fitted or loaded; its `progress` shows a bar on stderr.
        item: A text, or a (prompt, text) pair where the text is a reply.
        category: One of the classifier's; None takes its only one.
        deletions: Look for a cause.
        seed: Of the random spans.

    Raises:
        UserError: The category is unknown or not named, or the text has no tokens.
    """
    category = _category(classifier, category)
    prompt, text = split_text(item)
    [split] = split_scores(classifier, category, [(prompt, text)])
    if split is None:
        raise UserError("The text is empty, so nothing was read and there is nothing to explain.")
    head = classifier.heads_[category]
    tokens = tuple(Share(span, float(share)) for span, share in zip(split.spans, split.shares, strict=True))
    cause: tuple[Cause, ...] = ()
    candidates = without = None
    if deletions:
        cause, candidates, without = _delete(classifier, category, (prompt, text), split, tokens, seed)
    rows = [Row("question", split.question)] if split.question is not None else []
    if prompt is not None:  # it is read, never pooled: what it does, it does through the text's own tokens
        rows.append(Row("context", 0.0, without))
    return Explanation(
        category=category,
        reading=classifier.reading,
        text=text,
        score=split.score,
        probability=head.probability(split.score, own_place(prompt).stage),
        bias=head.bias,
        tokens=tokens,
        rows=tuple(rows),
        cause=cause,
        candidates=candidates,
    )


def by_words(text: str, tokens: Sequence[Share]) -> list[Share]:
    """Tokens gathered by word; words that one token spans are one, and white space goes to the word before it."""
    if not tokens:
        return []
    low, high = tokens[0].span[0], max(token.span[1] for token in tokens)
    words = [match.span() for match in _WORD.finditer(text) if match.end() > low and match.start() < high]
    if not words:
        return [Share((low, high), sum(token.share for token in tokens))]
    starts = [start for start, _ in words]
    joined = list(range(len(words)))  # the first word of each group
    of_token = []
    for token in tokens:
        begin, end = token.span
        own = text[begin:end].strip()
        begin = text.find(own, begin) if own else begin
        first, last = (max(0, bisect_right(starts, at) - 1) for at in (begin, max(begin, begin + len(own) - 1)))
        for word in range(first + 1, last + 1):
            joined[word] = joined[first]
        of_token.append(first)
    for word, to in enumerate(joined):
        joined[word] = joined[to]
    shares = dict.fromkeys(joined, 0.0)
    for word, token in zip(of_token, tokens, strict=True):
        shares[joined[word]] += token.share
    ends = {first: words[word][1] for word, first in enumerate(joined)}
    return [Share((words[first][0], ends[first]), share) for first, share in shares.items()]


def candidate_spans(words: Sequence[Share]) -> list[range]:
    """The words of the largest shares, neighbours merged: at most `CANDIDATES` ranges, the largest share first."""
    mean = np.mean([word.share for word in words])
    ranked = sorted(range(len(words)), key=lambda i: words[i].share, reverse=True)
    best = sorted(i for i in ranked[: max(1, min(TOP, len(words) // 4))] if words[i].share > mean)
    spans: list[range] = []
    for i in best:
        if spans and spans[-1].stop == i:
            spans[-1] = range(spans[-1].start, i + 1)
        else:
            spans.append(range(i, i + 1))
    return sorted(spans, key=lambda span: sum(words[i].share for i in span), reverse=True)[:CANDIDATES]


def random_spans(n: int, span: range, order: NDArray[np.int64]) -> list[range]:
    """The first `RANDOM` ranges as long as a span within n words, in the given order of starts, clear of the span."""
    size = len(span)
    starts = [int(i) for i in order if i + size <= n and (i + size <= span.start or i >= span.stop)]
    return [range(i, i + size) for i in starts[:RANDOM]]


def _delete(
    classifier: SafetyClassifier, category: str, item: Item, split: Split, tokens: Sequence[Share], seed: int
) -> tuple[tuple[Cause, ...], int, float | None]:
    """Named spans, how many were tried, and how much lower the logit is without the prompt."""
    prompt, text = item
    low, high = split.piece
    words = by_words(text, tokens)
    order = np.random.default_rng(seed).permutation(len(words))
    others = {span: random_spans(len(words), span, order) for span in candidate_spans(words)}
    others = {span: some for span, some in others.items() if len(some) >= FEWEST}
    wanted = list(dict.fromkeys([*others, *(span for some in others.values() for span in some)]))
    variants: list[Item] = [(prompt, text[low:high])]
    variants += [(prompt, text[low:start] + text[stop:high]) for start, stop in (_cut(words, span) for span in wanted)]
    splits = split_scores(classifier, category, variants, progress="deleting" if classifier.progress else None)
    bias = classifier.heads_[category].bias
    score, *after = (bias if one is None else one.score for one in splits)
    drops = {span: score - lower for span, lower in zip(wanted, after, strict=True)}
    named = []
    for span, some in others.items():
        usual = float(np.quantile([drops[other] for other in some], 0.95))
        if drops[span] > max(usual, 0.0):
            named.append(Cause((words[span.start].span[0], words[span.stop - 1].span[1]), drops[span], usual))
    without = None
    if prompt is not None:
        [bare] = split_scores(classifier, category, [("", text[low:high])])
        without = score - (bias if bare is None else bare.score)
    return tuple(sorted(named, key=lambda one: one.drop, reverse=True)), len(others), without


def _cut(words: Sequence[Share], span: range) -> Span:
    """Characters to delete so that the words around a span keep one gap between them."""
    if span.stop < len(words):
        return words[span.start].span[0], words[span.stop].span[0]
    return words[span.start - 1].span[1] if span.start else words[0].span[0], words[-1].span[1]


def _category(classifier: SafetyClassifier, category: str | None) -> str:
    known = classifier.categories_
    if category is None and len(known) == 1:
        return known[0]
    if category in known:
        return category
    asked = "Name the category to explain" if category is None else f"The classifier does not know {category!r}"
    raise UserError(f"{asked}; it has {', '.join(known)}.")
