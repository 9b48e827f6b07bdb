"""Explanations: the shares are exact, and a cause is named only where deleting it shows one."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from test_classifiers import toy
from test_gemma_load import one_thread, tiny  # noqa: F401  (tiny models are slower on two threads)

from classifiers import SafetyClassifier
from classifiers.explain import FEWEST, RANDOM, Share, by_words, candidate_spans, explain, random_spans
from classifiers.shares import split_scores
from safety_kit.errors import UserError
from safety_kit.gemma import Capture
from safety_kit.heads import decision_score
from safety_kit.types import Stage

READINGS = ["causal", "alone"]
FAMILY = "👩‍👩‍👧"


@functools.cache
def taught(reading: str) -> SafetyClassifier:
    return SafetyClassifier(tiny(), reading=reading, categories="toy").fit(*toy())  # type: ignore[arg-type]


def with_weight(reading: str, weight: np.ndarray, bias: float) -> SafetyClassifier:
    """The taught classifier with another head."""
    classifier = SafetyClassifier(tiny(), reading=reading, categories="toy")  # type: ignore[arg-type]
    classifier.__dict__.update(taught(reading).__dict__)
    head = taught(reading).heads_["toy"]
    classifier.heads_ = {"toy": replace(head, weight=weight.astype(np.float32), bias=bias)}
    return classifier


@functools.cache
def planted(reading: str, letter: str = "q") -> SafetyClassifier:
    """A head that reads one letter: its activations against those of all others."""
    blocks = taught(reading).blocks_
    rng = np.random.default_rng(0)
    texts = [" ".join("".join(rng.choice(list("abcdefq"), 3)) for _ in range(20)) for _ in range(12)]
    views = [views[0] for views in tiny().trace_texts([(None, text, "user") for text in texts], Capture(blocks))]
    hidden = np.concatenate([np.concatenate([view.hidden(b).numpy() for b in blocks], axis=1) for view in views])
    spelt = [text[slice(*span)] for text, view in zip(texts, views, strict=True) for span in view.offsets]
    model = LogisticRegression(max_iter=300).fit(hidden, [letter in token for token in spelt])
    question = np.zeros(len(model.coef_[0]) if reading == "alone" else 0)
    return with_weight(reading, np.concatenate([model.coef_[0], question]), float(model.intercept_[0]))


class TestShares:
    @pytest.mark.parametrize("reading", READINGS)
    @given(text=st.text(max_size=40), prompt=st.none() | st.text(max_size=10))
    @example(text=f"  a {FAMILY} and 中文字 the cat\u200d\n\n", prompt=None)
    @example(text="the cat " * 150, prompt="Hello?")
    @example(text="x" * 1300, prompt=None)
    @example(text="a\ud800b", prompt="\udfff")
    @settings(max_examples=20)
    def test_shares_rows_and_bias_are_the_score(self, reading: str, text: str, prompt: str | None) -> None:
        classifier = taught(reading)
        item = text if prompt is None else (prompt, text)
        [split] = split_scores(classifier, "toy", [(prompt, text)])
        if split is None:
            with pytest.raises(UserError, match="empty"):
                explain(classifier, item, deletions=False)
            return
        found = explain(classifier, item, deletions=False)
        total = sum(token.share for token in found.tokens) + sum(row.share for row in found.rows) + found.bias
        assert total == pytest.approx(found.score, abs=1e-9)
        assert sum(word.share for word in found.words) == pytest.approx(sum(t.share for t in found.tokens), abs=1e-9)
        [[probability]] = classifier.category_probabilities([item])
        assert found.probability == pytest.approx(probability, abs=1e-5)
        assert all(0 <= start <= end <= len(text) for start, end in (token.span for token in found.tokens))

    def test_the_score_is_the_one_that_the_guard_compares(self) -> None:
        classifier = taught("causal")
        head = classifier.heads_["toy"]
        text = "ab " * 60 + "zzzzqzzx" * 4 + " ab" * 60
        [[view]] = tiny().trace_texts([(None, text, "user")], Capture(head.blocks))
        hidden = np.concatenate([view.hidden(block).numpy() for block in head.blocks], axis=1)
        score, end = decision_score(head.token_scores(hidden), head.bias, Stage.INPUT, head.window, head.stride)
        found = explain(classifier, text, deletions=False)
        assert found.score == score
        assert len(found.tokens) == head.window
        assert found.tokens[-1].span == view.offsets[end - 1]

    def test_rows_say_what_is_read_beside_the_text(self) -> None:
        names = {
            (reading, prompt): [row.name for row in explain(taught(reading), (prompt, "zzz abc"), deletions=False).rows]
            for reading in READINGS
            for prompt in (None, "hello")
        }
        assert names["causal", None] == []
        assert names["causal", "hello"] == ["context"]
        assert names["alone", None] == ["question"]
        assert names["alone", "hello"] == ["question", "context"]

    def test_what_the_context_does_is_measured_by_leaving_it_out(self) -> None:
        classifier = taught("causal")
        [row] = explain(classifier, ("qqq zzz", "abc abc")).rows
        [with_it, without] = split_scores(classifier, "toy", [("qqq zzz", "abc abc"), ("", "abc abc")])
        assert row.share == 0
        assert with_it is not None
        assert without is not None
        assert row.drop == pytest.approx(with_it.score - without.score, abs=1e-4)
        assert abs(row.drop) > 1e-3


class TestWords:
    @given(st.text(alphabet="ab 中\n👩\u200d.", max_size=30))
    def test_words_split_no_token_and_lose_no_share(self, text: str) -> None:
        tokens = tiny().vocabulary.content(text)
        words = by_words(text, [Share(span, 1.0) for span in tokens.offsets])
        assert sum(word.share for word in words) == len(tokens)
        assert [word.span for word in words] == sorted(word.span for word in words)
        assert all(left.span[1] <= right.span[0] for left, right in pairwise(words))
        for start, end in tokens.offsets:
            own = text[start:end].strip()
            at = text.find(own, start)
            assert not own or any(a <= at and at + len(own) <= b for a, b in (word.span for word in words))

    def test_words_are_runs_of_letters_and_chinese_characters(self) -> None:
        text = f" the cat, {FAMILY} 中文"
        words = by_words(text, [Share(span, 1.0) for span in tiny().vocabulary.content(text).offsets])
        assert [text[slice(*word.span)] for word in words] == ["the", "cat,", FAMILY, "中", "文"]

    def test_neighbours_are_one_candidate(self) -> None:
        shares = [0, 5, 6, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        words = [Share((i, i + 1), float(share)) for i, share in enumerate(shares)]
        assert candidate_spans(words) == [range(1, 3), range(6, 7)]
        assert candidate_spans([Share((i, i + 1), 1.0) for i in range(9)]) == []

    @given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 60), st.integers(0, 99))
    def test_random_spans_are_as_long_and_elsewhere(self, n: int, size: int, start: int, seed: int) -> None:
        span = range(min(start, n - 1), min(start + size, n))
        found = random_spans(n, span, np.random.default_rng(seed).permutation(n))
        assert len(found) == len(set(found)) <= RANDOM
        assert all(len(other) == len(span) and other.start >= 0 and other.stop <= n for other in found)
        assert all(not set(other) & set(span) for other in found)


class TestCause:
    @pytest.mark.parametrize("reading", READINGS)
    def test_deletion_names_the_word_that_decides(self, reading: str) -> None:
        text = "abc def the cab fed qqqq bad dab ace the fab cad bed the deaf a cafe"
        found = explain(planted(reading), text)
        assert text[slice(*found.cause[0].span)].split()[-1] == "qqqq"  # perhaps with the word before it
        assert found.cause[0].drop > found.cause[0].random
        assert "qqqq”" in found.sentence
        start, end = max(found.words, key=lambda word: word.share).span
        assert text[start:end] == "qqqq"

    def test_it_is_found_inside_a_long_text(self) -> None:
        text = "abc def the cab fed " * 60 + "qqqqq qqqqq " + "bad dab ace the fab " * 60
        found = explain(planted("causal"), text)
        assert any("qqqqq" in text[slice(*one.span)] and len(text[slice(*one.span)]) < 20 for one in found.cause)

    @pytest.mark.parametrize("reading", READINGS)
    def test_a_constant_head_has_no_localised_cause(self, reading: str) -> None:
        constant = with_weight(reading, np.zeros_like(taught(reading).heads_["toy"].weight), 2.5)
        found = explain(constant, "abc def the cab fed qqqq bad dab ace the fab cad bed")
        assert found.score == 2.5
        assert found.cause == ()
        assert found.sentence == "No localised cause: no word's share stands out."

    def test_words_that_all_say_the_same_are_no_localised_cause(self) -> None:
        found = explain(planted("causal"), "qqqq " * 30)
        assert found.candidates
        assert found.cause == ()

    def test_a_short_text_cannot_be_compared(self) -> None:
        found = explain(planted("causal"), "abc qqqq def")
        assert len(found.words) <= FEWEST
        assert (found.cause, found.candidates) == ((), 0)
        assert "too short" in found.sentence

    def test_the_seed_decides_the_random_spans_and_nothing_else(self) -> None:
        text = " ".join("abcdef" * 5) + " q"
        first, again, *others = (explain(planted("causal"), text, seed=seed) for seed in (0, 0, 1, 2, 3))
        assert first == again
        assert {other.tokens for other in others} == {first.tokens}
        assert {tuple(one.drop for one in other.cause) for other in others} == {tuple(one.drop for one in first.cause)}
        assert len({other.cause[0].random for other in (first, *others)}) > 1

    def test_without_deletions_nothing_is_said_of_the_cause(self) -> None:
        found = explain(planted("causal"), "abc qqqq def", deletions=False)
        assert found.candidates is None
        assert "nothing is said" in found.sentence


class TestAsked:
    def test_an_unknown_category_is_refused(self) -> None:
        with pytest.raises(UserError, match="'spam'; it has toy"):
            explain(taught("causal"), "abc", "spam")

    def test_of_several_categories_one_is_named(self) -> None:
        texts, y = toy()
        several = SafetyClassifier(tiny(), categories=["a", "b"]).fit(texts, np.stack([y, 1 - y], axis=1))
        with pytest.raises(UserError, match="Name the category"):
            explain(several, "abc")
        scores = [explain(several, "zzzz", name, deletions=False).score for name in "ab"]
        assert scores[0] > scores[1]

    def test_it_is_json(self) -> None:
        found = explain(planted("causal"), "abc def the cab fed qqqq bad dab ace the fab cad bed")
        again = json.loads(json.dumps(found.to_json()))
        assert again["score"] == found.score
        assert again["cause"][0]["span"] == list(found.cause[0].span)
        assert len(again["tokens"]) == len(found.tokens)
