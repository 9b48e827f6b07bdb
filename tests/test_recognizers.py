"""The recognizers run only where they can match: what they find is what presidio's, run on everything, find."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st
from phonenumbers import Leniency, PhoneNumberMatcher

from safety_kit.catalogue import COUNTRIES, PII
from safety_kit.check_options import PiiOptions
from safety_kit.checks._gate import Gate, loosened, skeleton
from safety_kit.checks._phones import SHORTEST, Phones
from safety_kit.checks._presidio import recognizer_class
from safety_kit.checks._recognizers import Recognizers, _without_contained
from safety_kit.checks.pii import PiiCheck
from safety_kit.checks.windows import Hit
from safety_kit.types import Sample

REGIONS = tuple(region for _, region in COUNTRIES.values())
ALL = Recognizers(tuple(PII), REGIONS)
PHONE = recognizer_class("phone")(supported_regions=REGIONS)
PATTERNS = [pattern for one in ALL.others for pattern in one.patterns]


def ungated(text: str) -> list[Hit]:
    hits = []
    for one in ALL.others:
        found = one.presidio.analyze(text, one.presidio.supported_entities)
        hits += one.hits(text, [(each.start, each.end, each.score) for each in found])
    assert ALL.phone is not None
    numbers = [(r.start, r.end, r.score) for r in PHONE.analyze(text, ["PHONE_NUMBER"])]
    return hits + ALL.phone.hits(text, [one for one in numbers if digits(text[one[0] : one[1]]) >= SHORTEST])


def digits(text: str) -> int:
    return sum(map(str.isdecimal, text))


def generated(pattern: str) -> st.SearchStrategy[str] | None:
    """Texts that a pattern matches, where the standard library reads it."""
    try:
        return st.from_regex(re.compile(pattern.replace("(?i)", ""), re.ASCII)).filter(lambda text: len(text) < 120)
    except re.error:
        return None


matching = [strategy for pattern in PATTERNS if (strategy := generated(pattern.text)) is not None]
words = st.sampled_from(sorted({word for one in ALL.others for word in one.words}))
characters = st.text(st.sampled_from("0123456789 -+()./:@#xXaAbBeEıİſK٣Ä_\u00a0\x0b\x1c\u2003é中😀\n"), max_size=25)
phones = st.sampled_from(
    [
        *("+1-984-182-0190", "+46 (0)8 928 571 38", "0490 75 40 81", "(212) 555-2368 x12", "020 7946 0958", "62488"),
        *(
            "00 49 30 901820",
            "011 44 20 7946 0958",
            "+999 12345678",
            "+(1) 212 555 2368",
            "8 (800) 555-35-35",
            "1/2/2020",
        ),
        *(
            "211-227 (2003)",
            "11 98765-4321",
            "0 11 98765 4321",
            "9011987654321",
            "+39 06 698 82",
            "０２０ ７９４６ ０９５８",
        ),
        *("2012-01-02 08:00", "650-253-0000/650-253-0001", "٠٢٠٧٩٤٦٠٩٥٨", "416 60 039", "213164126086955"),
    ]
)
pieces = st.lists(st.one_of(characters, words, phones, *matching), max_size=6).map(" ".join) | st.lists(
    characters | phones, max_size=6
).map("".join)


@settings(max_examples=60, deadline=None)
@given(text=pieces)
@example(text="ıp 10.0.0.1 İBAN DE89370400440532013000")
@example(text="aa:bb:cc:dd:ee:ff and fe80::1")
@example(text="ſſn 536-90-4399, K1234567")
@example(text="number 62488, phone 0490 75 40 81 and +46 (0)8 928 571 38 or 905-674-3793")
def test_gated_equals_ungated(text: str) -> None:
    key = lambda hit: (hit.start, hit.end, hit.category, hit.score)  # noqa: E731
    assert sorted(ALL.scan(text), key=key) == sorted(ungated(text), key=key)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_loosened_pattern_matches_what_its_pattern_does(data: Any) -> None:
    pattern = data.draw(st.sampled_from(PATTERNS))
    strategy = generated(pattern.text)
    text = data.draw(pieces if strategy is None else strategy | pieces)
    if pattern.regex.search(text):
        assert Gate([(pattern.text, bool(pattern.regex.flags & regex.IGNORECASE))]).may_match(skeleton(text)) == [0]


def test_every_pattern_is_taken_by_the_automaton() -> None:
    loose = Gate([("(", False), ("a", False)])
    assert loose.may_match("b") == [0]  # what RE2 does not take always passes
    assert Gate([(one.text, True) for one in PATTERNS]).may_match("...") == []


@pytest.mark.parametrize(
    ("pattern", "text", "may"),
    [
        (r"(?<!\d)\d{3}(?!\d)", "1234", False),
        (r"(?<!\d)\d{3}(?!\d)", "x123", True),
        (r"(?<![A-Z0-9])AB", "ZAB", False),
        (r"(?=.*x)ab", "ab", True),
        (r"(a)-\1", "a-", True),
    ],
)
def test_loosened(pattern: str, text: str, may: bool) -> None:
    assert Gate([(pattern, False)]).may_match(skeleton(text)) == ([0] if may else [])
    assert "(?<" not in loosened(pattern, False)


def test_the_skeleton_has_a_character_for_each() -> None:
    text = "a٣é\u00a0😀\x0bſ\x1c"
    assert skeleton(text) == "a0_ \x7f s\x1c"
    assert skeleton("plain 12") == "plain 12"


@settings(max_examples=40, deadline=None)
@given(text=st.lists(phones | characters, max_size=5).map(" ".join))
def test_phones_are_those_of_the_regions_one_by_one(text: str) -> None:
    some = ("US", "GB", "DE", "BR")
    found = recognizer_class("phone")(supported_regions=some).analyze(text, ["PHONE_NUMBER"])
    kept = {(one.start, one.end) for one in found if digits(text[one.start : one.end]) >= SHORTEST}
    assert kept <= set(Phones(some).find(text))  # presidio drops what lies in another


FRAGMENTS = [
    *("+1 415 555 2671", "(650) 253-0000", "020 7946 0958", "030/1234567", "+46 (0)8 928 571 38", "0800 1111", "90210"),
    *(
        "2021-01-02",
        "1 2 3 4 5 6 7 8 9",
        "4111 1111 1111 1111",
        "12:30",
        " - ",
        "/",
        " ",
        ", ",
        "(",
        "+",
        "ext. 7",
        "x",
    ),
]
soup = st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join) | st.text("0123456789 -/().+", max_size=40)


@settings(max_examples=150, deadline=None)
@given(text=soup)
@example(text="+46 (0)8 928 571 38- (650) 253-0000 ")
@example(text="+1 415 555 2671 (650) 253-0000 / 2021-01-02")
@example(text="1 2 3 4 5 6 7 8 9 " * 6)
@example(text="+010-1234-5678020 7946 0958")
def test_phones_lose_and_add_nothing(text: str) -> None:
    """Against the matchers of every region, each over the whole text; of spans in each other the longer counts."""
    some = ("US", "GB", "DE", "BR", "CA")
    each = [match for region in some for match in PhoneNumberMatcher(text, region, Leniency.VALID)]
    whole = {(match.start, match.end) for match in each if digits(match.raw_string) >= SHORTEST}

    def longest(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int, float]]:
        return _without_contained(sorted(((a, b, 1.0) for a, b in spans), key=lambda one: (one[0], -one[1])))

    assert longest(Phones(some).find(text)) == longest(whole)


def test_100_000_digits_are_read_by_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """No parser is asked: the digits of a run so long are no number of any region."""
    asked = []
    monkeypatch.setattr("phonenumbers.phonenumbermatcher.parse", lambda *a, **k: asked.append(a))
    countries = tuple(COUNTRIES)
    check = PiiCheck("pii", PiiOptions(type="pii", countries=countries), ALL.categories)
    (findings,) = check.run([Sample("1234567890" * 10_000)])
    assert asked == []
    assert all(0 <= a < b <= 100_000 for f in findings for a, b in f.spans)
