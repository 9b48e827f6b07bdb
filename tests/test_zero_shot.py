"""The policy-only rung: an estimator of 0 examples, and what labelled rows say of a guideline."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from test_gemma_load import one_thread as one_thread
from test_gemma_load import tiny, tiny_folder

from classifiers import PolicyOnly, read_examples
from classifiers.data import Examples
from classifiers.evaluate import evaluate
from classifiers.zero_shot import evidence
from safety_kit.errors import DataError
from safety_kit.evidence import BLOCKS_ABOVE, ENOUGH, Evidence, Guideline
from safety_kit.gemma.judge import log_odds, yes_probability
from safety_kit.policy import Policy
from safety_kit.types import Stage

RUDE = Guideline("rude", "The text shall not insult anybody.")
TEXTS = [f"{chr(97 + i % 26) * (1 + i % 5)} the cat {i}" for i in range(2 * ENOUGH)]


def rows(path: Path, texts: list[str], labels: list[int], prompt: str | None = None) -> Examples:
    asked = {} if prompt is None else {"prompt": prompt}
    lines = [json.dumps({"text": text, "label": y, **asked}) for text, y in zip(texts, labels, strict=True)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_examples(path)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifiers.metrics.RESAMPLES", 50)


@functools.cache
def opinion() -> list[float]:
    return yes_probability(tiny(), TEXTS, RUDE)


@pytest.fixture
def p() -> list[float]:
    """Made once, but in a test: only there is torch down to one thread."""
    return opinion()


def agreeing(p: list[float]) -> list[int]:
    """The labels that the model itself would give: half of the texts."""
    return [int(value > float(np.median(p))) for value in p]


class TestPolicyOnly:
    def test_gives_the_probabilities_of_yes(self, p: list[float]) -> None:
        rung = PolicyOnly(tiny(), guideline=RUDE)
        both = rung.predict_proba(TEXTS)
        assert both.shape == (len(TEXTS), 2)
        np.testing.assert_allclose(both[:, 1], p, atol=1e-5)
        np.testing.assert_allclose(both.sum(1), 1)
        assert (rung.predict(TEXTS) == (both[:, 1] >= 0.5)).all()
        assert rung.predict_proba([]).shape == (0, 2)
        pair = rung.predict_proba([("why?", "the cat")])[0, 1]
        assert pair == pytest.approx(yes_probability(tiny(), [("why?", "the cat")], RUDE)[0], abs=1e-6)

    def test_is_an_estimator_that_learns_nothing(self) -> None:
        rung = PolicyOnly(str(tiny_folder()), guideline=RUDE)
        again = clone(rung).fit(["a"], [1])
        assert again.guideline == RUDE
        assert (again.predict_proba(TEXTS[:2]) == rung.predict_proba(TEXTS[:2])).all()
        assert again.classes_.tolist() == [0, 1]
        assert again.categories_ == ("rude",)

    def test_is_evaluated_like_a_taught_one(self, p: list[float], tmp_path: Path) -> None:
        report = evaluate(PolicyOnly(tiny(), guideline=RUDE), rows(tmp_path / "rude.jsonl", TEXTS, agreeing(p)))  # type: ignore[arg-type]
        assert report["rude"]["auroc"]["value"] > 0.99  # type: ignore[index]


class TestEvidence:
    def test_holds_figures_and_digests_and_no_rows(self, p: list[float], tmp_path: Path) -> None:
        examples = rows(tmp_path / "mine.jsonl", TEXTS, agreeing(p))
        found = evidence(tiny(), RUDE, examples)
        read = Evidence.model_validate_json(json.dumps(found))
        assert read.guideline_digest == RUDE.digest
        assert (read.model.name, read.model.digest) == (tiny().name, tiny().digest)
        assert read.data_digest == examples.digest
        assert set(read.stages) == {Stage.INPUT}
        one = read.stages[Stage.INPUT]
        assert (one.positives, one.negatives) == (ENOUGH, ENOUGH)
        assert one.auroc.low > BLOCKS_ABOVE
        assert read.may_block(Stage.INPUT)
        assert not read.may_block(Stage.OUTPUT)
        assert not any(text in json.dumps(found) for text in TEXTS)

    def test_the_calibration_is_of_the_log_odds(self, p: list[float], tmp_path: Path) -> None:
        labels = agreeing(p)
        found = evidence(tiny(), RUDE, rows(tmp_path / "rude.jsonl", TEXTS, labels))
        scale = Evidence.model_validate(found).stages[Stage.INPUT].calibration
        z = scale.slope * np.array(log_odds(tiny(), TEXTS, RUDE)) + scale.intercept
        assert ((z > 0) == np.array(labels)).mean() > 0.9

    def test_labels_that_have_nothing_to_do_with_it_let_nothing_block(self, p: list[float], tmp_path: Path) -> None:
        shuffled = np.random.default_rng(3).permutation(agreeing(p)).tolist()
        found = evidence(tiny(), RUDE, rows(tmp_path / "rude.jsonl", TEXTS, shuffled))
        auroc = found["stages"]["input"]["auroc"]
        assert auroc["low"] < 0.5 < auroc["high"]
        assert not Evidence.model_validate(found).may_block(Stage.INPUT)

    def test_replies_are_evidence_for_the_output(self, p: list[float], tmp_path: Path) -> None:
        replies = rows(tmp_path / "rude.jsonl", TEXTS, agreeing(p), prompt="why?")
        both = Examples.concat(rows(tmp_path / "rude.jsonl", TEXTS, agreeing(p)), replies)
        assert set(evidence(tiny(), RUDE, replies)["stages"]) == {"output"}
        assert set(evidence(tiny(), RUDE, both)["stages"]) == {"input", "output"}

    def test_it_needs_enough_rows_of_each_label(self, p: list[float], tmp_path: Path) -> None:
        for drop in (0, 1):
            kept = [i for i, y in enumerate(agreeing(p)) if y == drop][1:] + [
                i for i, y in enumerate(agreeing(p)) if y != drop
            ]
            few = rows(tmp_path / "rude.jsonl", [TEXTS[i] for i in kept], [agreeing(p)[i] for i in kept])
            with pytest.raises(DataError, match="at least 20 rows of label 1 and 20 of label 0"):
                evidence(tiny(), RUDE, few)

    def test_it_takes_the_guidelines_category(self, p: list[float], tmp_path: Path) -> None:
        one = rows(tmp_path / "rude.jsonl", TEXTS, agreeing(p))
        other = rows(tmp_path / "other.jsonl", TEXTS, [1 - y for y in agreeing(p)])
        both = Examples.concat(one, other)
        assert evidence(tiny(), RUDE, both)["stages"]["input"]["auroc"]["value"] > 0.9
        with pytest.raises(DataError, match="The rows label rude, other"):
            evidence(tiny(), Guideline("third", RUDE.text), both)

    def test_what_is_written_serves_a_policy(self, p: list[float], tmp_path: Path) -> None:
        from safety_kit.guard import Guard

        found = evidence(tiny(), RUDE, rows(tmp_path / "rude.jsonl", TEXTS, agreeing(p)))
        (tmp_path / "e.json").write_text(json.dumps(found), encoding="utf-8")
        policy = Policy.parse(
            f"""
version: 1
name: judged
checks: {{rude: {{type: judge, guideline: '{RUDE.text}', evidence: e.json}}}}
rules: [{{category: rude, stages: [input], action: block, threshold: 0.5}}]
""",
            tmp_path,
        )
        blocked = [verdict.blocked for verdict in map(Guard(policy, tiny()).check_text, TEXTS)]
        assert np.mean(np.array(blocked) == np.array(agreeing(p))) > 0.9
