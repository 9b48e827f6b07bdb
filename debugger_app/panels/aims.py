"""What salience can explain of a run: a token, the reply, one token or reply rather than another, a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from debugger_app.panels.bench import other_runs
from debugger_app.visible import short
from safety_kit.analysis import objectives
from safety_kit.analysis.inspection import heads_at, stage_of
from safety_kit.gemma.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from debugger_app.document import Document, Part
    from debugger_app.frame import Opened
    from debugger_app.study import Study
    from safety_kit.analysis.objectives import Objective
    from safety_kit.heads import Head

RATHER: Final = "this reply rather than"
"""How the contrast of two replies is called, in the beginning."""


@dataclass(frozen=True, slots=True)
class Aim:
    """A number that a text gives.

    Attributes:
        text: What is read; what stands behind the number is left out of it.
        objective: The number.
        shared: The first tokens of the text, which get scores.
        less: The text and the number of another reply, to be subtracted; None where there is no contrast.
    """

    text: Tokens
    objective: Objective
    shared: int
    less: tuple[Tokens, Objective] | None = None


def aims(study: Study, token: int, here: Opened) -> dict[str, Callable[[], Aim]]:
    """Each by what people read; made only where it is asked for."""
    document = study.document
    made: dict[str, Callable[[], Aim]] = {}
    if token > 0:
        made["this token"] = partial(_logprob, document, token, token + 1)
    reply = reply_of(document)
    if reply is not None:
        made["the whole reply"] = partial(_logprob, document, reply.start, reply.stop)
    if token > 0:
        for other in [other for other in document.tokens[token].top if other.id != document.tokens[token].id][:3]:
            called = f"this token rather than “{short(other.text, 20)}”"
            made[called] = partial(_token_rather, document, token, other.id)
    for name, run in other_runs(study, here).items():
        if (fork := forked(document, run.document)) is not None:
            rest = "".join(piece.text for piece in run.document.tokens[fork:])
            called = f"{RATHER} “{short(rest, 20)}” of run {name}"
            made[called] = partial(_reply_rather, document, run.document, fork)
    part = document.part_of(token)
    if part is not None:
        for head in heads_at(here.guard, stage_of(part.role)):
            made[f"classifier {head.category}"] = partial(_classifier, document, part, head)
    return made


def reply_of(document: Document) -> Part | None:
    """The last reply that has a token."""
    found = next((part for part in reversed(document.messages) if part.role == "assistant"), None)
    return found if found is not None and found.stop > found.start else None


def forked(one: Document, other: Document) -> int | None:
    """The first token at which two replies to one prompt differ; None where they do not, or their prompts do."""
    a, b = reply_of(one), reply_of(other)
    if a is None or b is None or a.start != b.start:
        return None
    fork = next((at for at in range(min(a.stop, b.stop)) if one.tokens[at].id != other.tokens[at].id), None)
    return fork if fork is not None and fork >= a.start else None


def _until(document: Document, stop: int) -> Tokens:
    return Tokens(tuple(piece.id for piece in document.tokens[:stop]), ((0, 0),) * stop)


def _logprob(document: Document, start: int, stop: int) -> Aim:
    text = _until(document, stop)
    return Aim(text, objectives.logprob(text, range(start, stop)), stop)


def _token_rather(document: Document, token: int, other: int) -> Aim:
    text = _until(document, token)
    return Aim(text, objectives.contrast(text, token - 1, document.tokens[token].id, other), token)


def _reply_rather(document: Document, other: Document, fork: int) -> Aim:
    """The replies from where they part on: what stands before has the same probability in both."""
    this, that = (_logprob(each, fork, part.stop) for each in (document, other) if (part := reply_of(each)))
    return Aim(this.text, this.objective, fork, (that.text, that.objective))


def _classifier(document: Document, part: Part, head: Head) -> Aim:
    text, window = _until(document, part.stop), head.window_at(stage_of(part.role))
    return Aim(text, objectives.classifier(head, max(part.start, part.stop - window), part.stop), part.stop)
