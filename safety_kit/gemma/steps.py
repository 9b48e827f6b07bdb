"""Decoding: prefill once, then one `Step` a token; a generation is the drained steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from transformers import DynamicCache

from safety_kit.errors import UserError
from safety_kit.gemma.decoding import Decoding, Step
from safety_kit.gemma.trace import Capture, Trace

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from safety_kit.gemma.chat import Prompt
    from safety_kit.gemma.model import Gemma
    from safety_kit.gemma.sampling import Sampling
    from safety_kit.gemma.trunk import Trunk

CHUNK = 512
"""Tokens of a prompt read at a time: a long one never needs a T × T mask."""


@dataclass(slots=True)
class Prefill:
    """A prompt that was read: its activations, and the cache that decoding goes on from.

    Attributes:
        prompt: The prompt.
        trace: Its activations; `logits` are the next token's, 1 × V.
        cache: The KV cache, handed on once; None when spent.
    """

    prompt: Prompt
    trace: Trace
    cache: DynamicCache | None

    def take(self) -> DynamicCache:
        """The cache, once.

        Raises:
            UserError: It was handed on already.
        """
        if self.cache is None:
            raise UserError("This prefill's cache was used already; make another one.")
        cache, self.cache = self.cache, None
        return cache


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole reply."""

    text: str
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length"]


def prefill(trunk: Trunk, prompt: Prompt, capture: Capture, reuse: Prefill | None) -> Prefill:
    """The drained `reading`."""
    chunks = reading(trunk, prompt, capture, reuse)
    while True:
        try:
            next(chunks)
        except StopIteration as done:
            read: Prefill = done.value
            return read


def reading(
    trunk: Trunk, prompt: Prompt, capture: Capture, reuse: Prefill | None = None
) -> Generator[None, None, Prefill]:
    """Read a prompt, in chunks, into a fresh cache; it yields between two chunks.

    Where `reuse` is an unspent prefill whose tokens begin this prompt and whose trace holds every block asked for,
    its cache and activations are taken over; otherwise everything is read again, so that no token lacks its
    activations.
    """
    ids = prompt.tokens.ids
    if not ids:
        raise UserError("There is nothing to read: the prompt is empty.")
    cache, done = DynamicCache(config=trunk.config), 0
    parts: dict[int, list[torch.Tensor]] = {block: [] for block in capture.blocks}
    if reuse and reuse.cache and _begins(reuse.trace.ids, ids) and set(capture.blocks) <= set(reuse.trace.hidden):
        cache, done = reuse.take(), len(reuse.trace.ids)
        parts = {block: [reuse.trace.hidden[block]] for block in capture.blocks}
    normed = None
    for start in range(done, len(ids), CHUNK):
        if normed is not None:
            yield
        chunk = torch.tensor([ids[start : start + CHUNK]], device=trunk.model.device)
        normed, kept = trunk.run(chunk, capture.blocks, cache=cache)
        for block, states in kept.items():
            parts[block].append(states[0].cpu())
    assert normed is not None
    hidden = {block: torch.cat(states) for block, states in parts.items()}
    logits = trunk.logits(normed[0, -1:])
    return Prefill(prompt, Trace(ids, prompt.tokens.offsets, hidden, logits), cache)


def _begins(start: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return len(start) < len(whole) and whole[: len(start)] == start


def steps(gemma: Gemma, start: Prefill, sampling: Sampling, capture: Capture) -> Iterator[Step]:
    """Decode from a prefill.

    A token's activations exist once the model has read it, which is when the next one is chosen; so with a capture
    each step is yielded one pass later, and the last one costs a pass without the output matrix. Without a capture
    it costs nothing.
    """
    trunk = gemma.trunk
    decoding = Decoding(gemma, start, sampling)
    while not decoding.ended:
        step = decoding.choose()
        reads = decoding.must_read(step, capture)
        if not (reads and capture.blocks):
            yield step
        if not reads:
            return
        fed = torch.tensor([[step.token_id]], device=trunk.model.device)
        normed, kept = trunk.run(fed, capture.blocks, cache=decoding.cache, through=step.finish is None)
        if capture.blocks:
            yield replace(step, hidden={block: states[0, -1].cpu() for block, states in kept.items()})
        if normed is not None:
            decoding.logits = trunk.logits(normed[0, -1:])[0]


def generate(made: Iterable[Step]) -> Generation:
    """Drain steps into a reply."""
    drained = list(made)
    finish = drained[-1].finish
    assert finish is not None
    return Generation("".join(step.text for step in drained), tuple(step.token_id for step in drained), finish)
