"""One prompt under study: what a single pass over prompt and reply gives every page, and what was asked of it since."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from debugger_app.document import Document
from safety_kit.analysis.inspection import read
from safety_kit.analysis.runs import RunTree
from safety_kit.gemma.tokens import Tokens
from safety_kit.gemma.trace import Capture

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from safety_kit.analysis.runs import Run
    from safety_kit.gemma import Gemma, Sampling
    from safety_kit.gemma.trace import Trace
    from safety_kit.guard import Guard
    from safety_kit.types import Message

TOP_K = 10
"""Alternatives a token."""

WHOLE = 1_024
"""Tokens up to which the one pass also keeps what the lens and the attention of every block need."""


@dataclass
class Live:
    """What only a run of this session has: its model, its activations, and the tree that it belongs to.

    Attributes:
        messages: The conversation, without the reply.
        tree: The reply, and those that branch off it.
        number: Which of them is looked at.
        trace: Of prompt and reply; None once it was let go of, to be read again where it is asked for.
    """

    messages: tuple[Message, ...]
    tree: RunTree
    number: int
    trace: Trace | None

    @property
    def run(self) -> Run:
        return self.tree.runs[self.number]


@dataclass
class Study:
    """A run as the pages show it.

    Attributes:
        document: All that is drawn without a model.
        live: What experiments need; None for a run that was opened from a file.
        results: Small results of experiments, by what was asked; never activations.
    """

    document: Document
    live: Live | None = None
    results: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    @property
    def tokens(self) -> Tokens:
        """Prompt and reply, for the model; the spans are (0, 0)."""
        return Tokens(tuple(token.id for token in self.document.tokens), ((0, 0),) * len(self.document.tokens))

    @property
    def trace(self) -> Trace | None:
        """The activations that were kept, if any."""
        return self.live.trace if self.live is not None else None

    def once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """A result, made where it is asked for the first time."""
        if key not in self.results:
            self.results[key] = make()
        return self.results[key]


def study(
    gemma: Gemma,
    guard: Guard,
    messages: Sequence[Message],
    sampling: Sampling,
    *,
    revision: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Study:
    """Answer a conversation, unguarded, and read prompt and reply once.

    Args:
        gemma: The model.
        guard: Whose classifiers and thresholds are shown.
        messages: The conversation; where the last is an assistant's, that is the reply, and none is decoded.
        sampling: Of the reply.
        revision: That the model was loaded at, for the document.
        progress: Called with tokens of the reply that were decoded and the most there can be.

    Raises:
        UserError: The conversation is empty or longer than the model's context.
    """
    if messages and messages[-1].role == "assistant":
        asked, tree = messages[:-1], RunTree.given(gemma, messages, sampling)
    else:
        asked, tree = messages, RunTree.start(gemma, gemma.render(messages), sampling, progress)
    return look(gemma, guard, asked, tree, 0, revision=revision)


def look(
    gemma: Gemma,
    guard: Guard,
    messages: Sequence[Message],
    tree: RunTree,
    number: int,
    *,
    revision: str | None = None,
) -> Study:
    """Read one run of a tree: one pass."""
    also = everything(gemma) if len(tree.runs[number].tokens) <= WHOLE else Capture()
    made = read(gemma, messages, tree, number, guard, top_k=TOP_K, also=also)
    said = made.to_json()
    said["model"]["revision"] = revision
    return Study(Document.model_validate(said), Live(tuple(messages), tree, number, made.trace))


def everything(gemma: Gemma) -> Capture:
    """What the lens and the attention of every block need."""
    blocks = tuple(range(gemma.n_blocks))
    return Capture(blocks, final=True, attention=blocks)
