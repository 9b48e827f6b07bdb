"""Chunks of one streamed completion put together into a whole one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Json = dict[str, Any]


class Whole:
    """Puts chunks together into one completion, of text alone: a Gemma of our own writes nothing else."""

    def __init__(self, text_key: str) -> None:
        """Begin.

        Args:
            text_key: Where a choice of a chunk holds what is new: ``delta``, or ``text`` for text completions.
        """
        self._chat = text_key == "delta"
        self._head: Json = {}
        self._choices: dict[int, Json] = {}
        self._tokens: dict[int, list[Any]] = {}

    def add(self, chunks: Iterable[Mapping[str, Any]]) -> None:
        """Take in chunks."""
        for chunk in chunks:
            self._head |= {name: value for name, value in chunk.items() if name != "choices" and value is not None}
            for choice in chunk["choices"]:
                made = self._choices.setdefault(choice["index"], {"text": "", "finish_reason": None})
                made["text"] += (choice["delta"].get("content") or "") if self._chat else choice["text"]
                made["finish_reason"] = choice["finish_reason"] or made["finish_reason"]
                told = choice.get("logprobs") or {}
                self._tokens.setdefault(choice["index"], []).extend(told.get("content") or ())

    def body(self, probabilities: Whole | None = None) -> Json:
        """The completion.

        Args:
            probabilities: Where its tokens' probabilities are; the guard releases none piece by piece.
        """
        choices = []
        for index, made in sorted(self._choices.items()):
            text = made["text"]
            said = (
                {"message": {"role": "assistant", "content": text, "refusal": None}} if self._chat else {"text": text}
            )
            tokens = probabilities._tokens.get(index) if probabilities is not None else None
            told = {"content": tokens, "refusal": None} if tokens else None
            choices.append({"index": index, **said, "logprobs": told, "finish_reason": made["finish_reason"]})
        kind = {"object": "chat.completion"} if self._chat else {}
        return {**self._head, **kind, "choices": choices}
