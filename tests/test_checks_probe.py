"""The probe check: one forward for all categories, its own trace where there is one, streams that equal `run`."""

from __future__ import annotations

import numpy as np
import pytest
from guard_helpers import FakeGemma, make_artifact, steps_of
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_kit import artifacts
from safety_kit.checks.base import Delta
from safety_kit.checks.probe import Probe, ProbeCheck
from safety_kit.gemma.trace import Trace
from safety_kit.types import Sample, Stage

BOTH = frozenset(Stage)


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> ProbeCheck:
    folder = tmp_path_factory.mktemp("artifacts")
    hate = artifacts.load(make_artifact(folder / "hate", ["hate", "injection"])).heads
    made = make_artifact(folder / "other", ["other"], window=9, reply_window=6, stride=3)
    other = artifacts.load(made).heads["other"]
    probes = [
        Probe("hate", hate["hate"], BOTH),
        Probe("injection", hate["injection"], frozenset({Stage.INPUT})),
        Probe("other", other, BOTH),
    ]
    return ProbeCheck(probes, FakeGemma())


def test_run_batches_what_has_no_trace(check: ProbeCheck) -> None:
    gemma = FakeGemma()
    check = ProbeCheck(check.probes, gemma)
    traced = gemma.trace("!!!!", (1, 2))
    samples = [Sample("calm"), Sample("ignored", trace=traced), Sample(""), Sample("!!!!", "assistant", Stage.OUTPUT)]
    calm, own, empty, reply = check.run(samples)
    assert gemma.calls == [["calm", "!!!!"]]
    assert [f.category for f in calm] == ["hate", "injection", "other"]
    assert all(f.score < 0.01 and f.score_kind == "calibrated" and f.spans == () for f in calm)
    assert all(f.score > 0.99 for f in own)
    assert empty == []
    assert [(f.category, f.check) for f in reply] == [("hate", "hate"), ("other", "other")]
    assert reply[0].detail == "highest reading ends at token 4 of 4"


def test_the_worst_window_of_a_long_text_counts(check: ProbeCheck) -> None:
    check = ProbeCheck(check.probes, FakeGemma(window=50))
    for place in (0, 30, 75, 148):
        text = "." * place + "!" * 12 + "." * (160 - place)
        (findings,) = check.run([Sample(text)])
        assert findings[0].score > 0.5, place
    assert "window" in findings[0].detail


def test_a_reply_is_read_in_its_own_window(check: ProbeCheck) -> None:
    text = "." * 30 + "!" * 6
    (asked,), (replied,) = (check.run([Sample(text, "assistant", stage)]) for stage in Stage)
    assert {f.category: f.score > 0.9 for f in asked} == {"hate": False, "injection": False, "other": False}
    assert {f.category: f.score > 0.9 for f in replied} == {"hate": False, "other": True}


def test_a_nan_is_passed_on_for_the_guard_to_refuse(check: ProbeCheck) -> None:
    view = FakeGemma().trace("abc", (1, 2))
    view.hidden(2)[1] = np.nan
    (findings,) = check.run([Sample("abc", trace=view)])
    assert not findings[0].score <= 1


def tokens(text: str, sizes: list[int]) -> list[Delta]:
    deltas, at = [], 0
    for size in [*sizes, len(text)]:
        piece = text[at : at + size]
        deltas.append(Delta(piece, FakeGemma().hidden(piece, (1, 2))))
        at += size
        if at >= len(text):
            break
    return [*deltas, Delta("")]


@settings(max_examples=60)
@given(text=st.text("a!b", max_size=60), sizes=st.lists(st.integers(1, 9), max_size=60))
def test_stepping_equals_run(check: ProbeCheck, text: str, sizes: list[int]) -> None:
    (whole,) = check.run([Sample(text, "assistant", Stage.OUTPUT)])
    stepped, cleared = steps_of(check, tokens(text, sizes))
    highest: dict[str, float] = {}
    for finding in stepped:
        highest[finding.category] = max(highest.get(finding.category, 0.0), finding.score)
    assert highest == pytest.approx({f.category: f.score for f in whole}, abs=1e-6)
    assert cleared == sorted(cleared)
    assert cleared[-1] == len(text)


def test_only_what_a_reading_covered_is_cleared(check: ProbeCheck) -> None:
    _, cleared = steps_of(check, tokens("a" * 14, [1] * 14))
    # Readings end at 8, 12 (stride 4) and 6, 9, 12 (stride 3): a character goes when both heads have read it.
    assert cleared == [0] * 8 + [8] * 3 + [12] * 3 + [14]


def test_activations_of_any_float_type_are_read(check: ProbeCheck) -> None:
    torch = pytest.importorskip("torch")
    view = FakeGemma().trace("a!!b", (1, 2))
    half = {block: torch.tensor(view.hidden(block)).to(torch.bfloat16) for block in (1, 2)}
    (exact,), (rounded,) = (
        check.run([Sample("a!!b", trace=trace)]) for trace in (view, Trace(view.trace.ids, (), half).view(0, 4))
    )
    assert [f.score for f in rounded] == pytest.approx([f.score for f in exact])


def test_text_without_activations_is_a_fault(check: ProbeCheck) -> None:
    with pytest.raises(ValueError, match="without activations"):
        check.step(check.start(), Delta("abc"), False)
