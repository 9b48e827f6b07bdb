"""Interventions: an identity changes nothing, an effect is what two plain passes differ by, and it has controls."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_analysis_strip import head
from test_gemma_forward import close, tokens_of
from test_gemma_inside import ADDITIVE, hooks_of
from test_gemma_load import one_thread as one_thread
from test_gemma_load import plain, tiny

from safety_kit.analysis import interventions as module
from safety_kit.analysis import replacing
from safety_kit.analysis.interventions import Watch
from safety_kit.analysis.replacing import Other, Place, replace
from safety_kit.errors import UserError
from safety_kit.gemma import Capture
from safety_kit.testing import FAMILIES
from safety_kit.types import Stage

TEXT, OTHER = tokens_of(30, seed=6), tokens_of(30, seed=7)
WATCH = Watch(29, 100, (head(64, 8),), (4, 28), Stage.INPUT)
SITES: list[Any] = ["heads", "attention", "mlp", "block"]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_identity_patch_changes_nothing(family: str, site: Any) -> None:
    gemma = tiny(family)
    own = module.record(gemma, TEXT, 2, site)
    made = module.measure(gemma, TEXT, [module.patch(2, site, own)], WATCH)
    assert (made.divergence, made.probability, made.classifiers) == (0, 0, {"odd": 0})
    assert hooks_of(gemma) == 0


@pytest.mark.parametrize("family", ADDITIVE)  # Gemma 3n's other streams stay the run's own
def test_a_patched_stream_goes_on_as_the_run_that_it_came_from(family: str) -> None:
    gemma = tiny(family)
    source = module.record(gemma, OTHER, 5, "block")
    changed = gemma.intervene(TEXT, [module.patch(5, "block", source)], Capture(final=True))
    (right,) = gemma.forward([OTHER], Capture(final=True))
    assert close(changed.final, right.final)  # type: ignore[arg-type]
    part = gemma.intervene(TEXT, [module.patch(5, "block", source, [3, 9])], Capture(final=True))
    (own,) = gemma.forward([TEXT], Capture(final=True))
    assert close(part.final[[3, 9]], right.final[[3, 9]])  # type: ignore[index]
    assert close(part.final[[2, 10]], own.final[[2, 10]])  # type: ignore[index]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_zeroed_head_s_effect_is_that_of_zeroed_weights(family: str) -> None:
    """Plain transformers, with the head's columns of the output matrix set to zero."""
    gemma, reference = tiny(family), plain(family)
    made = replace(gemma, TEXT, Place(3, "heads", 1), "zero", WATCH, controls=4)
    decoder = reference.get_decoder()
    matrix = getattr(decoder, "language_model", decoder).layers[3].self_attn.o_proj.weight
    ids = torch.tensor([TEXT.ids])
    with torch.no_grad():
        before = reference(ids, use_cache=False).logits[0, -1].double().log_softmax(-1)
        own = matrix[:, 8:16].clone()
        try:
            matrix[:, 8:16] = 0
            after = reference(ids, use_cache=False).logits[0, -1].double().log_softmax(-1)
        finally:
            matrix[:, 8:16] = own
    divergence = float((before.exp() * (before - after)).sum()) / math.log(2)
    assert abs(made.effect.divergence - divergence) < 1e-4
    assert abs(made.effect.probability - float(after[100].exp() - before[100].exp())) < 1e-5
    assert len(made.controls) == len(set(made.sites)) == 4
    assert "block 3, head 1" not in made.sites
    assert made.stands_out == (made.effect.divergence > max(other.divergence for other in made.controls))


def test_steering_along_a_classifier_moves_its_score_by_the_direction_s_length() -> None:
    gemma, probe = tiny(), head(64, 8, blocks=(3,))
    watch = Watch(29, 100, (probe,), (4, 28), Stage.INPUT)
    direction = module.direction_of(probe, 3)
    assert abs(float(direction.norm()) - 1) < 1e-6
    before, after = (
        gemma.intervene(TEXT, edits, Capture((3,))).hidden[3][4:28].numpy()
        for edits in ([], [module.add(3, 0.5 * direction)])
    )
    moved = probe.token_scores(after) - probe.token_scores(before)
    assert abs(moved - 0.5 * float(torch.from_numpy(probe.weight).norm())).max() < 1e-4
    made = module.steer(gemma, TEXT, 3, direction, 2.0, watch, controls=6)
    assert made.effect.classifiers["odd"] > 0
    assert all(made.effect.classifiers["odd"] >= other.classifiers["odd"] for other in made.controls)
    away = module.steer(gemma, TEXT, 3, direction, -2.0, watch, controls=0)
    assert away.effect.classifiers["odd"] < 0
    assert not away.stands_out


def test_controls_have_equal_length_and_the_same_seed_the_same_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    gemma, seen = tiny(), []
    real = module.add
    monkeypatch.setattr(module, "add", lambda block, vector: (seen.append(vector), real(block, vector))[1])
    for _ in range(2):
        module.steer(gemma, TEXT, 2, torch.randn(32), 3.0, WATCH, controls=3, seed=1)
    assert all(abs(float(v.norm() - seen[0].norm())) < 1e-4 for v in seen[1:4])
    assert torch.allclose(seen[1] / seen[1].norm(), seen[5] / seen[5].norm())


PLACES = [Place(2, "heads", 1), Place(2, "mlp"), Place(2, "block", 9)]


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_activation_of_the_run_itself_changes_nothing(family: str, place: Place) -> None:
    made = replace(tiny(family), TEXT, place, Other(TEXT, place.index), WATCH)
    assert all(effect.divergence < 1e-9 for effect in (made.effect, *made.controls))
    assert made.effect.classifiers == {"odd": 0}


@pytest.mark.parametrize("source", ["zero", "mean", Other(OTHER, 4)], ids=["zero", "mean", "other"])
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_what_is_put_in_a_place_is_there_and_nothing_else_is(place: Place, source: Any) -> None:
    gemma = tiny()
    own, theirs = (module.record(gemma, text, 2, place.site) for text in (TEXT, OTHER))
    wanted: Any = {"zero": torch.zeros_like(own), "mean": own[1:].mean(0).expand_as(own)}.get(
        source if isinstance(source, str) else "", theirs
    )
    expected = own.clone()
    if place.site == "block":
        expected[9] = wanted[4]
    elif place.site == "heads":
        expected[:, 1] = wanted[:, 1]
    else:
        expected = wanted
    by_hand = module.measure(gemma, TEXT, [module.patch(2, place.site, expected)], WATCH)
    made = replace(gemma, TEXT, place, source, WATCH, controls=3)
    assert made.effect.divergence == pytest.approx(by_hand.divergence, rel=1e-4)
    assert made.effect.probability == pytest.approx(by_hand.probability, rel=1e-3)
    assert made.effect.divergence > 0
    assert len(made.controls) == 3
    assert str(place) not in made.sites


def test_a_shorter_run_is_taken_as_far_as_it_goes() -> None:
    gemma, part = tiny(), OTHER.slice(0, 12)
    theirs = module.record(gemma, part, 2, "mlp")
    by_hand = module.measure(gemma, TEXT, [module.patch(2, "mlp", theirs)], WATCH)
    assert replace(gemma, TEXT, Place(2, "mlp"), Other(part), WATCH, controls=0).effect == by_hand
    longer = replace(gemma, part, Place(2, "mlp"), Other(TEXT), Watch(11, 100), controls=0)
    assert longer.effect.divergence > 0


def test_random_directions_are_as_long_as_what_a_token_s_stream_is_changed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    gemma, seen = tiny(), []
    real = replacing.add_at
    monkeypatch.setattr(replacing, "add_at", lambda b, t, v: (seen.append((b, t, v)), real(b, t, v))[1])
    replace(gemma, TEXT, Place(2, "block", 9), Other(OTHER, 4), WATCH, controls=3)
    moved = module.record(gemma, OTHER, 2, "block")[4] - module.record(gemma, TEXT, 2, "block")[9]
    assert [(block, token) for block, token, _ in seen] == [(2, 9)] * 3
    assert all(abs(float(vector.norm() - moved.norm())) < 1e-4 for _, _, vector in seen)


def test_each_change_is_a_step_of_the_progress_and_it_can_be_stopped_there() -> None:
    gemma, seen = tiny(), []
    replace(gemma, TEXT, PLACES[1], "zero", WATCH, controls=2, progress=lambda *step: seen.append(step))
    assert seen == [(1, 3), (2, 3), (3, 3)]

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(gemma, TEXT, PLACES[1], "zero", WATCH, progress=stop)
    assert hooks_of(gemma) == 0


def test_bad_requests() -> None:
    gemma = tiny()
    for call in (
        lambda: replace(gemma, TEXT, Place(6, "mlp"), "zero", WATCH),
        lambda: replace(gemma, TEXT, Place(0, "heads", 4), "zero", WATCH),
        lambda: replace(gemma, TEXT, Place(0, "block", 30), "zero", WATCH),
        lambda: replace(gemma, TEXT, Place(0, "block", 3), Other(OTHER, 30), WATCH),
        lambda: module.direction_of(head(8, 2), 2),
        lambda: module.measure(gemma, TEXT, [], Watch(30, 5)),
    ):
        with pytest.raises(UserError):
            call()
    assert hooks_of(gemma) == 0
