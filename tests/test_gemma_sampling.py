"""Sampling: the same choices as transformers' own processors, and arguments that make sense."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from safety_kit.errors import UserError
from safety_kit.gemma import Sampling
from safety_kit.gemma.sampling import choose, penalise, warp

rows = st.lists(st.integers(-160, 160), min_size=2, max_size=40, unique=True).map(
    lambda eighths: torch.tensor(eighths, dtype=torch.float32) / 8
)
temperatures = st.floats(0.05, 5)


def same(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    """One distribution: the same tokens dropped, the same probabilities of the rest (logits may be shifted)."""
    return torch.equal(mine.isneginf(), theirs.isneginf()) and torch.allclose(
        mine.softmax(-1), theirs.softmax(-1), atol=1e-6
    )


@settings(max_examples=150)
@given(row=rows, temperature=temperatures, top_k=st.integers(0, 50))
def test_temperature_and_top_k(row: torch.Tensor, temperature: float, top_k: int) -> None:
    expected = TemperatureLogitsWarper(temperature)(None, row[None])
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    mine = warp(row, Sampling(temperature=temperature, top_k=top_k))
    assert same(mine, expected[0])
    assert int(mine.isfinite().sum()) == min(top_k or 99, len(row))


def margin(probs: torch.Tensor, threshold: float) -> float:
    """How far the nearest value is from a threshold: rounding may decide a tie either way."""
    return float((probs - threshold).abs().min())


@settings(max_examples=150)
@given(row=rows, temperature=temperatures, top_p=st.floats(0.01, 1, exclude_max=True))
def test_top_p(row: torch.Tensor, temperature: float, top_p: float) -> None:
    expected = TemperatureLogitsWarper(temperature)(None, row[None])
    assume(margin(expected[0].softmax(-1).sort().values.cumsum(-1), 1 - top_p) > 1e-5)
    mine = warp(row, Sampling(temperature=temperature, top_p=top_p))
    assert same(mine, TopPLogitsWarper(top_p)(None, expected)[0])
    assert torch.softmax(row / temperature, -1)[mine.isfinite()].sum() >= top_p - 1e-5


@settings(max_examples=150)
@given(row=rows, temperature=temperatures, min_p=st.floats(0, 0.99))
def test_min_p(row: torch.Tensor, temperature: float, min_p: float) -> None:
    expected = TemperatureLogitsWarper(temperature)(None, row[None])
    probs = expected[0].softmax(-1)
    assume(margin(probs / probs.max(), min_p) > 1e-5)
    mine = warp(row, Sampling(temperature=temperature, min_p=min_p))
    assert same(mine, MinPLogitsWarper(min_p)(None, expected)[0])


@settings(max_examples=150)
@given(row=rows, penalty=st.floats(0.1, 5), data=st.data())
def test_repetition_penalty(row: torch.Tensor, penalty: float, data: Any) -> None:
    ids = data.draw(st.lists(st.integers(0, len(row) - 1), max_size=60))
    before = row.clone()
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids], dtype=torch.long), row[None].clone())[0]
    assert torch.allclose(penalise(row, ids, penalty), expected)
    assert torch.equal(row, before)


@settings(max_examples=150)
@given(
    row=rows,
    temperature=temperatures,
    top_k=st.integers(0, 50),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 0.9),
    penalty=st.sampled_from([1.0, 0.5, 1.3]),
)
def test_all_together_in_transformers_order(
    row: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float, penalty: float
) -> None:
    ids = [0, 1, 1]
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty)
    row = penalise(row, ids, penalty)
    assume(len(set(row.tolist())) == len(row))
    expected = TemperatureLogitsWarper(temperature)(None, row[None])
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        assume(margin(expected[0].softmax(-1).sort().values.cumsum(-1), 1 - top_p) > 1e-5)
        expected = TopPLogitsWarper(top_p)(None, expected)
    probs = expected[0].softmax(-1)
    assume(margin(probs / probs.max(), min_p) > 1e-5 or min_p == 0)
    assert same(warp(row, sampling), MinPLogitsWarper(min_p)(None, expected)[0])


@given(row=rows, seed=st.integers(0, 2**63 - 1))
def test_greedy_takes_the_largest_and_needs_no_luck(row: torch.Tensor, seed: int) -> None:
    assert choose(row, [], Sampling(), None) == int(row.argmax())
    rng = torch.Generator().manual_seed(seed)
    assert choose(row, [], Sampling(temperature=1.0, top_k=1), rng) == int(row.argmax())
    assert choose(row, [], Sampling(temperature=1.0, top_p=1e-9), rng) == int(row.argmax())


def test_the_penalty_reaches_the_greedy_choice() -> None:
    row = torch.tensor([3.0, 2.9, -5.0])
    assert choose(row, [0], Sampling(repetition_penalty=1.0), None) == 0
    assert choose(row, [0], Sampling(repetition_penalty=1.2), None) == 1
    assert choose(torch.tensor([-1.0, -1.1]), [0], Sampling(repetition_penalty=1.2), None) == 1


def test_draws_follow_the_distribution() -> None:
    row = torch.tensor([0.0, math.log(3.0), -math.inf])
    rng = torch.Generator().manual_seed(0)
    drawn = [choose(row, [], Sampling(temperature=1.0), rng) for _ in range(4000)]
    assert set(drawn) == {0, 1}
    assert abs(drawn.count(1) / 4000 - 0.75) < 0.03


@pytest.mark.parametrize("temperature", [1e-308, 1e-45, 1e-6, 1e30, 1e308])
@pytest.mark.parametrize("penalty", [1e-300, 1.0, 1e300])
def test_extreme_settings_still_choose(temperature: float, penalty: float) -> None:
    row = torch.tensor([30.0, -30.0, 29.0])
    rng = torch.Generator().manual_seed(0)
    chosen = choose(row, [1], Sampling(temperature=temperature, repetition_penalty=penalty), rng)
    assert chosen in (0, 1, 2)
    if temperature < 1 and penalty == 1.0:
        assert chosen == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.01),
        ("min_p", 1.0),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.0),
        ("repetition_penalty", math.inf),
        ("stop", ("a", "")),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_what_is_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{name} is out of range: "):
        Sampling(**{name: value})


@pytest.mark.parametrize(
    "settings",
    [
        {"max_tokens": 1},
        {"temperature": 0},
        {"top_k": 0},
        {"top_p": 1.0},
        {"min_p": 0.0},
        {"min_p": 0.999},
        {"repetition_penalty": 0.5},
        {"stop": ()},
        {"seed": 0},
        {"seed": 2**63 - 1},
        {"seed": None},
    ],
)
def test_the_ends_of_the_ranges_are_in(settings: dict[str, Any]) -> None:
    assert Sampling(**settings)
