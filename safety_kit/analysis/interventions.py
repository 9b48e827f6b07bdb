"""From observation to cause: change one activation, and see what follows, beside the same change made at random.

An effect counts only against its controls: other heads, or random directions of equal length.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch

from safety_kit.analysis.probabilities import final_of
from safety_kit.analysis.strip import strips
from safety_kit.errors import UserError
from safety_kit.gemma.experiments import Edit, Site
from safety_kit.gemma.trace import Capture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from safety_kit.gemma import Gemma, Tokens, Trace
    from safety_kit.heads import Head
    from safety_kit.types import Stage


@dataclass(frozen=True, slots=True)
class Watch:
    """What an intervention is judged by.

    Attributes:
        position: The token after which the next one is predicted.
        target: A token whose probability is followed.
        heads: Classifiers that are followed.
        own: The half-open token range that they read.
        stage: Whose calibration they take.
    """

    position: int
    target: int
    heads: tuple[Head, ...] = ()
    own: tuple[int, int] = (0, 0)
    stage: Stage | None = None

    @property
    def capture(self) -> Capture:
        """What a trace must hold for it."""
        return Capture(tuple(sorted({b for head in self.heads for b in head.blocks})), final=True)


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change of activations did.

    Attributes:
        divergence: KL(before ‖ after) of the next token, in bits.
        probability: The target's, after less before.
        classifiers: By category, the probability after less before, at the last token of its range.
    """

    divergence: float
    probability: float
    classifiers: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """An effect beside those of its controls.

    Attributes:
        effect: Of the change that was asked for.
        controls: Of the same change elsewhere, or in random directions.
        sites: What each control was, for people.
    """

    effect: Effect
    controls: tuple[Effect, ...]
    sites: tuple[str, ...]

    @property
    def stands_out(self) -> bool:
        """Whether the divergence is larger than every control's; without controls nothing stands out."""
        return bool(self.controls) and all(self.effect.divergence > other.divergence for other in self.controls)


def measure(gemma: Gemma, text: Tokens, edits: Sequence[Edit], watch: Watch) -> Effect:
    """One pass as it is, one with the edits."""
    (before,) = gemma.forward([text], watch.capture)
    return _effect(gemma, text, edits, watch, before)


def steer(
    gemma: Gemma,
    text: Tokens,
    block: int,
    direction: torch.Tensor,
    strength: float,
    watch: Watch,
    *,
    controls: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Add strength · direction to the stream after a block, at every token, beside random directions of equal length.

    Args:
        gemma: The model.
        text: What is read.
        block: Where.
        direction: d; a classifier's own is `direction_of`.
        strength: What it is multiplied by; negative steers away.
        watch: What is followed.
        controls: Random directions.
        seed: Of these.
        progress: Called with changes measured and all changes; what it raises stops the work.
    """
    generator = torch.Generator().manual_seed(seed)

    def at_random() -> Iterator[tuple[str, Edit]]:
        for _ in range(controls):
            drawn = torch.randn(direction.shape, generator=generator)
            yield "a random direction", add(block, drawn / drawn.norm() * (strength * direction).norm().cpu())

    return beside(gemma, text, add(block, strength * direction), at_random(), controls, watch, progress)


def direction_of(head: Head, block: int) -> torch.Tensor:
    """A classifier's own direction at one of its blocks, of length 1: d float32.

    Raises:
        UserError: It does not read that block.
    """
    if block not in head.blocks:
        raise UserError(f"{head.category} reads the blocks {', '.join(map(str, head.blocks))}, not {block}.")
    parts = np.split(head.weight, len(head.blocks))
    own = torch.from_numpy(parts[head.blocks.index(block)].copy())
    direction: torch.Tensor = own / own.norm().clamp(min=1e-30)
    return direction


def record(gemma: Gemma, text: Tokens, block: int, site: Site) -> torch.Tensor:
    """An activation of a run, to be patched into another: T × H × d_head for ``heads``, else T × d."""
    kept: list[torch.Tensor] = []

    def keep(activation: torch.Tensor) -> torch.Tensor:
        kept.append(activation.to("cpu", copy=True))
        return activation

    gemma.intervene(text, [Edit(block, site, keep)], Capture((block,)))
    return kept[0]


def mean_of(activation: torch.Tensor) -> torch.Tensor:
    """Over the tokens but the first: Gemma parks attention there, and its activations dwarf those of all others."""
    return (activation[1:] if len(activation) > 1 else activation).mean(0)


def patch(block: int, site: Site, source: torch.Tensor, positions: Sequence[int] | None = None) -> Edit:
    """Another run's activation (`record`) in the place of this one's, at some positions or all that both have.

    An activation of the run itself changes nothing.
    """

    def change(activation: torch.Tensor) -> torch.Tensor:
        at = list(range(min(len(activation), len(source))) if positions is None else positions)
        changed = activation.clone()
        changed[at] = source[at].to(activation)
        return changed

    return Edit(block, site, change)


def zero(block: int, site: Site) -> Edit:
    """Nothing in the place of an activation."""
    return Edit(block, site, torch.zeros_like)


def add(block: int, vector: torch.Tensor) -> Edit:
    """A vector added to the stream after a block, at every token."""
    return Edit(block, "block", lambda stream: stream + vector.to(stream))


def add_at(block: int, token: int, vector: torch.Tensor) -> Edit:
    """A vector added to the stream after a block, at one token."""

    def change(stream: torch.Tensor) -> torch.Tensor:
        changed = stream.clone()
        changed[token] += vector.to(stream)
        return changed

    return Edit(block, "block", change)


def heads_of(gemma: Gemma) -> list[int]:
    """How many attention heads each block has."""
    return [int(gemma.trunk.config.num_attention_heads)] * gemma.n_blocks


def beside(
    gemma: Gemma,
    text: Tokens,
    edit: Edit,
    controls: Iterable[tuple[str, Edit]],
    count: int,
    watch: Watch,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """A change beside its controls; the text as it is gets read once.

    Args:
        gemma: The model.
        text: What is read.
        edit: The change.
        controls: Each with what it is called, for people.
        count: How many there are.
        watch: What is followed.
        progress: Called with changes measured and all changes; what it raises stops the work.
    """
    (before,) = gemma.forward([text], watch.capture)
    made = []
    for done, (site, change) in enumerate(chain([("", edit)], controls), 1):
        made.append((site, _effect(gemma, text, [change], watch, before)))
        if progress is not None:
            progress(done, 1 + count)
    (_, effect), *others = made
    return Comparison(effect, tuple(found for _, found in others), tuple(site for site, _ in others))


def _effect(gemma: Gemma, text: Tokens, edits: Sequence[Edit], watch: Watch, before: Trace) -> Effect:
    after = gemma.intervene(text, edits, watch.capture)
    p, q = _next(before, watch.position), _next(after, watch.position)
    divergence = float((p.exp() * (p - q)).nansum()) / np.log(2)
    scored = _scores(before, watch), _scores(after, watch)
    return Effect(
        max(0.0, divergence),
        float(q[watch.target].exp() - p[watch.target].exp()),
        {category: scored[1][category] - score for category, score in scored[0].items()},
    )


def _next(trace: Trace, position: int) -> torch.Tensor:
    """V float64 log-probabilities of the token after a position."""
    final, readout = final_of(trace)
    if not 0 <= position < len(final):
        raise UserError(f"There is no token {position}; the text has {len(final)}.")
    with torch.inference_mode():
        return readout.logits(final[position]).double().log_softmax(-1).cpu()


def _scores(trace: Trace, watch: Watch) -> dict[str, float]:
    if not watch.heads or watch.stage is None:
        return {}
    made = strips(trace.view(*watch.own), watch.heads, watch.stage)
    return {strip.category: float(strip.probabilities[-1]) for strip in made}
