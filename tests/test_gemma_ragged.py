"""Rows of different lengths in one pass: each as it is read alone, in every family, beyond the sliding window."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gemma_forward import close, tokens_of
from test_gemma_load import one_thread as one_thread
from test_gemma_load import tiny
from transformers import DynamicCache

from safety_kit.gemma import Gemma
from safety_kit.gemma.ragged import Row, run_rows
from safety_kit.testing import FAMILIES

BLOCKS = (1, 5)


def check_rows(gemma: Gemma, sizes: list[tuple[int, int, int]]) -> None:
    """Rows of (tokens read before, tokens of a first and of a second pass together)."""
    rows = []
    for seed, (before, first, second) in enumerate(sizes):
        ids = tokens_of(before + first + second, seed).ids
        cache = DynamicCache(config=gemma.trunk.config)
        if before:
            gemma.trunk.run(torch.tensor([ids[:before]]), BLOCKS, cache=cache)
        rows.append((ids, cache, copy.deepcopy(cache)))
    for turn in (1, 2):
        news = [ids[sum(size[:turn]) : sum(size[: turn + 1])] for (ids, _, _), size in zip(rows, sizes, strict=True)]
        normed, kept = run_rows(
            gemma.trunk, [Row(new, cache) for new, (_, cache, _) in zip(news, rows, strict=True)], BLOCKS
        )
        assert normed is not None
        for number, (new, (_, _, alone)) in enumerate(zip(news, rows, strict=True)):
            expected, states = gemma.trunk.run(torch.tensor([new]), BLOCKS, cache=alone)
            assert expected is not None
            assert close(normed[number, : len(new)], expected[0], 1e-3)
            assert all(close(kept[block][number, : len(new)], states[block][0], 1e-3) for block in BLOCKS)


@pytest.mark.parametrize("attn", [None, "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_different_lengths_are_read_as_alone(family: str, attn: Any) -> None:
    check_rows(tiny(family, attn=attn), [(3, 1, 3), (40, 5, 3), (17, 30, 20), (60, 1, 1), (15, 2, 9), (0, 20, 4)])


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 24), st.integers(1, 24)), min_size=1, max_size=4))
def test_any_lengths(sizes: list[tuple[int, int, int]]) -> None:
    check_rows(tiny(), sizes)
