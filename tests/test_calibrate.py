"""Calibrating on a log: what a guard then stops of fresh texts, and which calibrations it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from guard_helpers import KEY, SIZE, FakeGemma, make_artifact
from safetensors.numpy import load as load_tensors

from safety_kit import artifacts, traffic
from safety_kit.budget import CONFIDENCE, smallest_supported, tolerance_rank
from safety_kit.checks.probe import Probe, ProbeCheck, load_probes
from safety_kit.errors import ArtifactError, DataError, PolicyError
from safety_kit.guard import Guard
from safety_kit.heads import Head
from safety_kit.policy import Policy
from safety_kit.thresholds import Calibrated, Calibration, Thresholds
from safety_kit.traffic import Scores, calibrate, margins, read_log
from safety_kit.types import Sample, Stage

POLICY = """
version: 1
name: budgeted
checks:
  loud: {type: probe, artifact: ./loud}
  odd: {type: probe, artifact: ./odd}
  secrets: {type: secrets}
rules:
  - {category: loud, action: block}
  - {category: odd, stages: [input], action: block}
  - {category: secrets.*, action: block}
budget: {blocked_harmless: 0.05}
calibration: calibration.json
"""


def write_artifact(folder: Path, category: str, activation: int, n: int = 400) -> Path:
    """A classifier that reads one activation of block 2, with negatives as random texts give them."""
    make_artifact(folder, [category], n=n)
    artifact = artifacts.load(folder)
    tensors = load_tensors((folder / "weights.safetensors").read_bytes())
    weight = np.zeros(2 * SIZE, np.float32)
    weight[SIZE + activation] = 1.0
    tensors[f"weight.{category}"] = weight
    artifacts.save(folder, artifact.manifest.model_dump(exclude={"checksums"}), tensors, "card")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "loud", "loud", 0)
    write_artifact(tmp_path / "odd", "odd", 1)
    return tmp_path


def random_texts(n: int, seed: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [Sample("".join(rng.choice(list("abc!"), 8))) for _ in range(n)]


def calibrated(folder: Path, samples: Sequence[Sample], text: str = POLICY) -> tuple[Policy, Calibration]:
    """The policy, with its calibration on these samples written."""
    policy = Policy.parse(text, folder)
    gemma = FakeGemma()
    probes, loaded = load_probes(policy, gemma, {})
    scores = read_log(ProbeCheck(probes, gemma), policy, samples)
    made = Calibration(
        log="0" * 64,
        date="2026-01-01",
        policy=policy.digest,
        budget=policy.budget,
        confidence=CONFIDENCE,
        artifacts={name: artifact.digest for name, artifact in loaded.items()},
        thresholds=tuple(calibrate(policy, {probe.head.category: probe.head for probe in probes}, scores)),
    )
    assert policy.calibration is not None
    made.save(policy.calibration)
    return policy, made


def head(category: str, n: int = 400, seed: int = 0) -> Head:
    negatives = np.sort(np.random.default_rng(seed).normal(size=n)).astype(np.float32)
    scale = artifacts.Calibration(slope=2.0, intercept=-1.0)
    stages = dict.fromkeys(Stage, scale)
    return Head(category, (0,), np.zeros(1, np.float32), 0.0, stages, dict.fromkeys(Stage, negatives), 64, 8)


class TestTheGuardKeepsIt:
    def test_the_joint_budget_on_fresh_texts(self, folder: Path) -> None:
        policy, made = calibrated(folder, random_texts(400, 1))
        guard = Guard(policy, FakeGemma())
        seen = guard.check(random_texts(400, 1))
        assert sum(verdict.blocked for verdict in seen) <= tolerance_rank(400, 0.05) - 1
        fresh = guard.check(random_texts(800, 2))
        blocked = {finding.category for verdict in fresh for finding in verdict.findings}
        assert 0 < np.mean([verdict.blocked for verdict in fresh]) <= 0.05
        assert blocked <= {"loud", "odd"}
        assert {(one.category, one.stage, one.n) for one in made.thresholds} == {
            ("loud", Stage.INPUT, 400),
            ("odd", Stage.INPUT, 400),
        }

    def test_a_text_that_fills_the_log_is_not_stopped(self, folder: Path) -> None:
        policy, _ = calibrated(folder, [Sample("a!!b!c")] * 60 + random_texts(60, 3))
        assert not Guard(policy, FakeGemma()).check_text("a!!b!c").blocked

    def test_what_a_text_check_blocks_never_reaches_the_probes(self, folder: Path) -> None:
        gemma = FakeGemma()
        policy = Policy.parse(POLICY, folder)
        probes, _ = load_probes(policy, gemma, {})
        scores = read_log(ProbeCheck(probes, gemma), policy, [Sample("ab"), Sample(f"key {KEY}"), Sample("")])
        assert gemma.calls == [["ab"]]
        assert np.isnan(scores.logits[1]).all()
        assert np.isneginf(scores.logits[2]).all()
        assert scores.at(Stage.INPUT, ["loud", "odd"]).shape == (2, 2)

    def test_a_rate_of_one_rule_is_set_by_the_log_too(self, folder: Path) -> None:
        text = POLICY.replace("budget: {blocked_harmless: 0.05}\n", "").replace("block}", "block, max_fpr: 0.1}", 2)
        text = text.replace("odd, stages: [input], action: block, max_fpr: 0.1", "odd, action: flag, max_fpr: 0.2")
        samples = random_texts(100, 4)
        policy, made = calibrated(folder, samples, text)
        thresholds = {(one.category, one.max_fpr) for one in made.thresholds}
        assert thresholds == {("loud", 0.1), ("odd", 0.2)}
        verdicts = Guard(policy, FakeGemma()).check(samples)
        assert sum(verdict.blocked for verdict in verdicts) <= tolerance_rank(100, 0.1) - 1

    def test_the_verdicts_digest_tells_of_the_calibration(self, folder: Path) -> None:
        digests = set()
        for seed in (1, 5):
            policy, _ = calibrated(folder, random_texts(120, seed))
            digests.add(Guard(policy, FakeGemma()).digest)
        assert len(digests) == 2

    def test_a_stage_without_texts_has_its_own_negatives(self, folder: Path) -> None:
        policy, _ = calibrated(folder, random_texts(120, 1))
        loaded = {name: artifacts.load(folder / name) for name in ("loud", "odd")}
        heads = {name: artifact.heads[name] for name, artifact in loaded.items()}
        thresholds = Thresholds(policy, heads, {name: artifact.digest for name, artifact in loaded.items()})
        assert thresholds.of("loud", None, Stage.INPUT).source == "traffic"
        own = thresholds.of("loud", None, Stage.OUTPUT)  # the only one there: it has the whole budget
        assert (own.source, own.threshold) == ("examples", heads["loud"].threshold_for(0.05, Stage.OUTPUT))


class TestWithoutACalibration:
    def test_the_budget_is_divided(self, folder: Path) -> None:
        policy = replace(Policy.parse(POLICY, folder), calibration=None)
        rules = {
            (rule.category, stage): rule.threshold
            for rule in Guard(policy, FakeGemma()).policy.rules
            for stage in rule.stages
        }
        half = artifacts.load(folder / "odd").heads["odd"].threshold_for(0.025, Stage.INPUT, 0.975)
        assert rules["odd", Stage.INPUT] == half > rules["loud", Stage.OUTPUT]
        assert rules["loud", Stage.INPUT] == half

    def test_an_unsupported_part_names_the_way_out(self, folder: Path) -> None:
        policy = replace(Policy.parse(POLICY.replace("0.05", "0.01"), folder), calibration=None)
        with pytest.raises(PolicyError, match=r"1/2 of 1 %.*there are 400.*need 299 rows: safety-kit calibrate"):
            Guard(policy, FakeGemma())


class TestRefusals:
    def guard(self, folder: Path, text: str = POLICY) -> Guard:
        return Guard(Policy.parse(text, folder), FakeGemma())

    def test_no_file(self, folder: Path) -> None:
        with pytest.raises(PolicyError, match=r"calibration\.json is not there; .*safety-kit calibrate"):
            self.guard(folder)

    @pytest.mark.parametrize("content", ["", "{}", "[]", "\x00", '{"format": 2}', "[" * 10_000])
    def test_no_calibration_in_it(self, folder: Path, content: str) -> None:
        (folder / "calibration.json").write_text(content)
        with pytest.raises(PolicyError, match="cannot be read"):
            self.guard(folder)

    def test_a_threshold_out_of_range(self, folder: Path) -> None:
        calibrated(folder, random_texts(120, 1))
        content = json.loads((folder / "calibration.json").read_text())
        content["thresholds"][0]["threshold"] = 1.0  # would let everything pass
        (folder / "calibration.json").write_text(json.dumps(content))
        with pytest.raises(PolicyError, match="cannot be read"):
            self.guard(folder)

    def test_another_classifier(self, folder: Path) -> None:
        calibrated(folder, random_texts(120, 1))
        self.guard(folder)
        write_artifact(folder / "odd", "odd", 2)
        with pytest.raises(PolicyError, match=r"checks\.odd is another one now; calibrate again"):
            self.guard(folder)

    def test_another_budget(self, folder: Path) -> None:
        calibrated(folder, random_texts(120, 1))
        with pytest.raises(PolicyError, match="another budget"):
            self.guard(folder, POLICY.replace("0.05", "0.04"))

    def test_a_category_that_came_later(self, folder: Path) -> None:
        calibrated(
            folder, random_texts(120, 1), POLICY.replace("  - {category: odd, stages: [input], action: block}\n", "")
        )
        with pytest.raises(PolicyError, match="nothing of odd at input"):
            self.guard(folder)

    def test_a_message_more_is_no_reason(self, folder: Path) -> None:
        calibrated(folder, random_texts(120, 1))
        self.guard(folder, POLICY + "messages: {default: Withheld.}\n")

    def test_too_few_texts(self, folder: Path) -> None:
        with pytest.raises(
            DataError, match=r"at input do not support the budget: 5 % needs at least 59 .*there are 58"
        ):
            calibrated(folder, random_texts(58, 1))
        assert not (folder / "calibration.json").exists()

    def test_a_text_that_cannot_be_scored(self, folder: Path) -> None:
        class Broken(FakeGemma):
            def hidden(self, text: str, blocks: Sequence[int]) -> dict[int, np.ndarray]:
                return {block: rows * np.nan for block, rows in super().hidden(text, blocks).items()}

        check = ProbeCheck([Probe("loud", artifacts.load(folder / "loud").heads["loud"], frozenset(Stage))], Broken())
        with pytest.raises(DataError, match="Row 1"):
            read_log(check, None, [Sample("abc")])

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            ("loud, action: block", "loud, action: block, max_fpr: 0.1", "the policy's budget sets"),
            ("loud, action: block", "loud, action: block, threshold: 0.1", "the policy's budget sets"),
            ("loud, action: block", "loud, action: flag", "exactly one of threshold and max_fpr"),
            ("blocked_harmless: 0.05", "blocked_harmless: 5", "budget.blocked_harmless: use a number between 0 and 1"),
            ("blocked_harmless: 0.05", "harmless: 0.05", "missing"),
            ("calibration.json", "''", "calibration: "),
            ("budget: {blocked_harmless: 0.05}\n", "", "exactly one of threshold and max_fpr"),
        ],
    )
    def test_policies(self, old: str, new: str, says: str) -> None:
        assert old in POLICY
        with pytest.raises(PolicyError, match=says):
            Policy.parse(POLICY.replace(old, new, 1))


class TestScores:
    def scores(self, rows: list[list[float]], stage: Stage = Stage.INPUT) -> Scores:
        return Scores(("a", "b"), np.array(rows), (stage,) * len(rows))

    def policy(self, rules: str, budget: float | None = None) -> Policy:
        checks = "checks: {a: {type: probe, artifact: ./a}, b: {type: probe, artifact: ./b}}"
        more = f"\nbudget: {{blocked_harmless: {budget}}}" if budget else ""
        return Policy.parse(f"version: 1\nname: t\n{checks}\nrules:\n{rules}{more}")

    def test_thresholds_of_rates(self) -> None:
        rows = [[float(i) / 100, -5.0] for i in range(300)]
        policy = self.policy("- {category: a, stages: [input], action: block, max_fpr: 0.01}")
        (one,) = calibrate(policy, {"a": head("a"), "b": head("b")}, self.scores(rows))
        assert one.threshold == pytest.approx(1 / (1 + np.exp(-2.99 - traffic.MARGIN)))

    def test_a_log_that_scores_too_high_is_told(self) -> None:
        policy = self.policy("- {category: a, action: block, max_fpr: 0.1}")
        with pytest.raises(DataError, match="no threshold keeps the budget"):
            calibrate(policy, {"a": head("a")}, self.scores([[40.0, 0.0]] * 30))

    def test_a_log_of_empty_texts_gives_a_threshold_still(self) -> None:
        policy = self.policy("- {category: a, action: block}\n- {category: b, action: block}", 0.1)
        for one in calibrate(policy, {"a": head("a"), "b": head("b")}, self.scores([[-np.inf] * 2] * 30)):
            assert 0 < one.threshold < 1e-10

    def test_margins(self) -> None:
        made = [Calibrated(category=name, stage=Stage.INPUT, max_fpr=None, threshold=0.5, n=1) for name in ("a", "b")]
        found = margins(self.scores([[1.0, 2.0], [-1.0, -2.0], [np.nan, np.nan], [-np.inf, -np.inf]]), made)
        assert [(margin, one.category if one else None) for margin, one in found] == [
            (2.0, "b"),
            (-1.0, "a"),
            (-np.inf, None),
            (-np.inf, None),
        ]
        assert margins(self.scores([[1.0, 2.0]], Stage.OUTPUT), made) == [(-np.inf, None)]


class TestLengths:
    def test_they_come_with_the_negatives(self, tmp_path: Path) -> None:
        folder = make_artifact(tmp_path / "a", ["a"], n=80)
        old = artifacts.load(folder)
        assert old.heads["a"].lengths == {}
        assert list(old.heads["a"].budgets(Stage.INPUT)) == ["all lengths"]
        tensors = load_tensors((folder / "weights.safetensors").read_bytes())
        tensors["lengths.input.a"] = np.arange(80, dtype=np.int32) // 4
        manifest = old.manifest.model_dump(exclude={"checksums"})
        bands = artifacts.save(folder, manifest, tensors, "card").heads["a"].budgets(Stage.INPUT)
        assert [row[0].n for row in bands.values()] == [80, 52, 28]  # up to 12 tokens, up to 48
        tensors["lengths.input.a"] = np.arange(79, dtype=np.int32)
        with pytest.raises(ArtifactError, match="lengths of a"):
            artifacts.save(folder, manifest, tensors, "card")

    def test_the_default_policy_is_supported_by_the_shipped_examples(self) -> None:
        from safety_kit.data import data_dir

        for rule in Policy.load("default").rules:
            if rule.max_fpr is not None:
                shipped = artifacts.load(data_dir() / "classifiers" / rule.category).heads[rule.category]
                for stage in rule.stages:
                    assert smallest_supported(len(shipped.negatives[stage])) < rule.max_fpr
                    assert 0.5 < shipped.threshold_for(rule.max_fpr, stage) < 0.99
