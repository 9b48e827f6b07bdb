"""Texts to readings: pooled Gemma activations, where a text would stand in a prompt.

A *causal* reading pools a text's own tokens; each text is read in its own place and once more in a varied one (after
a system prompt, in a later turn, as a reply), so that a head does not learn where its examples stood. An *alone*
reading puts the text into a question and pools text and question.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from safety_kit.artifacts import reading_ends
from safety_kit.gemma import Capture
from safety_kit.types import Message, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from safety_kit.gemma import Gemma, Tokens, TraceView
    from safety_kit.types import Role

    Floats = NDArray[np.float32]
    Text = str | tuple[str | None, str]
    Memo = dict[tuple[tuple[int, ...], str | None, str, bool], list["Reading"]]

WINDOW = 64
"""Tokens that one reading pools at most: a harmless start cannot dilute what follows."""

STRIDE = 8
"""A long text and a stream are read every so many tokens."""

CONTEXTS: tuple[tuple[Message, ...], ...] = (
    (Message("system", "You are a helpful assistant."),),
    (
        Message(
            "system",
            "You are the support assistant of an online shop. Answer briefly and politely. "
            "If you do not know something, say so.",
        ),
    ),
    (
        Message("user", "Hi, can you help me with something?"),
        Message("assistant", "Of course! What do you need?"),
    ),
    (
        Message("user", "What's the weather usually like in Lisbon in May?"),
        Message("assistant", "Mostly sunny, around 20 to 23 degrees, with a little rain now and then."),
    ),
)
_SHOW = "Can you show me the text?"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a text is read: the messages before it, and its role."""

    context: tuple[Message, ...]
    prompt: str | None
    role: Role

    @property
    def stage(self) -> Stage:
        return Stage.OUTPUT if self.role == "assistant" else Stage.INPUT


@dataclass(frozen=True, slots=True)
class Reading:
    """One text in one placement.

    Attributes:
        row: Index of the text.
        stage: What the guard would check it as.
        whole: blocks × d, the mean over all the text's tokens.
        windows: m × blocks × d, the means that the guard compares with a threshold at that stage.
    """

    row: int
    stage: Stage
    whole: Floats
    windows: Floats


def split_text(text: Text) -> tuple[str | None, str]:
    """A text or a (prompt, text) pair as (prompt | None, text)."""
    return (None, text) if isinstance(text, str) else (text[0], text[1])


def own_place(prompt: str | None) -> Placement:
    """A reply after its prompt, any other text as the user's message."""
    return Placement((), prompt, "user" if prompt is None else "assistant")


def varied_place(prompt: str | None, text: str) -> Placement:
    """Another place for the same text, drawn by its digest: every run draws the same."""
    draw = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[0] % (len(CONTEXTS) + 1)
    if draw == len(CONTEXTS):
        return Placement((), _SHOW, "assistant") if prompt is None else Placement(CONTEXTS[0], prompt, "assistant")
    own = own_place(prompt)
    return Placement(CONTEXTS[draw], prompt, own.role)


def causal_readings(
    gemma: Gemma,
    texts: Sequence[Text],
    blocks: Sequence[int],
    *,
    varied: bool,
    progress: str | None = None,
    memo: Memo | None = None,
) -> list[Reading]:
    """Read texts where they stand: once each, or in two places each.

    Args:
        gemma: The model whose activations are the features.
        texts: Texts or (prompt, text) pairs.
        blocks: Blocks to pool.
        varied: Also read each text in a varied place.
        progress: Label of a progress bar on stderr.
        memo: Of earlier calls with the same model: texts in it are not read again, new ones are added.

    Returns:
        Readings; none for a text without tokens.
    """
    if memo is not None:
        keys = [(tuple(blocks), *split_text(item), varied) for item in texts]
        new = {key: item for key, item in zip(keys, texts, strict=True) if key not in memo}
        fresh = causal_readings(gemma, list(new.values()), blocks, varied=varied, progress=progress)
        memo.update({key: [reading for reading in fresh if reading.row == row] for row, key in enumerate(new)})
        return [replace(reading, row=row) for row, key in enumerate(keys) for reading in memo[key]]
    jobs: dict[tuple[Message, ...], list[tuple[int, Placement, str]]] = {}
    for row, item in enumerate(texts):
        prompt, text = split_text(item)
        for place in [own_place(prompt), *([varied_place(prompt, text)] if varied else [])]:
            jobs.setdefault(place.context, []).append((row, place, text))
    readings: list[Reading] = []
    for context, job in jobs.items():
        traced = gemma.trace_texts(
            [(place.prompt, text, place.role) for _, place, text in job],
            Capture(tuple(blocks)),
            context=context,
            progress=progress,
        )
        readings += [
            _pool(row, place.stage, views, blocks) for (row, place, _), views in zip(job, traced, strict=True) if views
        ]
    return sorted(readings, key=lambda reading: reading.row)


def default_question(categories: Sequence[str]) -> str:
    """The question that asks after categories by their names."""
    plain = " or ".join(name.replace("_", " ") for name in categories)
    return f"Question: Is there {plain} in the text above? Answer Yes or No."


def question_frame(gemma: Gemma, question: str) -> tuple[Tokens, Tokens]:
    """What stands before and after a text that is read alone."""
    vocabulary = gemma.vocabulary
    before = vocabulary.template("<bos>") + vocabulary.content("Text:\n")
    return before, vocabulary.content(f"\n\n{question}\nAnswer:")


def alone_readings(
    gemma: Gemma, texts: Sequence[Text], blocks: Sequence[int], question: str, *, progress: str | None = None
) -> list[Reading]:
    """Read each text in a question of its own and pool text and question: one reading a text."""
    head, suffix = question_frame(gemma, question)
    encoded = [head + gemma.vocabulary.content(split_text(text)[1]) + suffix for text in texts]
    traces = gemma.forward(encoded, Capture(tuple(blocks)), progress=progress)
    out = []
    for row, (text, trace) in enumerate(zip(texts, traces, strict=True)):
        stage = Stage.INPUT if split_text(text)[0] is None else Stage.OUTPUT
        whole = _hidden([trace.view(len(head), len(trace.ids))], blocks).mean(0)
        out.append(Reading(row, stage, whole, whole[None]))
    return out


def _hidden(views: Sequence[TraceView], blocks: Sequence[int]) -> Floats:
    """n × blocks × d float32."""
    tokens = [torch.stack([view.hidden(block).float() for block in blocks], dim=1) for view in views]
    return torch.cat(tokens).numpy()


def _pool(row: int, stage: Stage, views: Sequence[TraceView], blocks: Sequence[int]) -> Reading:
    windows = []
    for view in views:
        hidden = _hidden([view], blocks)
        total = np.concatenate([np.zeros_like(hidden[:1], dtype=np.float64), hidden.cumsum(0, dtype=np.float64)])
        ends = np.array(reading_ends(len(view), stage, WINDOW, STRIDE))
        starts = np.maximum(0, ends - WINDOW)
        windows.append((total[ends] - total[starts]) / (ends - starts)[:, None, None])
    whole = _hidden(views, blocks).mean(0)
    return Reading(row, stage, whole, np.concatenate(windows).astype(np.float32))
