"""Teaching: the estimator's contract, its readings and its numbers, on a tiny Gemma."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score
from test_gemma_load import one_thread  # noqa: F401  (tiny models are slower on two threads)

from classifiers import SafetyClassifier
from classifiers.cache import FeatureCache
from classifiers.calibrate import platt
from classifiers.category import unselected_probabilities
from classifiers.evaluate import calibration_error, recall_at_fpr
from classifiers.features import STRIDE, causal_readings, middle_blocks, own_place, varied_place, window_at
from classifiers.heads import fit_path, make_folds
from safety_kit import artifacts
from safety_kit.checks.probe import Probe, ProbeCheck
from safety_kit.errors import ArtifactError, DataError, UserError
from safety_kit.gemma import Capture, Gemma
from safety_kit.heads import Head, decision_score, reading_ends
from safety_kit.testing import save_tiny_gemma
from safety_kit.types import Sample, Stage


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Gemma:
    return Gemma.load(save_tiny_gemma(tmp_path_factory.mktemp("tiny")))


def toy(n: int = 40, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts that a random Gemma can tell apart: those of label 1 are rich in one letter."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    return ["".join(rng.choice(list("zzzzqx" if label else "abcdef"), 12 + i % 9)) for i, label in enumerate(y)], y


@pytest.fixture(scope="module")
def taught(tiny: Gemma) -> SafetyClassifier:
    return SafetyClassifier(tiny, categories="toy").fit(*toy())


class TestEstimator:
    def test_learns_and_gives_probabilities(self, taught: SafetyClassifier) -> None:
        texts, y = toy(30, seed=1)
        p = taught.predict_proba(texts)
        assert p.shape == (30, 2)
        np.testing.assert_allclose(p.sum(1), 1)
        assert np.mean((p[:, 1] > 0.5) == y) > 0.9
        assert (taught.predict(texts) == (p[:, 1] >= 0.5)).all()
        assert taught.classes_.tolist() == [0, 1]
        assert taught.report_["toy"]["auroc"] > 0.9

    def test_shuffled_labels_teach_nothing(self, tiny: Gemma) -> None:
        texts, y = toy(60)
        shuffled = np.random.default_rng(3).permutation(y)
        report = SafetyClassifier(tiny, categories="toy").fit(texts, shuffled).report_["toy"]
        assert report["auroc"] < 0.75

    def test_what_is_reported_of_a_fold_is_not_chosen_by_its_labels(self) -> None:
        rng = np.random.default_rng(0)
        n, text, stages = 60, np.arange(60), np.array([Stage.INPUT] * 60)
        fold = text < 20
        y, scores = text % 2, rng.normal(size=(3, n))
        before = unselected_probabilities(scores, y, text, stages, [fold, ~fold])
        flipped = np.where(fold, 1 - y, y)
        after = unselected_probabilities(scores, flipped, text, stages, [fold, ~fold])
        np.testing.assert_array_equal(after[fold], before[fold])
        assert not np.allclose(after[~fold], before[~fold])

    def test_is_cloned_without_copying_the_model(self, taught: SafetyClassifier) -> None:
        copy = clone(taught)
        assert copy.gemma is taught.gemma
        assert copy.get_params() == taught.get_params()
        assert not hasattr(copy, "heads_")

    def test_works_in_cross_val_score(self, tiny: Gemma) -> None:
        texts, y = toy()
        assert cross_val_score(SafetyClassifier(tiny, folds=2), texts, y, cv=2, scoring="roc_auc").mean() > 0.8

    def test_several_categories_with_unknown_labels(self, tiny: Gemma) -> None:
        texts, y = toy(60)
        labels = np.stack([y, 1 - y], axis=1).astype(float)
        labels[::3, 1] = np.nan
        several = SafetyClassifier(tiny, categories=["a", "b"]).fit(texts, labels)
        p = several.predict_proba(texts)
        assert p.shape == (60, 2)
        assert np.corrcoef(p[:, 0], p[:, 1])[0, 1] < -0.8
        assert several.fitted_["b"].positives + several.fitted_["b"].negatives == 40

    def test_a_missing_label_is_not_a_negative(self, tiny: Gemma) -> None:
        texts, y = toy(60)
        extra = toy(80, seed=5)[0][1::2]  # more positives, all unlabelled
        alone = SafetyClassifier(tiny, categories="toy").fit(texts, y)
        joined = SafetyClassifier(tiny, categories="toy").fit(
            texts + extra, np.concatenate([y.astype(float), np.full(len(extra), np.nan)])
        )
        np.testing.assert_allclose(joined.heads_["toy"].weight, alone.heads_["toy"].weight, rtol=1e-3, atol=1e-6)

    def test_replies_are_read_with_their_prompt(self, taught: SafetyClassifier) -> None:
        p = taught.category_probabilities([("qqqq qqq", "abcabcabc"), ("zzzzzz", "abcabcabc"), "abcabcabc"])[:, 0]
        assert len({round(value, 9) for value in p}) == 3

    def test_alone_reads_a_question(self, tiny: Gemma) -> None:
        texts, y = toy()
        alone = SafetyClassifier(tiny, reading="alone", categories="toy").fit(texts, y)
        assert alone.report_["toy"]["auroc"] > 0.8
        assert "toy" in alone.question_

    def test_a_known_classifier_helps_and_is_recorded(self, tiny: Gemma, tmp_path: Path) -> None:
        source = SafetyClassifier(tiny, categories="toy", known=None).fit(*toy(200, seed=7)).save(tmp_path / "toy")
        texts, y = toy(8, seed=8)
        more, truth = toy(200, seed=9)
        quality = {}
        for name, known in (("none", None), ("toy", [tmp_path / "toy"])):
            classifier = SafetyClassifier(tiny, categories="new", known=known).fit(texts, y)
            quality[name] = roc_auc_score(truth, classifier.predict_proba(more)[:, 1])
        assert quality["toy"] >= quality["none"]
        assert classifier.sources_ == {"toy": source.digest}

    def test_a_known_classifier_of_another_model_is_left_out(self, taught: SafetyClassifier, tmp_path: Path) -> None:
        taught.save(tmp_path / "toy")
        other = Gemma.load(save_tiny_gemma(tmp_path / "other", seed=1))
        assert SafetyClassifier(other, known=[tmp_path / "toy"]).fit(*toy()).sources_ == {}

    @pytest.mark.parametrize(
        ("texts", "y", "words"),
        [
            (["a", "b", "c"], [1, 1, 1], "one class"),
            (["a", "b", "c", "d"], [1, 0, 0, 0], "at least 2"),
            (["a", "b"], [1, 2], "0, 1 or NaN"),
            (["a", "b"], ["x", "y"], "0, 1 or NaN"),
            (["a", "b"], [1, 0, 1], "shape"),
        ],
    )
    def test_bad_labels_are_refused(self, tiny: Gemma, texts: list[str], y: list[object], words: str) -> None:
        with pytest.raises(DataError, match=words):
            SafetyClassifier(tiny).fit(texts, y)

    def test_an_unknown_reading_is_refused(self, tiny: Gemma) -> None:
        with pytest.raises(UserError, match="causal"):
            SafetyClassifier(tiny, reading="sideways").fit(*toy())  # type: ignore[arg-type]

    def test_a_text_without_tokens_holds_nothing(self, taught: SafetyClassifier) -> None:
        assert taught.predict_proba(["", "zzzz"])[0].tolist() == [1, 0]


class TestArtifact:
    def test_round_trip(self, taught: SafetyClassifier, tiny: Gemma, tmp_path: Path) -> None:
        taught.save(tmp_path / "toy", notes="Toy.")
        again = SafetyClassifier.load(tmp_path / "toy", tiny)
        texts, _ = toy(10, seed=2)
        np.testing.assert_allclose(again.predict_proba(texts), taught.predict_proba(texts), atol=1e-6)
        card = (tmp_path / "toy" / "card.md").read_text()
        assert "Toy." in card
        assert "Platt scaling on held-out folds (toy: 40 texts at input, 40 texts at output)" in card
        assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]

    def test_the_manifest_names_the_calibration_and_its_sample(self, taught: SafetyClassifier, tmp_path: Path) -> None:
        taught.save(tmp_path / "toy")
        manifest = json.loads((tmp_path / "toy" / "manifest.json").read_text())
        scale = manifest["categories"]["toy"]["calibration"]["input"]
        assert (scale["method"], scale["n"]) == ("platt", len(toy()[0]))
        for at in manifest["categories"]["toy"]["calibration"].values():  # as artifacts were before
            del at["method"], at["n"]
        (tmp_path / "toy" / "manifest.json").write_text(json.dumps(manifest))
        old = artifacts.load(tmp_path / "toy").heads["toy"].calibration[Stage.INPUT]
        assert (old.slope, old.intercept, old.n) == (scale["slope"], scale["intercept"], None)

    def test_replaces_an_artifact_but_nothing_else(self, taught: SafetyClassifier, tmp_path: Path) -> None:
        taught.save(tmp_path / "toy")
        taught.save(tmp_path / "toy")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("keep")
        with pytest.raises(ArtifactError, match="no classifier folder"):
            taught.save(tmp_path / "mine")
        assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"

    def test_another_models_is_refused(self, taught: SafetyClassifier, tmp_path: Path) -> None:
        taught.save(tmp_path / "toy")
        other = Gemma.load(save_tiny_gemma(tmp_path / "other", seed=1))
        with pytest.raises(ArtifactError, match="prepare"):
            SafetyClassifier.load(tmp_path / "toy", other)

    def test_the_guards_probe_scores_as_the_classifier_does(self, taught: SafetyClassifier, tiny: Gemma) -> None:
        texts = [*toy(8, seed=4)[0], "z" * 300, "ab " * 200 + "zzzzqzzx" * 12]
        check = ProbeCheck([Probe("toy", taught.heads_["toy"], frozenset(Stage))], tiny)
        by_guard = [found[0].score for found in check.run([Sample(text) for text in texts])]
        np.testing.assert_allclose(by_guard, taught.category_probabilities(texts)[:, 0], atol=1e-6)
        replies = [("hello", text) for text in texts]
        samples = [Sample(text, "assistant", Stage.OUTPUT, "hello") for text in texts]
        by_guard = [found[0].score for found in check.run(samples)]
        np.testing.assert_allclose(by_guard, taught.category_probabilities(replies)[:, 0], atol=1e-6)


class TestReadings:
    def test_pooling_is_the_mean_of_the_texts_own_tokens(self, tiny: Gemma) -> None:
        text = "the cat in the can"
        [reading] = causal_readings(tiny, [text], (1, 3), varied=False)
        [[view]] = tiny.trace_texts([(None, text, "user")], Capture((1, 3)))
        np.testing.assert_allclose(reading.whole[1], view.hidden(3).mean(0).numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(reading.windows[0], reading.whole, rtol=1e-5, atol=1e-6)

    def test_a_varied_place_is_another_one(self, tiny: Gemma) -> None:
        texts = [f"text number {n}" for n in range(20)]
        places = [varied_place(None, text) for text in texts]
        assert len({place.context for place in places}) >= 4
        assert all(place != own_place(None) for place in places)
        readings = causal_readings(tiny, texts, (2,), varied=True)
        assert [reading.row for reading in readings] == [row for row in range(20) for _ in range(2)]
        assert any(reading.stage is Stage.OUTPUT for reading in readings)

    def test_a_cache_changes_nothing(self, tiny: Gemma, tmp_path: Path) -> None:
        cache = FeatureCache(tmp_path)
        first = causal_readings(tiny, ["abc", "def"], (2,), varied=True, cache=cache)
        again = causal_readings(tiny, ["def", "abc", "def"], (2,), varied=True, cache=cache)
        assert len(list(tmp_path.glob("*/*"))) == 4
        by_row = {r: [x.whole for x in again if x.row == r] for r in range(3)}
        np.testing.assert_array_equal(by_row[1], [x.whole for x in first if x.row == 0])
        np.testing.assert_array_equal(by_row[0], by_row[2])

    @given(st.integers(1, 600), st.sampled_from(list(Stage)))
    def test_readings_cover_every_token(self, length: int, stage: Stage) -> None:
        window = window_at(stage)
        ends = reading_ends(length, stage, window, STRIDE)
        covered = {token for end in ends for token in range(max(0, end - window), end)}
        assert covered == set(range(length))
        assert ends == sorted(set(ends))

    @given(st.lists(st.floats(-5, 5), min_size=1, max_size=300), st.sampled_from(list(Stage)))
    def test_the_decision_is_the_largest_window_mean(self, values: list[float], stage: Stage) -> None:
        scores = np.array(values, dtype=np.float32)
        naive = max(scores[max(0, e - 64) : e].mean(dtype=np.float64) for e in reading_ends(len(scores), stage, 64, 8))
        assert decision_score(scores, 0.5, stage, 64, 8)[0] == pytest.approx(naive + 0.5, abs=1e-5)


class TestNumbers:
    @given(st.integers(0, 1000))
    @settings(max_examples=20)
    def test_platt_recovers_a_known_scale(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        scores = rng.normal(size=4000) * 3
        y = (rng.random(4000) < 1 / (1 + np.exp(-(1.5 * scores - 0.5)))).astype(np.int64)
        scale = platt(y, scores)
        prior = np.log(np.sum(y == 1) / np.sum(y == 0))
        assert scale.slope == pytest.approx(1.5, rel=0.15)
        assert scale.intercept == pytest.approx(-0.5 - prior, abs=0.25)

    def test_platt_never_turns_the_scores_round(self) -> None:
        scale = platt(np.array([0, 0, 1, 1]), np.array([3.0, 2.0, 1.0, 0.0]))
        assert scale.slope > 0

    def test_a_false_positive_budget_is_kept(self) -> None:
        """Over 400 draws of 200 negatives, the mean rate on fresh ones is below the budget: most draws keep it."""
        rng = np.random.default_rng(0)
        rates = []
        for _ in range(400):
            seen = rng.normal(size=200).astype(np.float32)
            head = Head(
                "x",
                (0,),
                np.zeros(1, np.float32),
                0.0,
                {Stage.INPUT: platt(np.array([0, 1]), np.array([0.0, 1.0]))},
                {Stage.INPUT: np.sort(seen)},
                64,
                8,
            )
            threshold = head.threshold_for(0.02, Stage.INPUT)
            fresh = np.array([head.probability(s, Stage.INPUT) for s in rng.normal(size=200)])
            rates.append(np.mean(fresh > threshold))
        assert np.mean(rates) <= 0.02 + 3 * np.std(rates) / 20
        assert np.mean(rates) > 0.003

    def test_an_unsupported_budget_is_an_error(self, taught: SafetyClassifier) -> None:
        with pytest.raises(ArtifactError, match="at least 2995"):
            taught.heads_["toy"].threshold_for(0.001, Stage.INPUT)

    def test_folds_keep_groups_together(self) -> None:
        y = np.arange(60) % 2
        groups = [f"pair {i // 2}" for i in range(60)]
        parts = make_folds(y, groups, 5, 0)
        assert sorted(int(i) for part in parts for i in part) == list(range(60))
        for part in parts:
            inside = {groups[i] for i in part}
            assert all(i in part for i in range(60) if groups[i] in inside)

    def test_fit_in_the_rows_span_is_the_plain_fit(self) -> None:
        from sklearn.linear_model import LogisticRegression

        rng = np.random.default_rng(0)
        x = (rng.normal(size=(60, 200)) * rng.uniform(0.1, 9, 200) + 3).astype(np.float32)
        y = (x[:, 0] > 3).astype(np.int64)
        [head] = fit_path(x, y, np.ones(60), [0.01])
        standard = (x - x.mean(0)) / (x.std(0) + 1e-6)
        plain = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000, tol=1e-8).fit(standard, y)
        np.testing.assert_allclose(head(x), plain.decision_function(standard), atol=5e-3)

    def test_metrics_by_hand(self) -> None:
        y, p = np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.55, 0.9])
        assert recall_at_fpr(y, p, 0.0) == 0.5
        assert recall_at_fpr(y, p, 0.34) == 1.0
        assert calibration_error(np.array([0, 1]), np.array([0.0, 1.0])) == 0
        assert calibration_error(np.array([0, 0]), np.array([0.95, 0.95])) == pytest.approx(0.95)

    def test_blocks_fit_any_depth(self) -> None:
        assert middle_blocks(18) == (6, 7, 8, 9, 10, 11, 12, 13)
        for depth in (1, 2, 4, 6, 26, 62):
            blocks = middle_blocks(depth)
            assert 1 <= len(blocks) <= 8
            assert all(0 <= block < depth for block in blocks)
            assert list(blocks) == sorted(set(blocks))
