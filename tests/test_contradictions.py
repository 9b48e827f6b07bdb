"""Rules that contradict each other are refused; rules that never decide are told."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from cli_helpers import app, runner
from hypothesis import given
from hypothesis import strategies as st

from safety_kit.errors import PolicyError
from safety_kit.policy import Policy
from safety_kit.types import Finding, Stage

POLICY = """
version: 1
name: t
checks:
  hate: {type: probe, artifact: hate}
  pii: {type: pii, countries: [us]}
  words: {type: patterns, keywords: [foo]}
rules:
"""


def policy(*rules: str, budget: bool = False) -> Policy:
    end = "budget: {blocked_harmless: 0.01}\n" if budget else ""
    return Policy.parse(POLICY + "".join(f"  - {{category: {rule}}}\n" for rule in rules) + end)


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ("words, action: flag", "words, action: block", "'words' at input and output is told to flag and to block"),
        ("words, action: redact", "words, stages: [output], action: block", "at output is told to redact and to block"),
        ("hate, action: block, threshold: 0.5", "hate, action: flag, threshold: 0.5", "block and to flag"),
        ("hate, action: block, max_fpr: 0.05", "hate, action: flag, max_fpr: 0.05", "block and to flag"),
        ("pii.*, action: redact", "pii.*, action: redact, form: hash", "in two forms, mask and hash"),
        ("pii.email, action: redact, form: {replace: x}", "pii.email, action: redact", "two forms, replace and mask"),
        ("pii.ip, action: redact, form: {replace: x}", "pii.ip, action: redact, form: {replace: y}", "two forms"),
        ("pii.ip, action: redact", "pii.ip, action: redact, form: hash, threshold: 0.6", "two forms, mask and hash"),
    ],
)
def test_a_contradiction_is_refused(first: str, then: str, said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy("pii.phone, action: flag", first, then)
    message = str(caught.value)
    assert message.startswith("rules[2] and rules[1]: ")
    assert said in message
    assert "; remove one, or" in message


@pytest.mark.parametrize(
    "rules",
    [
        ("words, stages: [input], action: redact", "words, stages: [output], action: block"),
        ("pii.*, action: redact", "pii.email, action: block"),
        ("pii.email, action: redact, form: hash", "pii.*, action: redact"),
        ("hate, action: flag, threshold: 0.5", "hate, action: block, threshold: 0.8"),
        ("hate, action: flag, max_fpr: 0.1", "hate, action: block, max_fpr: 0.01"),
        ("hate, action: flag, max_fpr: 0.1", "hate, action: block, threshold: 0.2"),  # not known before a guard
        ("pii.ip, action: redact, form: hash, threshold: 0.6", "pii.ip, action: redact"),
    ],
)
def test_what_has_a_meaning_is_taken(rules: tuple[str, ...]) -> None:
    assert policy(*rules).warnings == []


@pytest.mark.parametrize(
    ("rules", "dead", "by"),
    [
        (("hate, action: flag, threshold: 0.8", "hate, action: block, threshold: 0.5"), 0, "rules[1]"),
        (("hate, action: flag, max_fpr: 0.01", "hate, action: block, max_fpr: 0.05"), 0, "rules[1]"),
        (("pii.*, action: redact", "pii.email, action: redact, form: hash"), 1, "rules[0]"),
        (("pii.*, action: block", "pii.email, action: redact"), 1, "rules[0]"),
        (("words, action: flag", "words, action: flag"), 1, "rules[0]"),
        (
            (
                "pii.email, action: redact",
                "pii.*, stages: [input], action: block",
                "pii.*, stages: [output], action: block",
            ),
            0,
            "rules[1], rules[2]",
        ),
    ],
)
def test_a_rule_that_never_decides_is_told(rules: tuple[str, ...], dead: int, by: str) -> None:
    (warning,) = policy(*rules).warnings
    assert warning.startswith(f"rules[{dead}]: ")
    assert f"never decides: {by} fires" in warning


def test_a_budget_s_threshold_is_not_known_yet() -> None:
    assert policy("hate, action: block", "hate, action: flag, threshold: 0.9", budget=True).warnings == []


CATEGORIES = ["words", "pii.*", "pii.email"]
rules_ = st.tuples(
    st.sampled_from(CATEGORIES),
    st.sampled_from(["[input]", "[output]", "[input, output]"]),
    st.sampled_from(["flag", "redact", "redact, form: hash", "block"]),
    st.sampled_from(["", ", threshold: 0.3", ", threshold: 0.7"]),
).map(lambda r: f"{r[0]}, stages: {r[1]}, action: {r[2]}{r[3]}")


@given(rules=st.lists(rules_, min_size=1, max_size=4))
def test_a_told_rule_decides_nothing_and_any_other_does(rules: list[str]) -> None:
    """Against every finding that the thresholds can tell apart."""
    try:
        read = policy(*rules)
    except PolicyError:
        return
    told = {int(warning[len("rules[") : warning.index("]")]) for warning in read.warnings}
    places = {id(rule): number for number, rule in enumerate(read.rules)}
    deciding = set()
    for category, score, stage in product(["words", "pii.email", "pii.ip"], [0.2, 0.5, 0.9], Stage):
        rule = read.rule_for(Finding("c", category, score, "uncalibrated", ((0, 1),)), stage)
        if rule is not None:
            deciding.add(places[id(rule)])
    assert not told & deciding
    # Two rules together may outdo one that neither outdoes alone: what is not told need not decide, but for one other.
    if len(read.rules) <= 2:
        assert told | deciding == set(range(len(read.rules)))


def test_validate_tells(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    rules = "  - {category: pii.*, action: block}\n  - {category: pii.email, action: redact}\n"
    path.write_text(POLICY.replace("  hate: {type: probe, artifact: hate}\n", "") + rules, encoding="utf-8")
    done = runner.invoke(app, ["policy", "validate", str(path)])
    assert done.exit_code == 0
    assert "warning: rules[1]: redact of 'pii.email' never decides: rules[0]" in done.stderr
    (warning,) = json.loads(runner.invoke(app, ["policy", "validate", str(path), "--json"]).stdout)["warnings"]
    assert warning.startswith("rules[1]")


def test_the_shipped_policies_have_none() -> None:
    assert Policy.load("default").warnings == []
