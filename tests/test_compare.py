"""Comparing two classifiers: what is noise and what is not, on fixed probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from test_metrics import Fixed, labelled, made, noisy

from classifiers.compare import compare, paired_differences
from classifiers.metrics import METRICS, with_intervals
from safety_kit.errors import DataError


@given(labelled(), st.integers(0, 9))
@settings(max_examples=25)
def test_a_classifier_does_not_differ_from_itself(rows: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    y, p = rows
    for one in paired_differences(y, p, p, seed=seed).values():
        assert one["difference"] == {"value": 0, "low": 0, "high": 0}
        assert one["verdict"] == "noise"


@given(labelled(), st.integers(0, 99))
@settings(max_examples=25)
def test_swapping_the_two_turns_the_sign(rows: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    y, p = rows
    other = np.random.default_rng(seed).permutation(p)
    forth, back = paired_differences(y, p, other), paired_differences(y, other, p)
    turned = {"a": "b", "b": "a", "noise": "noise"}
    for name in METRICS:
        assert forth[name]["difference"]["value"] == pytest.approx(-back[name]["difference"]["value"])
        assert forth[name]["difference"]["low"] == pytest.approx(-back[name]["difference"]["high"])
        assert forth[name]["verdict"] == turned[back[name]["verdict"]]


def test_a_better_one_is_told_and_lower_is_better_for_errors() -> None:
    y, p = noisy(400)
    better = np.clip(0.8 * y + 0.1 + 0.1 * (p - 0.5), 0, 1)
    found = paired_differences(y, p, better)
    assert {name: one["verdict"] for name, one in found.items()} == dict.fromkeys(METRICS, "b")
    assert found["brier"]["difference"]["value"] < 0 < found["auroc"]["difference"]["value"]
    assert found["auroc"]["a"] == pytest.approx(roc_auc_score(y, p))


def test_equally_good_ones_are_noise_about_as_often_as_promised() -> None:
    """Two that rank by the truth and by noise of their own: of 100 pairs, some 5 % are called different."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    called = 0
    for seed in range(100):
        a, b = (1 / (1 + np.exp(-(y - 0.5 + rng.normal(size=120)))) for _ in range(2))
        called += paired_differences(y, a, b, seed=seed)["auroc"]["verdict"] != "noise"
    assert called <= 13  # 5 are expected; a right interval calls 14 or more in one run of 2,000


def test_pairing_is_sharper_than_two_intervals() -> None:
    """B is A with a little less noise: two intervals overlap, the paired difference leaves 0 out."""
    rng = np.random.default_rng(1)
    y = np.arange(300) % 2
    noise = rng.normal(size=300)
    a, b = (1 / (1 + np.exp(-(y + scale * noise))) for scale in (1.0, 0.85))
    of_a, of_b = with_intervals(y, a)["auroc"], with_intervals(y, b)["auroc"]
    assert of_b["low"] < of_a["high"]
    assert paired_differences(y, a, b)["auroc"]["verdict"] == "b"


def test_rows_of_one_group_count_once() -> None:
    y, p = noisy(60)
    other = np.clip(p + np.random.default_rng(5).normal(0, 0.2, 60), 0, 1)
    once = paired_differences(y, p, other)["brier"]["difference"]
    groups = [str(i) for i in range(60) for _ in range(9)]
    many = [np.repeat(values, 9) for values in (y, p, other)]
    together = paired_differences(*many, groups)["brier"]["difference"]
    assert together["high"] - together["low"] == pytest.approx(once["high"] - once["low"], rel=0.2)


def test_lists_of_categories_may_differ() -> None:
    y, p = noisy(40)
    a = Fixed(["rude", "insult"], np.stack([np.full(40, 0.5), p], axis=1))
    b = Fixed(["anything"], p[:, None])
    report = compare(a, b, made(y))
    assert set(report) == {"insult"}
    assert (report["insult"]["n"], report["insult"]["positives"]) == (40, 20)
    assert report["insult"]["metrics"]["auroc"]["difference"]["value"] == 0


def test_nothing_shared_and_one_class_are_told_before_anything_is_scored() -> None:
    class Silent(Fixed):
        def category_probabilities(self, X: object) -> np.ndarray:
            raise AssertionError("scored")

    nothing = np.zeros((2, 1))
    with pytest.raises(DataError, match="one class"):
        compare(Silent(["insult"], nothing), Silent(["insult"], nothing), made([1, 1]))
    with pytest.raises(DataError, match="rude, hate"):
        compare(Silent(["insult"], nothing), Silent(["rude", "hate"], nothing), made([0, 1]))
