"""The data check: every planted fault is found on its line, no text is quoted, and a cleaned copy has none left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_gemma_load import one_thread  # noqa: F401  (tiny models are slower on two threads)

from classifiers.clean import clean, write_rows
from classifiers.datacheck import Report, check
from classifiers.duplicates import NEAR, Shingles, key, near_groups, near_matches
from classifiers.labelcheck import likely_errors
from classifiers.rows import Rows, read_rows
from classifiers.shortcuts import script
from safety_kit.errors import DataError, SafetyKitError
from safety_kit.gemma import Gemma
from safety_kit.testing import save_tiny_gemma

NOUNS = ["lamp", "kettle", "order", "garden", "river", "ticket", "window", "letter", "violin", "carpet", "bakery"]
VERBS = ["clean", "repair", "paint", "describe", "return", "photograph", "measure", "insure", "sketch", "borrow"]


def sound(n: int = 48, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with nothing wrong: different texts whose words and lengths say nothing of the label."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    pairs = [(verb, noun) for verb in VERBS for noun in NOUNS]
    for at, (i, label) in enumerate(zip(rng.permutation(len(pairs))[:n], rng.permutation(n) % 2, strict=True)):
        verb, noun = pairs[i]
        rows.append({"text": f"{verb} {noun} number{at} today", "label": int(label), "lang": ["en", "de"][at // 2 % 2]})
    return rows


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Rows]:
    def read(rows: list[Any], name: str = "insult.jsonl") -> Rows:
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return read_rows(tmp_path / name)

    return read


def found(report: Report, kind: str) -> list[tuple[int, ...]]:
    return [issue.places for issue in report.issues if issue.kind == kind]


# --- each kind ---


def test_sound_rows_have_no_issue(read: Callable[..., Rows]) -> None:
    report = check(read(sound()))
    assert report.issues == ()
    assert (report.rows, report.unit) == (48, "line")


PLANTED: list[tuple[str, str, list[Any], list[int]]] = [
    ("bad_row", "error", [{"text": "", "label": 1}], [49]),
    ("bad_row", "error", [{"text": float("nan"), "label": 1}, {"text": "a", "label": "often"}], [49, 50]),
    ("contradiction", "error", [{"text": "you fool", "label": 1}, {"text": "You  FOOL", "label": 0}], [49, 50]),
    ("duplicate", "warning", [{"text": "you fool", "label": 1}, {"text": "you\u00a0fool ", "label": 1}], [49, 50]),
    (
        "near_duplicate",
        "warning",
        [{"text": f"thank you so much for all of your help with {it} order", "label": 0} for it in ("that", "this")],
        [49, 50],
    ),
    ("pii", "warning", [{"text": "write to jo.smith@example.com", "label": 0}], [49]),
    ("pii", "warning", [{"text": "yes", "prompt": "is 4111 1111 1111 1111 your card?", "label": 0}], [49]),
]


@pytest.mark.parametrize(
    ("kind", "severity", "rows", "lines"), PLANTED, ids=[f"{p[0]}-{i}" for i, p in enumerate(PLANTED)]
)
def test_a_planted_fault_is_found_on_its_line(
    kind: str, severity: str, rows: list[Any], lines: list[int], read: Callable[..., Rows]
) -> None:
    report = check(read(sound() + rows))
    assert sorted(line for places in found(report, kind) for line in places) == lines
    assert {(issue.kind, issue.severity) for issue in report.issues} == {(kind, severity)}
    for secret in ("fool", "jo.smith", "4111", "thank"):
        assert not any(secret in issue.detail for issue in report.issues)


def test_replies_are_copies_only_with_the_same_prompt(read: Callable[..., Rows]) -> None:
    rows = [
        {"text": "yes of course", "prompt": prompt, "label": i % 2} for i, prompt in enumerate(["may I?", "is it?"])
    ]
    assert check(read(sound() + rows)).issues == ()


def test_near_duplicates_of_one_pair_are_in_order(read: Callable[..., Rows]) -> None:
    twins = [{"text": f"how do I stop {it} from doing it again and again", "label": i, "pair": "p"} for i, it in
             enumerate(["him", "her"])]  # fmt: skip
    assert check(read(sound() + twins)).issues == ()
    report = check(read(sound() + [{**twin, "pair": f"p{twin['label']}"} for twin in twins]))
    assert found(report, "near_duplicate") == [(49, 50)]
    assert "labels differ" in report.issues[0].detail


def test_leaks_into_the_rows_held_out_and_into_a_test(read: Callable[..., Rows]) -> None:
    long = "please tell me when my parcel with the two blue chairs is going to arrive"
    own = [{"text": "held one", "label": 1}, {"text": "Held  one", "label": 1, "split": "test"}]
    own += [{"text": long, "label": 0}]
    mine = read(sound() + own)
    test = read([{"text": "no", "label": 0}, {"text": f"{long} here", "label": 0}], "test.jsonl")
    report = check(mine, test)
    leaks = [issue for issue in report.issues if issue.kind == "leakage"]
    assert [(issue.places, issue.severity) for issue in leaks] == [((49,), "error"), ((51,), "error")]
    assert "held out on line 50" in leaks[0].detail
    assert "nearly (similarity 0.9" in leaks[1].detail
    assert "line 2 of" in leaks[1].detail
    # Where a test marks rows as held out, the others are no test.
    marked = read([{"text": long, "label": 0}, {"text": "no", "label": 0, "split": "test"}], "marked.jsonl")
    assert (51,) not in found(check(mine, marked), "leakage")


def test_a_pair_that_is_split_is_a_warning(read: Callable[..., Rows]) -> None:
    rows = sound()
    for at in (0, 5):
        rows[at]["pair"] = "p"
    rows[5]["split"] = "test"
    leaks = [issue for issue in check(read(rows)).issues if issue.kind == "leakage"]
    assert [(issue.places, issue.severity) for issue in leaks] == [((1, 6), "warning")]


def test_one_sided_labels(read: Callable[..., Rows]) -> None:
    ones = [row for row in sound() if row["label"]]
    issues = check(read([*ones, {"text": "a", "label": 0, "split": "test"}])).issues
    assert [(issue.severity, issue.detail.partition(":")[2]) for issue in issues if issue.kind == "one_sided"] == [
        ("error", " no row of label 0 to teach from"),
        ("error", " no row of label 1 held out"),
        ("warning", " only 1 row of label 0 held out, fewer than 20"),
    ]


def test_categories_are_checked_one_by_one(read: Callable[..., Rows], tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": row["text"], "labels": {"x": row["label"], "y": None}} for row in sound()
    ] + [{"text": "you fool", "labels": {"x": 1, "y": 1}}, {"text": "you fool", "labels": {"x": 1, "y": 0}}]
    every = check(read(rows))
    assert next(issue.detail for issue in every.issues if issue.kind == "contradiction").endswith("for y")
    assert not check(read(rows), category="x").errors
    with pytest.raises(DataError, match="no labels for z; it has: x, y"):
        check(read(rows), category="z")


# --- giveaways ---


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (lambda row: {"text": row["text"] + (" kindly" if row["label"] else "")}, "word", "kindly"),
        (lambda row: {"lang": "de" if row["label"] else "en"}, "lang", "de (24 of 24 rows have label 1)"),
        (lambda row: {"source": "chat" if row["label"] else "mail"}, "source", "mail (0 of 24"),
        (lambda row: {"text": row["text"] * (1 + row["label"])}, "length", "words"),
        (lambda row: {"prompt": row["text"][::-1]} if row["label"] else {}, "prompt", "there"),
        (lambda row: {"text": row["text"].translate(CYRILLIC) if row["label"] else row["text"]}, "script", "Cyrillic"),
    ],
)
def test_one_property_that_tells_the_label_is_named(
    change: Callable[[dict[str, Any]], dict[str, Any]], name: str, words: str, read: Callable[..., Rows]
) -> None:
    told = [issue for issue in check(read([row | change(row) for row in sound()])).issues if issue.kind == "shortcut"]
    mine = next(issue for issue in told if f" {name} alone tells the label, AUROC " in issue.detail)
    assert words in mine.detail
    assert mine.severity == "warning"
    assert float(mine.detail.partition("AUROC ")[2][:4]) > 0.9


CYRILLIC = str.maketrans("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувшхыз")


def test_the_word_that_tells_is_on_its_lines_and_a_text_in_a_column_is_not_shown(read: Callable[..., Rows]) -> None:
    rows = sound()
    secret = "a private sentence that stands in a column"
    for row in rows:
        if row["label"]:
            row["text"] += " kindly"
            row["note"] = secret
    report = check(read(rows))
    word = next(issue for issue in report.issues if " word alone" in issue.detail)
    assert word.places == tuple(n for n, row in enumerate(rows, 1) if row["label"])
    assert not any("private" in issue.detail for issue in report.issues)
    assert any("note alone" in issue.detail and "sha256 " in issue.detail for issue in report.issues)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=8)
def test_shuffled_labels_give_nothing_away(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("rows") / "x.jsonl"
    write_rows(path, sound(60, seed))
    assert found(check(read_rows(path)), "shortcut") == []


def test_script() -> None:
    assert [script(text) for text in ("good day", "добрый day день", "你好", "123 !")] == [
        "Latin",
        "Cyrillic",
        "Cjk",
        "none",
    ]


# --- label errors ---


def flipped(n: int = 120) -> tuple[list[dict[str, Any]], list[int]]:
    """Rows whose words part the labels, three of them labelled wrong: rows and lines."""
    rng = np.random.default_rng(1)
    good, rude = NOUNS, VERBS
    rows = [{"text": " ".join(rng.choice(rude if i % 2 else good, 4)) + f" x{i}", "label": i % 2} for i in range(n)]
    wrong = [10, 31, 64]
    for line in wrong:
        rows[line - 1]["label"] = 1 - int(str(rows[line - 1]["label"]))
    return rows, wrong


def test_wrong_labels_are_found_by_words(read: Callable[..., Rows]) -> None:
    rows, wrong = flipped()
    report = check(read(rows))
    assert [place for places in found(report, "label_error") for place in places] == wrong
    assert report.notes == ()


def test_wrong_labels_are_found_by_a_model(read: Callable[..., Rows], tmp_path: Path, one_thread: None) -> None:  # noqa: F811
    rng = np.random.default_rng(0)
    rows = [
        {"text": "".join(rng.choice(list("zzzzqx" if i % 2 else "abcdef"), 14 + i % 5)), "label": i % 2}
        for i in range(60)
    ]
    rows[7]["label"], rows[20]["label"] = 0, 1
    report = check(read(rows), gemma=Gemma.load(save_tiny_gemma(tmp_path / "tiny")))
    assert [place for places in found(report, "label_error") for place in places] == [8, 21]
    assert check(read(rows)).notes  # words alone do not know these labels


def test_what_was_not_looked_for_is_said(read: Callable[..., Rows]) -> None:
    assert "likely label errors were not looked for" in check(read(sound())).notes[0]
    few = check(read(sound(12)))
    assert "neither giveaways nor label errors" in few.notes[0]
    assert check(read(sound()), thorough=False).notes == ()


def test_confident_learning_names_the_surest_first_and_nothing_in_a_haze() -> None:
    y = np.arange(80) % 2
    scores = np.where(y == 1, 3.0, -3.0) + np.linspace(-1, 1, 80)
    scores[[5, 20, 41]] = -4.0, 5.0, -3.0
    rows, sure = zip(*likely_errors(y, scores), strict=True)
    assert rows == (20, 5, 41)
    assert all(0.7 <= one <= 1 for one in sure)
    assert sorted(sure, reverse=True) == list(sure)
    assert likely_errors(y, np.random.default_rng(0).normal(size=80)) == []


# --- duplicates ---

TEXT = st.lists(st.sampled_from([*NOUNS, *VERBS, "Lamp", "你好", "🙂", "!"]), min_size=1, max_size=12).map(" ".join)


@given(texts=st.lists(TEXT, min_size=2, max_size=12))
@settings(max_examples=40)
def test_near_groups_are_those_of_the_exact_similarity(texts: list[str]) -> None:
    """MinHash misses next to nothing: at a similarity of .75 one pair in 90,000."""
    pairs: list[tuple[str | None, str]] = [(None, text) for text in texts]
    sets = [Shingles.of(pair).text for pair in pairs]

    def jaccard(i: int, j: int) -> float:
        return len(sets[i] & sets[j]) / len(sets[i] | sets[j])

    together = {frozenset((i, j)) for group, _ in near_groups(pairs) for i in group for j in group if i < j}
    for i in range(len(texts)):
        for j in range(i):
            if jaccard(i, j) >= NEAR + 0.05:
                assert frozenset((i, j)) in together
    for group, least in near_groups(pairs):
        assert least >= NEAR
        for i in group:
            assert max(jaccard(i, j) for j in group if j != i) >= NEAR


def test_matches_name_the_most_similar() -> None:
    base = "one two three four five six seven eight nine ten"
    others = [(None, f"{base} eleven twelve"), (None, f"{base} eleven"), (None, base.upper())]
    assert near_matches([(None, base), (None, "other")], others) == {0: (2, 1.0)}
    assert near_matches([(None, base)], others[:2])[0][0] == 1
    assert near_matches([("p", base)], others) == {}
    assert near_matches([("one two", base)], [("three four", base), ("one  TWO!", f"{base} eleven")]) == {
        0: (1, pytest.approx(19 / 21))
    }


def test_very_long_texts_and_texts_without_words_are_compared() -> None:
    long = " ".join(f"word{i}" for i in range(6_000))  # over 50,000 characters
    texts = [long, f"{long}!", "!!", "??", "🙂", "🙂."]
    assert near_groups([(None, text) for text in texts]) == [([0, 1], 1.0), ([4, 5], 1.0)]


# --- the cleaned copy ---

EXTRA = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.sampled_from(["lamp?", "Lamp?", "a kettle"]),
        "split": st.sampled_from(["test", "train"]),
        "pair": st.sampled_from(["p", "q", 3]),
        "lang": st.sampled_from(["en", "de"]),
    },
)
LABEL = st.sampled_from([0, 1, "1", "false", True, 0.0, None, 2])
NAMED = st.fixed_dictionaries({"x": LABEL}, optional={"y": st.sampled_from([0, 1, None])})
ROW = st.builds(
    lambda text, label, extra: {"text": text, **label, **extra},
    TEXT | st.just(""),
    st.builds(lambda v: {"label": v}, LABEL)
    | st.builds(lambda v: {"labels": v}, NAMED | st.lists(st.sampled_from(["x", "y"]), unique=True)),
    EXTRA,
)


@given(data=st.lists(ROW, min_size=1, max_size=14), test=st.lists(TEXT, max_size=3))
@settings(max_examples=80)
def test_a_cleaned_copy_has_nothing_left_to_clean(
    data: list[dict[str, Any]], test: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "x.jsonl").write_text("\n".join(map(json.dumps, data)), encoding="utf-8")
    rows = read_rows(folder / "x.jsonl")
    assume(rows.good)
    against = None
    if test:
        write_rows(folder / "t.jsonl", [{"text": text, "label": 0} for text in test])
        against = read_rows(folder / "t.jsonl")
    report = check(rows, against, thorough=False)
    cleaned = clean(rows, report.known)
    assert len(data) == len(cleaned.records) + cleaned.bad + cleaned.contradicting + cleaned.leaking + cleaned.merged
    assume(cleaned.records)
    write_rows(folder / "copy.jsonl", cleaned.records)
    copy = read_rows(folder / "copy.jsonl", category="x")
    again = check(copy, against, thorough=False)
    assert {issue.kind for issue in again.errors} <= {"one_sided"}
    assert not {"duplicate", "near_duplicate"} & {issue.kind for issue in again.issues}
    twice = clean(copy, again.known)
    assert twice.records == cleaned.records
    # What is left says what the rows said: each label of a kept text is one that its rows gave it.
    said: dict[Any, dict[str, float]] = {}
    for row, labels in zip(report.known.rows, report.known.labels, strict=True):
        said.setdefault(key((row.prompt, row.text)), {}).update(labels)
    for row, labels in zip(again.known.rows, again.known.labels, strict=True):
        assert labels == said[key((row.prompt, row.text))]


@given(data=st.lists(ROW, min_size=1, max_size=14))
@settings(max_examples=40)
def test_rows_that_share_a_pair_or_are_alike_share_one_in_the_copy(
    data: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rows") / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, data)), encoding="utf-8")
    rows = read_rows(path)
    assume(rows.good)
    cleaned = clean(rows, check(rows, thorough=False).known)
    assume(cleaned.records)
    write_rows(path, cleaned.records)
    group = {key((row.prompt, row.text)): row.group for row in read_rows(path, category="x").good}
    for one in rows.good:
        for other in rows.good:
            mine, its = (one.prompt, one.text), (other.prompt, other.text)
            alike = Shingles.of(mine).similarity(Shingles.of(its)) >= NEAR + 0.05
            if key(mine) in group and key(its) in group and (alike or one.group == other.group):
                assert group[key(mine)] == group[key(its)]


def test_rows_that_leak_are_not_in_the_copy(read: Callable[..., Rows]) -> None:
    long = "please tell me when my parcel with the two blue chairs is going to arrive"
    texts = [("held one", {"split": "test"}), ("Held one", {}), (long, {}), (f"{long} now", {}), ("other", {})]
    mine = read([{"text": text, "label": 0, **extra} for text, extra in texts])
    cleaned = clean(mine, check(mine, read([{"text": f"so {long}", "label": 1}], "test.jsonl"), thorough=False).known)
    assert [record["text"] for record in cleaned.records] == ["held one", "other"]
    assert (cleaned.leaking, cleaned.merged) == (2, 1)


def test_the_copy_keeps_columns_and_forms(read: Callable[..., Rows]) -> None:
    rows = [
        {"text": "Straße 🙂", "label": "1", "lang": "de", "turns": 3, "meta": {"a": [1]}, "prompt": None},
        {"text": "two", "label": False},
    ]
    given_ = read(rows)
    cleaned = clean(given_, check(given_, thorough=False).known)
    assert cleaned.records == (
        {"text": "Straße 🙂", "label": 1, "lang": "de", "turns": 3, "meta": {"a": [1]}},
        {"text": "two", "label": 0},
    )
    assert cleaned.counts == {"rows": 2, "bad": 0, "contradicting": 0, "leaking": 0, "merged": 0, "paired": 0}


def test_categories_keep_their_names_where_a_row_names_them(read: Callable[..., Rows]) -> None:
    given_ = read([{"text": "one", "label": 1}, {"text": "two", "labels": ["spam"]}, {"text": "three", "labels": []}])
    cleaned = clean(given_, check(given_, thorough=False).known)
    assert [record["labels"] for record in cleaned.records] == [
        {"insult": 1},
        {"insult": 0, "spam": 1},
        {"insult": 0, "spam": 0},
    ]


def test_signs_that_an_editor_obeys_are_written_as_escapes(tmp_path: Path) -> None:
    texts = ["a\u202eb", "half \ud800", "new\nline", "Straße"]
    write_rows(tmp_path / "x.jsonl", [{"text": text, "label": 0} for text in texts])
    written = (tmp_path / "x.jsonl").read_bytes().decode()
    assert "\u202e" not in written
    assert "Straße" in written
    assert [json.loads(line)["text"] for line in written.splitlines()] == texts


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("old", encoding="utf-8")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SafetyKitError, match="No space left on device; nothing was left there") as caught:
        write_rows(path, [{"text": "a private sentence", "label": 1}])
    assert caught.value.exit_code == 3
    assert [one.name for one in tmp_path.iterdir()] == ["x.jsonl"]
    assert path.read_text(encoding="utf-8") == "old"


def test_nothing_to_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row"):
        write_rows(tmp_path / "x.jsonl", [])
    assert list(tmp_path.iterdir()) == []
