"""Texts to readings: pooled Gemma activations, where a text would stand in a prompt.

A *causal* reading pools a text's own tokens; each text is read in its own place and once more in a varied one (after
a system prompt, in a later turn, as a reply), so that a head does not learn where its examples stood. An *alone*
reading puts the text into a question and pools text and question.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from safety_kit.errors import DataError
from safety_kit.gemma import Capture
from safety_kit.heads import reading_ends
from safety_kit.types import Message, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from classifiers.cache import FeatureCache
    from safety_kit.gemma import Gemma, Tokens, TraceView
    from safety_kit.types import Role

    Floats = NDArray[np.float32]
    Pooled = tuple[Floats, Floats, int]

Text = str | tuple[str | None, str]
"""A text, or a (prompt, text) pair where the text is a reply."""

WINDOW = 64
"""Tokens that one reading pools at most: a harmless start cannot dilute what follows."""

REPLY_WINDOW = 32
"""The same at output: in the midst of a reply a violation of two sentences must fill it (docs/decisions/0011)."""

STRIDE = 8
"""A long text and a stream are read every so many tokens."""

ALONE_WINDOW = 512
ALONE_OVERLAP = 64
"""Tokens of a longer text that one question is asked about, and how many it shares with the next."""

BATCH = 128
"""Texts that are read before their readings go to the cache: what a killed run loses at most."""

RECIPE = 2
"""Raise it when readings of the same text change: cached ones are then not used."""

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

    A slot is a pooled block: one a block for the causal reading; for *alone* one a block for the text, then one a
    block for the question.

    Attributes:
        row: Index of the text.
        stage: What the guard would check it as.
        whole: slots × d, the mean over all the text's tokens.
        windows: m × slots × d, the means that the guard compares with a threshold at that stage.
        tokens: Of the text.
    """

    row: int
    stage: Stage
    whole: Floats
    windows: Floats
    tokens: int


_EMPTY = (np.zeros((0, 0), np.float32), np.zeros((0, 0, 0), np.float32), 0)
"""Of a text without tokens."""


def window_at(stage: Stage) -> int:
    """Tokens that one reading pools at most."""
    return REPLY_WINDOW if stage is Stage.OUTPUT else WINDOW


def split_text(text: Text) -> tuple[str | None, str]:
    """A text or a (prompt, text) pair as (prompt | None, text)."""
    return (None, text) if isinstance(text, str) else (text[0], text[1])


def texts_of(X: Iterable[Text]) -> list[Text]:
    """The texts of any sequence or column.

    Raises:
        DataError: One of them is neither a text nor a (prompt, text) pair, named by its position.
    """
    if isinstance(X, str):
        raise DataError("Give a list of texts, not one text.")
    texts: list[Text] = []
    for row, item in enumerate(X):
        if isinstance(item, str):
            texts.append(item)
            continue
        prompt, text = item if isinstance(item, (tuple, list, np.ndarray)) and len(item) == 2 else (None, None)
        if not isinstance(text, str) or not isinstance(prompt, str | None):
            raise DataError(f"Row {row} is neither a text nor a (prompt, text) pair; leave it out or mend it.")
        texts.append((prompt, text))
    return texts


def middle_blocks(n_blocks: int) -> tuple[int, ...]:
    """At most eight blocks around the middle of a model, where meaning is read best: 6 to 13 of the embedded 18."""
    first, last = n_blocks // 3, max(n_blocks // 3, n_blocks * 7 // 9 - 1)
    return tuple(sorted({round(block) for block in np.linspace(first, last, min(8, last - first + 1))}))


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
    cache: FeatureCache | None = None,
) -> list[Reading]:
    """Read texts where they stand: once each, or in two places each.

    Args:
        gemma: The model whose activations are the features.
        texts: Texts or (prompt, text) pairs.
        blocks: Blocks to pool.
        varied: Also read each text in a varied place.
        progress: Label of a progress bar on stderr.
        cache: Of earlier readings: texts in it are not read again, new ones are added.

    Returns:
        Readings; none for a text without tokens.
    """
    jobs: list[tuple[int, Placement, str]] = []
    for row, item in enumerate(texts):
        prompt, text = split_text(item)
        jobs += [(row, place, text) for place in [own_place(prompt), *([varied_place(prompt, text)] if varied else [])]]

    def read(which: list[int]) -> list[Pooled]:
        context = jobs[which[0]][1].context
        return [
            _joined(pools)
            for pools in gemma.read_texts(
                [(jobs[i][1].prompt, jobs[i][2], jobs[i][1].role) for i in which],
                Capture(tuple(blocks)),
                lambda number, view: _pool(jobs[which[number]][1].stage, view, blocks),
                context=context,
            )
        ]

    keys = [_key(gemma, blocks, "causal", place, text) for _, place, text in jobs]
    order = [(str(place.context), len(text)) for _, place, text in jobs]
    pooled = _gather(keys, order, read, cache, progress)
    return [
        Reading(row, place.stage, *found)
        for (row, place, _), found in zip(jobs, pooled, strict=True)
        if len(found[1])  # a text without tokens has no window
    ]


def default_question(categories: Sequence[str]) -> str:
    """The question that asks after categories by their names."""
    plain = " or ".join(name.replace("_", " ") for name in categories)
    return f"Question: Is there {plain} in the text above? Answer Yes or No."


def question_frame(gemma: Gemma, question: str, prompt: str | None = None) -> tuple[Tokens, Tokens]:
    """What stands before and after a text that is read alone; a reply stands after its prompt."""
    vocabulary = gemma.vocabulary
    before, after = vocabulary.template("<bos>"), vocabulary.content(f"\n\n{question}\nAnswer:")
    if prompt is None:
        return before + vocabulary.content("Text:\n"), after
    asked = vocabulary.content(prompt)
    last = asked.slice(max(0, len(asked) - ALONE_WINDOW), len(asked))
    return before + vocabulary.content("Message:\n") + last + vocabulary.content("\n\nReply:\n"), after


def alone_readings(
    gemma: Gemma,
    texts: Sequence[Text],
    blocks: Sequence[int],
    question: str,
    *,
    progress: str | None = None,
    cache: FeatureCache | None = None,
) -> list[Reading]:
    """Read each text, after the prompt that it answers, in a question of its own: one reading a text.

    Its slots are the mean over the text's tokens for each block, then the mean over the question's. A text longer than
    a window is asked about window by window.
    """

    def read(which: list[int]) -> list[Pooled]:
        pieces = [(i, *piece) for i in which for piece in alone_pieces(gemma, texts[i], question)]
        traces = gemma.forward([tokens for _, tokens, _, _ in pieces], Capture(tuple(blocks)))
        windows: dict[int, list[Floats]] = {i: [] for i in which}
        lengths = dict.fromkeys(which, 0)
        for (i, _, start, end), trace in zip(pieces, traces, strict=True):
            lengths[i] = len(windows[i]) * (ALONE_WINDOW - ALONE_OVERLAP) + end - start  # the last window's end
            parts = (trace.view(start, end), trace.view(end, len(trace.ids)))
            windows[i].append(np.concatenate([_hidden([part], blocks).mean(0) for part in parts]))
        return [
            (np.mean(windows[i], axis=0), np.stack(windows[i]), lengths[i]) if windows[i] else _EMPTY for i in which
        ]

    items = [split_text(item) for item in texts]
    keys = [_key(gemma, blocks, f"alone {question}", own_place(prompt), text) for prompt, text in items]
    pooled = _gather(keys, [("", len(text) + len(prompt or "")) for prompt, text in items], read, cache, progress)
    stages = [own_place(prompt).stage for prompt, _ in items]
    return [Reading(row, stages[row], *found) for row, found in enumerate(pooled) if len(found[1])]


def alone_pieces(gemma: Gemma, item: Text, question: str) -> list[tuple[Tokens, int, int]]:
    """What is read for one text, window by window: encoded, where its own tokens begin, where the question begins.

    None for a text without tokens.
    """
    prompt, text = split_text(item)
    head, suffix = question_frame(gemma, question, prompt)
    own = gemma.vocabulary.content(text)
    step = ALONE_WINDOW - ALONE_OVERLAP
    parts = [own.slice(at, at + ALONE_WINDOW) for at in range(0, max(1, len(own) - ALONE_OVERLAP), step)]
    return [(head + part + suffix, len(head), len(head) + len(part)) for part in parts if len(part)]


def _gather(
    keys: Sequence[str],
    order: Sequence[tuple[str, int]],
    read: Callable[[list[int]], list[Pooled]],
    cache: FeatureCache | None,
    progress: str | None,
) -> list[Pooled]:
    """What is pooled for each key: from the cache, or read in batches of like length that are kept as they are done.

    Args:
        keys: One a job; equal ones are read once.
        order: A group and a length for each job: jobs of one group are read together, the longest first.
        read: Pools some jobs of one group.
        cache: Where results are kept.
        progress: Label of a progress bar on stderr.
    """
    pooled: dict[str, Pooled] = {}
    for key in dict.fromkeys(keys) if cache else ():
        if (found := cache.get(key)) is not None:  # type: ignore[union-attr]
            pooled[key] = found["whole"], found["windows"], int(found["tokens"][0])
    todo: dict[str, list[int]] = {}
    for key, i in {key: i for i, key in enumerate(keys) if key not in pooled}.items():
        todo.setdefault(order[i][0], []).append(i)
        pooled[key] = _EMPTY
    total = sum(map(len, todo.values()))
    with tqdm(total=total, desc=progress, unit="text", disable=None if progress else True, leave=False) as bar:
        for group in todo.values():
            group.sort(key=lambda i: order[i][1], reverse=True)
            for at in range(0, len(group), BATCH):
                part = group[at : at + BATCH]
                for i, made in zip(part, read(part), strict=True):
                    pooled[keys[i]] = made
                    if cache:
                        whole, windows, tokens = made
                        cache.put(keys[i], {"whole": whole, "windows": windows, "tokens": np.array([tokens])})
                bar.update(len(part))
    return [pooled[key] for key in keys]


def _key(gemma: Gemma, blocks: Sequence[int], reading: str, place: Placement, text: str) -> str:
    """A hash of all that a reading depends on."""
    context = [[message.role, message.content] for message in place.context]
    parts = [RECIPE, gemma.digest, gemma.dtype, gemma.attention, list(blocks), reading]
    spelt = json.dumps([*parts, context, place.prompt, place.role, text])
    return hashlib.sha256(spelt.encode()).hexdigest()


def _hidden(views: Sequence[TraceView], blocks: Sequence[int]) -> Floats:
    """n × blocks × d float32."""
    tokens = [torch.stack([view.hidden(block).float() for block in blocks], dim=1) for view in views]
    return torch.cat(tokens).numpy()


def _pool(stage: Stage, view: TraceView, blocks: Sequence[int]) -> Pooled:
    """What is kept of one window."""
    hidden = _hidden([view], blocks)
    total = np.concatenate([np.zeros_like(hidden[:1], dtype=np.float64), hidden.cumsum(0, dtype=np.float64)])
    window = window_at(stage)
    ends = np.array(reading_ends(len(view), stage, window, STRIDE))
    starts = np.maximum(0, ends - window)
    windows = (total[ends] - total[starts]) / (ends - starts)[:, None, None]
    return hidden.mean(0), windows.astype(np.float32), len(view)


def _joined(pools: Sequence[Pooled]) -> Pooled:
    """What is kept of a text: of all its windows."""
    if len(pools) < 2:
        return pools[0] if pools else _EMPTY
    means, windows, sizes = zip(*pools, strict=True)
    return np.average(means, axis=0, weights=sizes).astype(np.float32), np.concatenate(windows), sum(sizes)
