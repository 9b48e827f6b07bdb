"""Attention from captured queries and keys: what plain transformers' eager attention gives, and never all at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_gemma_forward import tokens_of
from test_gemma_load import one_thread as one_thread
from test_gemma_load import plain, tiny

from safety_kit.analysis import attention
from safety_kit.errors import UserError
from safety_kit.gemma import Capture, Gemma, Tokens, Trace
from safety_kit.testing import FAMILIES

ALL = tuple(range(6))
TEXT = tokens_of(60, seed=5)  # the tiny configs' sliding window is 16


def traced(family: str, text: Tokens = TEXT) -> Trace:
    return tiny(family).forward([text], attention.capture(*ALL))[0]


def eager(family: str, text: Tokens = TEXT) -> list[torch.Tensor]:
    """Plain transformers' weights: for each block H × T × T."""
    with torch.no_grad():
        out = plain(family, "eager")(torch.tensor([text.ids]), output_attentions=True, use_cache=False)
    return [block[0] for block in out.attentions]


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_those_of_eager_attention(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_AT_ONCE", 60 * 7)  # seven rows at a time
    trace, expected = traced(family), eager(family)
    for block, right in enumerate(expected):
        inputs = trace.attention[block]
        made = attention.weights(inputs, range(4), 0, 60)
        assert (made - right).abs().max() < 1e-5
        assert (made.sum(-1) - 1).abs().max() < 1e-5
        assert inputs.window == tiny(family).windows[block]
        outside = torch.ones(60, 60).triu(1).bool()
        if inputs.window is not None:
            outside |= torch.ones(60, 60).tril(-inputs.window).bool()
        assert (made[:, outside] == 0).all()
        for token in (0, 17, 59):
            assert np.abs(attention.reads(inputs, 2, token) - right[2, token].numpy()).max() < 1e-5
            assert np.abs(attention.readers(inputs, 3, token) - right[3, :, token].numpy()).max() < 1e-5
    kinds = [attention.kind(trace.attention[block].window) for block in ALL]
    assert kinds == ["global"] * 6 if family == "gemma" else {"local", "global"} == set(kinds)


@pytest.mark.parametrize("family", FAMILIES)
def test_summaries_are_means_over_the_queries(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_AT_ONCE", 4 * 60 * 7)
    trace, messages = traced(family), [(3, 20), (25, 60), (40, 40)]
    for block, right in enumerate(w.double() for w in eager(family)):
        made = attention.summary(trace, block, messages)
        back = torch.arange(60)[:, None] - torch.arange(60)[None, :]
        expected = {
            "entropy": -torch.xlogy(right, right).sum(-1).mean(-1) / math.log(2),
            "distance": (right * back).sum(-1).mean(-1),
            "first": right[:, :, 0].mean(-1),
            "previous": right.diagonal(-1, 1, 2).sum(-1) / 60,
        }
        for name, value in expected.items():
            assert np.abs(getattr(made, name) - value.numpy()).max() < 1e-4, name
        shares = torch.stack([right[:, :, a:b].sum(-1).mean(-1) for a, b in messages])
        assert np.abs(made.messages - shares.numpy()).max() < 1e-5
        assert made.groups == (0, 0, 1, 1)


@pytest.mark.parametrize("family", ["gemma", "gemma3_text", "gemma4_text"])
def test_by_value_is_the_length_of_what_is_moved(family: str) -> None:
    """Against the model: a token's value alone through the head's part of the output matrix."""
    gemma, block, kept = tiny(family), 3, []
    module = gemma.trunk.blocks[block].self_attn
    source = module.v_norm if hasattr(module, "v_norm") else module.v_proj  # type: ignore[union-attr]
    handle = source.register_forward_hook(lambda _m, _a, out: kept.append(out))  # type: ignore[operator, union-attr]
    try:
        trace = gemma.forward([TEXT], attention.capture(block))[0]
    finally:
        handle.remove()
    value = kept[0].reshape(60, 2, 8)
    inputs = trace.attention[block]
    for head in range(4):
        weight = module.o_proj.weight[:, 8 * head : 8 * head + 8]  # type: ignore[union-attr, index]
        expected = (value[:, head // 2] @ weight.T).norm(dim=-1)
        assert (inputs.value_norms(head) - expected).abs().max() < 1e-4
        made = attention.reads(inputs, head, 40, by_value=True)
        assert np.allclose(made, attention.reads(inputs, head, 40) * expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("length", [5, 256, 257, 700])
def test_an_overview_holds_the_largest_weight_and_a_tile_the_exact_ones(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_AT_ONCE", length * 50)
    inputs = traced("gemma3_text", tokens_of(length)).attention[5]
    exact = attention.weights(inputs, [1], 0, length)[0].numpy()
    made = attention.overview(inputs, 1)
    assert made.step == math.ceil(length / attention.TILE)
    assert max(made.weights.shape) <= attention.TILE
    assert made.weights.nbytes < 2**20
    for row in range(made.weights.shape[0]):
        for column in range(0, made.weights.shape[1], 7):
            cell = exact[row * made.step : (row + 1) * made.step, column * made.step : (column + 1) * made.step]
            assert made.weights[row, column] == cell.max()
    part = attention.tile(inputs, 1, length // 2, length // 3)
    size = attention.TILE
    rows, columns = slice(length // 2, length // 2 + size), slice(length // 3, length // 3 + size)
    assert np.array_equal(part.weights, exact[rows, columns])


def test_the_first_token_can_be_hidden() -> None:
    inputs = traced("gemma3_text").attention[5]
    whole = attention.weights(inputs, [0], 0, 60)[0]
    made = attention.weights(inputs, [0], 0, 60, hide_first=True)[0]
    assert (made[:, 0] == 0).all()
    assert (made[1:].sum(-1) - 1).abs().max() < 1e-5
    assert (made[0] == 0).all()
    assert torch.allclose(made[30, 1:], whole[30, 1:] / whole[30, 1:].sum())


def test_only_rows_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No softmax of a long text is larger than what is held at once; a local block's is smaller than that."""
    monkeypatch.setattr(attention, "_AT_ONCE", 4096 * 64)
    trace, sizes, softmax = traced("gemma3_text", tokens_of(4096)), [], torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda self, *a: (sizes.append(self.numel()), softmax(self, *a))[1])
    for block in (0, 5):
        sizes.clear()
        attention.summary(trace, block)
        attention.overview(trace.attention[block], 0)
        attention.readers(trace.attention[block], 0, 7)
        assert max(sizes) <= 4096 * 64
        if block == 0:
            assert max(sizes) <= 4 * 64 * (64 + 16)


def test_bad_requests() -> None:
    trace = traced("gemma3_text")
    inputs = trace.attention[0]
    for call in (
        lambda: attention.reads(inputs, 4, 0),
        lambda: attention.reads(inputs, -1, 0),
        lambda: attention.reads(inputs, 0, 60),
        lambda: attention.readers(inputs, 0, -1),
        lambda: attention.tile(inputs, 0, 0, 60),
        lambda: attention.inputs_of(trace, 6),
    ):
        with pytest.raises(UserError):
            call()


def test_the_embedded_model_s(embedded: Gemma) -> None:
    """Under sdpa; the weights of one local and one global block, times their values, make its attention's output."""
    text = embedded.encode("The quick brown fox jumps over the lazy dog. " * 8)
    for block in (0, 5):
        module, kept = embedded.trunk.blocks[block].self_attn, {}
        handles = [
            module.v_proj.register_forward_hook(lambda _m, _a, out, kept=kept: kept.update(value=out[0])),  # type: ignore[union-attr, operator]
            module.o_proj.register_forward_pre_hook(lambda _m, args, kept=kept: kept.update(mixed=args[0][0])),  # type: ignore[union-attr, operator]
        ]
        try:
            (trace,) = embedded.forward([text], Capture(attention=(block,)))
        finally:
            for handle in handles:
                handle.remove()
        inputs = trace.attention[block]
        heads, groups = inputs.heads, inputs.key.shape[0]
        value = kept["value"].unflatten(-1, (groups, -1))
        made = attention.weights(inputs, range(heads), 0, len(text))
        mixed = torch.stack([made[h] @ value[:, inputs.group(h)] for h in range(heads)], dim=1).flatten(1)
        assert (mixed - kept["mixed"]).abs().max() < 1e-4 * float(mixed.abs().max())
    assert embedded.windows[0] == 512
    assert embedded.windows[5] is None
