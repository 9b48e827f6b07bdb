"""Where a text's own tokens stand: after its prompt, and for a long text in overlapping windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from safety_kit.types import Message

if TYPE_CHECKING:
    from safety_kit.gemma.chat import Prompt
    from safety_kit.gemma.tokens import Tokens
    from safety_kit.gemma.trace import Trace, TraceView
    from safety_kit.types import Role

WINDOW = 512
OVERLAP = 128
"""A text longer than a window is read in overlapping windows: cost stays linear in its length."""

TRACED = 8192
"""Tokens whose activations are in memory at once while texts are read that have more."""

T = TypeVar("T")


class Renderer(Protocol):
    """What makes a prompt of a conversation."""

    def render(self, messages: Sequence[Message]) -> Prompt: ...


@dataclass(frozen=True, slots=True)
class Windows:
    """What is to be read, and of which text it is.

    Attributes:
        tokens: Each window after what stands before it.
        places: For each its text's number and the token range of the text's own.
        count: Texts.
    """

    tokens: list[Tokens]
    places: list[tuple[int, int, int]]
    count: int

    def read(
        self, forward: Callable[[list[Tokens]], Sequence[Trace]], each: Callable[[int, TraceView], T]
    ) -> list[list[T]]:
        """Read them in slices, of which only what `each` makes of a window is kept.

        Args:
            forward: Tokens → their traces.
            each: The text's number and a window's own tokens → what to keep.

        Returns:
            For each text what was made of its windows, in their order.
        """
        made: dict[int, T] = {}
        for part in batches(list(map(len, self.tokens)), TRACED):
            traced = forward([self.tokens[number] for number in part])
            for number, trace in zip(part, traced, strict=True):
                index, start, stop = self.places[number]
                made[number] = each(index, trace.view(start, stop))
            del traced, trace  # before the next ones are made
        kept: list[list[T]] = [[] for _ in range(self.count)]
        for number, (index, _, _) in enumerate(self.places):
            kept[index].append(made[number])
        return kept


def own_windows(
    renderer: Renderer, items: Sequence[tuple[str | None, str, Role]], context: Sequence[Message] = ()
) -> Windows:
    """The windows of texts, each where it would stand in a prompt.

    Args:
        renderer: A Gemma, or what stands for one.
        items: (prompt | None, text, role): a reply comes with the user's message that it answers.
        context: Messages that stand before.
    """
    windows = Windows([], [], len(items))
    for index, (prompt, text, role) in enumerate(items):
        before = [*context, *([Message("user", prompt)] if prompt is not None else [])]
        rendered = renderer.render([*before, Message(role, text)])
        at, stop = rendered.ranges[-1]
        head = clipped(rendered.tokens.slice(0, at))
        while at < stop:
            end = min(stop, at + WINDOW)
            windows.tokens.append(head + rendered.tokens.slice(at, end))
            windows.places.append((index, len(head), len(windows.tokens[-1])))
            at = stop if end == stop else end - OVERLAP
    return windows


def reply_head(renderer: Renderer, prompt: str | None) -> Tokens:
    """What stands before a reply's own tokens: its prompt, or nothing but the template."""
    before = [Message("user", prompt)] if prompt is not None else []
    rendered = renderer.render([*before, Message("assistant", "x")])
    return clipped(rendered.tokens.slice(0, rendered.ranges[-1][0]))


def clipped(head: Tokens) -> Tokens:
    """What stands before a text, at most bos and the `WINDOW` tokens nearest to it."""
    return head if len(head) <= WINDOW else head.slice(0, 1) + head.slice(len(head) - WINDOW, len(head))


def batches(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Indices of non-empty texts, longest first, so that width × count stays within the budget."""
    batch: list[int] = []
    for index in sorted((i for i, n in enumerate(lengths) if n), key=lengths.__getitem__, reverse=True):
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
