"""The figures: against scikit-learn and by hand, what every interval keeps to, floors, slices and the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from classifiers import floors, metrics
from classifiers.data import Examples
from classifiers.evaluate import ENOUGH, NAMED, evaluate, measure, shared_categories
from classifiers.metrics import METRICS, at_prevalence, bootstrap, recall_at_fpr, reliability, scores, with_intervals
from safety_kit.errors import DataError


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels of both classes and probabilities with many ties."""
    rest = draw(st.lists(st.integers(0, 1), max_size=30))
    y = np.array(draw(st.permutations([0, 1, *rest])))
    p = draw(st.lists(st.integers(0, 12), min_size=len(y), max_size=len(y)))
    return y, np.array(p) / 12


def made(
    labels: Sequence[float], *, groups: Sequence[str] | None = None, texts: Sequence[str] | None = None, **slices: Any
) -> Examples:
    n = len(labels)
    return Examples(
        texts=tuple(texts or [f"text {i}" for i in range(n)]),
        prompts=(None,) * n,
        categories=("insult",),
        labels=np.array(labels, dtype=float)[:, None],
        held_out=np.zeros(n, dtype=bool),
        groups=tuple(groups or [str(i) for i in range(n)]),
        slices={name: tuple(values) for name, values in slices.items()},
    )


def test_f1_threshold_is_half_the_expected_f1_and_the_best_of_all() -> None:
    rng = np.random.default_rng(1)
    p = rng.beta(0.7, 0.9, 4000)
    y = (rng.random(4000) < p).astype(int)
    best = metrics.f1_threshold(p)
    reached = f1_score(y, p >= best)
    assert best == pytest.approx(reached / 2, abs=0.02)
    assert reached >= max(f1_score(y, p >= t) for t in np.linspace(0.05, 0.95, 19)) - 0.005
    assert reached > f1_score(y, p >= 0.5) + 0.01


def noisy(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    return y, np.clip(0.3 * y + 0.7 * rng.random(n), 0, 1)


class Fixed:
    """A classifier that says what it was told to."""

    def __init__(self, categories: Sequence[str], p: np.ndarray) -> None:
        self.categories_ = categories
        self.p = p

    def category_probabilities(self, X: Sequence[Any]) -> np.ndarray:
        return self.p


# --- values ---


@given(labelled())
def test_the_values_are_scikit_learns(rows: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = rows
    found = scores(y, p)
    assert found["auroc"] == pytest.approx(roc_auc_score(y, p))
    assert found["au_prc"] == pytest.approx(average_precision_score(y, p))
    assert found["f1"] == pytest.approx(f1_score(y, p >= 0.5))
    assert found["macro_f1"] == pytest.approx(f1_score(y, p >= 0.5, average="macro"))
    assert found["brier"] == pytest.approx(brier_score_loss(y, p))


def test_by_hand() -> None:
    y = np.array([1, 1, 1, 0, 0, 0, 0])
    p = np.array([0.9, 0.6, 0.2, 0.7, 0.3, 0.2, 0.1])
    found = scores(y, p)
    assert found["auroc"] == pytest.approx((4 + 3 + 1.5) / 12)
    assert found["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 * 3 / (2 * 3 + 2)) / 2)
    assert found["recall_at_1pct_fpr"] == pytest.approx(1 / 3)
    assert recall_at_fpr(y, p, 0.25) == pytest.approx(2 / 3)
    # bins of a tenth: each probability alone in its bin, but for the two at 0.2
    gaps = [0.1, 0.4, abs(0.5 - 0.2) * 2, 0.7, 0.3, 0.1]
    assert found["ece"] == pytest.approx(sum(gaps) / 7)


@given(labelled())
def test_recall_at_a_rate_is_that_of_a_threshold_that_keeps_it(rows: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = rows
    for fpr in (0.01, 0.2, 0.5):
        found = [
            float(np.mean(p[y == 1] > t)) for t in [*p, -1.0] if np.sum(p[y == 0] > t) <= int(fpr * np.sum(y == 0))
        ]
        assert recall_at_fpr(y, p, fpr) == pytest.approx(max(found))


@given(labelled(), st.integers(0, 99))
def test_values_do_not_depend_on_the_order_and_are_shares(rows: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    y, p = rows
    order = np.random.default_rng(seed).permutation(len(y))
    found = scores(y, p)
    assert scores(y[order], p[order]) == pytest.approx(found)
    assert all(-1e-12 <= value <= 1 + 1e-12 for value in found.values())
    assert scores(1 - y, 1 - p)["auroc"] == pytest.approx(found["auroc"])


@given(labelled())
def test_counts_are_repeated_rows(rows: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = rows
    counts = np.arange(len(y)) % 3 + 1
    drawn = metrics.Ranked.of(y, p, counts[None].astype(float))
    again = scores(np.repeat(y, counts), np.repeat(p, counts))
    assert {name: float(metric(drawn)[0]) for name, metric in METRICS.items()} == pytest.approx(again)


def test_one_class_is_refused() -> None:
    for measured in (scores, with_intervals):
        with pytest.raises(DataError, match="one class"):
            measured(np.ones(4, dtype=int), np.full(4, 0.5))


# --- intervals ---


@given(labelled(), st.integers(0, 9))
@settings(max_examples=25)
def test_an_interval_holds_its_value(rows: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    y, p = rows
    for name, one in with_intervals(y, p, seed=seed).items():
        assert -1e-12 <= one["low"] <= one["value"] <= one["high"] <= 1 + 1e-12, name


def test_a_seed_decides_the_interval_and_blocks_of_resamples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    y, p = noisy()
    first = with_intervals(y, p)
    assert with_intervals(y, p) == first
    assert with_intervals(y, p, seed=1) != first
    monkeypatch.setattr(metrics, "_CELLS", len(y) * 7)
    in_blocks = with_intervals(y, p)
    assert in_blocks["auroc"]["low"] == pytest.approx(first["auroc"]["low"], abs=0.02)
    assert {len(values) for values in bootstrap(y, [p])[0].values()} == {metrics.RESAMPLES}


def test_the_interval_is_that_of_theory() -> None:
    """Brier's mean over rows: the interval is that of a mean, 1.96 standard errors within each class."""
    y, p = noisy(1000)
    error = (p - y) ** 2
    spread = np.sqrt(sum(0.25 * error[y == label].var() / 500 for label in (0, 1)))
    found = with_intervals(y, p)["brier"]
    assert (found["high"] - found["low"]) / 2 == pytest.approx(1.96 * spread, rel=0.1)


def test_rows_of_one_group_are_drawn_together() -> None:
    """Every row four times in a group of its own is no more evidence than once: the interval stays as wide."""
    y, p = noisy(100)
    once = with_intervals(y, p)["auroc"]
    groups = [str(i) for i in range(100) for _ in range(4)]
    four = np.repeat(y, 4), np.repeat(p, 4)
    together, apart = with_intervals(*four, groups)["auroc"], with_intervals(*four)["auroc"]
    width = once["high"] - once["low"]
    assert together["high"] - together["low"] == pytest.approx(width, rel=0.15)
    assert apart["high"] - apart["low"] == pytest.approx(width / 2, rel=0.15)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=12), st.integers(0, 9))
@settings(max_examples=30)
def test_no_resample_lacks_a_class_whatever_the_groups(names: list[int], seed: int) -> None:
    y = np.arange(len(names)) % 2
    drawn = bootstrap(y, [np.linspace(0, 1, len(y))], [str(name) for name in names], seed=seed, resamples=50)
    assert all(np.isfinite(values).all() for values in drawn[0].values())


# --- calibration ---


@given(labelled())
def test_reliability_is_scikit_learns_curve(rows: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = rows
    p = (p * 12 + 0.37) / 13  # off the bins' edges, which scikit-learn counts to the other side
    curve = reliability(y, p)
    was, said = calibration_curve(y, p, n_bins=10)
    assert [point["was"] for point in curve] == pytest.approx(was.tolist())
    assert [point["said"] for point in curve] == pytest.approx(said.tolist())
    assert sum(point["n"] for point in curve) == len(y)
    assert all(point["low"] <= point["was"] + 1e-12 and point["was"] - 1e-12 <= point["high"] for point in curve)
    assert all(point["from"] <= point["said"] <= point["to"] for point in curve)
    gap = sum(point["n"] * abs(point["was"] - point["said"]) for point in curve) / len(y)
    assert scores(y, p)["ece"] == pytest.approx(gap)


def test_moving_the_prevalence_calibrates_rows_of_another_share() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(20000) < 0.1).astype(int)
    x = rng.normal(size=len(y)) + 2 * y
    p = 1 / (1 + np.exp(-(2 * x - 2)))  # exact for these Gaussians at a share of one half
    assert scores(y, p)["ece"] > 0.05
    assert scores(y, at_prevalence(p, 0.1))["ece"] < 0.01
    np.testing.assert_allclose(at_prevalence(p, 0.5), p)


# --- floors ---


def test_constant_positive_has_the_f1_of_the_share() -> None:
    y = np.array([1] * 3 + [0] * 7)
    found = scores(y, floors.constant_positive(10))
    assert found["f1"] == pytest.approx(2 * 0.3 / 1.3)
    assert (found["auroc"], found["recall_at_1pct_fpr"]) == (0.5, 0)
    assert found["au_prc"] == pytest.approx(0.3)


def test_tfidf_learns_words_but_never_the_row_itself() -> None:
    things = [f"{colour} {thing}" for colour in ("red", "blue", "old") for thing in ("lamp", "pan", "gate", "tent")]
    pairs = [(None, f"where is the {thing}") for thing in things] + [
        (None, f"you fool, the {thing}") for thing in things
    ]
    y = np.repeat([0, 1], len(things))
    own = [str(i) for i in range(len(y))]
    p = floors.tfidf(pairs, y, own)
    assert p is not None
    assert roc_auc_score(y, p) > 0.95
    # Each text says one thing of its own and its label is a coin: whoever has seen the row knows, nobody else.
    rng = np.random.default_rng(0)
    coins = rng.permutation(np.repeat([0, 1], 40))
    secret = [(None, f"word{i}") for i in range(80) for _ in range(2)]
    grouped = floors.tfidf(secret, np.repeat(coins, 2), [str(i) for i in range(80) for _ in range(2)])
    assert grouped is not None
    assert roc_auc_score(np.repeat(coins, 2), grouped) < 0.65


def test_tfidf_needs_two_groups_a_label_and_reads_any_sign() -> None:
    assert floors.tfidf([(None, "a"), (None, "b"), (None, "c")], np.array([0, 0, 1]), ["1", "2", "3"]) is None
    signs = [(None, text) for text in ("!", "?", "…", "中", "🙂", ";", "+", "-")]
    p = floors.tfidf(signs, np.arange(8) % 2, list("abcdefgh"))
    assert p is not None
    assert np.isfinite(p).all()


# --- the report ---


def test_slices_with_enough_rows_have_figures_and_the_others_are_named() -> None:
    y, p = noisy(100)
    language = ["en"] * 60 + ["de"] * 30 + ["fr"] * 8 + [None] * 2
    report = measure(y, p, made(y, lang=language, row=[str(i) for i in range(100)]))
    found = report["slices"]["lang"]
    assert set(found["values"]) == {"en", "de"}
    english = found["values"]["en"]
    assert (english["n"], english["positives"]) == (60, 30)
    assert english["auroc"]["value"] == pytest.approx(roc_auc_score(y[:60], p[:60]))
    assert english["floors"]["constant_positive"]["f1"]["value"] == pytest.approx(2 / 3)
    assert found["too_few"] == {"values": 1, "rows": 8, "named": {"fr": {"n": 8, "positives": 4}}}
    each = report["slices"]["row"]
    assert each == {"values": {}, "too_few": {"values": 100, "rows": 100, "named": {}}}
    assert NAMED < 100
    assert ENOUGH > 4


def test_the_floors_stand_beside_the_figures_on_the_same_rows() -> None:
    y, p = noisy(80)
    texts = [f"{'you fool' if label else 'good day'} number {i}" for i, label in enumerate(y)]
    report = measure(y, p, made(y, texts=texts))
    assert set(report["floors"]) == {"constant_positive", "tfidf_logistic_regression"}
    assert report["floors"]["tfidf_logistic_regression"]["auroc"]["value"] > report["auroc"]["value"]
    assert {*METRICS} < set(report)
    assert all(set(floor) == {*METRICS} for floor in report["floors"].values())
    assert report["prevalence"]["probabilities"] == report["prevalence"]["rows"] == 0.5
    assert report["prevalence"]["ece_moved_to_rows"]["value"] == pytest.approx(report["ece"]["value"])


def test_without_enough_groups_the_floor_of_words_is_left_out() -> None:
    y, p = noisy(20)
    report = measure(y, p, made(y, groups=["all"] * 20))
    assert set(report["floors"]) == {"constant_positive"}


def test_evaluate_takes_the_rows_that_say_something() -> None:
    y, p = noisy(60)
    labels = y.astype(float)
    labels[:10] = np.nan
    said = np.stack([1 - p, p], axis=1)
    said[11, 1] = np.nan  # a text without tokens holds nothing
    report = evaluate(Fixed(["other", "insult"], said), made(labels))
    assert set(report) == {"insult"}
    assert report["insult"]["n"] == 50
    expected = np.nan_to_num(said[10:, 1])
    assert report["insult"]["auroc"]["value"] == pytest.approx(roc_auc_score(y[10:], expected))


def test_categories_are_matched_by_name_or_where_there_is_one_each() -> None:
    rows = made([0, 1])
    p = np.zeros((2, 1))
    assert shared_categories(rows, Fixed(["rude"], p)) == {"insult": [0]}
    assert shared_categories(rows, Fixed(["rude", "insult"], p), Fixed(["rude"], p)) == {"insult": [1, 0]}
    with pytest.raises(DataError, match="--category"):
        shared_categories(rows, Fixed(["rude", "hate"], p))
    with pytest.raises(DataError, match="one class"):
        evaluate(Fixed(["insult"], p), made([1, 1]))
