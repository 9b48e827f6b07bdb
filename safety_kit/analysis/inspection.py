"""One conversation, read once: its tokens' probabilities and what every classifier saw at each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from safety_kit import __version__
from safety_kit.analysis.pieces import Piece, pieces
from safety_kit.analysis.probabilities import CAPTURE, Distributions, Probabilities, probabilities
from safety_kit.analysis.runs import RunTree
from safety_kit.analysis.strip import Strip, strips
from safety_kit.gemma.trace import Capture
from safety_kit.types import Message, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safety_kit.gemma import Gemma, Sampling, Tokens, Trace
    from safety_kit.guard import Guard
    from safety_kit.heads import Head
    from safety_kit.types import Role


@dataclass(frozen=True, slots=True)
class Whole:
    """What a classifier says of a whole message: a calibrated probability in [0, 1]; nan for a text without tokens."""

    category: str
    probability: float


@dataclass(frozen=True, slots=True)
class Part:
    """The own tokens of one message of the conversation.

    Attributes:
        role: Who wrote it.
        start: Its first token in the whole.
        stop: The token after its last.
        strips: A strip a classifier that has a rule at the message's stage.
        wholes: One number a classifier that reads no token by itself (`wholes.with_wholes`).
    """

    role: Role
    start: int
    stop: int
    strips: tuple[Strip, ...] = ()
    wholes: tuple[Whole, ...] = ()


@dataclass(frozen=True, slots=True)
class Inspection:
    """What one pass over a conversation showed.

    Attributes:
        gemma: The model.
        trace: The pass, for further functions of this package.
        pieces: T: each token as people may read it.
        parts: The messages in their order, the reply last where there is one.
        reply: The reply's text; None without one.
        probabilities: Of all T tokens, the template's included.
        policy_digest: Of the policy whose thresholds the strips have; None without a guard.
    """

    gemma: Gemma
    trace: Trace
    pieces: tuple[Piece, ...]
    parts: tuple[Part, ...]
    reply: str | None
    probabilities: Probabilities
    policy_digest: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The document that `safety-kit inspect --json` prints; bits and probabilities, null for what is not there."""
        sampling = self.probabilities.sampling
        return {
            "model": {
                "name": self.gemma.name,
                "family": self.gemma.family,
                "digest": self.gemma.digest,
                "dtype": self.gemma.dtype,
                "attention": self.gemma.attention,
            },
            "kit_version": __version__,
            "policy_digest": self.policy_digest,
            "sampling": None
            if sampling is None
            else {
                name: getattr(sampling, name)
                for name in ("max_tokens", "temperature", "top_k", "top_p", "min_p", "seed")
            },
            "reply": self.reply,
            "tokens": [self._token(at) for at in range(len(self.pieces))],
            "next": self._row(len(self.pieces)),
            "messages": [_part_json(part) for part in self.parts],
        }

    def _token(self, at: int) -> dict[str, Any]:
        piece = self.pieces[at]
        split = {"part": piece.part, "parts": piece.parts} if piece.parts else {}
        return {"id": piece.id, "text": piece.text, "control": piece.control, **split, **self._row(at)}

    def _row(self, at: int) -> dict[str, Any]:
        row = self._distribution(self.probabilities.raw, at)
        if self.probabilities.sampled is not None:
            row["sampled"] = self._distribution(self.probabilities.sampled, at)
        return row

    def _distribution(self, of: Distributions, at: int) -> dict[str, Any]:
        return {
            "logprob": number(of.logprobs[at]),
            "surprisal": number(of.surprisals[at]),
            "entropy": number(of.entropies[at]),
            "rank": int(of.ranks[at]) if of.ranks[at] >= 0 else None,
            "top": [
                {"id": piece.id, "text": piece.text, "probability": number(p)} for piece, p in self.alternatives(of, at)
            ],
        }

    def alternatives(self, of: Distributions, at: int) -> list[tuple[Piece, float]]:
        """The likeliest tokens in the place of token `at`, with their probabilities; none for token 0."""
        likely = zip(of.top_ids[at].tolist(), of.top_probabilities[at].tolist(), strict=True)
        return [(pieces([id_], self.gemma.vocabulary)[0], p) for id_, p in likely if id_ >= 0]


def examine(
    gemma: Gemma,
    messages: Sequence[Message],
    guard: Guard | None = None,
    *,
    sampling: Sampling | None = None,
    top_k: int = 5,
    also: Capture = Capture(),  # noqa: B008
) -> Inspection:
    """Read a conversation in one pass, after decoding a reply where one is asked for.

    Args:
        gemma: The model; a guard's own, or its activations would be another's.
        messages: As they are; where the last is an assistant's, it is the reply that is inspected.
        guard: Whose classifiers and thresholds make the strips.
        sampling: Decode a reply with it first, where the last message is no assistant's; and give the distribution
            that it samples from.
        top_k: Alternatives a token.
        also: What the trace shall hold besides, for a lens or attention.
    """
    prompt = gemma.render(messages)
    given = messages[-1].role == "assistant"
    if sampling is not None and not given:
        return read(gemma, messages, RunTree.start(gemma, prompt, sampling), 0, guard, top_k=top_k, also=also)
    ranges = list(zip((message.role for message in messages), prompt.ranges, strict=True))
    reply = messages[-1].content if given else None
    return _read(gemma, prompt.tokens, ranges, reply, guard, sampling, top_k, also)


def read(
    gemma: Gemma,
    messages: Sequence[Message],
    tree: RunTree,
    number: int,
    guard: Guard | None = None,
    *,
    top_k: int = 5,
    also: Capture = Capture(),  # noqa: B008
) -> Inspection:
    """Read one run of a tree in one pass: its prompt, which the messages were rendered to, and its reply.

    Args:
        gemma: The model.
        messages: Of the prompt.
        tree: Its runs.
        number: Which of them.
        guard: Whose classifiers and thresholds make the strips.
        top_k: Alternatives a token.
        also: What the trace shall hold besides.
    """
    run = tree.runs[number]
    ended = bool(run.reply) and run.reply[-1] in gemma.end_ids
    ranges: list[tuple[Role, tuple[int, int]]] = [
        *zip((message.role for message in messages), run.prompt.ranges, strict=True),
        ("assistant", (run.start, len(run.tokens) - ended)),
    ]
    return _read(gemma, run.tokens, ranges, run.text, guard, tree.sampling, top_k, also)


def _read(
    gemma: Gemma,
    tokens: Tokens,
    ranges: Sequence[tuple[Role, tuple[int, int]]],
    reply: str | None,
    guard: Guard | None,
    sampling: Sampling | None,
    top_k: int,
    also: Capture,
) -> Inspection:
    reads = (guard.capture if guard is not None else None) or Capture()
    (trace,) = gemma.forward([tokens], CAPTURE | reads | also)
    return Inspection(
        gemma,
        trace,
        tuple(pieces(tokens.ids, gemma.vocabulary)),
        tuple(_part(trace, role, start, stop, guard) for role, (start, stop) in ranges),
        reply,
        probabilities(trace, top_k=top_k, sampling=sampling),
        guard.digest if guard is not None else None,
    )


def _part(trace: Trace, role: Role, start: int, stop: int, guard: Guard | None) -> Part:
    if guard is None or start == stop:
        return Part(role, start, stop)
    stage = stage_of(role)
    heads = heads_at(guard, stage)
    return Part(role, start, stop, tuple(strips(trace.view(start, stop), heads, stage, guard.policy)))


def stage_of(role: Role) -> Stage:
    """Where a message's text stands for a guard: a reply at the output, all else at the input."""
    return Stage.OUTPUT if role == "assistant" else Stage.INPUT


def heads_at(guard: Guard, stage: Stage) -> list[Head]:
    """A guard's causal classifiers that have a rule at a stage."""
    probes = guard.probes.probes if guard.probes is not None else ()
    return [probe.head for probe in probes if stage in probe.stages]


def _part_json(part: Part) -> dict[str, Any]:
    return {
        "role": part.role,
        "start": part.start,
        "stop": part.stop,
        "strips": [_strip_json(strip) for strip in part.strips],
        "wholes": [{"category": one.category, "probability": number(one.probability)} for one in part.wholes],
    }


def _strip_json(strip: Strip) -> dict[str, Any]:
    return {
        "category": strip.category,
        "stage": strip.stage.value,
        "spans": [list(span) for span in strip.spans],
        "probabilities": [number(p) for p in strip.probabilities],
        "readings": [number(p) for p in strip.readings],
        "thresholds": {str(action): limit for action, limit in strip.thresholds.items()},
        "crossings": {str(action): at for action, at in strip.crossings.items()},
        "ends": list(strip.ends),
        "acts": {str(action): at for action, at in strip.acts.items()},
    }


def number(value: float) -> float | None:
    """For JSON: rounded to six digits after the point; null for what is not finite."""
    return round(float(value), 6) if np.isfinite(value) else None
