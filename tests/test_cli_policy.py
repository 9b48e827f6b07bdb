"""`safety-kit policy`: validate, show, schema, and adding a taught category to a file as it is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli_helpers import TEXT_POLICY, app, runner, write_text_policy

from safety_kit import artifacts
from safety_kit.commands import policy_edit
from safety_kit.policy import Policy
from safety_kit.types import Action, Stage


def save_classifier(path: Path, *categories: str, reading: str = "causal", negatives: int = 300) -> Path:
    """A classifier folder of a model that nobody has."""
    scale = {"slope": 1.0, "intercept": 0.0}
    record = {
        "bias": 0.0,
        "calibration": {stage.value: scale for stage in Stage},
        "regularisation": 1.0,
        "positives": 10,
        "negatives": negatives,
        "metrics": {},
    }
    model = {"name": "m", "family": "Gemma 3", "digest": "0", "dtype": "float32", "blocks": 2, "hidden_size": 4}
    manifest = {
        "reading": reading,
        "model": model,
        "blocks": [1],
        "window": 64,
        "stride": 8,
        "categories": dict.fromkeys(categories, record),
        "data_digest": "0",
        "created": "2026-01-01",
        "kit_version": "0",
    }
    tensors = {}
    for category in categories:
        tensors[f"weight.{category}"] = np.ones(8 if reading == "alone" else 4, np.float32)
        for stage in Stage:
            tensors[f"negatives.{stage.value}.{category}"] = np.linspace(-3, 1, negatives, dtype=np.float32)
    artifacts.save(path, manifest, tensors, "card")
    return path


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return write_text_policy(tmp_path / "text.yaml")


def add(policy: Path, folder: Path, *arguments: str) -> tuple[int, str]:
    done = runner.invoke(app, ["policy", "add", str(policy), str(folder), *arguments])
    return done.exit_code, done.stderr


def test_validate_the_shipped_policy() -> None:
    done = runner.invoke(app, ["policy", "validate", "default"])
    assert done.exit_code == 0
    assert done.stdout.startswith("default: ")


def test_validate_json_and_a_policy_that_is_wrong(policy: Path) -> None:
    done = runner.invoke(app, ["policy", "validate", str(policy), "--json"])
    assert done.exit_code == 0
    digest = Policy.load(policy).digest
    expected = {"valid": True, "name": "text only", "digest": digest, "budgets": [], "joint": [], "warnings": []}
    assert json.loads(done.stdout) == expected
    policy.write_text(TEXT_POLICY.replace("type: pii", "type: magic"), encoding="utf-8")
    done = runner.invoke(app, ["policy", "validate", str(policy), "--json"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "checks.pii.type" in done.stderr


def test_validate_looks_into_named_folders(policy: Path, tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "rude", "rude")
    assert add(policy, folder) == (0, "")
    assert runner.invoke(app, ["policy", "validate", str(policy)]).exit_code == 0
    (folder / "card.md").write_text("another card", encoding="utf-8")
    done = runner.invoke(app, ["policy", "validate", str(policy)])
    assert done.exit_code == 2
    assert "checksum" in done.stderr


def test_show(policy: Path) -> None:
    done = runner.invoke(app, ["policy", "show", str(policy)])
    assert done.exit_code == 0
    for words in ("text only", "banned", "pii.email", "redact", "This was withheld."):
        assert words in done.stdout
    shown = runner.invoke(app, ["policy", "show", str(policy), "--json"])
    assert json.loads(shown.stdout)["checks"]["banned"]["keywords"] == ["bluebird"]


def test_show_yaml_is_the_file(policy: Path) -> None:
    assert runner.invoke(app, ["policy", "show", str(policy), "--yaml"]).stdout == TEXT_POLICY
    shipped = runner.invoke(app, ["policy", "show", "default", "--yaml"]).stdout
    assert Policy.parse(shipped).digest == Policy.load("default").digest


def test_schema_is_json_schema() -> None:
    done = runner.invoke(app, ["policy", "schema"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == Policy.json_schema()


def test_add_keeps_every_line_and_puts_the_new_ones_last(policy: Path, tmp_path: Path) -> None:
    code, said = add(policy, save_classifier(tmp_path / "rude", "rude"))
    assert (code, said) == (0, "")
    after = policy.read_text(encoding="utf-8").splitlines()
    new = [line for line in after if line not in TEXT_POLICY.splitlines()]
    assert [line for line in after if line not in new] == TEXT_POLICY.splitlines()
    assert new == [
        "  rude: {type: probe, artifact: ./rude}",
        "  - {category: rude, stages: [input, output], action: block, max_fpr: 0.03}",
    ]
    rule = Policy.load(policy).rules[-1]
    assert (rule.category, rule.max_fpr, rule.action) == ("rude", 0.03, Action.BLOCK)


def test_add_options(policy: Path, tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "elsewhere" / "both", "rude", "off_topic")
    code, said = add(policy, folder)
    assert code == 2
    assert "off_topic" in said
    options = ["--category", "off_topic", "--stage", "output", "--threshold", "0.7", "--action", "flag"]
    assert add(policy, folder, *options) == (0, "")
    rule = Policy.load(policy).rules[-1]
    assert (rule.category, rule.stages, rule.threshold, rule.action) == (
        "off_topic",
        frozenset({Stage.OUTPUT}),
        0.7,
        Action.FLAG,
    )
    assert Policy.load(policy).checks["off_topic"].artifact == "./elsewhere/both"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--category", "other"], "does not score"),
        (["--max-fpr", "0.1", "--threshold", "0.5"], "not both"),
        (["--threshold", "2"], "threshold"),
        (["--max-fpr", "0.0001"], "needs at least"),
        (["--action", "redact"], "block or flag"),
    ],
)
def test_add_refuses_and_leaves_the_file(policy: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    code, said = add(policy, save_classifier(tmp_path / "rude", "rude"), *arguments)
    assert code == 2
    assert says in said
    assert policy.read_text(encoding="utf-8") == TEXT_POLICY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rude", "text.yaml"]


def test_add_twice_another_reading_or_no_folder_is_2(policy: Path, tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "rude", "rude")
    assert add(policy, folder)[0] == 0
    before = policy.read_bytes()
    code, said = add(policy, folder)
    assert code == 2
    assert "checks.rude is there already" in said
    assert add(policy, save_classifier(tmp_path / "alone", "alone_one", reading="alone"))[0] == 2
    assert add(policy, tmp_path / "nothing")[0] == 2
    assert policy.read_bytes() == before


def test_the_shipped_policy_is_not_edited(tmp_path: Path) -> None:
    code, said = add(Path("default"), save_classifier(tmp_path / "rude", "rude"))
    assert code == 2
    assert "policy new policy.yaml --template default" in said


BLOCK_STYLE = """\
version: 1
name: spaced out
rules:
- category: banned
  action: block

# between

checks:
    banned:
        type: patterns
        keywords:
        - bluebird
        # a comment within
    # a comment at the end
messages:
  default: |
    Withheld.

# the end"""

LAST_IS_A_BLOCK = """\
version: 1
name: texts
checks:
  banned:
    type: patterns
    keywords:
      - |-
        project
        bluebird
rules:
  - action: block
    category: >-
      banned
on_error: block
"""

FLOW_CHECKS = """\
version: 1
name: dense
checks: {banned: {type: patterns, keywords: [bluebird]}}
rules: [{category: banned, action: block}]
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "text", [TEXT_POLICY, BLOCK_STYLE, LAST_IS_A_BLOCK, TEXT_POLICY.rstrip("\n"), "\ufeff" + TEXT_POLICY]
)
def test_add_to_files_in_any_style(tmp_path: Path, text: str, newline: str) -> None:
    file = tmp_path / "p.yaml"
    raw = text.replace("\n", newline).encode()
    file.write_bytes(raw)
    before = yaml.safe_load(raw)
    code, said = add(file, save_classifier(tmp_path / "rude", "rude"))
    assert (code, said) == (0, "")
    after = file.read_bytes()
    loaded = yaml.safe_load(after)
    assert loaded["checks"].pop("rude") == {"type": "probe", "artifact": "./rude"}
    assert loaded["rules"].pop()["category"] == "rude"
    assert loaded == before
    assert [line for line in raw.split(b"\n") if line.strip() not in [x.strip() for x in after.split(b"\n")]] == []
    assert (b"\r\n" in after) == (newline == "\r\n")
    assert after.count(b"\r\n") in (0, after.count(b"\n"))


def test_braces_are_refused_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(FLOW_CHECKS, encoding="utf-8")
    code, said = add(file, save_classifier(tmp_path / "rude", "rude"))
    assert code == 2
    assert "one entry a line" in said
    assert file.read_text(encoding="utf-8") == FLOW_CHECKS


@pytest.mark.parametrize("category", ["off", "null", "a: b", "12", "très rude 日本", "x{y}", "👩‍👧"])
def test_names_that_yaml_would_misread(policy: Path, tmp_path: Path, category: str) -> None:
    folder = save_classifier(tmp_path / "it's, a {folder}", category)
    assert add(policy, folder) == (0, "")
    read = Policy.load(policy)
    assert read.rules[-1].category == category
    assert (read.folder / read.checks[category].artifact).resolve() == folder


def test_a_write_that_fails_leaves_the_file(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "text.yaml")

    folder = save_classifier(tmp_path / "rude", "rude")
    monkeypatch.setattr(policy_edit.os, "replace", fail)
    code, said = add(policy, folder)
    assert code == 3
    assert "No space left" in said
    assert policy.read_text(encoding="utf-8") == TEXT_POLICY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rude", "text.yaml"]


def test_the_file_keeps_its_permissions(policy: Path, tmp_path: Path) -> None:
    policy.chmod(0o640)
    assert add(policy, save_classifier(tmp_path / "rude", "rude"))[0] == 0
    assert policy.stat().st_mode & 0o777 == 0o640
