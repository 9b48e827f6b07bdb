"""Classifiers that give a whole message one number: those that read it alone, in a question or by an adapter."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from safety_kit.analysis.inspection import Whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safety_kit.analysis.inspection import Inspection
    from safety_kit.types import Message


class Scorer(Protocol):
    """What scores texts, such as `classifiers.SafetyClassifier`."""

    @property
    def categories_(self) -> Sequence[str]: ...

    def category_probabilities(self, X: list[tuple[str | None, str]], /) -> Any: ...


def with_wholes(made: Inspection, messages: Sequence[Message], scorers: Sequence[Scorer]) -> Inspection:
    """The inspection, with what some classifiers say of each message: a pass of their own a text, and no strip.

    Args:
        made: Of these messages.
        messages: As they were given to `examine`, the decoded reply not among them.
        scorers: The classifiers; each reads a reply after the last user's message before it.
    """
    texts: list[tuple[str | None, str]] = []
    asked: str | None = None
    said = [*((message.role, message.content) for message in messages), ("assistant", made.reply or "")]
    for role, text in said[: len(made.parts)]:
        texts.append((asked if role == "assistant" else None, text))
        asked = text if role == "user" else asked
    columns = [
        (category, scores)
        for scorer in scorers
        for category, scores in zip(scorer.categories_, scorer.category_probabilities(texts).T, strict=True)
    ]
    return replace(
        made,
        parts=tuple(
            replace(part, wholes=tuple(Whole(category, float(scores[number])) for category, scores in columns))
            for number, part in enumerate(made.parts)
        ),
    )
