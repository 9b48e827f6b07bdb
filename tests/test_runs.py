"""Runs and open prefixes: what the checks of a growing text may clear, and that parts give what the whole gives."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import re2
from guard_helpers import chunk, cuts, filler, plants
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from safety_kit.catalogue import COUNTRIES, pii_categories, secret_categories
from safety_kit.check_options import PatternsOptions, PiiOptions
from safety_kit.checks.base import Delta, TextCheck
from safety_kit.checks.patterns import PatternsCheck
from safety_kit.checks.pii import PiiCheck
from safety_kit.checks.prefix import open_from
from safety_kit.checks.runs import DISGUISE, Held, Runs
from safety_kit.checks.secrets import SecretsCheck
from safety_kit.checks.windows import Hit
from safety_kit.types import Sample

SOME = ("us", "uk", "de", "es", "it")
PII = PiiCheck("pii", PiiOptions(type="pii", countries=SOME), pii_categories(SOME))
ALL_PII = PiiCheck("pii", PiiOptions(type="pii", countries=tuple(COUNTRIES)), pii_categories(tuple(COUNTRIES)))
SECRETS = SecretsCheck("secrets", secret_categories())
PROSE = "It was late, and a man I did not know sat by the fire and told us of a ship that never came home. "

PIECES = """ext.|call|555|3|2019|a|b|c|card|SSN|NHS|AB|12 34 56 C|AB12 CDE|the|+44 20 7946 0958|(415) 555-2671|ext 12
1.2.3.4|fe80::1|12345678Z|http://a.b/c?d=1@x.y|-|DE89 3704 0044 0532 0130 00|请写信|dogs|B 12|B AB 1234|j o h n|%40"""
pieces = st.sampled_from(["\n", *re.split(r"[|\n]", PIECES)])
mixed = st.lists(pieces | plants.filter(lambda plant: len(plant) < 100), max_size=20).map(" ".join)


def found(check: TextCheck, text: str) -> list[tuple[tuple[tuple[int, int], ...], str, float]]:
    return sorted((f.spans, f.category, f.score) for f in check.run([Sample(text)])[0])


def in_one_scan(scan: Callable[[str], list[Hit]], text: str) -> list[tuple[tuple[tuple[int, int], ...], str, float]]:
    return sorted((((hit.start, hit.end),), hit.category, hit.score) for hit in scan(text))


@settings(max_examples=50)
@given(mixed)
@example("the AB 12 34 56 C is mine, call +44 20 7946 0958 ext 12, or (415) 555-2671 in the evening")
def test_runs_find_what_one_scan_finds(text: str) -> None:
    assume(max(map(len, text.split()), default=0) < 100)  # longer words are found in parts
    assert found(PII, text) == in_one_scan(PII._scan, text)


def forms() -> list[tuple[str, str]]:
    """(category, pattern) of presidio's recognizers that hypothesis can write matches of."""
    out = []
    for one in ALL_PII._recognizers.others:
        for pattern in getattr(one.presidio, "patterns", ()):
            try:
                st.from_regex(re.compile(pattern.regex, re.ASCII), fullmatch=True).validate()
            except (re.error, InvalidArgument):
                continue
            out.append((one.category, pattern.regex))
    return out


FORMS = forms()


@settings(max_examples=50)
@given(form=st.sampled_from(FORMS), data=st.data())
def test_no_country_has_a_number_that_runs_cut(form: tuple[str, str], data: st.DataObject) -> None:
    match = data.draw(st.from_regex(re.compile(form[1], re.ASCII), fullmatch=True))
    assume(match.isascii() and match.isprintable() and len(match) < 100)
    # Without a digit or an @ it has no mark: such a form is found by what stands beside it or not at all.
    assume(re.search(r"[\d@]|::", match))
    text = f"{PROSE}{match} {PROSE}"
    whole = [item for item in in_one_scan(ALL_PII._scan, text) if item[0][0][0] >= len(PROSE)]
    assert found(ALL_PII, text) == whole


def test_the_forms_of_most_recognizers_are_tried() -> None:
    assert len({category for category, _ in FORMS}) > 45


@settings(max_examples=50)
@given(
    st.lists(plants.filter(lambda plant: len(plant) < 250 and "BEGIN" not in plant) | filler, max_size=6).map(" ".join)
)
def test_secrets_are_found_as_in_one_scan(text: str) -> None:
    assume(max(map(len, text.split()), default=0) < 120 and "example." not in text)  # which hides what is near it
    text = text.replace("\ud800", "?")
    assert [item for item in found(SECRETS, text) if item[1] != "secrets.jwt"] == in_one_scan(SECRETS._scan, text)


# --- any scan at all


def odd_scan(piece: str) -> list[Hit]:
    """A scan that depends on all that it is given: were runs not the same for every chunking, it would tell."""
    return [Hit(i, min(len(piece), i + 9), f"{len(piece)}:{piece[:3]}") for i, char in enumerate(piece) if char in "1@"]


RUNS = {
    "numbers": Runs(re.compile(rf"[\d@]|{DISGUISE}")),
    "words": Runs(re.compile(rf"\d|{DISGUISE}"), neighbours=0, before=20, longest=64, reach=24),
    "wide": Runs(re.compile(rf"::|{DISGUISE}|@"), neighbours=2, before=40),
}
strange = st.text(st.sampled_from("ab1@ .:\n%4请\u200b"), max_size=120) | st.sampled_from(
    ["x" * 150, "1 " * 90, "a b c d ", "a b c dog ", "a" * 19, "word " * 9, "." * 140 + "a" * 19 + "1", "请写信" * 50]
)


def advance(runs: Runs, pieces: list[str]) -> tuple[list[Hit], list[int]]:
    state, hits, cleared = Held(), [], []
    for number, piece in enumerate(pieces):
        state, new, upto = runs.advance(state, piece, number == len(pieces) - 1, odd_scan)
        assert all(hit.start >= (cleared or [0])[-1] and hit.start < hit.end for hit in new)
        hits += new
        cleared.append(upto)
    return hits, cleared


@pytest.mark.parametrize("text", ["a." * 50_000, "41 " * 50_000, "a" + "\u0336" * 50_000, "aB" * 50_000])
def test_a_mark_never_reads_far(text: str) -> None:
    """One that went to the text's end would be read again with every run: work would be its square."""
    match = re.compile(DISGUISE).search(text)
    assert match is None or match.end() <= 1100


@pytest.mark.parametrize("name", RUNS)
@settings(max_examples=60)
@given(text=st.lists(strange, max_size=6).map("".join), places=cuts)
@example(text=":@a b c d ", places=[])
def test_runs_are_the_same_however_the_text_comes(name: str, text: str, places: list[int]) -> None:
    whole, _ = advance(RUNS[name], [text])
    for chunks in (chunk(text, places), [*text, ""]):
        hits, cleared = advance(RUNS[name], chunks)
        assert hits == whole
        assert cleared == sorted(cleared)
        assert cleared[-1] == len(text)


@pytest.mark.parametrize("name", RUNS)
@settings(max_examples=20)
@given(text=st.lists(strange, max_size=6).map("".join))
def test_what_runs_hold_is_bounded(name: str, text: str) -> None:
    state = Held()
    for number, char in enumerate(text):
        state, _, cleared = RUNS[name].advance(state, char, False, odd_scan)
        assert number + 1 - cleared <= RUNS[name].lookahead
        assert len(state.text) <= RUNS[name].lookahead + RUNS[name].before


# --- work


def scanned(check: PiiCheck | SecretsCheck, text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Characters that a stream of pieces of this size has the check's scan read."""
    read: list[int] = []
    monkeypatch.setattr(check, "_scan", lambda piece: read.append(len(piece)) or [])
    state = check.start()
    for at in range(0, len(text), size):
        state, _, _ = check.step(state, Delta(text[at : at + size]), at + size >= len(text))
    return sum(read)


TEXTS = {
    "digits": "1" * 4000,
    "numbers": "4111 1111 " * 400,
    "sparse numbers": "in 2019 there were many of us here " * 115,
    "one long word": "aB3" * 1400,
    "mails": "a@b.example.org " * 250,
    "spaced": "a b " * 1000,
}


@pytest.mark.parametrize("check", [PII, SECRETS], ids=["pii", "secrets"])
@pytest.mark.parametrize("name", TEXTS)
def test_work_is_linear_in_the_text(name: str, check: PiiCheck | SecretsCheck, monkeypatch: pytest.MonkeyPatch) -> None:
    text = TEXTS[name]
    work = scanned(check, text, 7, monkeypatch)
    assert work <= 4.5 * len(text)
    assert scanned(check, text, len(text), monkeypatch) == work
    assert scanned(check, text * 2, 7, monkeypatch) <= 2.1 * work + 500


@pytest.mark.parametrize("check", [PII, SECRETS], ids=["pii", "secrets"])
def test_prose_is_not_scanned_at_all(check: PiiCheck | SecretsCheck, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scanned(check, PROSE * 40, 7, monkeypatch) == 0


# --- open prefixes

REGEXES = (
    r"\b[A-Z]{3}-\d{4}\b",
    r"x{40,}",
    r"(?:foo|ba[rz])+\s{2,3}q?u",
    r"(a+)+$",
    r"proj(?:ect)?[ _-]*blue\w{0,5}",
    r"[^a-c]{2}z|\.\d+?\D",
    r"(?i)straße\b",
    r"\AX|Y$|a{3}b{0}c",
)


@settings(max_examples=60)
@given(regex=st.sampled_from(REGEXES), before=st.text("ab x.", max_size=6), data=st.data())
def test_every_prefix_of_a_match_is_open(regex: str, before: str, data: st.DataObject) -> None:
    place = open_from(regex, ignore_case=False)
    assert place is not None
    match = data.draw(st.from_regex(re.compile(regex, re.ASCII), fullmatch=True))
    assume(len(match) < 200 and re2.fullmatch(regex, match))  # whose spaces are fewer
    for end in range(1, len(match) + 1):
        assert place(before + match[:end]) <= len(before)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("hello wor", 6), ("PRJ-12", 0), ("a PRJ-123 b", 10), ("12 + 3", 6), ("", 0), ("see PRJ-1234 there", 4)],
)
def test_where_a_match_is_open(text: str, expected: int) -> None:
    place = open_from(REGEXES[0], ignore_case=True)
    assert place is not None
    assert place(text) == expected


@pytest.mark.parametrize("regex", [r"[[:alpha:]]+x", r"\pL+", "a{,3}b", r"(?i:a)[^b]", "a" * 3 + "{900}" * 4])
def test_what_is_read_differently_is_not_told(regex: str) -> None:
    assert open_from(regex, ignore_case=False) is None


def held(check: PatternsCheck, text: str) -> int:
    """Characters held after the last of `text`, fed one by one."""
    state, cleared = check.start(), 0
    for char in text:
        state, _, cleared = check.step(state, Delta(char), False)
    return len(text) - cleared


def patterns(**options: object) -> PatternsCheck:
    """A check that reads the text as it stands: views wait for a word and what stands behind it."""
    check = PatternsCheck("words", PatternsOptions(type="patterns", **options))  # type: ignore[arg-type]
    check.views = False
    return check


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({"keywords": ("project bluebird",)}, "all of this and a pro", 3),
        ({"keywords": ("project bluebird",)}, "all of this and apro", 0),  # within a word
        ({"keywords": ("project bluebird",), "whole_words": False}, "all of this and apro", 3),
        ({"keywords": ("project bluebird",)}, "the Project Blue", 12),
        ({"keywords": ("project bluebird",)}, "the Project Blueb", 13),
        ({"keywords": ("project bluebird",)}, "the project bluef", 0),
        ({"keywords": ("STRASSE",)}, "die Straß", 5),
        ({"regexes": (r"\bPRJ-\d{4}\b",)}, PROSE * 5, 0),
        ({"regexes": (r"\bPRJ-\d{4}\b",)}, "see PRJ-12", 6),
        ({"regexes": (r"[[:upper:]]{9}",)}, PROSE, len(PROSE)),  # cannot be told: the windows' bound
    ],
)
def test_patterns_hold_what_may_become_a_match(options: dict[str, object], text: str, expected: int) -> None:
    assert held(patterns(**options), text) == expected


def test_an_unbounded_regex_sees_the_whole() -> None:
    check = patterns(keywords=("plum",), regexes=(r"BEGIN[\s\S]*END",), max_length="unbounded")
    text = "x BEGIN " + "y " * 3000 + "END plum"
    state, cleared, spans = check.start(), 0, []
    for at in range(0, len(text), 50):
        state, findings, cleared = check.step(state, Delta(text[at : at + 50]), at + 50 >= len(text))
        spans += [finding.spans for finding in findings]
        assert cleared == (0 if at + 50 < len(text) else len(text))
    assert spans == [((2, len(text) - 5),), ((len(text) - 4, len(text)),)]
    assert check.lookahead == "whole"
    assert patterns(keywords=("plum",), max_length="unbounded").lookahead < 1000
