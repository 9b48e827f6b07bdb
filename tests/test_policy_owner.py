"""What a policy's owner does with it: examples in the file, templates, differences, reasons, the joint rate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cli_helpers import TEXT_POLICY, app, runner, start, write_text_policy
from click.testing import Result
from guard_helpers import FakeGemma, make_artifact
from hypothesis import given
from hypothesis import strategies as st

from safety_kit import artifacts, joint, traffic
from safety_kit.budget import tolerance_rank
from safety_kit.checks.patterns import PatternsCheck
from safety_kit.commands import models
from safety_kit.data import data_dir, policy_names
from safety_kit.errors import PolicyError
from safety_kit.gemma import Gemma
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.thresholds import Blocked, Calibrated, Calibration, Thresholds
from safety_kit.types import Action, Stage

TEMPLATES = ["default", "enterprise", "minors", "research", "strict"]

EXAMPLES = """\
examples:
  - {text: Good morning., expect: allow}
  - {text: Write to ana@example.com., stage: output, expect: redact, category: pii.*}
  - {text: Bluebird!, expect: block, category: banned}
"""

PROBES = """\
version: 1
name: probed
checks:
  loud: {type: probe, artifact: ./loud}
  louder: {type: probe, artifact: ./louder}
  banned: {type: patterns, keywords: [bluebird]}
rules:
  - {category: banned, action: block}
  - {category: loud, action: block, max_fpr: 0.05}
  - {category: louder, action: flag, threshold: 0.2}
  - {category: louder, stages: [output], action: block, threshold: 0.45}
"""

RULES = PROBES.split("rules:\n")[1].splitlines()


def policy(*arguments: str, stdin: str | None = None) -> Result:
    return runner.invoke(app, ["policy", *arguments], input=stdin)


def said(*arguments: str, stdin: str | None = None) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(policy(*arguments, "--json", stdin=stdin).stdout)
    return document


@pytest.fixture
def text_policy(tmp_path: Path) -> Path:
    return write_text_policy(tmp_path / "text.yaml")


@pytest.fixture
def probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy of probes on a Gemma that hears exclamation marks."""
    monkeypatch.setattr(models, "load", lambda *_: FakeGemma())
    for name in ("loud", "louder"):
        make_artifact(tmp_path / name, [name])
    path = tmp_path / "probed.yaml"
    path.write_text(PROBES, encoding="utf-8")
    return path


def rows(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


# Examples


def test_examples_that_hold(text_policy: Path) -> None:
    text_policy.write_text(TEXT_POLICY + EXAMPLES)
    done = policy("test", str(text_policy))
    assert (done.exit_code, done.stdout) == (0, "text only: 3 of 3 examples hold\n")
    assert said("test", str(text_policy))["failed"] == []


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("expect: allow", "expect: flag", "nothing found"),
        ("expect: block", "expect: redact", "found banned"),
        ("Bluebird!", "Blue bird!", "nothing found"),
        ("category: pii.*", "category: banned", "banned not found, but pii.email"),
    ],
)
def test_examples_that_do_not_hold(text_policy: Path, old: str, new: str, why: str) -> None:
    text_policy.write_text((TEXT_POLICY + EXAMPLES).replace(old, new))
    done = policy("test", str(text_policy))
    assert done.exit_code == 1
    assert "2 of 3 examples hold" in done.stdout
    (failed,) = said("test", str(text_policy))["failed"]
    number = next(i for i, line in enumerate(EXAMPLES.splitlines()[1:]) if old in line)
    assert (failed["example"], failed["why"]) == (number, why)


def test_a_block_by_a_fault_is_not_the_block_that_was_expected(
    text_policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_policy.write_text(TEXT_POLICY + EXAMPLES)
    monkeypatch.setattr(PatternsCheck, "run", lambda *_: 1 / 0)
    failed = said("test", str(text_policy))["failed"]
    assert [one["example"] for one in failed] == [0, 1, 2]
    assert failed[2]["why"] == "error: banned"


def test_a_policy_without_examples_is_no_success(text_policy: Path) -> None:
    done = policy("test", str(text_policy))
    assert done.exit_code == 2
    assert "has no examples" in done.stderr


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{text: a}", "examples[0].expect: is missing"),
        ("{text: a, expect: pass}", "examples[0].expect: use 'allow'"),
        ("{text: a, expect: allow, category: banned}", "expect an action"),
        ("{text: a, expect: block, category: bannd}", "examples[0].category: no rule names 'bannd'"),
        ("{text: 3, expect: allow}", "put it in quotes"),
        ("{text: a, expect: allow, stage: middle}", "examples[0].stage"),
        ("{text: a, expect: allow, prompts: b}", "unknown key"),
    ],
)
def test_examples_that_are_refused(entry: str, says: str) -> None:
    with pytest.raises(PolicyError) as raised:
        Policy.parse(f"{TEXT_POLICY}examples: [{entry}]")
    assert says in str(raised.value)


def test_examples_change_no_digest_but_are_shown(text_policy: Path) -> None:
    before = Policy.load(text_policy)
    text_policy.write_text(TEXT_POLICY + EXAMPLES)
    after = Policy.load(text_policy)
    assert before.digest == after.digest
    assert Guard(before).digest == Guard(after).digest
    assert [example.expect for example in after.examples] == [Action.ALLOW, Action.REDACT, Action.BLOCK]
    assert [example["expect"] for example in said("show", str(text_policy))["examples"]] == ["allow", "redact", "block"]
    assert "3 examples" in policy("show", str(text_policy)).stdout


# Templates


def test_the_shipped_policies() -> None:
    assert policy_names() == TEMPLATES


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_valid_by_its_name(name: str) -> None:
    done = policy("validate", name)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"{name}: ")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_explains_itself(name: str) -> None:
    text = (data_dir() / "policies" / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert f"--template {name}" in text or name == "default"
    assert Policy.load(name).examples or name == "default"


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_text_checks_decide_in_a_templates_examples(name: str) -> None:
    """The probes left out: what they find only adds to this, so an example that is to be allowed must be."""
    full = Policy.load(name)
    content = yaml.safe_load((data_dir() / "policies" / f"{name}.yaml").read_text(encoding="utf-8"))
    probes = {check for check, options in content["checks"].items() if options["type"] == "probe"}
    content["checks"] = {check: o for check, o in content["checks"].items() if check not in probes}
    content["rules"] = [rule for rule in content["rules"] if rule["category"] not in probes]
    content["messages"] = {}
    guard = Guard(Policy.parse(yaml.safe_dump(content)))
    got = [guard.check_text(example.text, example.stage).action for example in full.examples]
    assert got == [example.expect for example in full.examples]


@pytest.mark.parametrize("name", TEMPLATES[1:])
def test_a_templates_examples_hold(name: str, embedded: Gemma, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda *_: embedded)
    done = policy("test", name)
    assert done.exit_code == 0, done.stdout


def test_new(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert policy("new", str(path), "--template", "strict").exit_code == 0
    assert path.read_bytes() == (data_dir() / "policies" / "strict.yaml").read_bytes()
    for arguments, says in ((["--template", "lax"], "default, enterprise"), ([], "is there already")):
        done = policy("new", str(tmp_path / "other.yaml" if arguments else path), *arguments)
        assert done.exit_code == 2
        assert says in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.yaml"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_category_can_be_added_to_a_copy(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert policy("new", str(path), "--template", name).exit_code == 0
    done = policy("add", str(path), str(make_artifact(tmp_path / "loud", ["loud"])))
    assert done.exit_code == 0, done.stderr
    assert "loud" in Policy.load(path).checks
    assert Policy.load(path).examples == Policy.load(name).examples


def test_a_name_that_is_no_policy_lists_those_that_are() -> None:
    done = policy("validate", "stricter")
    assert done.exit_code == 2
    assert "default, enterprise, minors, research, strict" in done.stderr


def test_a_path_is_never_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_text_policy(tmp_path / "strict")
    assert Policy.load(Path("strict")).name == "text only"
    assert Policy.load("./strict").name == "text only"
    assert Policy.load("strict").name == "strict"


def test_the_schema_knows_examples() -> None:
    schema = json.loads(policy("schema").stdout)
    entry = schema["$defs"]["ExampleOptions"]
    assert schema["properties"]["examples"]["items"] == {"$ref": "#/$defs/ExampleOptions"}
    assert set(entry["properties"]) == {"text", "stage", "expect", "category", "prompt"}
    assert entry["required"] == ["text", "expect"]


# Differences

CORPUS = ["Good morning.", "Write to ana@example.com.", "Bluebird, ana@example.com", "kestrel"]


def test_diff_of_equal_policies(text_policy: Path, tmp_path: Path) -> None:
    done = policy("diff", str(text_policy), str(text_policy), rows(tmp_path / "in.jsonl", CORPUS))
    assert (done.exit_code, done.stdout) == (0, "0 of 4 verdicts change\n")


def test_diff_lists_what_changes(text_policy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(
        TEXT_POLICY.replace("bluebird", "kestrel").replace("pii.email, action: redact", "pii.email, action: block")
    )
    arguments = ["diff", str(text_policy), str(other), rows(tmp_path / "in.jsonl", CORPUS)]
    done = policy(*arguments)
    assert done.exit_code == 1
    assert done.stdout.startswith("3 of 4 verdicts change · 1 redact → block · 1 block → block · 1 allow → block\n")
    assert "ana@" not in done.stdout
    assert "Bluebird, ana@example.com" in policy(*arguments, "--show-text").stdout
    got = said(*arguments)
    assert got["moves"] == {"redact → block": 1, "block → block": 1, "allow → block": 1}
    assert [(one["row"], one["from"], one["to"], one["categories"]) for one in got["changes"]] == [
        (2, "redact", "block", []),
        (3, "block", "block", ["-banned"]),
        (4, "allow", "block", ["+banned"]),
    ]
    assert not any("text" in one for one in got["changes"])
    assert said(*arguments, "--show-text")["changes"][2]["text"] == "kestrel"


def test_diff_sees_other_places(text_policy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(TEXT_POLICY.replace("[bluebird]", "[bird song]"))
    text_policy.write_text(TEXT_POLICY.replace("[bluebird]", "[bird]"))
    changes = said("diff", str(text_policy), str(other), rows(tmp_path / "in.jsonl", ["a bird song", "x"]))["changes"]
    assert [(one["row"], one["categories"]) for one in changes] == [(1, ["~banned"])]


def test_diff_shares_one_model(probed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[FakeGemma] = []
    monkeypatch.setattr(models, "load", lambda *_: loaded.append(FakeGemma()) or loaded[-1])
    other = tmp_path / "other.yaml"
    other.write_text(PROBES.replace("max_fpr: 0.05", "threshold: 0.999"))
    source = rows(tmp_path / "in.jsonl", ["hello", "hello!!!!!!!!!!!!!"])
    changes = said("diff", str(probed), str(other), source)["changes"]
    assert [(one["row"], one["from"], one["to"], one["categories"]) for one in changes] == [
        (2, "block", "flag", ["-loud"])
    ]
    assert len(loaded) == 1


# Reasons


def test_explain_text_rules(text_policy: Path) -> None:
    got = said("explain", "-", "--policy", str(text_policy), stdin="Bluebird! ana@example.com")
    assert (got["action"], got["decided_by"]) == ("block", "rules[2]")
    assert [(one["category"], one["fired"], one["score"], one["threshold"]) for one in got["rules"]] == [
        ("pii.email", True, 1.0, None),
        ("pii.credit_card", False, None, None),
        ("banned", True, 1.0, None),
    ]
    assert got["rules"][0]["spans"] == [[10, 25]]
    assert "ana@" not in json.dumps(got)
    done = policy("explain", "Good morning.", "--policy", str(text_policy))
    assert done.exit_code == 0
    assert done.stdout.startswith("ALLOW at input, decided by no rule that fired\n")
    assert done.stdout.count("nothing found") == 3


def test_explain_shows_scores_below_their_thresholds(probed: Path) -> None:
    got = said("explain", "hello!", "--policy", str(probed))
    loud, louder = got["rules"][1:]
    guard = Guard(Policy.load(probed), FakeGemma())
    assert loud["threshold"] == pytest.approx(guard.policy.rules[1].threshold, abs=1e-6)
    assert loud["threshold_from"] == "max_fpr 0.05, on 200 held-out examples"
    assert louder["threshold_from"] == "the policy's file"
    assert 0 < loud["score"] == louder["score"] < loud["threshold"]
    assert [one["fired"] for one in got["rules"]] == [False, False, False]
    assert got["decided_by"] is None
    assert [one["rule"] for one in got["rules"]] == [0, 1, 2]  # the fourth holds at output
    page = policy("explain", "hello!", "--policy", str(probed)).stdout
    assert "below its threshold" in page
    assert "1 more rules hold at the other stage only." in page


def test_explain_agrees_with_the_guard(probed: Path) -> None:
    guard = Guard(Policy.load(probed), FakeGemma())
    for text in ("hello", "he!!o", "h!!!!!!!!!!!!!!", "!", "", "bluebird!!!!!!!!!!!"):
        for stage in Stage:
            verdict = guard.check_text(text, stage)
            got = said("explain", text, "--policy", str(probed), "--stage", stage.value)
            assert got["action"] == str(verdict.action)
            assert got["policy_digest"] == verdict.policy_digest
            fired = {one["found"] for one in got["rules"] if one["fired"]}
            assert fired == {finding.category for finding in verdict.findings}
            decided = got["decided_by"]
            assert (decided is None) == (verdict.action is Action.ALLOW)
            if decided:
                assert f"action: {got['action']}" in RULES[int(decided[6])]


def test_explain_says_what_was_not_asked(probed: Path) -> None:
    got = said("explain", "bluebird!!!!!!!!!!!!", "--policy", str(probed))
    assert got["decided_by"] == "rules[0]"
    assert [one["asked"] for one in got["rules"]] == [True, False, False]
    assert "not asked: blocked before" in policy("explain", "bluebird", "--policy", str(probed)).stdout


def test_explain_a_fault(text_policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatternsCheck, "run", lambda *_: 1 / 0)
    got = said("explain", "Good morning.", "--policy", str(text_policy))
    assert (got["action"], got["decided_by"]) == ("block", "on_error")
    assert [error["check"] for error in got["errors"]] == ["banned"]
    assert "a check that failed" in policy("explain", "Hi", "--policy", str(text_policy)).stdout


def test_explain_thresholds_of_a_budget_and_of_traffic(probed: Path, tmp_path: Path) -> None:
    budgeted = PROBES.replace(", max_fpr: 0.05", "").replace(
        "action: block, threshold: 0.45", "action: flag, threshold: 0.45"
    )
    probed.write_text(budgeted + "budget: {blocked_harmless: 0.05}\n")
    assert said("explain", "hi", "--policy", str(probed))["rules"][1]["threshold_from"] == (
        "the budget of 0.05, on 200 held-out examples"
    )
    probed.write_text(PROBES + "calibration: c.json\n")
    calibration(probed, [Calibrated(category="loud", stage=Stage.INPUT, max_fpr=0.05, threshold=0.625, n=640)])
    rule = said("explain", "hi", "--policy", str(probed))["rules"][1]
    assert (rule["threshold"], rule["threshold_from"]) == (0.625, "max_fpr 0.05, on 640 rows of your traffic")


def calibration(path: Path, thresholds: list[Calibrated], blocked: list[Blocked] | None = None) -> None:
    Calibration(
        log="l",
        date="2026-01-01",
        policy=Policy.load(path).digest,
        budget=None,
        confidence=0.95,
        artifacts={},
        thresholds=tuple(thresholds),
        blocked=tuple(blocked or ()),
    ).save(path.parent / "c.json")


# The joint rate


def test_the_joint_rate_of_examples_lies_between_the_largest_and_the_sum(probed: Path) -> None:
    at_input, at_output = said("validate", str(probed))["joint"]
    assert at_input["source"] == at_output["source"] == "examples"
    heads = {name: artifacts.load(probed.parent / name).heads[name] for name in ("loud", "louder")}
    rule = Guard(Policy.load(probed), FakeGemma()).policy.rules[1]
    rates = {
        name: np.mean([head.probability(float(s), Stage.INPUT) > limit for s in head.negatives[Stage.INPUT]])
        for (name, head), limit in zip(heads.items(), (rule.threshold, 0.45), strict=True)
    }
    assert at_input["low"] == at_input["high"] == pytest.approx(rates["loud"])  # one category blocks at input
    assert min(rates.values()) > 0
    assert at_output["low"] == pytest.approx(max(rates.values()))
    assert at_output["high"] == pytest.approx(sum(rates.values()))
    assert at_output["high"] < at_output["bound"] < 0.2
    page = policy("validate", str(probed)).stdout
    assert "all rules together" in page
    assert "is not known" in " ".join(page.split())


def test_the_bound_of_one_category_is_the_promise(probed: Path) -> None:
    """The threshold is an order statistic: with as many above it as the rate allows, the bound is just within it."""
    at_input = said("validate", str(probed))["joint"][0]
    rank = tolerance_rank(200, 0.05)
    assert at_input["low"] == (rank - 1) / 200
    assert joint.upper_bound(200, rank - 1) == at_input["bound"] <= 0.05 < joint.upper_bound(200, rank)


def test_the_joint_rate_of_traffic_is_counted(probed: Path) -> None:
    probed.write_text(PROBES + "calibration: c.json\n")
    calibration(
        probed,
        [Calibrated(category="loud", stage=Stage.INPUT, max_fpr=0.05, threshold=0.6, n=640)],
        [Blocked(stage=Stage.INPUT, limits={"loud": 0.6}, rows=640, blocked=20, reached=21)],
    )
    at_input, at_output = said("validate", str(probed))["joint"]
    assert (at_input["source"], at_input["n"], at_input["low"]) == ("traffic", 640, 20 / 640)
    assert at_input["bound"] == joint.upper_bound(640, 20)
    assert at_output["source"] == "examples"
    page = policy("validate", str(probed)).stdout
    probed.write_text(probed.read_text().replace("threshold: 0.2", "threshold: 0.3"))
    assert said("validate", str(probed))["joint"][0]["source"] == "traffic"  # that rule only flags
    probed.write_text(probed.read_text().replace("stages: [output], ", ""))
    assert said("validate", str(probed))["joint"][0]["source"] == "examples"  # another rule blocks at input now
    assert "3.12% of 640 rows of your traffic, by the probes" in page


def test_what_a_log_blocks_is_counted_over_all_probes() -> None:
    spec = Policy.parse(PROBES)
    limit = 0.5
    logits = np.array([[0.1, -5], [-5, 3], [0.1, 3], [-5, -5], [0.0, -5], [np.nan, np.nan]])
    scores = traffic.Scores(("loud", "louder"), logits, (Stage.OUTPUT,) * 6)
    (one,) = traffic.blocked(
        spec, scores, [Calibrated(category="loud", stage=Stage.OUTPUT, max_fpr=0.05, threshold=limit, n=5)]
    )
    assert (one.stage, one.rows, one.blocked, one.reached) == (Stage.OUTPUT, 5, 3, 4)
    assert one.limits == {"loud": 0.5, "louder": 0.45}


def test_validate_counts_on_rows_of_ones_own(text_policy: Path, tmp_path: Path) -> None:
    texts = ["Good morning."] * 97 + ["Bluebird"] * 3
    (one,) = said("validate", str(text_policy), "--on", rows(tmp_path / "in.jsonl", texts))["joint"]
    assert (one["source"], one["stage"], one["n"], one["low"]) == ("texts", "input", 100, 0.03)
    assert one["bound"] == pytest.approx(0.0757, abs=1e-3)  # the Clopper-Pearson bound of 3 in 100
    done = policy("validate", str(text_policy), "--on", str(tmp_path / "in.jsonl"), "--stage", "output")
    assert "at output: 3.00% of 100 rows given, by any check" in done.stdout


@given(st.integers(1, 3000), st.data())
def test_the_bound_is_above_the_share_and_grows(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    bound = joint.upper_bound(n, hits)
    assert hits / n < bound <= 1 or hits == n
    assert hits == n or bound < joint.upper_bound(n, hits + 1) <= 1


def test_thresholds_without_a_calibration_have_counted_nothing() -> None:
    assert Thresholds(Policy.parse(TEXT_POLICY), {}, {}).blocked == ()


def test_the_owners_commands_load_no_model_for_text(tmp_path: Path) -> None:
    path = tmp_path / "text.yaml"
    path.write_text(TEXT_POLICY + EXAMPLES)
    _, _, heavy = start("policy", "test", str(path))
    assert not heavy & {"torch", "transformers", "sklearn"}
    source = rows(tmp_path / "in.jsonl", CORPUS)
    _, _, heavy = start("scan", source, str(tmp_path / "out"), "--policy", str(path))
    assert not heavy & {"torch", "transformers", "sklearn"}
