"""Salience: autograd and deletions by hand, a planted linear model's closed form, and what must add up."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from test_analysis_strip import head
from test_gemma_forward import close, tokens_of
from test_gemma_inside import hooks_of
from test_gemma_load import one_thread as one_thread
from test_gemma_load import plain, tiny, tiny_folder

from safety_kit.analysis import objectives, salience
from safety_kit.analysis.objectives import Objective
from safety_kit.errors import UserError
from safety_kit.gemma import Capture, Gemma, Tokens, Trace
from safety_kit.testing import FAMILIES

TEXT = tokens_of(24, seed=4)


def planted(weight: torch.Tensor) -> Objective:
    """A linear function of the first block's input, as `gradients` sees it: Σ_t w_t · e_t."""
    return Objective("planted", "logits", Capture((0,)), lambda trace, _: (trace.hidden[0] * weight).sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_endings_are_forwards_of_the_whole(family: str) -> None:
    gemma, capture = tiny(family), Capture((1, 5), final=True)
    for length in (1, 15, 16, 40):  # the sliding window is 16
        beginning = tokens_of(length, 1)
        rest = [Tokens(tokens_of(n, n).ids, ((0, 0),) * n) for n in (1, 9, 30)]
        whole = gemma.forward([beginning + text for text in rest], capture)
        for made, right in zip(gemma.endings(beginning, rest, capture), whole, strict=True):
            assert made.ids == right.ids
            assert close(made.final, right.final)  # type: ignore[arg-type]
            assert all(close(made.hidden[block], right.hidden[block]) for block in (1, 5))
    with pytest.raises(UserError, match="empty"):
        gemma.endings(tokens_of(3), [Tokens((), ())], capture)


@pytest.mark.parametrize("family", FAMILIES)
def test_leave_one_out_is_brute_force_on_plain_transformers(family: str) -> None:
    made = salience.leave_one_out(tiny(family), TEXT, objectives.logprob(TEXT, [22, 23]))

    def value(ids: tuple[int, ...]) -> float:
        with torch.no_grad():
            logits = plain(family)(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
        return float(logits[-3, ids[-2]] + logits[-2, ids[-1]])

    assert abs(made.value - value(TEXT.ids)) < 1e-4
    assert np.isnan(made.scores[[0, 22, 23]]).all()
    for at in range(1, 22):
        assert abs(made.scores[at] - (value(TEXT.ids) - value(TEXT.ids[:at] + TEXT.ids[at + 1 :]))) < 2e-4


def test_a_group_is_left_out_as_a_whole() -> None:
    gemma, objective = tiny(), objectives.logprob(TEXT, [22, 23])
    groups = [[0, 1, 2], [3, 4, 5, 6], [7], [*range(8, 23)], [23]]
    made = salience.leave_one_out(gemma, TEXT, objective, groups=groups)
    assert np.isnan(made.scores[[0, 22, 23]]).all()
    for group in groups[:4]:
        gone = frozenset(group) - {0, 22}
        kept = [at for at in range(24) if at not in gone]
        cut = Tokens(tuple(TEXT.ids[at] for at in kept), ((0, 0),) * len(kept))
        (trace,) = gemma.forward([cut], objective.capture)
        expected = made.value - float(objective.value(trace, gone))
        assert made.scores[list(gone)] == pytest.approx(expected, abs=2e-4)
    each = salience.leave_one_out(gemma, TEXT, objective, groups=[[at] for at in range(24)])
    assert np.array_equal(each.scores, salience.leave_one_out(gemma, TEXT, objective).scores, equal_nan=True)


def test_a_classifier_without_a_token_pools_the_others() -> None:
    gemma, probe = tiny(), head(64, 8)
    made = salience.leave_one_out(gemma, TEXT, objectives.classifier(probe, 5, 20))
    for at, own in ((3, slice(4, 19)), (10, slice(5, 19)), (21, slice(5, 20))):
        cut = Tokens(TEXT.ids[:at] + TEXT.ids[at + 1 :], TEXT.offsets[1:])
        (trace,) = gemma.forward([cut], Capture(probe.blocks))
        hidden = np.concatenate([trace.hidden[block][own].numpy() for block in probe.blocks], axis=1)
        assert abs(made.value - made.scores[at] - probe.token_scores(hidden).mean() - probe.bias) < 1e-4


@pytest.mark.parametrize("steps", [1, 5])
def test_a_planted_linear_model_has_its_closed_form(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Where f = Σ w·e, gradient × input is w·e, IG is w·(e − b) without a gap, and the norm is ‖w‖."""
    gemma, weight = Gemma.load(tiny_folder()), torch.randn(24, 32, generator=torch.Generator().manual_seed(1))
    block: Any = gemma.trunk.blocks[0]
    monkeypatch.setattr(block, "forward", lambda hidden_states, *_, **__: hidden_states)
    own = gemma.trunk.decoder.embed_tokens(torch.tensor([TEXT.ids]))[0]
    pad = gemma.trunk.decoder.embed_tokens(torch.tensor([0]))[0]
    base = torch.stack([e if gemma.vocabulary.is_control(i) else pad for i, e in zip(TEXT.ids, own, strict=True)])
    linear = planted(weight)
    norm = salience.gradient_norm(gemma, TEXT, linear).scores
    assert np.allclose(norm, weight.norm(dim=-1).numpy(), atol=1e-5)
    by_input = salience.gradient_x_input(gemma, TEXT, linear)
    assert np.allclose(by_input.scores, (weight * own).sum(-1).numpy(), atol=1e-4)
    assert abs(by_input.scores.sum() - by_input.value) < 1e-3
    integrated = salience.integrated_gradients(gemma, TEXT, linear, steps=steps)
    assert np.allclose(integrated.scores, (weight * (own - base)).sum(-1).numpy(), atol=1e-4)
    assert integrated.gap is not None
    assert integrated.gap < 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_integrated_gradients_are_an_integral(family: str) -> None:
    """Against a fine midpoint sum; and enough steps close the gap."""
    gemma, objective = tiny(family), objectives.contrast(TEXT, 23, 100, 200)
    base = salience.pad_baseline(gemma, TEXT)
    made = salience.integrated_gradients(gemma, TEXT, objective, steps=150)
    fine = 400
    alphas = (torch.arange(fine) + 0.5) / fine
    grads = gemma.gradients(
        TEXT, objective.capture, lambda trace: objective.value(trace, frozenset()),
        points=lambda e: base + alphas[:, None, None] * (e - base),
    )  # fmt: skip
    own = gemma.gradients(TEXT, objective.capture, lambda trace: objective.value(trace, frozenset())).points[0]
    expected = ((own - base) * grads.gradients.mean(0)).sum(-1).numpy()
    assert np.abs(made.scores - expected).max() < 0.05 * max(1.0, np.abs(expected).max())
    assert made.gap is not None
    assert made.gap < 0.01 * max(1.0, np.abs(made.scores).sum())


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3"])
def test_captum_on_plain_transformers_says_the_same(family: str) -> None:
    gemma, model, objective = tiny(family), plain(family), objectives.contrast(TEXT, 23, 100, 200)

    def value(embeddings: torch.Tensor) -> torch.Tensor:
        logits = model(inputs_embeds=embeddings, use_cache=False).logits[:, 23]
        return logits[:, 100] - logits[:, 200]

    own = model.get_input_embeddings()(torch.tensor([TEXT.ids])).detach()
    base = salience.pad_baseline(gemma, TEXT).unsqueeze(0)
    integrated, gap = IntegratedGradients(value).attribute(own, base, n_steps=32, return_convergence_delta=True)
    made = salience.integrated_gradients(gemma, TEXT, objective, steps=32)
    assert np.abs(made.scores - integrated[0].sum(-1).numpy()).max() < 1e-4
    assert abs(made.gap - abs(float(gap))) < 1e-4  # type: ignore[operator]
    times_input = InputXGradient(value).attribute(own.requires_grad_())[0].sum(-1).detach().numpy()
    assert np.abs(salience.gradient_x_input(gemma, TEXT, objective).scores - times_input).max() < 1e-4
    norm = Saliency(value).attribute(own, abs=False)[0].norm(dim=-1).numpy()
    assert np.abs(salience.gradient_norm(gemma, TEXT, objective).scores - norm).max() < 1e-4


def test_two_replies_are_contrasted() -> None:
    gemma = tiny()
    one, other = (Tokens(TEXT.ids[:20] + ids, TEXT.offsets[:22]) for ids in ((30, 31), (40, 41)))
    made = [salience.gradient_x_input(gemma, text, objectives.logprob(text, [20, 21])) for text in (one, other)]
    difference = salience.contrasted(*made, shared=20)
    assert np.allclose(difference.scores, made[0].scores[:20] - made[1].scores[:20])
    assert difference.value == made[0].value - made[1].value
    norms = salience.gradient_norm(gemma, one, objectives.logprob(one, [20]))
    with pytest.raises(UserError, match="not of gradient norms"):
        salience.contrasted(norms, norms, 20)


def test_a_contrast_s_curve_is_deletions_from_both_texts() -> None:
    gemma = tiny()
    texts = [Tokens(TEXT.ids[:20] + ids, ((0, 0),) * (20 + len(ids))) for ids in ((30, 31), (40, 41, 42))]
    numbers = [objectives.logprob(text, range(20, len(text))) for text in texts]
    made = salience.contrasted(
        *(salience.leave_one_out(gemma, *pair) for pair in zip(texts, numbers, strict=True)), shared=20
    )
    curve = salience.curves_contrasted(
        *(salience.deletion_curve(gemma, *pair, made.scores) for pair in zip(texts, numbers, strict=True))
    )
    assert curve.value == pytest.approx(made.value, abs=1e-4)
    (highest,) = [int(np.nanargmax(made.scores))]
    without = [[id_ for at, id_ in enumerate(text.ids) if at != highest] for text in texts]
    by_hand = []
    for ids in without:
        text = Tokens(tuple(ids), ((0, 0),) * len(ids))
        objective = objectives.logprob(text, range(19, len(text)))
        (trace,) = gemma.forward([text], objective.capture)
        by_hand.append(float(objective.value(trace, frozenset())))
    assert curve.values[0] == pytest.approx(by_hand[0] - by_hand[1], abs=1e-4)
    assert curve.random.shape == (5, 5)
    with pytest.raises(UserError, match="same fractions"):
        salience.curves_contrasted(
            curve, salience.deletion_curve(gemma, texts[0], numbers[0], made.scores, fractions=[0.1])
        )


def test_what_takes_long_says_how_far_it_is_and_stops_where_it_is_told_to() -> None:
    gemma, text = tiny(), tokens_of(100, seed=4)
    objective = objectives.logprob(text, [99])
    calls = {
        34: lambda progress: salience.integrated_gradients(gemma, text, objective, steps=32, progress=progress),
        31: lambda progress: salience.deletion_curve(gemma, text, objective, np.arange(100.0), progress=progress),
    }
    for count, call in calls.items():
        seen: list[tuple[int, int]] = []
        call(lambda *step, seen=seen: seen.append(step))
        assert [of for _, of in seen] == [count] * len(seen)
        assert [done for done, _ in seen] == sorted({done for done, _ in seen})
        assert seen[-1] == (count, count)
        assert len(seen) == 4

        def stop(*step: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            call(stop)
        assert hooks_of(gemma) == 0


def test_a_deletion_curve_is_deletions() -> None:
    gemma, objective = tiny(), objectives.logprob(TEXT, [23])
    scores = salience.leave_one_out(gemma, TEXT, objective).scores
    made = salience.deletion_curve(gemma, TEXT, objective, scores, fractions=(0.05, 0.5), orders=3)
    best = int(np.nanargmax(scores))
    assert abs(made.values[0] - (made.value - scores[best])) < 1e-4
    assert made.random.shape == (3, 2)
    places = salience.deletable(TEXT, objective)
    order = random.Random(0).sample(places, len(places))[:11]
    kept = [at for at in range(24) if at not in order]
    cut = Tokens(tuple(TEXT.ids[at] for at in kept), ((0, 0),) * 13)
    (trace,) = gemma.forward([cut], Capture(logits="all"))
    assert trace.logits is not None
    assert abs(made.random[0, 1] - float(trace.logits[-2].log_softmax(-1)[cut.ids[-1]])) < 1e-4


def test_a_curve_is_judged_where_a_token_of_the_classifiers_is_left() -> None:
    """Tokens 20 to 22 are all that it reads, and the first that go: afterwards there is no number."""
    gemma, objective = tiny(), objectives.classifier(head(64, 8), 20, 23)
    (whole,) = gemma.forward([TEXT], objective.capture)
    scores = np.where(np.isin(np.arange(24), (20, 21, 22)), 1.0, 0.0)
    made = salience.deletion_curve(gemma, TEXT, objective, scores, fractions=(0.05, 0.5), orders=2)
    assert made.value == pytest.approx(float(objective.value(whole, frozenset())), abs=1e-4)
    assert np.isnan(made.values).tolist() == [False, True]
    lower = replace(made, values=np.array([made.random[:, 0].min() - 1, np.nan]))
    assert lower.faithful
    assert not replace(made, values=np.array([np.nan, np.nan])).faithful


def test_words_and_sums() -> None:
    text = "an odd  wordlist, no"
    spans = [(0, 2), (2, 6), (6, 7), (7, 12), (12, 16), (16, 17), (17, 20)]
    groups = salience.words(text, spans)
    assert groups == [[0], [1], [2], [3, 4, 5], [6]]
    sentences = salience.sentences("No. Is it?\nYes", [(0, 3), (3, 7), (7, 10), (10, 11), (11, 14)])
    assert sentences == [[0], [1, 2], [3], [4]]
    scores = np.array([1, 2, np.nan, 3, np.nan, 5, 7.0])
    assert np.allclose(salience.by_group(scores, groups), [1, 2, np.nan, 8, 7], equal_nan=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: objectives.logprob(TEXT, []),
        lambda: objectives.logprob(TEXT, [0]),
        lambda: objectives.logprob(TEXT, [24]),
        lambda: objectives.contrast(TEXT, 24, 1, 2),
        lambda: objectives.classifier(head(8, 2), 4, 4),
        lambda: salience.integrated_gradients(tiny(), TEXT, objectives.logprob(TEXT, [3]), steps=0),
    ],
)
def test_bad_requests(make: Any) -> None:
    with pytest.raises(UserError):
        make()


def test_leave_one_out_reads_two_thirds_of_n_forwards_at_most(embedded: Gemma, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure that matters is time; tokens read are its measure that no busy machine changes."""
    text = embedded.encode("The library is behind the station, next to a small park with old trees. " * 3)
    read = []
    run = embedded.trunk.run
    monkeypatch.setattr(embedded.trunk, "run", lambda ids, *a, **k: (read.append(ids.numel()), run(ids, *a, **k))[1])
    seen: list[Trace] = embedded.forward([text], Capture((3,)))
    assert len(seen) == 1
    read.clear()
    salience.leave_one_out(embedded, text, objectives.logprob(text, [len(text) - 1]))
    assert sum(read) < 0.65 * len(text) ** 2
