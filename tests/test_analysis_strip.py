"""The strip is what the guard's own functions say of each prefix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_gemma_load import one_thread as one_thread
from test_gemma_load import tiny

from safety_kit.analysis.strip import strips, thresholds
from safety_kit.artifacts import Calibration
from safety_kit.gemma import Capture, Gemma, Tokens
from safety_kit.guard import Guard
from safety_kit.heads import Head, decision_score
from safety_kit.policy import Policy, Rule
from safety_kit.types import Action, Message, Sample, Stage


def head(window: int, stride: int, blocks: tuple[int, ...] = (1, 3)) -> Head:
    rng = np.random.default_rng(window)
    weight = rng.normal(size=32 * len(blocks)).astype(np.float32) / 9
    scales = {stage: Calibration(slope=1.3, intercept=-0.4) for stage in Stage}
    return Head("odd", blocks, weight, 0.2, scales, {}, window, stride)


@given(
    text=st.text("abc the", min_size=1, max_size=90).filter(str.strip),
    window=st.integers(1, 30),
    stride=st.integers(1, 9),
    stage=st.sampled_from(Stage),
)
def test_each_value_is_the_score_of_that_prefix_alone(text: str, window: int, stride: int, stage: Stage) -> None:
    gemma, probe = tiny(), head(window, stride)
    prompt = gemma.render([Message("user", text)])
    start, stop = prompt.ranges[0]
    (trace,) = gemma.forward([prompt.tokens], Capture(probe.blocks))
    (made,) = strips(trace.view(start, stop), [probe], stage)
    for end in {start + 1, (start + stop + 1) // 2, stop}:
        prefix = Tokens(prompt.tokens.ids[:end], prompt.tokens.offsets[:end])
        (alone,) = gemma.forward([prefix], Capture(probe.blocks))
        view = alone.view(start, end)
        hidden = np.concatenate([view.hidden(block).numpy() for block in probe.blocks], axis=1)
        score, _ = decision_score(probe.token_scores(hidden), probe.bias, stage, window, stride)
        assert abs(made.probabilities[end - start - 1] - probe.probability(score, stage)) < 1e-5
    assert np.allclose(np.nancumsum(made.changes) + made.probabilities[0], made.probabilities)
    assert made.spans == prompt.tokens.offsets[start:stop]


POLICY = """\
version: 1
name: odd
checks: {banned: {type: patterns, keywords: [bluebird]}}
rules:
  - {category: banned, action: block}
"""


def test_the_first_crossing_is_above_the_lowest_threshold_of_each_action() -> None:
    policy = Policy.parse(POLICY)
    rules = (
        Rule("odd", frozenset({Stage.INPUT}), Action.BLOCK, 0.9999),
        Rule("odd", frozenset({Stage.INPUT}), Action.FLAG, 0.5),
        Rule("odd", frozenset({Stage.OUTPUT}), Action.FLAG, 0.1),
    )
    policy = replace(policy, rules=rules)
    assert thresholds(policy, "odd", Stage.INPUT) == {Action.BLOCK: 0.9999, Action.FLAG: 0.5}
    assert thresholds(None, "odd", Stage.INPUT) == {}
    gemma, probe = tiny(), head(8, 2)
    prompt = gemma.render([Message("user", "the cat in the hat and a the inner thing")])
    (trace,) = gemma.forward([prompt.tokens], Capture(probe.blocks))
    (made,) = strips(trace.view(*prompt.ranges[0]), [probe], Stage.INPUT, policy)
    above = np.flatnonzero(made.probabilities > 0.5)
    assert made.crossings[Action.BLOCK] is None
    assert made.crossings[Action.FLAG] == (above[0] if len(above) else None)


@pytest.mark.parametrize("stage", list(Stage))
def test_the_last_value_is_what_the_guard_says(embedded: Gemma, stage: Stage) -> None:
    guard = Guard(Policy.load(), embedded)
    assert guard.probes is not None
    heads = [probe.head for probe in guard.probes.probes if stage in probe.stages]
    text = "You are a worthless fool and everybody hates you. " * 5
    (found,) = guard.probes.run([Sample.at(text, stage, "hi" if stage is Stage.OUTPUT else None)])
    messages = [Message("user", "hi"), Message("assistant", text)] if stage is Stage.OUTPUT else [Message("user", text)]
    prompt = embedded.render(messages)
    (trace,) = embedded.forward([prompt.tokens], guard.capture or Capture())
    made = strips(trace.view(*prompt.ranges[-1]), heads, stage, guard.policy)
    said = {finding.category: finding.score for finding in found}
    for strip in made:
        assert abs(strip.probabilities[-1] - said[strip.category]) < 1e-4
    harassment = next(strip for strip in made if strip.category == "harassment")
    assert harassment.crossings[Action.BLOCK] is not None
