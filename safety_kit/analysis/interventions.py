"""From observation to cause: change one activation, and see what follows, beside the same change made at random.

An effect counts only against its controls: other heads, or random directions of equal length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from safety_kit.analysis.probabilities import final_of
from safety_kit.analysis.strip import strips
from safety_kit.errors import UserError
from safety_kit.gemma.experiments import Edit, Site
from safety_kit.gemma.trace import Capture

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from safety_kit.artifacts import Head
    from safety_kit.gemma import Gemma, Tokens, Trace
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


def ablate_head(
    gemma: Gemma,
    text: Tokens,
    block: int,
    head: int,
    watch: Watch,
    *,
    replacement: torch.Tensor | None = None,
    controls: int = 5,
    seed: int = 0,
) -> Comparison:
    """Zero a head, or put something else in its place, beside the same done to random other heads of the model.

    Args:
        gemma: The model.
        text: What is read.
        block: Where.
        head: Which.
        watch: What is followed.
        replacement: d_head (a mean, see `mean_of`) or T × d_head (another run's, see `record`); None is zero.
            Controls are zeroed where it is None and else get their own mean over this text.
        controls: Other heads, at most as many as there are.
        seed: Of their choice.

    Raises:
        UserError: There is no such block or head.
    """
    every = heads_of(gemma)
    if not 0 <= block < len(every) or not 0 <= head < every[block]:
        raise UserError(f"There is no head {head} in block {block}; count both from 0.")
    others = [(b, h) for b, count in enumerate(every) for h in range(count) if (b, h) != (block, head)]
    rng = np.random.default_rng(seed)
    chosen = [others[i] for i in rng.permutation(len(others))[:controls]]

    def others_changed() -> Iterator[tuple[str, Edit]]:
        for b, h in chosen:
            own = None if replacement is None else mean_of(record(gemma, text, b, "heads"))[h]
            yield f"block {b}, head {h}", head_edit(b, h, own)

    return _beside(gemma, text, head_edit(block, head, replacement), others_changed(), watch)


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
    """
    generator = torch.Generator().manual_seed(seed)

    def at_random() -> Iterator[tuple[str, Edit]]:
        for _ in range(controls):
            drawn = torch.randn(direction.shape, generator=generator)
            yield "a random direction", add(block, drawn / drawn.norm() * (strength * direction).norm().cpu())

    return _beside(gemma, text, add(block, strength * direction), at_random(), watch)


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
    """Over the tokens."""
    return activation.mean(0)


def head_edit(block: int, head: int, replacement: torch.Tensor | None) -> Edit:
    """Put something in the place of one head's output; None is zero."""

    def change(mixed: torch.Tensor) -> torch.Tensor:
        changed = mixed.clone()
        changed[:, head] = 0 if replacement is None else replacement.to(mixed)
        return changed

    return Edit(block, "heads", change)


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


def heads_of(gemma: Gemma) -> list[int]:
    """How many attention heads each block has."""
    return [int(gemma.trunk.config.num_attention_heads)] * gemma.n_blocks


def _beside(gemma: Gemma, text: Tokens, edit: Edit, controls: Iterable[tuple[str, Edit]], watch: Watch) -> Comparison:
    """A change beside its controls, each with what it is called; the text as it is gets read once."""
    (before,) = gemma.forward([text], watch.capture)
    effect = _effect(gemma, text, [edit], watch, before)
    made = [(site, _effect(gemma, text, [control], watch, before)) for site, control in controls]
    return Comparison(effect, tuple(found for _, found in made), tuple(site for site, _ in made))


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
