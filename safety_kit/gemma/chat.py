"""Conversations to prompts.

One rule folds any conversation into turns that alternate user, model, user …: an assistant's message belongs to the
model's turn, every other role (system, developer, user, tool) to the user's; neighbours on the same side share a
turn, joined by a blank line; where the model would speak first, an empty user turn stands before it. A conversation
that ends with the assistant is continued, any other is answered.

A tokenizer with a chat template gives Gemma's own turns; a pre-trained Gemma gets a plain dialogue ("User: … /
Assistant: …") and stops where the user's next line would begin. Content is encoded apart from the template, so it
can never become a control token.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from safety_kit.errors import UserError
from safety_kit.gemma.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safety_kit.gemma.tokens import Vocabulary
    from safety_kit.types import Message

_MARK = "\ue000{}\ue001"  # stands for a message while the template is rendered; private-use, so no template holds it


@dataclass(frozen=True, slots=True)
class Prompt:
    """An encoded conversation.

    Attributes:
        tokens: The whole prompt; each token's span points into its own message, (0, 0) for the template's.
        ranges: For each message the half-open token range of its own content.
        stop: Strings at which the reply ends.
        strip_start: The reply's leading white space is the format's, not the model's.
    """

    tokens: Tokens
    ranges: tuple[tuple[int, int], ...]
    stop: tuple[str, ...] = ()
    strip_start: bool = False


def turns(messages: Sequence[Message]) -> list[tuple[str, list[int]]]:
    """The folding rule: alternating ("user" | "model", message indices), the user first."""
    if not messages:
        raise UserError("A conversation needs at least one message.")
    sides = ["model" if message.role == "assistant" else "user" for message in messages]
    folded = [(side, list(indices)) for side, indices in groupby(range(len(sides)), key=sides.__getitem__)]
    return folded if folded[0][0] == "user" else [("user", []), *folded]


def render(messages: Sequence[Message], vocabulary: Vocabulary) -> Prompt:
    """Encode a conversation, open at the place where the model goes on.

    Raises:
        UserError: There is no message.
    """
    folded = turns(messages)
    plain = not vocabulary.tokenizer.chat_template
    pieces = _plain(folded) if plain else _templated(folded, vocabulary)
    # "User:" is followed by " Hello" as one token, so in the plain form that space belongs to the content's encoding.
    opens = {indices[0] for _, indices in folded if indices} if plain else set()
    leads = [" " if index in opens and message.content.strip() else "" for index, message in enumerate(messages)]
    lost = [len(message.content) - len(message.content.lstrip()) for message in messages]
    encoded = vocabulary.contents([lead + m.content.strip() for lead, m in zip(leads, messages, strict=True)])
    parts = [vocabulary.template(pieces[0])]
    at, ranges = len(parts[0]), []
    for index, piece in enumerate(pieces[1:]):
        own, after = encoded[index].shifted(lost[index] - len(leads[index])), vocabulary.template(piece)
        ranges.append((at, at + len(own)))
        at += len(own) + len(after)
        parts += own, after
    return Prompt(Tokens.join(parts), tuple(ranges), ("\nUser:",) if plain else (), strip_start=plain)


def _plain(folded: list[tuple[str, list[int]]]) -> list[str]:
    names = {"user": "User:", "model": "Assistant:"}
    pieces = ["<bos>"]
    for number, (side, indices) in enumerate(folded):
        pieces[-1] += ("\n\n" if number else "") + names[side]
        for position, _ in enumerate(indices):
            pieces[-1] += "\n\n" if position else ""
            pieces.append("")
    if folded[-1][0] == "user":
        pieces[-1] += "\n\nAssistant:"
    return pieces


def _templated(folded: list[tuple[str, list[int]]], vocabulary: Vocabulary) -> list[str]:
    count = sum(len(indices) for _, indices in folded)
    conversation = [
        {
            "role": "user" if side == "user" else "assistant",
            "content": "\n\n".join(_MARK.format(index) for index in indices),
        }
        for side, indices in folded
    ]
    answered = folded[-1][0] == "user"
    tokenizer: Any = vocabulary.tokenizer
    rendered: str = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=answered)
    pieces = []
    for index in range(count):
        before, mark, rendered = rendered.partition(_MARK.format(index))
        if not mark:
            raise UserError("The model's chat template drops or reorders messages; this tokenizer is not supported.")
        pieces.append(before)
    return [*pieces, rendered if answered else ""]
