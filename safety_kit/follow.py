"""Reading a reply that another model writes with the guard's own Gemma, token by token, while it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
from transformers import DynamicCache

from safety_kit.errors import SafetyKitError
from safety_kit.gemma.segments import Segmenter
from safety_kit.gemma.steps import CHUNK
from safety_kit.gemma.trace import Trace, TraceView
from safety_kit.gemma.windows import OVERLAP, WINDOW, reply_head

if TYPE_CHECKING:
    from safety_kit.gemma import Capture, Gemma, Tokens

Token: TypeAlias = tuple[str, Mapping[int, torch.Tensor]]
"""(text, hidden): the text that ends with a token, and the 1 × d activations of it by block; 0 × d where text, such as
the white space before a reply, has no token of its own."""


class Reader(Protocol):
    """Reads a sequence on: extends its cache, and gives n × d activations of the new tokens by block."""

    def __call__(
        self, ids: Sequence[int], cache: DynamicCache, capture: Capture, *, alone: bool
    ) -> Mapping[int, torch.Tensor]: ...


class Follower:
    """Reads one growing text.

    However the text is cut into pieces, its tokens are the same: each is read once no further text can change it (see
    `Segmenter`), which leaves at most 64 characters unread, and mostly the last word. Their activations are the same to
    rounding, which depends on how many are read in one pass. They are those of `Gemma.trace_texts` for a reply of one
    window. A longer one is read in the same overlapping windows, each token in the first that holds it; so work is
    linear in its length, and memory bounded by one window.
    """

    def __init__(self, gemma: Gemma, capture: Capture, prompt: str | None = None, reader: Reader | None = None) -> None:
        """Nothing is read before the first token.

        Args:
            gemma: The model.
            capture: The guard's: which blocks' outputs are wanted.
            prompt: The message that is answered.
            reader: Who calls the model; by default this thread.
        """
        self._gemma = gemma
        self._capture = capture
        self._reader = reader or _direct(gemma)
        self._prompt = prompt
        self._head: Tokens | None = None
        self._segments = Segmenter(gemma.vocabulary)
        self._begun = False
        self._lead = "" if gemma.vocabulary.tokenizer.chat_template else " "
        self._cache: DynamicCache | None = None
        self._window: list[int] = []  # tokens of the text in the present window
        self._unread: list[int] = []  # what a new cache must have read before

    def feed(self, text: str) -> list[Token]:
        """Read on: the tokens that are now final, with all text up to each.

        Raises:
            Exception: What the model raised, also when it was asked again for this text alone.
        """
        blank = ""
        if not self._begun:
            rest = text.lstrip()  # white space before a reply is not read: a prompt has none there
            blank, text = text[: len(text) - len(rest)], rest
            self._begun = bool(text)
        silent: list[Token] = [(char, self._nothing()) for char in blank]
        return silent + self._read(self._segments.feed(text))

    def close(self) -> list[Token]:
        """The text is complete: its last tokens."""
        return self._read(self._segments.close())

    def trace(self, text: str) -> TraceView:
        """A whole text, read as `feed` and `close` read it: the trace for its `Sample`."""
        tokens = self.feed(text) + self.close()
        hidden = {block: torch.cat([h[block] for _, h in tokens] or [self._nothing()[block]]) for block in self._blocks}
        count = len(next(iter(hidden.values()))) if hidden else 0
        return Trace((0,) * count, ((0, 0),) * count, hidden).view(0, count)

    @property
    def _blocks(self) -> tuple[int, ...]:
        return self._capture.blocks

    def _nothing(self) -> dict[int, torch.Tensor]:
        return {block: torch.empty(0, self._gemma.hidden_size) for block in self._blocks}

    def _read(self, segments: list[str]) -> list[Token]:
        if not segments:
            return []
        lead, self._lead = self._lead, ""
        encoded = self._gemma.vocabulary.contents([lead + segments[0], *segments[1:]])
        texts = _texts(segments[0], encoded[0].shifted(-len(lead)))
        for segment, tokens in zip(segments[1:], encoded[1:], strict=True):
            texts += _texts(segment, tokens)
        hidden = self._advance([id_ for tokens in encoded for id_ in tokens.ids])
        return [(text, {block: hidden[block][n : n + 1] for block in hidden}) for n, text in enumerate(texts)]

    def _advance(self, ids: list[int]) -> dict[int, torch.Tensor]:
        """Read tokens, window by window: their activations."""
        parts: dict[int, list[torch.Tensor]] = {block: [] for block in self._blocks}
        at = 0
        while at < len(ids):
            if self._cache is None or len(self._window) == WINDOW:
                self._restart(self._window[-OVERLAP:])
            new = ids[at : at + min(CHUNK, WINDOW - len(self._window))]
            for block, states in self._pass(new).items():
                parts[block].append(states[-len(new) :])
            self._window += new
            at += len(new)
        return {block: torch.cat(states) for block, states in parts.items()}

    def _pass(self, new: list[int]) -> Mapping[int, torch.Tensor]:
        assert self._cache is not None
        try:
            states = self._reader([*self._unread, *new], self._cache, self._capture, alone=False)
        except SafetyKitError:  # it waited too long, or the queue is closed
            raise
        except Exception:
            # The pass may have failed by others' texts that shared it, and left half of the blocks' caches extended.
            self._restart(self._window)
            states = self._reader([*self._unread, *new], self._cache, self._capture, alone=True)
        self._unread = []
        return states

    def _restart(self, window: list[int]) -> None:
        if self._head is None:
            self._head = reply_head(self._gemma, self._prompt)
        self._cache = DynamicCache(config=self._gemma.trunk.config)
        self._window = list(window)
        self._unread = [*self._head.ids, *window]


def _texts(segment: str, tokens: Tokens) -> list[str]:
    """The segment's text by token; a character of several tokens goes with the last of them."""
    texts, done = [], 0
    starts = [start for start, _ in tokens.offsets[1:]]
    for (_, stop), following in zip(tokens.offsets, [*starts, len(segment)], strict=True):
        end = max(done, stop if stop <= following else following)
        texts.append(segment[done:end])
        done = end
    if texts:
        texts[-1] += segment[done:]
    return texts


def _direct(gemma: Gemma) -> Reader:
    def read(ids: Sequence[int], cache: DynamicCache, capture: Capture, *, alone: bool) -> Mapping[int, torch.Tensor]:
        new = torch.tensor([list(ids)], device=gemma.device)
        _, kept = gemma.trunk.run(new, capture.blocks, cache=cache, through=False)
        return {block: states[0].cpu() for block, states in kept.items()}

    return read
