"""The language check: what is found in which language, when, and that stepping equals `run`."""

from __future__ import annotations

import sys

import pytest
from guard_helpers import chunk, cuts, steps_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safety_kit.catalogue import LANGUAGES
from safety_kit.check_options import LanguageOptions
from safety_kit.checks import language
from safety_kit.checks.base import Delta
from safety_kit.checks.language import LanguageCheck
from safety_kit.errors import MissingExtra, PolicyError
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.stream import StreamGuard
from safety_kit.types import Sample

SENTENCES = {
    "en": "Could you please tell me how to bake a simple loaf of bread at home?",
    "de": "Kannst du mir bitte erklären, wie man zu Hause ein einfaches Brot backt?",
    "fr": "Peux-tu m'expliquer comment faire un pain tout simple à la maison ?",
    "es": "¿Puedes explicarme cómo hornear un pan sencillo en casa?",
    "pl": "Czy możesz mi wyjaśnić, jak upiec prosty chleb w domu?",
    "tr": "Bana evde basit bir ekmeğin nasıl yapılacağını anlatır mısın?",  # noqa: RUF001
    "ru": "Можешь объяснить, как испечь простой хлеб дома?",
    "el": "Μπορείς να μου εξηγήσεις πώς να ψήσω ένα απλό ψωμί;",  # noqa: RUF001
    "he": "אתה יכול להסביר לי איך אופים לחם פשוט בבית?",
    "hi": "क्या आप मुझे बता सकते हैं कि घर पर साधारण रोटी कैसे बनाते हैं?",
    "ja": "家で簡単なパンを焼く方法を教えてもらえますか？お願いします。",  # noqa: RUF001
    "ko": "집에서 간단한 빵을 굽는 방법을 알려 주시겠어요? 부탁합니다.",
    "zh": "你能告诉我怎么在家里烤一个简单的面包吗？我想自己做面包吃。",  # noqa: RUF001
    "id": "Bisakah kamu menjelaskan cara memanggang roti sederhana di rumah?",
}


def check(*allow: str, **options: object) -> LanguageCheck:
    read = LanguageOptions(type="language", allow=allow, **options)  # type: ignore[arg-type]
    return language.build("language", read, frozenset())


ENGLISH = check("en")


def found(checked: LanguageCheck, text: str) -> list[str]:
    (findings,) = checked.run([Sample(text)])
    assert all(0 <= f.score <= 1 and not f.spans for f in findings)
    return [f.category.removeprefix("language.") for f in findings]


@pytest.mark.parametrize("code", SENTENCES)
def test_each_language_is_told_from_english_and_from_itself(code: str) -> None:
    assert found(ENGLISH, SENTENCES[code]) == ["not_allowed"] * (code != "en")
    assert found(check(code), SENTENCES[code]) == []
    assert found(check("en", code), SENTENCES[code]) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hola amigo, ¿qué?",  # fewer than 20 letters
        "1234567890 " * 100,
        "🙂" * 300,
        "\ud800" * 300,
        "Converting 85 F to Celsius.",
        "for i in range(10):\n    print(i)\nimport os, sys\n",
        "The word is spelt Straße in German, which English has no letter for.",
    ],
)
def test_short_or_unsure_texts_are_not_found(text: str) -> None:
    assert "not_allowed" not in found(ENGLISH, text)


def test_a_text_in_two_languages_may_be_unknown() -> None:
    mixed = f"{SENTENCES['en']} {SENTENCES['id']}"
    (finding,) = ENGLISH.run([Sample(mixed)])[0]
    assert (finding.category, finding.score_kind) == ("language.unknown", "uncalibrated")
    assert 0.5 < finding.score < 0.95
    assert found(check("en", "id"), mixed) == []


def test_the_detail_names_the_language_and_repeats_nothing() -> None:
    (finding,) = ENGLISH.run([Sample(SENTENCES["de"])])[0]
    assert finding.detail == "as a whole most probably de"
    (finding,) = ENGLISH.run([Sample(SENTENCES["de"] * 5)])[0]
    assert finding.detail == "at its beginning most probably de"


def test_a_beginning_in_another_language_counts_whatever_follows() -> None:
    assert found(ENGLISH, SENTENCES["de"] * 5 + SENTENCES["en"] * 20) == ["not_allowed"]
    assert found(ENGLISH, SENTENCES["en"] * 5 + SENTENCES["de"] * 2) == []
    assert found(ENGLISH, SENTENCES["en"] * 5 + SENTENCES["de"] * 150) == ["not_allowed"]


pieces = st.sampled_from(
    [*SENTENCES.values(), " ", "1 2 3 4 5 ", "x" * 190, "!" * 380, "\ud800", "é", "for i in range(3): "]
)
texts = st.lists(pieces, max_size=14).map("".join)


@settings(max_examples=60)
@given(text=texts, places=cuts)
@example(text="!" * 399 + "a" * 30, places=[398, 399, 400, 401])
@example(text="a" * 199 + "ab" * 300, places=[198, 199, 200, 201])
def test_stepping_equals_run(text: str, places: list[int]) -> None:
    (whole,) = ENGLISH.run([Sample(text)])
    for parts in (chunk(text, places), [*text[:450], text[450:]]):
        stepped, cleared = steps_of(ENGLISH, [Delta(part) for part in parts])
        assert stepped == whole
        assert cleared == sorted(cleared)
        assert cleared[-1] == len(text)


def test_nothing_of_a_reply_in_another_language_is_released() -> None:
    guard = Guard(
        Policy.parse("""
version: 1
name: english
checks:
  language: {type: language, allow: [en]}
rules:
  - {category: language.not_allowed, stages: [output], action: block}
""")
    )
    flow = StreamGuard(guard)
    for char in SENTENCES["es"] * 10:
        assert flow.feed(char).text == ""
    assert flow.verdict is not None
    assert flow.verdict.blocked
    flow = StreamGuard(guard)
    released = "".join(flow.feed(char).text for char in SENTENCES["en"] * 10)
    assert len(released) > 600
    assert flow.close().verdict is not None


def test_the_table_of_languages_is_the_identifiers() -> None:
    loaded = language.identifier()
    assert {code for code, _ in loaded.rank("a")} - {"zxx"} == LANGUAGES
    assert language.identifier() is loaded


def test_what_is_missing_is_named_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "_LOADED", [])
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(
        MissingExtra, match=r"py3langid is not installed; install it with: pip install 'safety-kit\[all\]'"
    ):
        check("en")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("[en]", "[english]", "checks.l.allow: 'english' is not one of the 139 languages known"),
        ("[en]", "[]", "checks.l.allow: "),
        ("action: block", "action: redact", "rules[0].action: a language has no exact span"),
    ],
)
def test_a_language_policy_that_makes_no_sense(old: str, new: str, why: str) -> None:
    text = (
        "version: 1\nname: n\nchecks:\n  l: {type: language, allow: [en]}\n"
        "rules: [{category: language.*, action: block}]"
    )
    with pytest.raises(PolicyError) as caught:
        Policy.parse(text.replace(old, new))
    assert why in str(caught.value)
