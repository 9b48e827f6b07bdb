"""A guard for those who call `model.generate` of transformers themselves.

What generation hands out beside the wrapper, the token ids that it returns, is not guarded: read the replies here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Queue
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from safety_kit.errors import UserError
from safety_kit.gemma.tokens import Detokenizer
from safety_kit.guard import Guard
from safety_kit.stream import StreamGuard
from safety_kit.types import Verdict


@dataclass(frozen=True, slots=True)
class GuardedReply:
    """One row's reply: what may be shown of it, the policy's message included at a block, and the verdict."""

    text: str
    verdict: Verdict


class GuardedStop(StoppingCriteria):
    """Reads each row's text as it grows and ends the row at a block; one instance a call of `generate`.

    Any batch size and any number of returned sequences, sampling or greedy. Text checks decide as the text grows; a
    policy with probes or judges at output reads the reply with the guard's own model, in `replies`.
    """

    def __init__(
        self, guard: Guard, tokenizer: PreTrainedTokenizerBase, prompt_tokens: int, prompts: Sequence[str] = ()
    ) -> None:
        """Start.

        Args:
            guard: What to hold the replies against. The prompts are the caller's to check.
            tokenizer: The model's.
            prompt_tokens: How many tokens `input_ids` has at the start, padding included.
            prompts: The messages that are answered, for a judge: one a row of `input_ids`.
        """
        self._guard = guard
        self._words = _Words(tokenizer)
        self._prompts = tuple(prompts)
        self._at = prompt_tokens
        self._seen: torch.Tensor | None = None
        self._rows: list[_Row] = []
        self.listener: Callable[[str], None] | None = None
        """Is told what may be shown, of the only row."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Read on; True for each row that was blocked.

        Raises:
            UserError: Rows changed places, as beam search has them do, or there are several and one is streamed.
        """
        if self.listener is not None and len(input_ids) != 1:
            raise UserError("GuardedStreamer streams one row; give generate one prompt and one returned sequence.")
        if self._seen is None:
            self._rows = [
                _Row(self._guard, self._words, self._prompt(i, len(input_ids))) for i in range(len(input_ids))
            ]
        elif self._seen.shape[0] != len(input_ids) or not torch.equal(input_ids[:, : self._at], self._seen):
            raise UserError("The rows changed places, as in beam search; set num_beams=1 and take a new GuardedStop.")
        for row, ids in zip(self._rows, input_ids[:, self._at :].tolist(), strict=True):
            text = row.push(ids)
            if text and self.listener is not None:
                self.listener(text)
        self._seen, self._at = input_ids, input_ids.shape[1]
        return torch.tensor([row.blocked for row in self._rows], device=input_ids.device)

    def replies(self) -> list[GuardedReply]:
        """What came of each row; to be called when `generate` has returned."""
        return [row.close()[0] for row in self._rows]

    def _prompt(self, row: int, rows: int) -> str | None:
        return self._prompts[row * len(self._prompts) // rows] if self._prompts else None

    def rest(self) -> str:
        """What may be shown of the only row when all is said, the policy's message included.

        Raises:
            UserError: Generation ran without this criterion.
        """
        if not self._rows:
            raise UserError("Nothing was read; pass the GuardedStop in stopping_criteria, too.")
        return self._rows[0].close()[1]


class GuardedStreamer(BaseStreamer):
    """Iterates over what may be shown of one reply, while `generate` runs in another thread."""

    def __init__(self, stop: GuardedStop, timeout: float | None = None) -> None:
        """Listen.

        Args:
            stop: Passed to the same call of `generate` in ``stopping_criteria``: it reads, and ends a blocked reply.
            timeout: Seconds that the iterator waits for the next text before it raises `queue.Empty`; None: for ever.
        """
        self._stop = stop
        self._timeout = timeout
        self._queue: Queue[str | None] = Queue()
        stop.listener = self._queue.put

    def put(self, value: Any) -> None:
        """Tokens come by way of the criterion."""

    def end(self) -> None:
        try:
            self._queue.put(self._stop.rest())
        finally:
            self._queue.put(None)

    def __iter__(self) -> GuardedStreamer:
        return self

    def __next__(self) -> str:
        while (text := self._queue.get(timeout=self._timeout)) == "":
            pass
        if text is None:
            raise StopIteration
        return text


class _Words:
    """The tokenizer's own decoding, special tokens left out; the tokenizer stays as it is."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer: Any = tokenizer

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class _Row:
    def __init__(self, guard: Guard, words: _Words, prompt: str | None) -> None:
        self._guard = guard
        self._flow = StreamGuard(guard, prompt, activations=False)
        self._text = Detokenizer(words)
        self._closed: tuple[GuardedReply, str] | None = None

    @property
    def blocked(self) -> bool:
        return self._flow.verdict is not None

    def push(self, ids: Sequence[int]) -> str:
        return "" if self.blocked else "".join(self._flow.feed(self._text.push(id_)).text for id_ in ids)

    def close(self) -> tuple[GuardedReply, str]:
        """The reply, and what of it was not yet shown."""
        if self._closed is None:
            shown = self._flow.released
            text = self._flow.feed(self._text.finish()).text
            end = self._flow.close()
            assert end.verdict is not None
            text += end.text
            if end.verdict.blocked:
                text += ("\n\n" if shown or text else "") + self._guard.message(end.verdict)
            self._closed = GuardedReply(shown + text, end.verdict), text
        return self._closed
