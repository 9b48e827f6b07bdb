"""Policies: what is read, what is refused and in which words, what is decided."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safety_kit.errors import PolicyError
from safety_kit.policy import Policy
from safety_kit.types import Action, Finding, Stage

TEXT = """
version: 1
name: t
checks:
  hate: {type: probe, artifact: hate}
  mine: {type: probe, artifact: ./folder}
  pii: {type: pii, countries: [us]}
  words: {type: patterns, category: banned, keywords: [foo]}
rules:
  - {category: hate, action: block, max_fpr: 0.01}
  - {category: pii.*, stages: [output], action: redact, form: hash}
  - {category: banned, action: flag}
messages: {default: 'no', hate: never}
"""


def test_default_policy_reads() -> None:
    policy = Policy.load("default")
    assert policy.on_error is Action.BLOCK
    probes = {name for name, options in policy.checks.items() if options.type == "probe"}
    six = {"hate", "harassment", "dangerous_content", "sexual_content", "self_harm", "prompt_injection"}
    assert probes == six
    assert policy.stages_of("prompt_injection") == {Stage.INPUT}
    assert policy.stages_of("self_harm") == {Stage.INPUT, Stage.OUTPUT}
    assert "Local resources" in policy.messages["self_harm"]


@pytest.mark.parametrize(
    ("old", "new", "place", "remedy"),
    [
        ("version: 1", "version: 2", "version", "use 1"),
        ("version: 1", "", "version", "missing"),
        ("version: 1", "version: 1\nextra: 1", "extra", "unknown key"),
        ("keywords: [foo]", "keyword: [foo]", "checks.words.keyword", "unknown key"),
        ("type: patterns", "type: patern", "checks.words.type", "use one of"),
        ("{type: pii, countries: [us]}", "{countries: [us]}", "checks.pii.type", "missing"),
        ("countries: [us]", "countries: [us, xx]", "checks.pii.countries[1]", "use"),
        ("max_fpr: 0.01", "threshold: 2", "rules[0].threshold", "between 0 and 1"),
        ("max_fpr: 0.01", "threshold: 0", "rules[0].threshold", "between 0 and 1"),
        ("max_fpr: 0.01", "threshold: .nan", "rules[0].threshold", "between 0 and 1"),
        ("max_fpr: 0.01", "threshold: high", "rules[0].threshold", "between 0 and 1"),
        ("max_fpr: 0.01", "max_fpr: 1", "rules[0].max_fpr", "between 0 and 1"),
        (", max_fpr: 0.01", "", "rules[0]", "exactly one of"),
        ("max_fpr: 0.01", "max_fpr: 0.01, threshold: 0.5", "rules[0]", "exactly one of"),
        ("hate, action: block", "hate, action: redact", "rules[0].action", "no exact span"),
        ("hate, action: block", "hate, action: allow", "rules[0].action", "use"),
        ("form: hash", "form: scramble", "rules[1].form", "pseudonymise"),
        ("form: hash", "form: {text: x}", "rules[1].form", "pseudonymise"),
        ("action: flag", "action: flag, form: mask", "rules[2]", "redact"),
        ("action: flag", "action: flag, max_fpr: 0.1", "rules[2].max_fpr", "threshold"),
        ("stages: [output]", "stages: [outputs]", "rules[1].stages[0]", "use"),
        ("stages: [output]", "stages: []", "rules[1].stages", "at least 1"),
        ("keywords: [foo]", "keywords: []", "checks.words", "at least one keyword"),
        ("keywords: [foo]", "keywords: ['']", "checks.words.keywords[0]", "at least 1"),
        ("keywords: [foo]", "regexes: ['(']", "checks.words.regexes", "does not compile"),
        ("keywords: [foo]", "regexes: ['(?=a)']", "checks.words.regexes", "does not compile"),
        ("keywords: [foo]", "regexes: [ok, 'a*']", "checks.words.regexes", "empty string"),
        ("hate: never", "hat: never", "messages.hat", "no rule names"),
        ("default: 'no'", "default: no", "messages.default", "in quotes"),
        ("name: t", "name: t\non_error: allow", "on_error", "use 'block' or 'flag'"),
        ("name: t", "name: t\nname: u", "line 4", "given twice"),
        (
            "{category: banned, action: flag}",
            "{category: banned, action: flag, action: block}",
            "line 12",
            "given twice",
        ),
        ("name: t", "name: [", "line", "no valid YAML"),
        ("name: t", "name: !!python/object:os.system x", "line 3", "no valid YAML"),
    ],
)
def test_refused(old: str, new: str, place: str, remedy: str) -> None:
    assert old in TEXT
    with pytest.raises(PolicyError) as caught:
        Policy.parse(TEXT.replace(old, new, 1))
    message = str(caught.value)
    assert place in message
    assert remedy in message
    assert len(message) < 400
    assert "pydantic" not in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["", "[]", "hello", "\x00", "a: " * 3])
def test_not_a_policy(text: str) -> None:
    with pytest.raises(PolicyError):
        Policy.parse(text)


def test_unknown_category_is_refused_where_all_are_known() -> None:
    text = TEXT.replace("  mine: {type: probe, artifact: ./folder}\n", "")
    Policy.parse(text)
    with pytest.raises(PolicyError, match=r"rules\[1\]\.category: no check gives 'pii\.emial'"):
        Policy.parse(text.replace("pii.*", "pii.emial"))
    with pytest.raises(PolicyError, match=r"no check gives 'pii\.uk_nhs'"):  # a country that was not named
        Policy.parse(text.replace("pii.*", "pii.uk_nhs"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"nowhere\.yaml"):
        Policy.load(tmp_path / "nowhere.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PolicyError, match=r"bad\.yaml"):
        Policy.load(tmp_path / "bad.yaml")


def finding(category: str, score: float = 1.0, kind: str = "rule") -> Finding:
    return Finding("c", category, score, kind, ((0, 1),))  # type: ignore[arg-type]


def test_decide_takes_the_strongest_and_leaves_out_the_rest() -> None:
    policy = Policy.parse(TEXT).resolved(lambda category, rate, stage: 0.7 if stage is Stage.INPUT else 0.9)
    banned, mail = finding("banned"), finding("pii.email", 0.5, "uncalibrated")
    hate = finding("hate", 0.8, "calibrated")
    assert policy.decide([], Stage.INPUT) == (Action.ALLOW, (), None)
    assert policy.decide([mail, finding("unknown")], Stage.INPUT) == (Action.ALLOW, (), None)
    action, fired, rule = policy.decide([banned, mail], Stage.OUTPUT)
    assert (action, fired) == (Action.REDACT, (banned, mail))
    assert rule is not None
    assert (rule.category, rule.form.kind) == ("pii.*", "hash")
    assert policy.decide([banned, hate], Stage.INPUT)[0] is Action.BLOCK
    assert policy.decide([banned, hate], Stage.OUTPUT)[:2] == (Action.FLAG, (banned,))


def test_an_unresolved_rate_decides_nothing() -> None:
    with pytest.raises(PolicyError, match="no threshold yet"):
        Policy.parse(TEXT).decide([finding("hate", 0.9, "calibrated")], Stage.INPUT)


def test_digest_covers_content_artifacts_and_thresholds() -> None:
    policy = Policy.parse(TEXT)
    same = Policy.parse("# a comment\n" + TEXT.replace("name: t\n", "name:   t\n"))
    assert policy.digest == same.digest
    assert policy.digest != Policy.parse(TEXT.replace("0.01", "0.02")).digest
    low, high = policy.resolved(lambda *_: 0.5), policy.resolved(lambda *_: 0.6)
    digests = {
        low.digest_with({}),
        high.digest_with({}),
        low.digest_with({"hate": "a"}),
        low.digest_with({"hate": "b"}),
    }
    assert len(digests) == 4


def test_json_schema_is_json() -> None:
    schema = json.loads(json.dumps(Policy.json_schema()))
    assert schema["additionalProperties"] is False
    keys = {"version", "name", "on_error", "uncheckable", "checks", "rules", "messages", "budget", "calibration"}
    keys.add("examples")
    assert set(schema["properties"]) == keys
