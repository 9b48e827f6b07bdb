"""Steps of a Gemma in the wire format of the two kinds of completion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from safety_kit.gemma import Gemma, Step

Json = dict[str, Any]


class Form(Protocol):
    """One kind of completion.

    Attributes:
        prefix: Of its ids.
        chunk_object: The `object` of a chunk.
    """

    prefix: str
    chunk_object: str

    def first(self, choice: int) -> Json | None:
        """What opens a streamed choice, if anything does."""
        ...

    def chunk(self, choice: int, step: Step, *, told: int, top: int) -> Json:
        """One step of a streamed choice."""
        ...


class Chat:
    """A chat completion."""

    prefix, chunk_object = "chatcmpl", "chat.completion.chunk"

    def __init__(self, gemma: Gemma) -> None:
        self._gemma = gemma

    def first(self, choice: int) -> Json | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": choice, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk(self, choice: int, step: Step, *, told: int, top: int) -> Json:
        probs = self._probs(step, top) if told else None
        return {"index": choice, "delta": {"content": step.text}, "logprobs": probs, "finish_reason": step.finish}

    def _probs(self, step: Step, top: int) -> Json:
        likeliest = [self._prob(*told) for told in step.likeliest[:top]]
        own = {**self._prob(step.token_id, step.logprob), "top_logprobs": likeliest}
        return {"content": [] if step.token_id in self._gemma.end_ids else [own], "refusal": None}

    def _prob(self, token: int, logprob: float) -> Json:
        text = self._gemma.vocabulary.decode([token])
        # A token that holds part of a character has no bytes that could be told apart from U+FFFD's.
        return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}


class Text:
    """A text completion."""

    prefix, chunk_object = "cmpl", "text_completion"

    def __init__(self, gemma: Gemma) -> None:
        self._gemma = gemma

    def first(self, choice: int) -> Json | None:
        return None

    def chunk(self, choice: int, step: Step, *, told: int, top: int) -> Json:
        return {"index": choice, "text": step.text, "logprobs": None, "finish_reason": step.finish}
