"""What a pass shows from inside, and passes that are changed: all families, against plain transformers and autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_gemma_forward import close, tokens_of
from test_gemma_load import one_thread as one_thread
from test_gemma_load import plain, tiny

from safety_kit.errors import ModelError, UserError
from safety_kit.gemma import Capture, Edit, Gemma, Tokens, Trace
from safety_kit.gemma.readout import frozen_gain
from safety_kit.testing import FAMILIES
from safety_kit.types import Message

ALL = tuple(range(6))
ADDITIVE = [family for family in FAMILIES if family != "gemma3n_text"]
TEXT = tokens_of(40, seed=3)


def hooks_of(gemma: Gemma) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in gemma.model.modules())


# --- what is kept


@pytest.mark.parametrize("family", FAMILIES)
def test_the_readout_makes_the_logits(family: str) -> None:
    gemma = tiny(family)
    (trace,) = gemma.forward([TEXT], Capture((5,), "all", final=True))
    assert trace.logits is not None
    assert trace.final is not None
    assert trace.readout is not None
    assert torch.equal(trace.readout.logits(trace.final), trace.logits)
    # Two rows are multiplied by another kernel than all of them, on some processors.
    assert close(trace.readout.logits(trace.final[7:9]), trace.logits[7:9])
    assert trace.readout.exact == (family in ADDITIVE)
    if trace.readout.exact:
        assert close(trace.readout.norm(trace.hidden[5]), trace.final)
        assert close(trace.readout.gain(trace.hidden[5]) * trace.hidden[5], trace.final)


@pytest.mark.parametrize("family", ADDITIVE)
def test_writes_add_up_to_the_stream_and_heads_to_their_sub_layer(family: str) -> None:
    at = (0, 17, 39)
    (trace,) = tiny(family).forward([TEXT], Capture((5,), writes=at))
    assert close(sum(write.value for write in trace.writes), trace.hidden[5][list(at)])  # type: ignore[arg-type]
    attention = [write for write in trace.writes if write.part == "attention"]
    assert [write.block for write in attention] == list(ALL)
    for write in attention:
        assert write.heads is not None
        assert close(write.heads.sum(0), write.value)
    assert trace.writes[0].block == -1
    assert any(write.part == "per-layer input" for write in trace.writes) == (family == "gemma4_text")


@pytest.mark.parametrize("family", ["gemma3_text", "gemma4_text"])
def test_writes_and_queries_of_a_batch_are_those_of_its_texts(family: str) -> None:
    gemma, capture = tiny(family), Capture(attention=(1, 5), writes=(2, 9))
    texts = [tokens_of(n, n) for n in (30, 12, 21)]
    for text, together in zip(texts, gemma.forward(texts, capture), strict=True):
        (alone,) = gemma.forward([text], capture)
        assert all(close(a.value, b.value) for a, b in zip(together.writes, alone.writes, strict=True))
        for block in (1, 5):
            assert close(together.attention[block].query, alone.attention[block].query)
            assert close(together.attention[block].value_norms(0), alone.attention[block].value_norms(0))


def test_a_pass_for_queries_stops_above_their_block() -> None:
    gemma, seen = tiny(), []
    handles = [b.register_forward_pre_hook(lambda *_, i=i: seen.append(i)) for i, b in enumerate(gemma.trunk.blocks)]
    try:
        (trace,) = gemma.forward([TEXT], Capture(attention=(2,)))
    finally:
        for handle in handles:
            handle.remove()
    assert seen == [0, 1, 2]
    assert trace.hidden == {}
    assert trace.final is trace.readout is None


def test_windows_are_those_of_the_family() -> None:
    assert tiny("gemma").windows == (None,) * 6
    assert set(tiny("gemma2").windows) == {16, None}
    assert tiny("gemma3_text").windows == (16,) * 5 + (None,)


def test_a_gain_is_refused_where_the_norm_is_none() -> None:
    class Shifted(torch.nn.Module):
        eps = 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.layer_norm(x, x.shape[-1:])

    with pytest.raises(ModelError, match="no RMS norm"):
        frozen_gain(Shifted(), torch.randn(3, 8))


# --- gradients


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_plain_transformers(family: str) -> None:
    """Its embedding hooked, through all its parameters."""
    gemma, reference = tiny(family), plain(family)
    text, target = tokens_of(9, seed=1), 100

    def objective(trace: Trace) -> torch.Tensor:
        assert trace.final is not None
        assert trace.readout is not None
        return trace.readout.logits(trace.final[-1])[target]

    made = gemma.gradients(text, Capture(final=True), objective)
    decoder = reference.get_decoder()
    embed = getattr(decoder, "language_model", decoder).embed_tokens
    leaf = made.points[:1].clone().requires_grad_()
    handle = embed.register_forward_hook(lambda *_: leaf)
    try:
        value = reference(torch.tensor([text.ids]), use_cache=False).logits[0, -1, target]
    finally:
        handle.remove()
    (expected,) = torch.autograd.grad(value, leaf)
    assert abs(float(value.detach() - made.values[0])) < 1e-5
    assert close(made.gradients[0], expected[0], 1e-4)


def test_gradients_at_many_points_are_those_one_by_one() -> None:
    gemma, text = tiny(), tokens_of(12, seed=2)

    def objective(trace: Trace) -> torch.Tensor:
        return trace.hidden[2].square().mean()

    scales = torch.linspace(0.2, 1, 7)
    seen: list[tuple[int, int]] = []
    many = gemma.gradients(
        text,
        Capture((2,)),
        objective,
        points=lambda e: scales[:, None, None] * e,
        token_budget=30,
        progress=lambda *step: seen.append(step),
    )
    assert seen == [(2, 7), (4, 7), (6, 7), (7, 7)]
    for row, scale in enumerate(scales):
        one = gemma.gradients(text, Capture((2,)), objective, points=lambda e, s=scale: (s * e)[None])
        assert close(many.gradients[row], one.gradients[0], 1e-4)
    assert many.values.shape == (7,)


def test_nothing_of_the_model_learns() -> None:
    gemma = tiny()
    gemma.gradients(TEXT, Capture((3,)), lambda trace: trace.hidden[3].sum())
    assert all(parameter.grad is None for parameter in gemma.model.parameters())
    assert hooks_of(gemma) == 0


# --- changed passes


def same(activation: torch.Tensor) -> torch.Tensor:
    return activation.clone()


@pytest.mark.parametrize("site", ["heads", "attention", "mlp", "block"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_identity_edit_changes_nothing_and_another_does(family: str, site: Any) -> None:
    gemma, capture = tiny(family), Capture((0, 3, 5), final=True)
    (before,) = gemma.forward([TEXT], capture)
    assert before.final is not None
    after = gemma.intervene(TEXT, [Edit(block, site, same) for block in ALL], capture)
    assert after.final is not None
    assert torch.equal(after.final, before.final)

    def reversed_from_20(activation: torch.Tensor) -> torch.Tensor:  # doubled, a post-norm would undo it
        return torch.cat([activation[:20], -activation[20:]])

    changed = gemma.intervene(TEXT, [Edit(3, site, reversed_from_20)], capture)
    assert torch.equal(changed.hidden[0], before.hidden[0])
    assert torch.equal(changed.hidden[3][:20], before.hidden[3][:20])
    assert not torch.allclose(changed.hidden[3][20:], before.hidden[3][20:], atol=1e-3)
    if site == "block":
        assert close(changed.hidden[3][20:], -before.hidden[3][20:])
    assert hooks_of(gemma) == 0


@pytest.mark.parametrize("family", ["gemma", "gemma3_text"])
def test_a_head_that_is_zeroed_is_missing_from_its_sub_layer(family: str) -> None:
    gemma = tiny(family)

    def without_head_1(mixed: torch.Tensor) -> torch.Tensor:
        mixed = mixed.clone()
        mixed[:, 1] = 0
        return mixed

    trace = gemma.intervene(TEXT, [Edit(2, "heads", without_head_1)], Capture(writes=(30,)))
    (write,) = [write for write in trace.writes if (write.block, write.part) == (2, "attention")]
    assert write.heads is not None
    assert write.heads[1].abs().max() == 0
    assert (write.heads[[0, 2, 3]].abs().amax((1, 2)) > 0).all()


def test_hooks_are_gone_after_an_exception() -> None:
    gemma = tiny()
    (before,) = gemma.forward([TEXT], Capture(final=True))

    def broken(_activation: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        gemma.intervene(TEXT, [Edit(1, "mlp", same), Edit(2, "heads", broken)], Capture((5,), attention=(3,)))
    with pytest.raises(ValueError, match="returned the shape"):
        gemma.intervene(TEXT, [Edit(1, "mlp", lambda activation: activation[:3])], Capture((5,)))
    with pytest.raises(ZeroDivisionError):
        gemma.gradients(TEXT, Capture((2,)), lambda _trace: torch.tensor(1 / 0))
    assert hooks_of(gemma) == 0
    (after,) = gemma.forward([TEXT], Capture(final=True))
    assert torch.equal(after.final, before.final)  # type: ignore[arg-type]


def test_bad_input_is_told() -> None:
    gemma, nothing = tiny(), Tokens((), ())
    with pytest.raises(UserError, match="block 6 was asked for"):
        gemma.forward([TEXT], Capture(attention=(6,)))
    with pytest.raises(UserError, match="block 9 was asked for"):
        gemma.intervene(TEXT, [Edit(9, "mlp", same)], Capture())
    with pytest.raises(UserError, match="has no token 40"):
        gemma.forward([TEXT], Capture(writes=(3, 40)))
    with pytest.raises(UserError, match="no token"):
        gemma.intervene(nothing, [], Capture())
    with pytest.raises(UserError, match="no token"):
        gemma.gradients(nothing, Capture(), lambda trace: torch.zeros(()))
    with pytest.raises(UserError, match="several residual streams"):
        tiny("gemma3n_text").forward([TEXT], Capture(writes=(3,)))
    with pytest.raises(ValueError, match="blocks and logits alone"):
        gemma.prefill(gemma.render([Message("user", "the cat")]), Capture(final=True))
