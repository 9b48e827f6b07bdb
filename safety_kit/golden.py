"""Golden texts: harmless texts whose decision scores an artifact records, and by which it knows its model again.

The same weights in the same float type and with the same attention need no look. Anything else reads the texts once
more: scores that hardly move show that the head still means what it meant, others that it has to be taught again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar

import numpy as np

from safety_kit.errors import ArtifactError
from safety_kit.heads import decision_score
from safety_kit.types import Role, Stage

if TYPE_CHECKING:
    from pathlib import Path

    from safety_kit.artifacts import Golden, ModelRecord
    from safety_kit.gemma.trace import Capture, TraceView
    from safety_kit.heads import Head, Scored

    Scores: TypeAlias = Sequence[Sequence[float]]

T = TypeVar("T")

Text: TypeAlias = tuple[str | None, str]
"""(prompt | None, text): a reply comes with the message that it answers."""

NOTED: Final = 0.1
"""A drift above this is told."""

LARGE: Final = 0.5
"""A drift above this is refused; docs/decisions/0005-golden-texts.md has the measurements behind both limits."""

TEXTS: Final[tuple[Text, ...]] = (
    (None, "hey, are we still on for coffee tomorrow? i can do ten or half past"),
    (None, "What is the difference between a weather front and a jet stream?"),
    (None, "Please kill the background job before you restart the server."),
    (None, "Summarise the minutes below in three points for those who could not attend."),
    (None, "GREAT NEWS!!! our little bakery opens again on monday, come by & say hello :)"),
    (None, "Beat two eggs with a spoonful of sugar, fold in the flour and bake for twenty-five minutes at 180 °C."),
    (None, "The council voted on Tuesday to plant four hundred lime trees along the ring road; work begins in spring."),
    (
        None,
        "Dear Ms Okafor,\n\nThank you for your letter of 3 March. The repair of your window is booked for Thursday "
        "between nine and eleven. Should that not suit you, please ring the workshop a day before.\n\nKind regards,\n"
        "T. Lindqvist",
    ),
    (
        None,
        "When the last ferry had gone, the harbour grew so quiet that one could hear the ropes. Marta closed the "
        "ticket window, counted the coins twice, and wrote the sum into the long green book that her father had kept "
        "before her. Then she put on her coat and walked home by the upper road, because the plum trees there had "
        "just begun to flower and she did not want to miss a single evening of it.",
    ),
    (None, 'def mean(values):\n    """The average of a list."""\n    return sum(values) / len(values)'),
    (None, '{"order": 1834, "status": "packed", "items": [{"name": "teapot", "count": 1}], "note": null}'),
    (None, "¿Sabes a qué hora sale el último tren para Valencia los domingos?"),
    (None, "明天上午我们去图书馆还书 下午在公园散步"),
    (
        "How do I keep basil alive on a windowsill?",
        "Give it plenty of light, water it when the top of the soil is dry, and pick the upper leaves first: the plant "
        "then grows bushy instead of tall.",
    ),
    ("Translate into French: good morning, everyone", "Bonjour à tous"),
    (
        "Why did the build fail?",
        "Two of the 31 tests compare floating-point numbers exactly. Use a tolerance there and run them again.",
    ),
)
"""Sixteen texts of different registers, languages and lengths, written for this: the last three are replies."""


class DriftWarning(UserWarning):
    """A model reads a classifier's golden texts a little differently from the one it was taught on."""


class Tracer(Protocol):
    """What a guard needs of a Gemma."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def attention(self) -> str: ...
    @property
    def n_blocks(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...

    def read_texts(
        self, texts: Sequence[tuple[str | None, str, Role]], capture: Capture, each: Callable[[int, TraceView], T], /
    ) -> list[list[T]]:
        """Each text's own tokens in overlapping windows: (prompt, text, role) → what `each` makes of every view."""
        ...


class Recorded(Protocol):
    """What a manifest says of the model taught on."""

    @property
    def model(self) -> ModelRecord: ...
    @property
    def golden(self) -> Golden | None: ...


class Taught(Protocol):
    """What has golden texts: a folder of heads on frozen activations, or an adapter's."""

    @property
    def path(self) -> Path: ...
    @property
    def manifest(self) -> Recorded: ...
    @property
    def heads(self) -> Mapping[str, Scored]: ...

    def check_model(self, name: str, digest: str, /) -> None:
        """Refuse weights of another digest."""
        ...

    def remedy(self, name: str, /) -> str:
        """What to do where the model `name` does not fit."""
        ...


Scorer: TypeAlias = Callable[[Any, Sequence[Any], Sequence[Text]], "Scores"]
"""(gemma, heads, texts) → for each head one decision score a text; NaN for a text without tokens."""


def stage_of(text: Text) -> Stage:
    """A reply is read at output, any other text at input."""
    return Stage.INPUT if text[0] is None else Stage.OUTPUT


def causal_scores(gemma: Tracer, heads: Sequence[Head], texts: Sequence[Text]) -> Scores:
    """Decision scores in the causal reading: what a guard compares with a threshold, before calibration.

    Args:
        gemma: The model.
        heads: All are read from one pass.
        texts: Texts, or replies with their prompts.

    Returns:
        Heads × texts scores.
    """
    from safety_kit.gemma.trace import Capture

    blocks = tuple(sorted({block for head in heads for block in head.blocks}))
    roles: list[Role] = ["user" if prompt is None else "assistant" for prompt, _ in texts]
    items = [(prompt, text, role) for (prompt, text), role in zip(texts, roles, strict=True)]

    def read(number: int, view: TraceView) -> list[float]:
        hidden = {block: view.hidden(block).float().cpu().numpy() for block in blocks}
        return [
            decision_score(
                head.token_scores(np.concatenate([hidden[block] for block in head.blocks], axis=1)),
                head.bias,
                stage_of(texts[number]),
                head.window_at(stage_of(texts[number])),
                head.stride,
            )[0]
            for head in heads
        ]

    windows = gemma.read_texts(items, Capture(blocks), read)
    return [[max((scores[i] for scores in made), default=float("nan")) for made in windows] for i in range(len(heads))]


def check_shape(artifact: Taught, gemma: Tracer) -> None:
    """Refuse a model on which the golden texts need not be read to know that it is another.

    Raises:
        ArtifactError: The model has another architecture, or, without golden texts, other weights.
    """
    taught = artifact.manifest.model
    if artifact.manifest.golden is None:
        artifact.check_model(gemma.name, gemma.digest)
    elif (taught.blocks, taught.hidden_size) != (gemma.n_blocks, gemma.hidden_size):
        raise ArtifactError(
            f"The classifier in {artifact.path} was taught on {taught.name} ({taught.blocks} blocks of width "
            f"{taught.hidden_size}), not on {gemma.name} ({gemma.n_blocks} of width {gemma.hidden_size}); "
            f"{artifact.remedy(gemma.name)}"
        )


def check_models(artifacts: Sequence[Taught], gemma: Tracer, scorer: Scorer = causal_scores) -> None:
    """Hold a model against those that the artifacts were taught on; artifacts of the same texts share one replay.

    Args:
        artifacts: Loaded folders, all of the reading that `scorer` takes.
        gemma: The model at hand.
        scorer: The reading.

    Raises:
        ArtifactError: The model has another architecture, or reads the golden texts differently.

    Warns:
        DriftWarning: It reads them a little differently.
    """
    by_texts: dict[tuple[Text, ...], list[Taught]] = {}
    for artifact in artifacts:
        taught, golden = artifact.manifest.model, artifact.manifest.golden
        check_shape(artifact, gemma)
        if golden is None:
            continue
        if (taught.digest, taught.dtype, taught.attention) != (gemma.digest, gemma.dtype, gemma.attention):
            by_texts.setdefault(tuple(golden.texts), []).append(artifact)
    for texts, alike in by_texts.items():
        scores = scorer(gemma, [head for artifact in alike for head in artifact.heads.values()], texts)
        rows = iter(scores)
        for artifact in alike:
            _judge(artifact, gemma, drift(artifact, [next(rows) for _ in artifact.heads]))


def drift(artifact: Taught, scores: Scores) -> float:
    """How far scores of the golden texts are from the recorded ones.

    Args:
        artifact: With golden texts.
        scores: For each head one score a text.

    Returns:
        The largest |difference| over categories and texts, in standard deviations of the decision scores of the head's
        own held-out negatives at the text's stage; infinite where a score is not finite.
    """
    golden = artifact.manifest.golden
    assert golden is not None
    worst = 0.0
    for head, row in zip(artifact.heads.values(), scores, strict=True):
        spread = {stage: max(float(np.std(negatives)), 1e-6) for stage, negatives in head.negatives.items()}
        for text, then, now in zip(golden.texts, golden.scores[head.category], row, strict=True):
            moved = abs(now - then) / spread[stage_of(text)]
            worst = max(worst, moved if np.isfinite(moved) else float("inf"))
    return worst


def _judge(artifact: Taught, gemma: Tracer, moved: float) -> None:
    taught = artifact.manifest.model
    if moved <= NOTED:
        return
    models = (
        f"The classifier in {artifact.path} was taught on {taught.name} ({taught.dtype}, {taught.attention}); "
        f"{gemma.name} ({gemma.dtype}, {gemma.attention}) reads its golden texts"
    )
    if moved <= LARGE:
        warnings.warn(
            f"{models} a little differently (drift {moved:.2f}, {LARGE:g} is refused): rates may be off. "
            f"Check it with `safety-kit evaluate`, or {artifact.remedy(gemma.name)}",
            DriftWarning,
            stacklevel=4,
        )
        return
    raise ArtifactError(
        f"{models} too differently (drift {moved:.2f}, at most {LARGE:g}); {artifact.remedy(gemma.name)}"
    )
