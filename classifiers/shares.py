"""A score taken apart: what each token of the deciding reading adds to it, and what stands around the text.

A head is linear and pools by a mean, so the split is exact: the shares, the question's part and the bias sum to the
score that is compared with a threshold. Everything here that depends on how a reading pools is in `_causal` and
`_alone`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from classifiers.features import alone_pieces, own_place
from safety_kit.gemma import Capture
from safety_kit.heads import decision_score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifiers.fit import SafetyClassifier
    from safety_kit.gemma import Gemma, TraceView
    from safety_kit.heads import Head
    from safety_kit.types import Span

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    Item = tuple[str | None, str]


@dataclass(frozen=True, slots=True)
class Split:
    """One text's score.

    Attributes:
        score: The logit of the deciding reading, bias included.
        spans: Of the deciding reading's own tokens, in the raw text.
        shares: One a token of `spans`.
        question: What the question after the text adds; None where the reading has none.
        piece: The characters that were read in the same pass: the whole text, or one window of a long one.
    """

    score: float
    spans: tuple[Span, ...]
    shares: Doubles
    question: float | None
    piece: Span


def split_scores(
    classifier: SafetyClassifier, category: str, items: Sequence[Item], *, progress: str | None = None
) -> list[Split | None]:
    """Read texts as the classifier does and take the scores apart.

    Args:
        classifier: Fitted or loaded.
        category: One of its categories.
        items: (prompt | None, text) each.
        progress: Label of a progress bar on stderr.

    Returns:
        One a text: with s its `score`, sum(shares) + (question or 0) + bias = s. None for a text without tokens.
    """
    head = classifier.heads_[category]
    if classifier.reading == "causal":
        return _causal(classifier.model_, head, items, progress)
    return _alone(classifier.model_, head, items, classifier.question_, progress)


def _causal(gemma: Gemma, head: Head, items: Sequence[Item], progress: str | None) -> list[Split | None]:
    """The mean over the last own tokens of a window up to the deciding end."""
    places = [own_place(prompt) for prompt, _ in items]
    asked = [(prompt, text, place.role) for (prompt, text), place in zip(items, places, strict=True)]
    splits: list[Split | None] = []
    for (_, text), place, views in zip(
        items, places, gemma.trace_texts(asked, Capture(head.blocks), progress=progress), strict=True
    ):
        best: Split | None = None
        window = head.window_at(place.stage)
        for view in views:
            scores = head.token_scores(_hidden(view, head))
            score, end = decision_score(scores, head.bias, place.stage, window, head.stride)
            if best is None or score > best.score:
                start = max(0, end - window)
                shares = scores[start:end].astype(np.float64) / (end - start)
                best = Split(score, view.offsets[start:end], shares, None, _piece(views, view, text))
        splits.append(best)
    return splits


def _alone(gemma: Gemma, head: Head, items: Sequence[Item], question: str, progress: str | None) -> list[Split | None]:
    """The mean over the text's tokens, and the mean over the question's with weights of its own."""
    pieces = [(row, *piece) for row, item in enumerate(items) for piece in alone_pieces(gemma, item, question)]
    traces = gemma.forward([tokens for _, tokens, _, _ in pieces], Capture(head.blocks), progress=progress)
    splits: list[Split | None] = [None] * len(items)
    of_text, of_question = np.split(head.weight, 2)
    for (row, _, start, stop), trace in zip(pieces, traces, strict=True):
        own = (_hidden(trace.view(start, stop), head) @ of_text).astype(np.float64) / (stop - start)
        asked = float((_hidden(trace.view(stop, len(trace.ids)), head) @ of_question).mean(dtype=np.float64))
        score = float(own.sum()) + asked + head.bias
        spans = trace.offsets[start:stop]
        best = splits[row]
        if best is None or score > best.score:
            text = items[row][1]
            whole = len(spans) == len(gemma.vocabulary.content(text))
            splits[row] = Split(score, spans, own, asked, (0, len(text)) if whole else (spans[0][0], spans[-1][1]))
    return splits


def _hidden(view: TraceView, head: Head) -> Floats:
    """n × (blocks·d) float32."""
    tokens: Floats = torch.cat([view.hidden(block).float() for block in head.blocks], dim=1).numpy()
    return tokens


def _piece(views: Sequence[TraceView], view: TraceView, text: str) -> Span:
    return (0, len(text)) if len(views) == 1 else (view.offsets[0][0], view.offsets[-1][1])
