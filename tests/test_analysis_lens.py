"""Lens and attribution: against plain transformers' own hidden states, and sums that must come out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from test_gemma_forward import tokens_of
from test_gemma_inside import ADDITIVE
from test_gemma_load import one_thread as one_thread
from test_gemma_load import plain, tiny

from safety_kit.analysis import attribution, lens, probabilities
from safety_kit.errors import UserError
from safety_kit.gemma import Capture, Gemma
from safety_kit.testing import FAMILIES

TEXT = tokens_of(40, seed=8)


def plain_lens(family: str) -> torch.Tensor:
    """(L − 1) × T × V log-probabilities, float64; transformers' last hidden state is behind the norm already."""
    model = plain(family)
    decoder = model.get_decoder()
    decoder = getattr(decoder, "language_model", decoder)
    with torch.no_grad():
        out = model(torch.tensor([TEXT.ids]), output_hidden_states=True, use_cache=False)
        states = [s[0] if s.ndim == 4 else s for s in out.hidden_states[1:-1]]
        logits = torch.cat([model.get_output_embeddings()(decoder.norm(s)) for s in states])
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    logits = torch.tanh(logits / cap) * cap if cap else logits
    return torch.cat([logits, out.logits]).double().log_softmax(-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_block_s_lens(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probabilities, "_AT_ONCE", 512 * 7 * 3)  # three positions at a time
    (trace,) = tiny(family).forward([TEXT], lens.capture(6))
    told: list[tuple[int, int]] = []
    made = lens.lens(trace, range(5, 15), top_k=4, progress=lambda done, of: told.append((done, of)))
    expected = plain_lens(family)[:, 5:15].transpose(0, 1)  # P × L × V
    known = slice(None) if made.exact else slice(0, 5)
    top = expected.topk(4, -1)
    assert np.abs(made.top_logprobs - top.values.numpy())[:, known].max() < 1e-4
    output = expected[:, -1:]
    divergence = (output.exp() * (output - expected)).sum(-1) / math.log(2)
    assert np.abs(made.divergences - divergence.numpy())[:, known].max() < 1e-4
    choice = output.argmax(-1, keepdim=True).expand(-1, 6, -1)
    ranks = (expected > expected.gather(-1, choice)).sum(-1).numpy()
    assert (np.abs(made.ranks - ranks)[:, known] <= 1).all()
    assert made.choices == tuple(output[:, 0].argmax(-1).tolist())
    assert told[-1] == (10, 10)
    assert len(told) == 4
    if made.exact:
        assert (made.ranks[:, -1] == 0).all()
        assert made.divergences[:, -1].max() < 1e-6


def test_a_given_token_is_followed_and_bad_requests_told() -> None:
    (trace,) = tiny().forward([TEXT], lens.capture(6))
    made = lens.lens(trace, [3, 4], choices=[TEXT.ids[4], TEXT.ids[5]])
    assert made.choices == TEXT.ids[4:6]
    with pytest.raises(UserError, match="no token 40"):
        lens.lens(trace, [40])
    with pytest.raises(UserError, match=r"lens\.capture"):
        lens.lens(tiny().forward([TEXT], Capture(final=True))[0], [3])
    with pytest.raises(UserError, match="final"):
        lens.lens(tiny().forward([TEXT], Capture((3,)))[0], [3])


@pytest.mark.parametrize("contrast", [None, 200])
@pytest.mark.parametrize("family", ADDITIVE)
def test_shares_add_up_to_plain_transformers_logit(family: str, contrast: int | None) -> None:
    (trace,) = tiny(family).forward([TEXT], attribution.capture(12, 39))
    with torch.no_grad():
        logits = plain(family)(torch.tensor([TEXT.ids]), use_cache=False).logits[0]
    for position in (12, 39):
        made = attribution.attribute(trace, position, 100, contrast)
        logit = float(logits[position, 100] - (logits[position, contrast] if contrast else 0))
        assert abs(made.logit - logit) < 1e-4
        assert abs(made.total - made.uncapped) < 1e-3
        if made.softcap is None:
            assert abs(made.total - logit) < 1e-3
        elif contrast is None:
            assert abs(made.softcap * math.tanh(made.total / made.softcap) - logit) < 1e-3
        for share in made.shares:
            assert not share.heads or abs(sum(share.heads) - share.value) < 1e-4
    assert made.softcap == (30.0 if family == "gemma2" else made.softcap)


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3_text"])
def test_an_mlp_s_share_is_what_a_frozen_model_loses_without_it(family: str) -> None:
    """By hand for the last block's MLP: its write taken from the stream, the norm's scale kept."""
    gemma, position = tiny(family), 20
    (trace,) = gemma.forward([TEXT], attribution.capture(position) | Capture((5,)))
    share = next(s for s in attribution.attribute(trace, position, 77).shares if (s.block, s.part) == (5, "mlp"))
    kept: dict[str, Any] = {}
    block: Any = gemma.trunk.blocks[5]
    module = block.post_feedforward_layernorm if family != "gemma" else block.mlp
    handle = module.register_forward_hook(lambda _m, _a, out: kept.update(write=out[0, position]))
    try:
        gemma.forward([TEXT], Capture((5,)))
    finally:
        handle.remove()
    norm, stream = gemma.trunk.decoder.norm, trace.hidden[5][position]
    scale = (stream.pow(2).mean() + norm.eps).rsqrt()
    row = gemma.model.get_output_embeddings().weight[77]  # type: ignore[union-attr, index]
    expected = float((kept["write"] * scale * (1 + norm.weight)) @ row)  # these three families' offset
    assert abs(share.value - expected) < 1e-4


def test_what_cannot_be_attributed_is_told() -> None:
    (trace,) = tiny().forward([TEXT], attribution.capture(3))
    with pytest.raises(UserError, match="lacks the writes at token 4"):
        attribution.attribute(trace, 4, 7)
    with pytest.raises(UserError, match="no token 512"):
        attribution.attribute(trace, 3, 512)
    with pytest.raises(UserError, match="several residual streams"):
        tiny("gemma3n_text").forward([TEXT], attribution.capture(3))


def test_the_embedded_model_s(embedded: Gemma) -> None:
    text = embedded.encode("The capital of France is")
    capture = lens.capture(embedded.n_blocks) | attribution.capture(len(text) - 1)
    (trace,) = embedded.forward([text], capture)
    seen = lens.lens(trace, [len(text) - 1])
    with torch.no_grad():
        logits = embedded.model(torch.tensor([text.ids]), use_cache=False).logits[0, -1]
    assert seen.choices == (int(logits.argmax()),)
    assert abs(seen.top_logprobs[0, -1, 0] - float(logits.double().log_softmax(-1).max())) < 1e-5
    assert (seen.ranks[0, -1], round(seen.divergences[0, -1], 5)) == (0, 0)
    made = attribution.attribute(trace, len(text) - 1, seen.choices[0])
    assert abs(made.total - made.logit) < 1e-3 * abs(made.logit)
    assert len(made.shares) == 1 + 2 * embedded.n_blocks
