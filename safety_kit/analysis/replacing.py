"""One activation replaced: by nothing, by its own mean, or by another run's, beside the same done at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch

from safety_kit.analysis.interventions import Comparison, Watch, add_at, beside, heads_of, mean_of, record
from safety_kit.errors import UserError
from safety_kit.gemma.experiments import Edit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from safety_kit.gemma import Gemma, Tokens


@dataclass(frozen=True, slots=True)
class Place:
    """One activation of a run.

    Attributes:
        block: Where, from 0.
        site: ``heads`` (one head's output before the output matrix, at every token), ``mlp`` (the MLP's output before
            any post-norm, at every token), ``block`` (the residual stream after the block, at one token).
        index: The head, or the token; 0 for an MLP.
    """

    block: int
    site: Literal["heads", "mlp", "block"]
    index: int = 0

    def __str__(self) -> str:
        part = {"heads": f"head {self.index}", "mlp": "MLP", "block": f"token {self.index}"}[self.site]
        return f"block {self.block}, {part}"


@dataclass(frozen=True, slots=True)
class Other:
    """Another run of the same model.

    Attributes:
        text: What it read.
        token: Whose stream is taken; a head and an MLP are taken token by token, as far as both runs go.
    """

    text: Tokens
    token: int = 0


Source: TypeAlias = Literal["zero", "mean"] | Other
"""What is put in the place: zeros, the mean over this text (see `mean_of`), or another run's activation."""


def replace(
    gemma: Gemma,
    text: Tokens,
    place: Place,
    source: Source,
    watch: Watch,
    *,
    controls: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Put something in the place of one activation, beside controls.

    The controls of a head are random other heads, those of an MLP the MLPs of random other blocks, each replaced in the
    same way. At a token of the stream they are random directions, each as long as what the replacement adds there.

    Args:
        gemma: The model.
        text: What is read.
        place: What is replaced.
        source: By what. This text itself changes nothing.
        watch: What is followed.
        controls: At most as many as there are other heads or MLPs.
        seed: Of their choice.
        progress: Called with changes measured and all changes; what it raises stops the work.

    Raises:
        UserError: There is no such block, head or token.
    """
    _check(gemma, text, place, source)
    value = _value(gemma, text, place, source)
    if place.site == "block":
        own = record(gemma, text, place.block, "block")[place.index]
        length, count = (value.to(own) - own).norm(), controls
        generator = torch.Generator().manual_seed(seed)

        def elsewhere() -> Iterator[tuple[str, Edit]]:
            for _ in range(controls):
                drawn = torch.randn(own.shape, generator=generator)
                yield "a random direction", add_at(place.block, place.index, drawn / drawn.norm() * length)
    else:
        others = [other for other in _alike(gemma, place) if other != place]
        chosen = [others[i] for i in np.random.default_rng(seed).permutation(len(others))[:controls]]
        count = len(chosen)

        def elsewhere() -> Iterator[tuple[str, Edit]]:
            for other in chosen:
                yield str(other), _put(other, _value(gemma, text, other, source))

    return beside(gemma, text, _put(place, value), elsewhere(), count, watch, progress)


def _alike(gemma: Gemma, place: Place) -> list[Place]:
    """Every head, or every MLP, of the model."""
    if place.site == "mlp":
        return [Place(block, "mlp") for block in range(gemma.n_blocks)]
    return [Place(block, "heads", head) for block, count in enumerate(heads_of(gemma)) for head in range(count)]


def _value(gemma: Gemma, text: Tokens, place: Place, source: Source) -> torch.Tensor:
    """What is put there: a scalar, one vector, or for a head and an MLP of another run one vector a token."""
    if source == "zero":
        return torch.zeros(())
    activation = record(gemma, source.text if isinstance(source, Other) else text, place.block, place.site)
    if place.site == "heads":
        activation = activation[:, place.index]
    if isinstance(source, Other):
        return activation[source.token] if place.site == "block" else activation
    return mean_of(activation)


def _put(place: Place, value: torch.Tensor) -> Edit:
    def change(activation: torch.Tensor) -> torch.Tensor:
        changed = activation.clone()
        if place.site == "block":
            changed[place.index] = value.to(changed)
            return changed
        part = changed[:, place.index] if place.site == "heads" else changed
        if value.ndim == 2:  # another run's
            part = part[: len(value)]
            part[:] = value[: len(part)].to(part)
        else:
            part[:] = value.to(part)
        return changed

    return Edit(place.block, place.site, change)


def _check(gemma: Gemma, text: Tokens, place: Place, source: Source) -> None:
    if not 0 <= place.block < gemma.n_blocks:
        raise UserError(f"There is no block {place.block}; the model has blocks 0 to {gemma.n_blocks - 1}.")
    if place.site == "heads" and not 0 <= place.index < heads_of(gemma)[place.block]:
        raise UserError(f"There is no head {place.index} in block {place.block}; count both from 0.")
    if place.site == "block":
        for token, read in [(place.index, text), *([(source.token, source.text)] if isinstance(source, Other) else [])]:
            if not 0 <= token < len(read):
                raise UserError(f"There is no token {token}; the text has {len(read)}.")
