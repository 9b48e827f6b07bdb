"""`safety-kit demo`: what it counts, and the whole of it on little data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cli_helpers import ROOT, app, runner

from classifiers import Examples
from safety_kit.commands import demo, models
from safety_kit.commands.demo_figures import ANY, Figures, Rate, held_out
from safety_kit.guard import Guard
from safety_kit.policy import Policy

if TYPE_CHECKING:
    from safety_kit.gemma import Gemma

POLICY = """\
version: 1
name: words instead of probes
checks:
  hate: {type: patterns, keywords: [hateful]}
  self_harm: {type: patterns, keywords: [sad]}
  mail: {type: pii}
rules:
  - {category: hate, action: block}
  - {category: self_harm, stages: [input], action: block}
  - {category: pii.email, action: redact}
"""


def examples(category: str, *rows: tuple[str, int | float, str | None]) -> Examples:
    return Examples(
        texts=tuple(text for text, _, _ in rows),
        prompts=tuple(prompt for _, _, prompt in rows),
        categories=(category,),
        labels=np.array([[label] for _, label, _ in rows], dtype=float).reshape(len(rows), 1),
        held_out=np.ones(len(rows), dtype=bool),
        groups=tuple(text for text, _, _ in rows),
        slices={},
    )


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 82, 0.0, 0.0448), (82, 82, 0.9552, 1.0), (28, 33, 0.6908, 0.9335), (0, 0, 0.0, 1.0), (1, 2, 0.0945, 0.9055)],
)
def test_the_interval_is_wilsons(hits: int, n: int, low: float, high: float) -> None:
    assert Rate(hits, n).interval == pytest.approx((low, high), abs=1e-3)


def test_false_blocks_and_misses_are_counted_by_own_rule_and_by_any() -> None:
    hate = examples(
        "hate",
        ("hateful", 1, None),  # found
        ("nothing to see", 1, None),  # missed
        ("sad, but of hate", 1, None),  # missed by its own rule, stopped by another
        ("a hateful word quoted", 0, "Hi"),  # a false block
        ("fine", 0, None),
        ("a@example.com", 0, None),  # redacted is not blocked
        ("hateful, nobody knows", float("nan"), None),
    )
    self_harm = examples(
        "self_harm",
        ("sad", 1, None),
        ("sad", 1, "Hi"),  # no rule for it in replies: left out
        ("hateful", 0, None),  # another rule's business
    )
    benign = examples("benign", ("sad song", 0, None), ("bread", 0, None), ("cake", 0, "Hi"))
    counted: list[int] = []
    figures = held_out(Guard(Policy.parse(POLICY)), {"hate": hate, "self_harm": self_harm}, benign, counted.append)
    assert figures == [
        Figures("hate", Rate(1, 3), Rate(2, 3)),
        Figures("self_harm", Rate(0, 1), Rate(0, 1)),
        Figures(ANY, Rate(1, 3), Rate(1, 4)),
    ]
    assert sum(counted) == 3 + 6 + 2


def test_the_prompts_are_of_every_kind() -> None:
    lines = (ROOT / "data" / "demo" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    counts = {kind: kinds.count(kind) for kind in kinds}
    assert counts == {"harmless": 4, "hard negative": 2, "personal data": 1, "harmful": 3, "jailbreak": 1}


def test_a_category_without_a_set_is_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda *_: None)
    done = runner.invoke(app, ["demo", "--category", "bad_manners"])
    assert done.exit_code == 2
    assert "prompt_injection" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [True, False])
def test_the_demo_on_little_data(
    as_json: bool, embedded: Gemma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from classifiers import teach

    whole = teach.examples_for

    def few(category: str, harmless: int | None = None, others: int = 0) -> Examples:
        taught = whole(category, 80, others).teach()
        order = np.argsort([len(text) for text in taught.texts])
        negatives = order[taught.labels[order, 0] == 0][:160]  # the default policy's budget needs 149
        return taught.select(np.concatenate([order[taught.labels[order, 0] == 1][:30], negatives]))

    monkeypatch.setattr(teach, "examples_for", few)
    monkeypatch.setattr(Examples, "test", lambda self: self.select(range(4)))
    monkeypatch.setattr(models, "load", lambda *_: embedded)
    monkeypatch.setattr(demo, "MAX_TOKENS", 4)
    prompts = tmp_path / "prompts.jsonl"
    texts = ["What is the capital of Portugal?", "Mail ana@example.com \x1b[31m[bold]now"]
    prompts.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    done = runner.invoke(app, ["demo", "--prompts", str(prompts), *(["--json"] if as_json else [])])
    assert done.exit_code == 0, done.stderr
    if not as_json:
        assert "\x1b" not in done.stdout
        for words in (
            "Taught hate from 190 texts",
            "pii.email 1.00",
            "small base model",
            "any category",
            "What to do next",
        ):
            assert words in done.stdout
        return
    said = json.loads(done.stdout)
    assert set(said) == {"taught", "prompts", "held_out", "cost"}
    assert set(said["taught"]) == {"hate"}
    assert [row["prompt"] for row in said["prompts"]] == texts
    assert said["prompts"][1]["input"]["action"] in ("redact", "block")
    assert len(said["held_out"]) == 7
    assert said["cost"] is None or said["cost"]["ratio"] > 0
