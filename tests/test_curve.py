"""The learning curve: sizes, splits that keep groups apart, the slope's interval, the advice and the plot."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_classifiers import toy
from test_gemma_load import one_thread, tiny  # noqa: F401  (tiny models are slower on two threads)
from test_metrics import made

from classifiers import curve, plots
from classifiers.curve import Curve, Size, learning_curve
from classifiers.fit import SafetyClassifier
from classifiers.metrics import METRICS
from safety_kit.errors import DataError, MissingExtra


def examples(n: int = 88, **more: Any) -> Any:
    texts, y = toy(n)
    return made(y, texts=[f"{text}{i}" for i, text in enumerate(texts)], **more)


@pytest.fixture(scope="module")
def learned() -> Curve:
    return learning_curve(tiny(), examples(), draws=2)


def test_quality_grows_with_the_number_of_examples(learned: Curve) -> None:
    assert [(size.positives, size.negatives) for size in learned.sizes] == [(8, 8), (16, 16), (32, 32)]
    assert (learned.held_out, learned.positives, learned.marked, learned.draws) == (22, 11, False, 2)
    for size in learned.sizes:
        assert set(size.figures) == set(METRICS)
        assert all(one["low"] <= one["value"] <= one["high"] for one in size.figures.values())
    assert learned.sizes[-1].figures["auroc"]["value"] > 0.85
    assert learned.sentence.startswith(f"Each of the last doublings brought {learned.gain['value']:+.3f} AUROC")


def test_a_seed_decides_all(learned: Curve) -> None:
    assert learning_curve(tiny(), examples(), draws=2) == learned


class Recorder:
    """Stands in for the classifier: keeps what it was taught from and asked."""

    seen: list[tuple[set[Any], set[Any]]]

    def __init__(self, *_: object, **options: Any) -> None:
        pass

    def fit(self, X: Any, y: Any, groups: Any) -> None:
        self.taught = list(X)
        self.labels = [int(label) for label in y]

    def category_probabilities(self, X: Any) -> np.ndarray:
        Recorder.seen.append((set(self.taught), set(X)))
        assert sum(self.labels) * 2 == len(self.labels)
        skill = len(self.taught) / 100
        noise = np.random.default_rng(len(self.taught)).random(len(X))
        truth = np.array([int(text.split()[-1]) % 2 for _, text in X])
        return np.clip(skill * truth + (1 - skill) * noise, 0, 1)[:, None]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    Recorder.seen = []
    monkeypatch.setattr(curve, "SafetyClassifier", Recorder)
    return Recorder


def test_a_group_is_taught_from_or_measured_on_never_both(recorder: type[Recorder]) -> None:
    """Twins share a group: text 2k and text 2k + 1."""
    rows = made([i % 2 for i in range(120)], groups=[str(i // 2) for i in range(120)])
    found = learning_curve(tiny(), rows, draws=3)
    for taught, held in recorder.seen:
        twins = [{int(text.split()[-1]) // 2 for _, text in part} for part in (taught, held)]
        assert not twins[0] & twins[1]
    assert len({frozenset(held) for _, held in recorder.seen}) == 1
    assert len({frozenset(taught) for taught, _ in recorder.seen}) == 3 * len(found.sizes)
    by_size = sorted((taught for taught, _ in recorder.seen[: len(found.sizes)]), key=len)
    assert all(smaller < larger for smaller, larger in pairwise(by_size))


def test_marked_rows_are_the_held_out_ones(recorder: type[Recorder]) -> None:
    rows = replace(made([i % 2 for i in range(60)]), held_out=np.arange(60) >= 40)
    found = learning_curve(tiny(), rows, draws=2)
    assert (found.marked, found.held_out) == (True, 20)
    assert all(len(held) == 20 and int(text.split()[-1]) >= 40 for _, held in recorder.seen for _, text in held)
    only_ones = replace(rows, held_out=np.isin(np.arange(60), [1, 3, 5]))
    assert learning_curve(tiny(), only_ones, draws=2).marked is False


def test_a_classifier_that_gets_better_is_worth_more_examples(recorder: type[Recorder]) -> None:
    found = learning_curve(tiny(), made([i % 2 for i in range(120)]), draws=3)
    assert found.answer == "yes"
    assert "would help" in found.sentence


@pytest.mark.parametrize(
    ("value", "low", "high", "answer"),
    [
        (0.02, 0.005, 0.04, "yes"),
        (0.02, -0.005, 0.04, "unclear"),
        (0.004, 0.001, 0.02, "unclear"),
        (0.001, -0.004, 0.006, "hardly"),
        (-0.03, -0.05, -0.01, "hardly"),
    ],
)
def test_the_answer_follows_from_the_interval(value: float, low: float, high: float, answer: str) -> None:
    gain = {"value": value, "low": low, "high": high}
    assert curve._answer(gain) == answer  # type: ignore[arg-type]


@given(st.floats(-1, 1), st.floats(-0.1, 0.1), st.integers(2, 5))
def test_the_gain_is_the_slope_of_the_last_doublings(start: float, gain: float, n: int) -> None:
    counts = [(8 * 2**i, 8 * 2**i) for i in range(n)]
    values = [start + gain * i for i in range(n)]
    found = curve._slope(values, [np.array([value, value]) for value in values], counts)
    assert [found[key] for key in ("value", "low", "high")] == pytest.approx([gain] * 3, abs=1e-9)  # type: ignore[literal-required]


@pytest.mark.parametrize("labels", [[0, 1] * 10, [1] * 3 + [0] * 200, [0, 1] * 2])
def test_too_few_examples_are_told_with_their_number(labels: list[int]) -> None:
    with pytest.raises(DataError, match="at least 16 examples of each label"):
        learning_curve(tiny(), made(labels))


def test_several_categories_are_refused() -> None:
    rows = made([0, 1])
    both = replace(rows, categories=("a", "b"), labels=np.zeros((2, 2)))
    with pytest.raises(DataError, match="a, b"):
        learning_curve(tiny(), both)


def test_each_text_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings are shared by all fits: in its own place and a varied one to teach; once a set of blocks to score."""
    from safety_kit.gemma import Gemma

    read: list[str] = []
    read_texts = Gemma.read_texts

    def counted(self: Gemma, items: Any, *rest: Any, **options: Any) -> Any:
        read.extend(text for _, text, _ in items)
        return read_texts(self, items, *rest, **options)

    monkeypatch.setattr(Gemma, "read_texts", counted)
    learning_curve(tiny(), examples(60), draws=3)
    assert max(read.count(text) for text in set(read)) == 2


def test_the_plot_is_written_as_svg_and_png(tmp_path: Path) -> None:
    figures = {name: {"value": 0.7, "low": 0.6, "high": 0.8} for name in METRICS}
    sizes = tuple(Size(n, n, figures) for n in (8, 16))  # type: ignore[arg-type]
    gain = {"value": 0.0, "low": 0.0, "high": 0.0}
    drawn = Curve("<b>&", "f1", sizes, 20, 10, True, 2, gain, "hardly")  # type: ignore[arg-type]
    paths = plots.save_plot(plots.draw_curve(drawn), tmp_path / "new", "curve")
    assert [path.name for path in paths] == ["curve.svg", "curve.png"]
    svg = paths[0].read_text(encoding="utf-8")
    assert svg.startswith("<svg")
    assert "F1 at .5" in svg
    assert "<b>" not in svg
    assert "http" not in svg.replace("http://www.w3.org/", "")
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["curve.png", "curve.svg"]


def test_a_missing_drawing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None if name == "vl_convert" else object())
    with pytest.raises(MissingExtra, match=r"vl-convert-python .* 'safety-kit\[train\]'"):
        plots.check_installed()


def test_the_real_classifier_has_what_the_curve_asks_of_it() -> None:
    assert {"fit", "category_probabilities"} <= set(dir(SafetyClassifier))
