"""Trust: green on what is right, and red where one of Gemma's own ways is left out, by us or by the model that runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_gemma_forward import tokens_of
from test_gemma_load import one_thread as one_thread
from test_gemma_load import tiny, tiny_folder

from safety_kit.analysis import trust as trust_
from safety_kit.analysis.inspection import examine
from safety_kit.analysis.trust import cost, span, trust
from safety_kit.analysis.trust_report import EVERY, Record, Trust
from safety_kit.errors import UserError
from safety_kit.gemma import Gemma, experiments, readout, sublayers
from safety_kit.gemma.reference import Reference
from safety_kit.testing import FAMILIES
from safety_kit.types import Message

IDS = tokens_of(60, seed=5).ids
"""Longer than the tiny models' window of 16, and its last rows with it."""


def record(gemma: Gemma, **changes: Any) -> Record:
    return replace(Record(IDS, (), gemma.digest, gemma.dtype, gemma.attention), **changes)


def fresh(family: str) -> Gemma:
    """A model that no other test has, to be broken."""
    return Gemma.load(tiny_folder(family))


def red(made: Trust) -> set[str]:
    return {check.name for check in made.failed}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_check_passes_on_what_is_right(family: str) -> None:
    gemma = tiny(family, False)
    seen = examine(gemma, [Message("user", "the cat in the hat ate a can " * 2)])
    made = trust(gemma, Record.of(seen))
    assert red(made) == set()
    names = [check.name for check in made.checks]
    sums = ["lens", "attribution"] if family != "gemma3n_text" else []
    assert names == [
        *("model digest", "float type", "parameters", "logits", "activations", "log-probabilities", "eager attention"),
        *("attention rows", "attention weights", "attention window", *sums, "integrated gradients"),
    ]
    assert (made.tokens, made.of) == (len(seen.trace.ids), len(seen.trace.ids))
    assert bool(made.notes) == (family == "gemma3n_text")


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3_text"])
def test_bfloat16_passes_too(family: str) -> None:
    gemma = Gemma.load(tiny_folder(family), dtype="bfloat16")
    assert red(trust(gemma, record(gemma))) == set()


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_short_text_passes(count: int) -> None:
    gemma = tiny()
    assert red(trust(gemma, record(gemma, ids=IDS[:count]))) == set()


# --- what other tools leave out

Broken = Callable[[Gemma, pytest.MonkeyPatch], None]


def blocks(gemma: Gemma) -> list[Any]:
    return list(gemma.trunk.blocks)


def no_softcap_in_the_model(gemma: Gemma, _: pytest.MonkeyPatch) -> None:
    gemma.model.config.final_logit_softcapping = None
    gemma.trunk.softcap = gemma.readout.softcap = None


def no_attention_softcap_in_the_model(gemma: Gemma, _: pytest.MonkeyPatch) -> None:
    for block in blocks(gemma):
        block.self_attn.attn_logit_softcapping = None


def no_post_norm_in_the_model(gemma: Gemma, _: pytest.MonkeyPatch) -> None:
    blocks(gemma)[2].post_feedforward_layernorm.forward = lambda states: states


def no_post_norm_module_in_the_model(gemma: Gemma, _: pytest.MonkeyPatch) -> None:
    blocks(gemma)[2].post_attention_layernorm = torch.nn.Identity()


def no_offset_in_the_model(gemma: Gemma, _: pytest.MonkeyPatch) -> None:
    for module in [gemma.trunk.decoder.norm, *(block.input_layernorm for block in blocks(gemma))]:
        module.forward = lambda x, m=module: m._norm(x.float()) * m.weight.float()


def no_embedding_scale_in_the_model(gemma: Gemma, _: pytest.MonkeyPatch) -> None:
    gemma.trunk.decoder.embed_tokens.embed_scale.fill_(1.0)


def no_window_in_the_model(gemma: Gemma, _: pytest.MonkeyPatch) -> None:
    gemma.trunk.config.sliding_window = 4096


def another_window_in_the_model(gemma: Gemma, _: pytest.MonkeyPatch) -> None:
    gemma.trunk.config.sliding_window = 15


def no_softcap_of_ours(gemma: Gemma, _: pytest.MonkeyPatch) -> None:
    gemma.trunk.softcap = gemma.readout.softcap = None


def no_attention_softcap_of_ours(_: Gemma, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sublayers.Inside, "_softcap", lambda *_: None)


def no_post_norm_of_ours(_: Gemma, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sublayers, "_has_post_norms", lambda _block: False)


def no_offset_of_ours(gemma: Gemma, patch: pytest.MonkeyPatch) -> None:
    def gain(norm: Any, inputs: torch.Tensor) -> torch.Tensor:
        return norm.weight.float() * torch.rsqrt(inputs.float().pow(2).mean(-1, keepdim=True) + norm.eps)

    patch.setattr(readout, "frozen_gain", gain)


def no_embedding_scale_of_ours(gemma: Gemma, patch: pytest.MonkeyPatch) -> None:
    whole = sublayers.Inside.writes

    def unscaled(inside: sublayers.Inside, row: int) -> Any:
        return tuple(
            replace(write, value=write.value / gemma.hidden_size**0.5) if write.block < 0 else write
            for write in whole(inside, row)
        )

    patch.setattr(sublayers.Inside, "writes", unscaled)


def no_embedding_scale_in_our_gradients(gemma: Gemma, patch: pytest.MonkeyPatch) -> None:
    whole = experiments._embedded_as
    patch.setattr(experiments, "_embedded_as", lambda trunk, e: whole(trunk, e / gemma.hidden_size**0.5))


def no_window_of_ours(_: Gemma, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sublayers, "window_of", lambda _attention: None)


def no_final_norm_in_our_lens(gemma: Gemma, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(type(gemma.readout), "norm", lambda _, hidden: hidden)


ALL = ["gemma", "gemma2", "gemma3_text"]
LATER = ["gemma2", "gemma3_text"]
LEFT_OUT: list[tuple[Broken, list[str], str]] = [
    (no_softcap_in_the_model, ["gemma2"], "logits"),
    (no_attention_softcap_in_the_model, ["gemma2"], "activations"),
    (no_post_norm_in_the_model, LATER, "logits"),
    (no_post_norm_module_in_the_model, LATER, "parameters"),
    (no_offset_in_the_model, ALL, "logits"),
    (no_embedding_scale_in_the_model, ALL, "logits"),
    (no_window_in_the_model, LATER, "logits"),
    (another_window_in_the_model, LATER, "logits"),
    (no_softcap_of_ours, ["gemma2"], "logits"),
    (no_attention_softcap_of_ours, ["gemma2"], "attention weights"),
    (no_post_norm_of_ours, LATER, "attribution"),
    (no_offset_of_ours, ALL, "attribution"),
    (no_embedding_scale_of_ours, ALL, "attribution"),
    (no_embedding_scale_in_our_gradients, ALL, "integrated gradients"),
    (no_window_of_ours, LATER, "attention window"),
    (no_final_norm_in_our_lens, ALL, "lens"),
]


@pytest.mark.parametrize(
    ("broken", "family", "expected"),
    [
        pytest.param(broken, family, expected, id=f"{broken.__name__}-{family}")
        for broken, families, expected in LEFT_OUT
        for family in families
    ],
)
def test_what_is_left_out_turns_it_red(
    broken: Broken, family: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gemma = fresh(family)
    before = record(gemma)
    broken(gemma, monkeypatch)
    assert expected in red(trust(gemma, before))


# --- a run that is not what it says


def shifted(gemma: Gemma) -> tuple[float | None, ...]:
    (trace,) = gemma.forward([tokens_of(60, seed=5)], trust_.Capture(final=True))
    from safety_kit.analysis.probabilities import probabilities

    return (None, *(value + 3e-4 for value in probabilities(trace).raw.logprobs[1:-1].tolist()))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (lambda gemma: {"digest": "0" * 64}, "model digest"),
        (lambda gemma: {"dtype": "bfloat16"}, "float type"),
        (lambda gemma: {"attention": "eager"}, "float type"),
        (lambda gemma: {"logprobs": shifted(gemma)}, "log-probabilities"),
    ],
)
def test_a_run_that_says_something_else_is_red(changes: Callable[[Gemma], dict[str, Any]], expected: str) -> None:
    gemma = tiny()
    assert red(trust(gemma, record(gemma, **changes(gemma)))) == {expected}


def test_weights_that_changed_since_are_red() -> None:
    gemma = fresh("gemma3_text")
    before = record(gemma)
    with torch.no_grad():
        next(iter(gemma.model.parameters())).mul_(1.5)
    assert "model digest" in red(trust(gemma, before))


def test_logits_that_are_no_numbers_do_not_pass() -> None:
    gemma = fresh("gemma3_text")
    before = record(gemma)
    with torch.no_grad():
        gemma.trunk.decoder.norm.weight.fill_(math.nan)
    made = trust(gemma, before)
    logits = next(check for check in made.checks if check.name == "logits")
    assert not logits.passed
    assert logits.charts == EVERY
    assert made.to_json()["checks"][3]["value"] is None


def test_tokens_that_are_not_there_are_told() -> None:
    gemma = tiny()
    for ids in ((), (3, 512), (3, -1)):
        with pytest.raises(UserError, match="no token"):
            trust(gemma, record(gemma, ids=ids))


# --- what it costs


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_has_the_weights_in_the_same_place_and_leaves_them_as_they_are(family: str) -> None:
    gemma = tiny(family)
    before = {name: parameter.clone() for name, parameter in gemma.model.named_parameters()}
    reference = Reference(gemma)
    reference.read(IDS, [3], eager=True)
    mine = dict(gemma.model.named_parameters())
    theirs = dict(reference.model.named_parameters())
    assert mine.keys() == theirs.keys()
    assert all(mine[name].data_ptr() == theirs[name].data_ptr() for name in mine)
    assert all(torch.equal(before[name], mine[name]) for name in mine)
    assert not {id(module) for module in gemma.model.modules()} & {id(module) for module in reference.model.modules()}
    assert reference.model.config._attn_implementation == gemma.attention
    assert reference.reread


def test_a_long_run_is_compared_at_its_beginning_past_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    gemma = tiny()
    assert [span(gemma, tokens) for tokens in (1, 60, 128, 3_000)] == [1, 60, 128, 128]
    monkeypatch.setattr(trust_, "SPAN", 20)
    assert [span(gemma, tokens) for tokens in (10, 16, 40, 3_000)] == [10, 16, 40, 16 + 2 * trust_.ROWS]
    monkeypatch.setattr(trust_, "MOST", 30)
    assert span(gemma, 3_000) == 20
    assert cost(gemma, 3_000) == cost(gemma, 4_000)
    monkeypatch.setattr(trust_, "SPAN", 12)
    made = trust(gemma, record(gemma))
    assert (made.tokens, made.of) == (12, 60)
    assert "window of 16 tokens is not reached" in made.notes[0]


def test_a_checkpoint_that_is_gone_leaves_a_note_and_the_work_can_be_stopped(tmp_path: Any) -> None:
    import shutil

    folder = shutil.copytree(tiny_folder(), tmp_path / "gone")
    gemma = Gemma.load(folder)
    shutil.rmtree(folder)
    made = trust(gemma, record(gemma))
    assert red(made) == set()
    assert "could not be read again" in made.notes[0]

    def stop(done: int, _of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trust(gemma, record(gemma), progress=stop)


def test_the_embedded_model_passes(embedded: Gemma) -> None:
    seen = examine(embedded, [Message("user", "The capital of France is a city on the Seine. Why is that so?")])
    made = trust(embedded, Record.of(seen))
    assert red(made) == set()
    assert made.notes == ()
