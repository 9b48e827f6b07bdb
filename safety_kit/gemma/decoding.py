"""A reply in the making, and one step of several at once: what is chosen is kept apart from the pass that reads it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch

from safety_kit.errors import UserError
from safety_kit.gemma.ragged import Row, run_rows
from safety_kit.gemma.sampling import choose
from safety_kit.gemma.tokens import Detokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import DynamicCache

    from safety_kit.gemma.model import Gemma
    from safety_kit.gemma.sampling import Sampling
    from safety_kit.gemma.steps import Prefill
    from safety_kit.gemma.trace import Capture


@dataclass(frozen=True, slots=True)
class Step:
    """One decoded token.

    Attributes:
        token_id: The token.
        text: Text that became final with it; may be empty (half a character, a possible stop string).
        logprob: Natural logarithm of its probability in the model's raw distribution.
        hidden: Its own activations by captured block, d each.
        finish: None while decoding goes on; ``stop`` or ``length`` on the last step.
        likeliest: The likeliest tokens in its place and their log-probabilities, as many as were asked for.
    """

    token_id: int
    text: str
    logprob: float
    hidden: Mapping[int, torch.Tensor] = field(default_factory=dict)
    finish: Literal["stop", "length"] | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


class Decoding:
    """A reply in the making.

    Attributes:
        cache: Keys and values of all tokens read so far.
        logits: The next token's, V float32.
        token: The one chosen last.
        ended: The last token was chosen.
    """

    def __init__(self, gemma: Gemma, start: Prefill, sampling: Sampling, *, likeliest: int = 0) -> None:
        """Go on from a prefill, whose cache is taken over.

        Args:
            gemma: The model that read the prompt.
            start: The prompt as read.
            sampling: How tokens are chosen.
            likeliest: How many of the likeliest tokens each step tells.

        Raises:
            UserError: The prompt leaves no room in the model's context, or was gone on from before.
        """
        self._gemma = gemma
        self._sampling = sampling
        self._likeliest = likeliest
        self.ids = list(start.trace.ids)
        self.room = min(sampling.max_tokens, gemma.context_length - len(self.ids))
        if self.room < 1:
            raise UserError(f"The prompt fills {gemma.name}'s context of {gemma.context_length} tokens; shorten it.")
        assert start.trace.logits is not None
        self.cache: DynamicCache = start.take()
        self.logits = start.trace.logits[-1]
        self.ended = False
        self._rng = None
        if sampling.seed is not None:
            self._rng = torch.Generator(device=self.logits.device).manual_seed(sampling.seed)
        stop = (*sampling.stop, *start.prompt.stop)
        self._detokenizer = Detokenizer(gemma.vocabulary, stop, start.prompt.strip_start)

    @property
    def token(self) -> int:
        return self.ids[-1]

    def choose(self) -> Step:
        """The next token, without its activations: they exist once it was read."""
        row = self.logits.float()
        token = choose(row, self.ids, self._sampling, self._rng)
        total = row.logsumexp(-1)
        likeliest: tuple[tuple[int, float], ...] = ()
        if self._likeliest:
            top = torch.topk(row - total, self._likeliest)
            likeliest = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        self.ids.append(token)
        self.room -= 1
        end = token in self._gemma.end_ids
        text = "" if end else self._detokenizer.push(token)
        finish: Literal["stop", "length"] | None = "stop" if end or self._detokenizer.stopped else None
        if finish is None and not self.room:
            finish = "length"
        if finish:
            text += self._detokenizer.finish()
        self.ended = finish is not None
        return Step(token, text, float(row[token] - total), {}, finish, likeliest)

    def must_read(self, step: Step, capture: Capture) -> bool:
        """Whether the step's token goes through the model: the next depends on it, or its activations are wanted."""
        return step.finish is None or bool(capture.blocks and step.token_id not in self._gemma.end_ids)


def step_together(gemma: Gemma, decodings: Sequence[Decoding], capture: Capture) -> list[Step]:
    """One token for each of several replies, in one pass that reads the weights once for all.

    Args:
        gemma: The model.
        decodings: None of them ended.
        capture: Whose blocks' activations the steps bring.
    """
    steps = [decoding.choose() for decoding in decodings]
    read = [n for n, (d, step) in enumerate(zip(decodings, steps, strict=True)) if d.must_read(step, capture)]
    if not read:
        return steps
    on = [place for place, n in enumerate(read) if not decodings[n].ended]
    rows = [Row((decodings[n].token,), decodings[n].cache) for n in read]
    normed, kept = run_rows(gemma.trunk, rows, capture.blocks, through=bool(on))
    for place, n in enumerate(read):
        hidden = {block: states[place, 0].cpu() for block, states in kept.items()}
        steps[n] = replace(steps[n], hidden=hidden)
    if on:
        assert normed is not None
        for n, logits in zip((read[place] for place in on), gemma.trunk.logits(normed[on, 0]), strict=True):
            decodings[n].logits = logits
    return steps
