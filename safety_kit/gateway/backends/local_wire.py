"""Steps of a Gemma in the wire format of the two kinds of completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from safety_kit.gemma import Gemma, Step

Json = dict[str, Any]


class Form(Protocol):
    """One kind of completion.

    Attributes:
        prefix: Of its ids.
        whole_object: The `object` of a whole one.
        chunk_object: The `object` of a chunk.
    """

    prefix: str
    whole_object: str
    chunk_object: str

    def first(self, choice: int) -> Json | None:
        """What opens a streamed choice, if anything does."""
        ...

    def chunk(self, choice: int, step: Step, *, told: int, top: int) -> Json:
        """One step of a streamed choice."""
        ...

    def whole(self, choices: Sequence[Sequence[Step]], *, told: int, top: int) -> Json:
        """All choices."""
        ...


class Chat:
    """A chat completion."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, gemma: Gemma) -> None:
        self._gemma = gemma

    def first(self, choice: int) -> Json | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": choice, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk(self, choice: int, step: Step, *, told: int, top: int) -> Json:
        probs = self._probs([step], top) if told else None
        return {"index": choice, "delta": {"content": step.text}, "logprobs": probs, "finish_reason": step.finish}

    def whole(self, choices: Sequence[Sequence[Step]], *, told: int, top: int) -> Json:
        made = []
        for choice, steps in enumerate(choices):
            message = {"role": "assistant", "content": "".join(step.text for step in steps), "refusal": None}
            probs = self._probs(steps, top) if told else None
            made.append({"index": choice, "message": message, "logprobs": probs, "finish_reason": steps[-1].finish})
        return {"choices": made}

    def _probs(self, steps: Sequence[Step], top: int) -> Json:
        own = [step for step in steps if step.token_id not in self._gemma.end_ids]
        return {
            "content": [
                {
                    **self._prob(step.token_id, step.logprob),
                    "top_logprobs": [self._prob(*t) for t in step.likeliest[:top]],
                }
                for step in own
            ],
            "refusal": None,
        }

    def _prob(self, token: int, logprob: float) -> Json:
        text = self._gemma.vocabulary.decode([token])
        # A token that holds part of a character has no bytes that could be told apart from U+FFFD's.
        return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}


class Text:
    """A text completion."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, gemma: Gemma) -> None:
        self._gemma = gemma

    def first(self, choice: int) -> Json | None:
        return None

    def chunk(self, choice: int, step: Step, *, told: int, top: int) -> Json:
        return {"index": choice, "text": step.text, "logprobs": None, "finish_reason": step.finish}

    def whole(self, choices: Sequence[Sequence[Step]], *, told: int, top: int) -> Json:
        made = [
            {
                "index": choice,
                "text": "".join(step.text for step in steps),
                "logprobs": None,
                "finish_reason": steps[-1].finish,
            }
            for choice, steps in enumerate(choices)
        ]
        return {"choices": made}
