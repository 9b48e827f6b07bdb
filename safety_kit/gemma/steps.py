"""Decoding: prefill once, then one `Step` a token; a generation is the drained steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from transformers import DynamicCache

from safety_kit.errors import UserError
from safety_kit.gemma.sampling import choose
from safety_kit.gemma.tokens import Detokenizer
from safety_kit.gemma.trace import Capture, Trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

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
class Step:
    """One decoded token.

    Attributes:
        token_id: The token.
        text: Text that became final with it; may be empty (half a character, a possible stop string).
        logprob: Natural logarithm of its probability in the model's raw distribution.
        hidden: Its own activations by captured block, d each.
        finish: None while decoding goes on; ``stop`` or ``length`` on the last step.
    """

    token_id: int
    text: str
    logprob: float
    hidden: Mapping[int, torch.Tensor] = field(default_factory=dict)
    finish: Literal["stop", "length"] | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole reply."""

    text: str
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length"]


def prefill(trunk: Trunk, prompt: Prompt, capture: Capture, reuse: Prefill | None) -> Prefill:
    """Read a prompt, in chunks, into a fresh cache.

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
    trunk, vocabulary = gemma.trunk, gemma.vocabulary
    cache, logits = start.take(), start.trace.logits
    assert logits is not None
    rng = None
    if sampling.seed is not None:
        rng = torch.Generator(device=logits.device).manual_seed(sampling.seed)
    detokenizer = Detokenizer(vocabulary, (*sampling.stop, *start.prompt.stop), start.prompt.strip_start)
    ids = list(start.trace.ids)
    room = min(sampling.max_tokens, gemma.context_length - len(ids))
    if room < 1:
        raise UserError(f"The prompt fills {gemma.name}'s context of {gemma.context_length} tokens; shorten it.")
    for made in range(1, room + 1):
        row = logits[-1].float()
        token = choose(row, ids, sampling, rng)
        logprob = float(row[token] - row.logsumexp(-1))
        ids.append(token)
        ended = token in gemma.end_ids
        text = "" if ended else detokenizer.push(token)
        finish: Literal["stop", "length"] | None = "stop" if ended or detokenizer.stopped else None
        if finish is None and made == room:
            finish = "length"
        if finish:
            text += detokenizer.finish()
        if finish and (ended or not capture.blocks):
            yield Step(token, text, logprob, {}, finish)
            return
        if not capture.blocks:
            yield Step(token, text, logprob)
        fed = torch.tensor([[token]], device=trunk.model.device)
        normed, kept = trunk.run(fed, capture.blocks, cache=cache, through=finish is None)
        if capture.blocks:
            yield Step(token, text, logprob, {block: states[0, -1].cpu() for block, states in kept.items()}, finish)
        if normed is None:
            return
        logits = trunk.logits(normed[0, -1:])


def generate(made: Iterable[Step]) -> Generation:
    """Drain steps into a reply."""
    drained = list(made)
    finish = drained[-1].finish
    assert finish is not None
    return Generation("".join(step.text for step in drained), tuple(step.token_id for step in drained), finish)
