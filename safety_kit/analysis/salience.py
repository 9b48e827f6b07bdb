"""How much each token of a text matters to a number, by four methods, and whether that is to be believed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from safety_kit.errors import UserError
from safety_kit.gemma.tokens import Tokens
from safety_kit.gemma.trace import Capture

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray

    from safety_kit.analysis.objectives import Objective
    from safety_kit.gemma import Gemma, Trace
    from safety_kit.gemma.experiments import Gradients
    from safety_kit.types import Span

_TOGETHER = 8
"""Deletions that share one reading of what stands before the first of them."""


@dataclass(frozen=True, slots=True)
class Salience:
    """A score for each of a text's T tokens.

    Attributes:
        method: Which.
        objective: What is explained, for people.
        unit: Of `value`, and of scores that say by how much it falls.
        scores: T float64; nan for tokens that cannot be deleted.
        value: The number explained.
        gap: For integrated gradients |Σ scores − (value − baseline's)| (completeness: should be near 0); else None.
    """

    method: Literal["gradient norm", "gradient × input", "integrated gradients", "leave one out"]
    objective: str
    unit: str
    scores: NDArray[np.float64]
    value: float
    gap: float | None = None


def gradient_norm(gemma: Gemma, text: Tokens, objective: Objective) -> Salience:
    """‖∂f/∂e_t‖₂ by token: how fast the number can change, never in which direction (Simonyan et al. 2013)."""
    made = _gradients(gemma, text, objective)
    scores = made.gradients[0].double().norm(dim=-1)
    return Salience("gradient norm", objective.name, objective.unit, scores.numpy(), float(made.values[0]))


def gradient_x_input(gemma: Gemma, text: Tokens, objective: Objective) -> Salience:
    """e_t · ∂f/∂e_t by token, e_t being the embedding as the first block gets it (Shrikumar et al. 2016)."""
    made = _gradients(gemma, text, objective)
    scores = (made.points[0].double() * made.gradients[0].double()).sum(-1)
    return Salience("gradient × input", objective.name, objective.unit, scores.numpy(), float(made.values[0]))


def integrated_gradients(
    gemma: Gemma,
    text: Tokens,
    objective: Objective,
    *,
    steps: int = 32,
    baseline: torch.Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Salience:
    """(e − b) · the mean of ∂f/∂e on the line from b to e, by Gauss-Legendre quadrature (Sundararajan et al. 2017).

    Args:
        gemma: The model.
        text: What is read.
        objective: What is explained.
        steps: Points of the quadrature, from 1: one pass forward and back each.
        baseline: T × d; None is the pad token's embedding in the place of every token but control tokens, so that the
            template stays as it is.
        progress: Called with points done and all points, the two ends among them; what it raises stops the work.

    Raises:
        UserError: `steps` is below 1.
    """
    if steps < 1:
        raise UserError(f"steps is out of range: {steps}; ask for 1 or more.")
    b = pad_baseline(gemma, text) if baseline is None else baseline
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    alphas = torch.tensor((nodes + 1) / 2, dtype=torch.float32)

    def points(e: torch.Tensor) -> torch.Tensor:
        start = b.to(e)
        ends = torch.stack([start, e])  # both ends too, for the gap
        return torch.cat([ends, start + alphas.to(e)[:, None, None] * (e - start)])

    made = _gradients(gemma, text, objective, points, progress)
    mean = (torch.tensor(weights / 2)[:, None, None] * made.gradients[2:].double()).sum(0)
    scores = ((made.points[1] - made.points[0]).double() * mean).sum(-1)
    gap = abs(float(scores.sum()) - float(made.values[1] - made.values[0]))
    return Salience(
        "integrated gradients", objective.name, objective.unit, scores.numpy(), float(made.values[1]), gap
    )  # fmt: skip


def pad_baseline(gemma: Gemma, text: Tokens) -> torch.Tensor:
    """T × d: the text's embeddings with the pad token's in the place of every token that is no control token."""
    pad = gemma.vocabulary.control.get("<pad>", 0)
    ids = tuple(id_ if gemma.vocabulary.is_control(id_) else pad for id_ in text.ids)
    return gemma.gradients(Tokens(ids, text.offsets), Capture((0,)), lambda trace: trace.hidden[0].sum()).points[0]


def leave_one_out(
    gemma: Gemma,
    text: Tokens,
    objective: Objective,
    *,
    groups: Sequence[Sequence[int]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Salience:
    """value − value without token t, the token deleted and all after it moved up.

    Deletions next to each other share one reading of what stands before them, and one batch.

    Args:
        gemma: The model.
        text: What is read.
        objective: What is explained; its own tokens, and token 0, are not deleted.
        groups: Tokens that are deleted together, as `words` or `sentences` gives them, in order: each token's score is
            then that of its whole group. None deletes each by itself.
        progress: Called with deletions done and all deletions; what it raises stops the work.
    """
    with torch.inference_mode():
        (trace,) = gemma.forward([text], objective.capture)
        value = float(objective.value(trace, frozenset()))
    can = set(deletable(text, objective))
    deletions = [gone for group in (groups or [[at] for at in range(len(text))]) if (gone := can.intersection(group))]
    scores = np.full(len(text), np.nan)
    for at in range(0, len(deletions), _TOGETHER):
        part = deletions[at : at + _TOGETHER]
        for gone, made in zip(part, _without(gemma, text, objective, part), strict=True):
            scores[list(gone)] = value - made
        if progress is not None:
            progress(at + len(part), len(deletions))
    return Salience("leave one out", objective.name, objective.unit, scores, value)


def deletable(text: Tokens, objective: Objective) -> list[int]:
    """Tokens that can be deleted: not the first, and none that the objective is about."""
    return [at for at in range(1, len(text)) if at not in objective.fixed]


def contrasted(one: Salience, other: Salience, shared: int) -> Salience:
    """Why this reply and not that: scores of the first `shared` tokens for one number less those for the other.

    Only methods whose scores are differences of the number can be subtracted; a norm has no sign.

    Raises:
        UserError: The two are of different methods, or norms.
    """
    if one.method != other.method or one.method == "gradient norm":
        raise UserError("Contrast two results of one method, and not of gradient norms.")
    return replace(
        one,
        objective=f"{one.objective} − {other.objective}",
        scores=one.scores[:shared] - other.scores[:shared],
        value=one.value - other.value,
        gap=None if one.gap is None or other.gap is None else one.gap + other.gap,
    )


@dataclass(frozen=True, slots=True)
class DeletionCurve:
    """How the number falls when the highest tokens are deleted, beside random ones.

    Attributes:
        fractions: Of the tokens that can be deleted, F in (0, 1].
        values: F float64: the number without that share of tokens, highest scores first; nan where none is left that a
            classifier reads.
        random: R × F float64: the same for R random orders.
        value: The number of the whole text.
    """

    fractions: tuple[float, ...]
    values: NDArray[np.float64]
    random: NDArray[np.float64]
    value: float

    @property
    def faithful(self) -> bool:
        """Whether the number falls faster, on average over the curve where all have one, than in every random order."""
        there = np.isfinite(self.values) & np.isfinite(self.random).all(axis=0)
        return bool(there.any() and (self.values[there].mean() < self.random[:, there].mean(axis=1)).all())


def deletion_curve(
    gemma: Gemma,
    text: Tokens,
    objective: Objective,
    scores: NDArray[np.float64],
    *,
    fractions: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.5),
    orders: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> DeletionCurve:
    """Delete the highest-scored tokens, more and more of them, and look whether the number falls (Petsiuk et al. 2018).

    Args:
        gemma: The model.
        text: What is read.
        objective: What the scores explain.
        scores: T, higher for what raises the number.
        fractions: Shares of the tokens that can be deleted.
        orders: Random orders beside it, from 1.
        seed: Of those.
        progress: Called with readings done and all readings; what it raises stops the work.
    """
    places = deletable(text, objective)
    rng = random.Random(seed)
    ranked = [sorted(places, key=lambda at: -np.nan_to_num(scores[at], nan=-np.inf))]
    ranked += [rng.sample(places, len(places)) for _ in range(orders)]
    counts = [min(len(places), max(1, round(share * len(places)))) for share in fractions]
    gone: list[set[int]] = [set(), *(set(order[:count]) for order in ranked for count in counts)]
    read: list[float] = []
    with torch.inference_mode():
        for at in range(0, len(gone), _TOGETHER):
            read += _forward_without(gemma, text, objective, gone[at : at + _TOGETHER])
            if progress is not None:
                progress(len(read), len(gone))
    whole, *rest = read
    values = np.array(rest).reshape(len(ranked), len(counts))
    return DeletionCurve(tuple(fractions), values[0], values[1:], whole)


def curves_contrasted(one: DeletionCurve, other: DeletionCurve) -> DeletionCurve:
    """The check of `contrasted`: one number less the other, the same shared tokens being deleted from both texts.

    Both are curves of the contrasted scores, with the same fractions, orders and seed, and each objective is about all
    tokens that the texts do not share.

    Raises:
        UserError: The two are of different fractions or numbers of orders.
    """
    if one.fractions != other.fractions or one.random.shape != other.random.shape:
        raise UserError("Contrast two curves of the same fractions and orders.")
    return DeletionCurve(
        one.fractions, one.values - other.values, one.random - other.random, one.value - other.value
    )  # fmt: skip


def by_group(scores: NDArray[np.float64], groups: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Sums of token scores, for words, sentences or a whole text; nan where no token of a group has a score."""
    return np.array([np.nansum(s) if np.isfinite(s := scores[list(g)]).any() else np.nan for g in groups])


def words(text: str, offsets: Sequence[Span]) -> list[list[int]]:
    """Tokens by word: one begins where white space ends or, in a token, begins."""
    groups: list[list[int]] = []
    for at, (start, stop) in enumerate(offsets):
        piece = text[start:stop]
        after_space = start > 0 and text[start - 1].isspace()
        if not groups or not piece.strip() or piece[:1].isspace() or after_space:
            groups.append([at])
        else:
            groups[-1].append(at)
    return groups


def sentences(text: str, offsets: Sequence[Span]) -> list[list[int]]:
    """Tokens by sentence: one ends with a token that ends in a full stop, a question or exclamation mark or a line."""
    groups: list[list[int]] = [[]]
    for at, (start, stop) in enumerate(offsets):
        piece = text[start:stop]
        groups[-1].append(at)
        if piece.rstrip().endswith((".", "!", "?", "。")) or "\n" in piece:
            groups.append([])
    return [group for group in groups if group]


def _gradients(
    gemma: Gemma,
    text: Tokens,
    objective: Objective,
    points: Callable[[torch.Tensor], torch.Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Gradients:
    def value(trace: Trace) -> torch.Tensor:
        return objective.value(trace, frozenset())

    return gemma.gradients(text, objective.capture, value, points=points, progress=progress)


def _cut(text: Tokens, gone: Collection[int], start: int = 0) -> Tokens:
    """The tokens from `start` on that are not gone."""
    kept = [at for at in range(start, len(text)) if at not in gone]
    return Tokens(tuple(text.ids[at] for at in kept), tuple(text.offsets[at] for at in kept))


@torch.inference_mode()
def _without(gemma: Gemma, text: Tokens, objective: Objective, gone: Sequence[set[int]]) -> list[float]:
    """The number without each of some sets of tokens, what stands before all of these being read once."""
    first = min(min(lost) for lost in gone)
    rest = [_cut(text, lost, first) for lost in gone]
    if not all(len(part) for part in rest):
        return _forward_without(gemma, text, objective, gone)
    traces = gemma.endings(text.slice(0, first), rest, objective.capture)
    return [_value(objective, trace, lost) for trace, lost in zip(traces, gone, strict=True)]


def _forward_without(gemma: Gemma, text: Tokens, objective: Objective, gone: Sequence[set[int]]) -> list[float]:
    traces = gemma.forward([_cut(text, lost) for lost in gone], objective.capture)
    return [_value(objective, trace, lost) for trace, lost in zip(traces, gone, strict=True)]


def _value(objective: Objective, trace: Trace, gone: Collection[int]) -> float:
    return float(objective.value(trace, frozenset(gone)))
