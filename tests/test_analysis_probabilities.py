"""Probabilities, pieces and runs, against plain transformers in float64 and against decoding itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_gemma_forward import tokens_of
from test_gemma_load import one_thread as one_thread
from test_gemma_load import plain, tiny
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from safety_kit.analysis import probabilities as module
from safety_kit.analysis.pieces import pieces
from safety_kit.analysis.probabilities import CAPTURE, Probabilities, largest, probabilities
from safety_kit.analysis.runs import RunTree, difference, shared_prefix
from safety_kit.errors import UserError
from safety_kit.gemma import Capture, Gemma, Sampling, Tokens
from safety_kit.testing import FAMILIES
from safety_kit.types import Message

TEXT = tokens_of(45, seed=11)


def check(made: Probabilities, logits: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Against an independent float64 log-softmax of T × V logits."""
    logprobs = torch.log_softmax(logits.double(), -1)
    after = torch.tensor(made.ids[1:])
    own = logprobs[:-1].gather(1, after[:, None])[:, 0].numpy()
    raw = made.raw
    assert np.abs(raw.logprobs[1:-1] - own).max() < tolerance
    assert np.abs(raw.surprisals[1:-1] + own / np.log(2)).max() < 2 * tolerance
    entropy = -(logprobs.exp() * logprobs).sum(-1) / np.log(2)
    assert np.abs(raw.entropies[1:] - entropy.numpy()).max() < 10 * tolerance
    top = logprobs.topk(raw.top_ids.shape[1], -1)
    assert np.abs(raw.top_logprobs[1:] - top.values.numpy()).max() < tolerance
    assert np.isnan([raw.logprobs[0], raw.logprobs[-1], raw.entropies[0]]).all()
    assert (raw.ranks[0], raw.ranks[-1]) == (-1, -1)
    assert raw.top_ids[0].tolist() == [-1] * raw.top_ids.shape[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_plain_transformers_own(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 512 * 7)  # seven positions at a time
    (trace,) = tiny(family).forward([TEXT], CAPTURE)
    made = probabilities(trace, top_k=5)
    with torch.no_grad():
        logits = plain(family)(torch.tensor([TEXT.ids]), use_cache=False).logits[0]
    check(made, logits)
    chosen = logits[:-1].gather(1, torch.tensor(TEXT.ids[1:])[:, None])
    expected = (logits[:-1] > chosen).sum(-1).numpy()
    assert (np.abs(made.raw.ranks[1:-1] - expected) <= 1).all()  # two logits may be equal but for rounding
    assert made.sampled is None


SAMPLINGS = [Sampling(temperature=0.7, top_k=9, top_p=0.8), Sampling(temperature=1.6, top_p=0.5), Sampling()]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_sampler_s_distribution_is_transformers_own(sampling: Sampling) -> None:
    (trace,) = tiny().forward([TEXT], Capture(logits="all", final=True))
    made = probabilities(trace, top_k=4, sampling=sampling).sampled
    assert made is not None
    assert trace.logits is not None
    warpers = LogitsProcessorList()
    if sampling.temperature == 0:
        warpers.append(TopKLogitsWarper(1))
    else:
        warpers.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            warpers.append(TopKLogitsWarper(sampling.top_k))
        warpers.append(TopPLogitsWarper(sampling.top_p))
    expected = torch.log_softmax(warpers(None, trace.logits).double(), -1)  # type: ignore[arg-type]
    own = expected[:-1].gather(1, torch.tensor(TEXT.ids[1:])[:, None])[:, 0].numpy()
    assert (np.isneginf(made.logprobs[1:-1]) == np.isneginf(own)).all()
    assert np.abs(np.exp(made.logprobs[1:-1]) - np.exp(own)).max() < 1e-5
    top = expected.topk(4, -1).values.numpy()
    assert np.abs(made.top_probabilities[1:] - np.exp(top)).max() < 1e-5
    assert (made.entropies[1:] >= -1e-9).all()


def test_each_decoded_token_has_the_probability_that_its_step_told() -> None:
    gemma = tiny()
    prompt = gemma.render([Message("user", "the cat")])
    steps = list(gemma.steps(prompt, Sampling(max_tokens=12, temperature=1.5, seed=3)))
    ids = prompt.tokens.ids + tuple(step.token_id for step in steps)
    (trace,) = gemma.forward([Tokens(ids, ((0, 0),) * len(ids))], CAPTURE)
    made = probabilities(trace).raw.logprobs[len(prompt.tokens) : -1]
    assert np.abs(made - [step.logprob for step in steps]).max() < 1e-4


def test_one_token_and_bad_requests() -> None:
    gemma = tiny()
    (trace,) = gemma.forward([tokens_of(1)], CAPTURE)
    made = probabilities(trace, top_k=10_000).raw
    assert made.top_ids.shape == (2, 512)
    assert abs(made.top_probabilities[1].sum() - 1) < 1e-6
    with pytest.raises(UserError, match="top_k"):
        probabilities(trace, top_k=0)
    with pytest.raises(UserError, match=r"Capture\(final=True\)"):
        probabilities(gemma.forward([TEXT], Capture(logits="all"))[0])


def test_the_embedded_model_s(embedded: Gemma) -> None:
    """The same checkpoint run by transformers' own forward: 262,144 tokens, and the greatest is a softmax of these."""
    text = embedded.encode("The capital of France is Paris, and its river is the Seine 😀.")
    (trace,) = embedded.forward([text], CAPTURE)
    with torch.no_grad():
        logits = embedded.model(torch.tensor([text.ids]), use_cache=False).logits[0]
    check(probabilities(trace), logits)


# --- pieces


def test_a_split_character_is_told() -> None:
    vocabulary = tiny().vocabulary
    made = pieces((2, *vocabulary.content("a 😀é!").ids), vocabulary)
    assert made[0].control
    assert [(p.text, p.part, p.parts) for p in made[1:]] == [
        ("a", 0, 0), (" ", 0, 0), ("😀", 1, 4), ("😀", 2, 4), ("😀", 3, 4), ("😀", 4, 4), ("é", 0, 0), ("!", 0, 0),
    ]  # fmt: skip
    cut = vocabulary.content("😀").ids[:3]
    assert [p.text for p in pieces(cut, vocabulary)] == ["\\xf0", "\\x9f", "\\x98"]


@given(st.text(max_size=20))
def test_pieces_are_the_text(text: str) -> None:
    vocabulary = tiny().vocabulary
    text = "".join("x" if "\ud800" <= c <= "\udfff" else c for c in text).replace("▁", " ")
    made = pieces(vocabulary.content(text).ids, vocabulary)
    assert "".join(p.text for p in made if p.part <= 1) == text


# --- runs


@pytest.mark.parametrize("family", FAMILIES)
def test_the_original_token_brings_the_original_reply(family: str) -> None:
    gemma = tiny(family)
    prompt = gemma.render([Message("user", "the cat in")])
    tree = RunTree.start(gemma, prompt, Sampling(max_tokens=14))
    first = tree.runs[0]
    whole = gemma.generate(prompt, Sampling(max_tokens=14))
    assert (first.reply, first.text, first.finish) == (whole.token_ids, whole.text, whole.finish)
    for at in range(len(first.reply)):
        again = tree.runs[tree.branch(0, at, first.reply[at])]
        assert (again.reply, again.text, again.finish) == (first.reply, first.text, first.finish)
        assert (again.parent, again.at) == (0, at)


def test_another_token_or_a_text_keeps_what_stands_before() -> None:
    gemma = tiny()
    tree = RunTree.start(gemma, gemma.render([Message("user", "the cat")]), Sampling(max_tokens=14))
    first = tree.runs[0]
    other = tree.branch(0, 5, 100)
    typed = tree.branch(other, 7, "the hat")
    assert tree.runs[other].reply[:6] == (*first.reply[:5], 100)
    assert tree.runs[typed].reply[:7] == tree.runs[other].reply[:7]
    assert tree.runs[typed].text.find("the hat") > 0
    assert (tree.runs[typed].parent, tree.runs[typed].at) == (other, 7)
    assert tree.runs[typed].tokens.ids == first.prompt.tokens.ids + tree.runs[typed].reply
    assert shared_prefix(first.reply, tree.runs[other].reply) == 5
    ended = tree.runs[tree.branch(0, 3, 1)]
    assert (ended.reply, ended.finish) == ((*first.reply[:3], 1), "stop")


def test_a_stop_string_across_the_branch_ends_the_reply() -> None:
    gemma = tiny()
    prompt = gemma.render([Message("user", "the cat")])
    tree = RunTree.start(gemma, prompt, Sampling(max_tokens=14, stop=("XYZ",)))
    branch = tree.branch(0, 2, "aXY")
    made = tree.runs[tree.branch(branch, 5, "Zbc")]
    assert made.finish == "stop"
    assert made.text.endswith("a")


@pytest.mark.parametrize(
    ("run", "at", "instead"), [(1, 0, 3), (0, 99, 3), (0, -1, 3), (0, 1, 512), (0, 1, -1), (0, 1, "")]
)
def test_no_such_branch(run: int, at: int, instead: int | str) -> None:
    gemma = tiny()
    tree = RunTree.start(gemma, gemma.render([Message("user", "a")]), Sampling(max_tokens=3))
    with pytest.raises(UserError):
        tree.branch(run, at, instead)
    assert len(tree.runs) == 1


def test_a_difference_names_what_was_replaced() -> None:
    (change,) = difference([1, 2, 3, 4], [1, 9, 9, 3, 4])
    assert (change.before, change.after) == ((1, 2), (1, 3))
    assert difference([1, 2], [1, 2]) == []


@given(st.integers(0, 2**32), st.sampled_from([1, 3, 40]), st.sampled_from([512 * 3, 512 * 40, 1_000]))
def test_the_largest_are_topk_s(seed: int, k: int, vocabulary: int) -> None:
    logits = torch.rand(4, vocabulary, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values, places = largest(logits, k)
    expected = logits.topk(k)
    assert torch.equal(values, expected.values)
    assert torch.equal(places, expected.indices)
