"""A tree of runs: a reply, and others that branch off at one of its tokens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Literal

from safety_kit.errors import UserError
from safety_kit.gemma.chat import Prompt
from safety_kit.gemma.tokens import Detokenizer, Tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from safety_kit.gemma.model import Gemma
    from safety_kit.gemma.sampling import Sampling
    from safety_kit.types import Message


@dataclass(frozen=True, slots=True)
class Run:
    """A prompt and a reply to it.

    Attributes:
        prompt: As it was rendered.
        reply: Token ids.
        text: The reply as text, up to its stop string.
        finish: ``stop`` or ``length``.
        parent: Index in the tree of the run that it branched off, or None.
        at: Index in the reply of the first token that was chosen by hand; None for the first run.
    """

    prompt: Prompt
    reply: tuple[int, ...]
    text: str
    finish: Literal["stop", "length"]
    parent: int | None = None
    at: int | None = None

    @property
    def tokens(self) -> Tokens:
        """Prompt and reply, for `Gemma.forward`; the reply's spans are (0, 0)."""
        return self.prompt.tokens + Tokens(self.reply, ((0, 0),) * len(self.reply))

    @property
    def start(self) -> int:
        """Where the reply begins in `tokens`."""
        return len(self.prompt.tokens)


@dataclass(frozen=True, slots=True)
class Change:
    """Tokens of one reply that stand in the place of some of another.

    Attributes:
        before: Half-open range in the first reply.
        after: Half-open range in the second; either may be empty.
    """

    before: tuple[int, int]
    after: tuple[int, int]


@dataclass
class RunTree:
    """Runs of one prompt on one model; the first one is the reply, each other one branches off an earlier one.

    Attributes:
        gemma: The model.
        sampling: How every run goes on.
        runs: In the order in which they were made.
        progress: Called with tokens decoded and the most there can be; what it raises stops the run, which is not kept.
    """

    gemma: Gemma
    sampling: Sampling
    runs: list[Run] = field(default_factory=list)
    progress: Callable[[int, int], None] | None = None

    @classmethod
    def start(
        cls, gemma: Gemma, prompt: Prompt, sampling: Sampling, progress: Callable[[int, int], None] | None = None
    ) -> RunTree:
        """Answer a prompt."""
        tree = cls(gemma, sampling, progress=progress)
        tree.runs.append(tree._continued(prompt, ()))
        return tree

    @classmethod
    def given(cls, gemma: Gemma, messages: Sequence[Message], sampling: Sampling) -> RunTree:
        """A conversation that ends with its reply: nothing is decoded until a run branches off.

        Args:
            gemma: The model.
            messages: The last one is the assistant's.
            sampling: How runs that branch off go on.
        """
        whole = gemma.render(messages)
        start, stop = whole.ranges[-1]
        prompt = replace(whole, tokens=whole.tokens.slice(0, start), ranges=whole.ranges[:-1])
        return cls(gemma, sampling, [Run(prompt, whole.tokens.ids[start:stop], messages[-1].content, "stop")])

    def branch(self, run: int, at: int, instead: int | str) -> int:
        """Take another token, or a text, at a place of a reply, and go on from there.

        The reply's tokens before `at` are kept, by id. The model reads them again: a greedy run that takes the original
        token again comes to the original reply, but where two tokens are equally likely to the last digit.

        Args:
            run: Index of a run.
            at: Index in its reply; its length appends.
            instead: A token id, or a text that is encoded as content.

        Returns:
            The new run's index.

        Raises:
            UserError: There is no such run, place or token, or the text is empty.
        """
        if not 0 <= run < len(self.runs):
            raise UserError(f"There is no run {run}; there are {len(self.runs)}, counted from 0.")
        parent = self.runs[run]
        if not 0 <= at <= len(parent.reply):
            raise UserError(f"The reply has {len(parent.reply)} tokens; it cannot branch at {at}.")
        if any(id_ in self.gemma.end_ids for id_ in parent.reply[:at]):
            raise UserError("The reply has ended there; branch at its last token or before.")
        chosen = self.gemma.vocabulary.content(instead).ids if isinstance(instead, str) else (instead,)
        known = self.gemma.readout.vocabulary
        if not chosen or not all(0 <= id_ < known for id_ in chosen):
            raise UserError(f"Choose a token from 0 to {known - 1}, or a text that is not empty.")
        made = self._continued(parent.prompt, parent.reply[:at] + tuple(chosen))
        self.runs.append(replace(made, parent=run, at=at))
        return len(self.runs) - 1

    def _continued(self, prompt: Prompt, reply: tuple[int, ...]) -> Run:
        """The run whose reply begins with some tokens."""
        detokenizer = Detokenizer(self.gemma.vocabulary, (*self.sampling.stop, *prompt.stop), prompt.strip_start)
        made, text = list(reply), ""
        finish: Literal["stop", "length"] = "length"
        ended = bool(reply) and reply[-1] in self.gemma.end_ids
        for id_ in reply[: len(reply) - ended]:
            text += detokenizer.push(id_)
            if detokenizer.stopped:
                break
        room = self.sampling.max_tokens - len(reply)
        if ended or detokenizer.stopped or room < 1:
            finish = "stop" if ended or detokenizer.stopped else "length"
            return Run(prompt, reply, text + detokenizer.finish(), finish)
        # A stop string may begin in what is kept, so it is looked for here; no `steps` of the model shall do so.
        going_on = Prompt(prompt.tokens + Tokens(reply, ((0, 0),) * len(reply)), prompt.ranges)
        sampling = replace(self.sampling, max_tokens=room, stop=())
        for step in self.gemma.steps(going_on, sampling):
            made.append(step.token_id)
            if self.progress is not None:
                self.progress(len(made), self.sampling.max_tokens)
            finish = step.finish or finish
            if step.token_id in self.gemma.end_ids:
                break
            text += detokenizer.push(step.token_id)
            if detokenizer.stopped:
                finish = "stop"
                break
        return Run(prompt, tuple(made), text + detokenizer.finish(), finish)


def shared_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two replies begin with in common."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def difference(one: Sequence[int], other: Sequence[int]) -> list[Change]:
    """Where two replies differ, by token ids: what stands between longest common pieces (`difflib`)."""
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    return [Change((a, b), (c, d)) for tag, a, b, c, d in matcher.get_opcodes() if tag != "equal"]
