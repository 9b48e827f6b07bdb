"""The benchmarks of robustness: what they read, how they compare, and that the parallel texts are parallel."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from test_gemma_load import one_thread, tiny  # noqa: F401  (tiny models are slower on two threads)

from benchmarks import contexts, languages
from benchmarks.context_texts import CONTEXTS, Context, long_system
from benchmarks.losses import auroc_loss, rate
from classifiers import SafetyClassifier
from classifiers.data import Examples
from classifiers.teach import CATEGORIES
from safety_kit.gemma import Gemma
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.types import Message

if TYPE_CHECKING:
    from safety_kit.gemma import Tokens, Trace

POLICY = """
version: 1
name: toy
checks: {toy: {type: probe, artifact: ./toy}}
rules: [{category: toy, action: block, max_fpr: 0.2}]
"""


def examples(texts: list[str], y: list[int], prompts: list[str | None] | None = None) -> Examples:
    n = len(texts)
    labels = np.array(y, dtype=float)[:, None]
    return Examples(
        tuple(texts), tuple(prompts or [None] * n), ("toy",), labels, np.zeros(n, bool), tuple(map(str, range(n))), {}
    )


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    from test_classifiers import toy

    folder = tmp_path_factory.mktemp("contexts")
    SafetyClassifier(tiny(), categories="toy").fit(*toy(60)).save(folder / "toy")
    return Guard(Policy.parse(POLICY, folder), tiny())


@pytest.fixture(scope="module")
def rows() -> Examples:
    from test_classifiers import toy

    texts, y = toy(24, seed=7)
    prompts = [None if i % 3 else "Hello?" for i in range(24)]
    return examples(texts, y.tolist(), prompts)


class TestContexts:
    def test_there_are_ten_of_different_kinds(self) -> None:
        assert len({context.name for context in CONTEXTS}) == len(CONTEXTS) == 10
        assert CONTEXTS[0] == Context("none")
        assert len(set(CONTEXTS)) == 10
        assert len(long_system().split()) > 1400

    @pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.name)
    def test_the_text_stands_last_and_whole(self, context: Context) -> None:
        placed = context.place(None, "the text")
        assert placed is not None
        assert "the text" in placed[-1].content
        assert placed[:-1] == list(context.before)
        reply = context.place("the question", "the text")
        if context.role is None:
            assert reply == [*context.before, Message("user", "the question"), Message("assistant", "the text")]
        else:
            assert reply is None

    def test_without_context_it_is_what_the_guard_reads_itself(self, guard: Guard, rows: Examples) -> None:
        read, tokens = contexts.read_in(tiny(), guard, rows, CONTEXTS[0])
        assert guard.probes is not None
        classifier = SafetyClassifier.load(guard.policy.folder / "toy", tiny())
        np.testing.assert_allclose(read, classifier.category_probabilities(rows.pairs()), atol=1e-5)
        assert tokens > sum(len(text) for text in rows.texts) / 3

    def test_the_whole_context_is_read(self, guard: Guard, rows: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
        """And not only the 512 tokens nearest to the text."""
        far = Context("far", (Message("system", "zzz " + "the cat " * 600),))
        read: list[int] = []
        forward = Gemma.forward

        def spy(self: Gemma, texts: Sequence[Tokens], *rest: Any, **more: Any) -> list[Trace]:
            read.extend(map(len, texts))
            return forward(self, texts, *rest, **more)

        monkeypatch.setattr(Gemma, "forward", spy)
        _, tokens = contexts.read_in(tiny(), guard, rows.select([1, 2]), far)
        assert len(read) == 2
        assert sum(read) == tokens
        assert min(read) > len(tiny().vocabulary.content("the cat " * 600))

    def test_replies_are_left_out_where_they_cannot_stand(self, guard: Guard, rows: Examples) -> None:
        read, _ = contexts.read_in(tiny(), guard, rows, CONTEXTS[-1])
        assert np.isnan(read[:, 0]).tolist() == [prompt is not None for prompt in rows.prompts]

    def test_a_run_holds_each_context_against_the_first(self, guard: Guard, rows: Examples) -> None:
        budgets = contexts.budgets_of(guard.policy)
        reports, tokens = contexts.run(
            tiny(), guard, rows, [CONTEXTS[0], CONTEXTS[1], CONTEXTS[9]], budgets | {"toy": 0.2}
        )
        assert reports["none"]["toy"]["loss"] == {"value": 0, "low": 0, "high": 0}
        assert tokens["short system prompt"] > tokens["none"]
        assert reports["quoted in a mail"]["toy"]["texts"] == sum(prompt is None for prompt in rows.prompts)
        json.dumps(reports)
        figures = contexts.figures_of("none", reports["none"])
        assert figures[0].met is True

    def test_false_positives_are_counted_at_the_policys_threshold(self, guard: Guard, rows: Examples) -> None:
        plain, _ = contexts.read_in(tiny(), guard, rows, CONTEXTS[0])
        every = np.ones_like(plain)
        found = contexts.compare(guard, rows, plain, every, {"toy": 0.2})["toy"]
        assert found["false_positives"]["value"] == 1
        assert found["needs_alone"]
        assert found["auroc"]["value"] == 0.5
        none = contexts.compare(guard, rows, plain, np.where(plain > 0.5, 1e-3, 0), {"toy": 0.2})["toy"]
        assert none["false_positives"]["value"] == 0

    def test_the_paragraph_names_what_fails(self) -> None:
        def one(loss: float, needs: bool) -> dict[str, Any]:
            return {"loss": {"value": loss}, "false_positives": {"value": 0.01}, "needs_alone": needs}

        assert "no context" in contexts.paragraph({"a": {"hate": one(0.01, False)}})
        text = contexts.paragraph({"a": {"hate": one(0.01, False)}, "b": {"hate": one(0.051, True)}})
        assert "- b: hate (AUROC loss 0.051, false positives 1.0 %)" in text
        assert "- a" not in text

    def test_a_draw_is_even_and_of_held_out_rows(self) -> None:
        every = contexts.held_out(None)
        assert every.held_out.all()
        assert set(every.categories) == set(CATEGORIES)
        drawn = contexts.held_out(200)
        assert abs(len(drawn) - 200) < 10
        for column, whole in zip(drawn.labels.T, every.labels.T, strict=True):
            assert (column == 1).sum() == pytest.approx((whole == 1).sum() * 200 / len(every), abs=2)


class TestLosses:
    def test_the_same_scores_lose_nothing(self) -> None:
        y, scores = np.arange(40) % 2, np.random.default_rng(0).normal(size=40)
        assert auroc_loss(y, scores, scores * 2 + 1)["loss"] == {"value": 0, "low": 0, "high": 0}

    def test_scores_at_random_lose_what_was_there(self) -> None:
        y = np.arange(200) % 2
        found = auroc_loss(y, y.astype(float), np.random.default_rng(0).normal(size=200))
        assert found["before"]["value"] == 1
        assert found["loss"]["value"] == pytest.approx(1 - found["auroc"]["value"])
        assert found["loss"]["low"] < found["loss"]["value"] < found["loss"]["high"]
        assert found["loss"]["low"] > 0.3

    def test_the_figures_are_those_of_scikit_learn(self) -> None:
        rng = np.random.default_rng(1)
        y, scores = np.arange(60) % 2, rng.integers(0, 8, 60).astype(float)  # with ties
        found = auroc_loss(y, scores, scores)["auroc"]
        assert found["value"] == pytest.approx(roc_auc_score(y, scores))
        halves = [np.flatnonzero(y == label) for label in (0, 1)]
        draws = [np.concatenate([rng.choice(half, len(half)) for half in halves]) for _ in range(400)]
        low, high = np.quantile([roc_auc_score(y[rows], scores[rows]) for rows in draws], [0.025, 0.975])
        assert (found["low"], found["high"]) == (pytest.approx(low, abs=0.04), pytest.approx(high, abs=0.04))

    def test_a_rate_has_its_exact_interval(self) -> None:
        found = rate(0, 30)
        assert (found["value"], found["low"]) == (0, 0)
        assert found["high"] == pytest.approx(1 - 0.025 ** (1 / 30))


class TestLanguages:
    @pytest.mark.parametrize("category", languages.SETS)
    def test_the_texts_are_parallel(self, category: str) -> None:
        texts = languages.parallel(category)
        counts = Counter(zip(texts.slices["lang"], texts.labels[:, 0], strict=True))
        assert counts == {(lang, label): 20 for lang in ("en", "zh", "es", "ar") for label in (0.0, 1.0)}
        assert len(set(texts.texts)) == len(texts) == 160
        assert set(Counter(texts.groups).values()) == {8}
        for text, lang in zip(texts.texts, texts.slices["lang"], strict=True):
            low, high = {"zh": ("\u4e00", "\u9fff"), "ar": ("\u0600", "\u06ff")}.get(str(lang), ("A", "\u024f"))
            letters = [c for c in text if c.isalpha()]
            assert all(low <= c <= high for c in letters), text

    def test_the_card_counts_them(self) -> None:
        card = Path(languages.data_dir() / "languages" / "README.md").read_text(encoding="utf-8")
        for category in languages.SETS:
            assert f"| [{category}]({category}.jsonl) | 160 | 20 of label 1, 20 of label 0 |" in card

    def test_each_language_is_held_against_english(self, monkeypatch: pytest.MonkeyPatch) -> None:
        texts = languages.parallel("harassment")
        lang = np.array(texts.slices["lang"])
        y = texts.labels[:, 0]
        known = np.where(lang == "ar", 1 - y, y)[:, None] * 0.9  # right in all but one, which is upside down

        class Fake:
            categories_ = ("harassment",)
            heads_ = {"harassment": type("H", (), {"threshold_for": lambda *_: 0.5})()}  # noqa: RUF012

            def category_probabilities(self, _: object) -> np.ndarray:
                return known

        report = languages.measure(Fake(), "harassment", texts)  # type: ignore[arg-type]
        assert [report[name]["auroc"]["value"] for name in ("en", "zh", "es", "ar")] == [1, 1, 1, 0]
        assert report["ar"]["loss"]["value"] == 1
        assert (report["zh"]["recall"]["value"], report["zh"]["false_positives"]["value"]) == (1, 0)
        assert report["ar"]["false_positives"]["value"] == 1
        assert len(languages.figures_of("harassment", report)) == 7

    def test_texts_out_of_order_are_refused(self) -> None:
        texts = languages.parallel("harassment")
        with pytest.raises(ValueError, match="same order"):
            languages._same(texts, np.arange(4), np.arange(4)[::-1])

    def test_only_english_is_taught(self) -> None:
        taught = languages.english(languages.examples_for("harassment").teach())
        assert set(taught.slices["lang"]) == {"en"}
        assert not taught.held_out.any()
        assert not set(taught.texts) & set(languages.parallel("harassment").texts)
