"""The shipped example sets are sound: valid, balanced, free of giveaways, and as their cards say.

`python tests/test_example_sets.py` counts again: it rewrites the tables of the cards and of data/README.md.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from classifiers.data import read_examples

DATA = Path(__file__).parent.parent / "data"
CATEGORIES = ("hate", "harassment", "dangerous_content", "sexual_content", "self_harm", "prompt_injection")
SETS = (*CATEGORIES, "benign")
FIELDS = ["text", "prompt", "label", "pair", "lang", "register", "source", "split"]
SLICES = ("lang", "register", "length", "source")
BANDS = ((10, "1-9 words"), (31, "10-30 words"), (81, "31-80 words"), (10**9, "81 words or more"))
WORDS_ALONE, FORM_ALONE, WORDS_AMONG_BENIGN = 0.80, 0.65, 0.93

Row = dict[str, Any]


@cache
def rows(name: str) -> list[Row]:
    lines = (DATA / "examples" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def slice_of(row: Row, name: str) -> str:
    if name != "length":
        return str(row[name])
    return next(band for limit, band in BANDS if len(row["text"].split()) < limit)


# --- what the cards and data/README.md say of the sets ---


def counts(name: str) -> str:
    """The card's table: rows by label and slice, and how many are held out."""
    table = ["| | label 1 | label 0 | held out |", "|---|--:|--:|--:|"]

    def line(title: str, some: list[Row]) -> None:
        ones = sum(row["label"] for row in some)
        table.append(f"| {title} | {ones} | {len(some) - ones} | {sum('split' in row for row in some)} |")

    line("all", rows(name))
    for column in SLICES:
        values = Counter(slice_of(row, column) for row in rows(name))
        order = (
            [band for _, band in BANDS if band in values]
            if column == "length"
            else sorted(values, key=lambda v: (-values[v], v))
        )
        for value in order:
            line(f"{column}: {value}", [row for row in rows(name) if slice_of(row, column) == value])
    return "\n".join(table)


def form(row: Row) -> list[float]:
    """What a text looks like, without its words."""
    text, words = row["text"], row["text"].split()
    marks = [text.count(mark) for mark in ".,!?;:'\"()-–—/{}[]\n"]
    shape = [
        len(words),
        np.log(len(words)),
        len(text) / len(words),
        "prompt" in row,
        len(row.get("prompt", "").split()),
    ]
    letters = [sum(c.isupper() for c in text), text[0].isupper(), sum(c.isdigit() for c in text), text[-1] in ".!?"]
    ratios = [mark / len(words) for mark in marks] + [letters[0] / len(text)]
    one_hot = [row["lang"] == v for v in ("de", "en", "es", "fr", "it", "pt")]
    one_hot += [row["register"] == v for v in ("casual", "neutral", "formal")]
    one_hot += [row["source"] == v for v in ("chat", "email", "web", "tool", "reply")]
    return [float(v) for v in (*marks, *shape, *letters, *ratios, *one_hot)]


def auroc(some: list[Row], by: str) -> float:
    """Out-of-fold AUROC of the label from one aspect of the texts alone; a pair is never split."""
    if by == "prompt":
        some = [row for row in some if "prompt" in row]
    labels = [row["label"] for row in some]
    fit = LogisticRegression(solver="liblinear")
    if by == "form":
        model, given = make_pipeline(StandardScaler(), fit), np.array([form(row) for row in some])
    else:
        model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), fit)
        given = np.array([row[by] for row in some], dtype=object)
    folds = GroupKFold(5, shuffle=True, random_state=0)
    groups = [row["pair"] for row in some]
    scores = cross_val_predict(model, given, labels, groups=groups, cv=folds, method="decision_function")
    return float(roc_auc_score(labels, scores))


@cache
def floors(name: str) -> tuple[float, float, float, float, float]:
    """How well words, form and the prompt's words alone tell the labels; words and form with the benign texts too."""
    more = rows(name) + rows("benign")
    alone = auroc(rows(name), "text"), auroc(rows(name), "form"), auroc(rows(name), "prompt")
    return (*alone, auroc(more, "text"), auroc(more, "form"))


def floor_table() -> str:
    lines = [
        "| set | words | form | words of the prompt | words, benign added | form, benign added |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [f"| {name} | " + " | ".join(f"{value:.2f}" for value in floors(name)) + " |" for name in CATEGORIES]
    return "\n".join(lines)


def between(path: Path, marker: str) -> tuple[str, str, str]:
    """A file before, in and after the block of a marker."""
    begin, end = f"<!-- {marker}:begin -->\n", f"\n<!-- {marker}:end -->"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    block, after = rest.split(end)
    return before + begin, block, end + after


def count_again() -> None:
    written = [(DATA / "examples" / f"{name}.md", "counts", counts(name)) for name in SETS]
    for path, marker, table in [*written, (DATA / "README.md", "floors", floor_table())]:
        before, _, after = between(path, marker)
        path.write_text(before + table + after, encoding="utf-8", newline="\n")


# --- the rows ---


@pytest.mark.parametrize("name", SETS)
def test_rows_have_the_fields_they_should(name: str) -> None:
    assert 250 <= len(rows(name)) <= 800
    for row in rows(name):
        assert list(row) == [field for field in FIELDS if field in row], row["pair"]
        assert {*FIELDS} - {*row} <= {"prompt", "split"}, row["pair"]
        assert row["label"] in (0, 1)
        assert row.get("split", "test") == "test"
        assert ("prompt" in row) == (row["source"] == "reply"), row["pair"]
        assert re.fullmatch(rf"{name}-\d{{3}}", row["pair"])
        assert row["text"].strip() == row["text"]
    examples = read_examples(DATA / "examples" / f"{name}.jsonl", one_class=name == "benign")
    assert len(examples) == len(rows(name))
    assert examples.categories == (name,)
    assert {"lang", "register", "source"} == {*examples.slices}


@pytest.mark.parametrize("name", CATEGORIES)
def test_each_pair_is_one_harmful_text_and_its_harmless_match(name: str) -> None:
    pairs = defaultdict(list)
    for row in rows(name):
        pairs[row["pair"]].append(row)
    for pair, both in pairs.items():
        assert sorted(row["label"] for row in both) == [0, 1], pair
        for field in ("lang", "register", "source", "split"):
            assert both[0].get(field) == both[1].get(field), (pair, field)
    words = [np.mean([len(row["text"].split()) for row in rows(name) if row["label"] == label]) for label in (0, 1)]
    assert abs(words[0] - words[1]) < 0.1 * max(words)


def test_benign_rows_are_each_their_own_pair_and_harmless() -> None:
    assert {row["label"] for row in rows("benign")} == {0}
    assert len({row["pair"] for row in rows("benign")}) == len(rows("benign"))


@pytest.mark.parametrize("name", CATEGORIES)
@pytest.mark.parametrize("part", ["all", "taught", "held out"])
def test_every_slice_has_both_labels(name: str, part: str) -> None:
    some = [row for row in rows(name) + rows("benign") if part == "all" or ("split" in row) == (part == "held out")]
    for column in SLICES:
        labels = defaultdict(set)
        for row in some:
            labels[slice_of(row, column)].add(row["label"])
        assert {value: seen for value, seen in labels.items() if seen != {0, 1}} == {}


@pytest.mark.parametrize("name", SETS)
def test_a_fifth_is_held_out_of_every_language_and_source(name: str) -> None:
    assert 0.15 < np.mean(["split" in row for row in rows(name)]) < 0.25
    for column in ("lang", "source"):
        for value in {row[column] for row in rows(name)}:
            share = np.mean(["split" in row for row in rows(name) if row[column] == value])
            assert 0.1 < share < 0.35, (value, share)


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def test_no_text_stands_twice_and_no_two_pairs_are_nearly_the_same() -> None:
    every = [row for name in SETS for row in rows(name)]
    texts = [plain(row["text"]) for row in every]
    assert [text for text, times in Counter(texts).items() if times > 1] == []
    grams = CountVectorizer(analyzer="char", ngram_range=(3, 3), binary=True, dtype=np.float32)
    seen = grams.fit_transform(texts)
    shared = (seen @ seen.T).toarray()
    sizes = shared.diagonal()
    jaccard = shared / (sizes[:, None] + sizes[None, :] - shared)
    near = [
        (every[i]["pair"], every[j]["pair"])
        for i, j in np.argwhere(jaccard >= 0.6)
        if every[i]["pair"] < every[j]["pair"]
    ]
    assert near == []


SECRETS = (
    r"AKIA[0-9A-Z]{16}|gh[pousr]_\w{30,}|sk-[\w-]{20,}|xox[abp]-[\w-]{10,}|AIza[\w-]{30,}|eyJ[\w-]{10,}\.eyJ|-----BEGIN"
)


@pytest.mark.parametrize("name", SETS)
def test_no_real_addresses_numbers_or_secrets(name: str) -> None:
    for row in rows(name):
        text = f"{row.get('prompt', '')}\n{row['text']}"
        hosts = re.findall(r"[\w.+-]+@([\w-]+(?:\.[\w-]+)*)|(?:https?://|www\.)([\w.-]+)", text)
        for host in (email or url for email, url in hosts):
            assert re.search(r"(^|\.)example(\.(com|org|net))?$", host), (row["pair"], host)
        assert not re.search(SECRETS, text), row["pair"]
        undated = re.sub(r"\d{4}-\d\d-\d\d", "", text)
        assert not re.search(r"(?:\d[ -]?){9,}", undated), f"{row['pair']}: looks like a phone, card or account number"


# --- giveaways ---


@pytest.mark.parametrize("name", CATEGORIES)
def test_neither_words_nor_form_alone_decide(name: str) -> None:
    words, shape, prompt, words_among, form_among = floors(name)
    print(f"{name}: AUROC of words {words:.3f}, form {shape:.3f}, prompt {prompt:.3f};", end=" ")
    print(f"with benign: words {words_among:.3f}, form {form_among:.3f}")
    assert words < WORDS_ALONE
    assert shape < FORM_ALONE
    assert prompt < WORDS_ALONE
    assert words_among < WORDS_AMONG_BENIGN


def test_a_giveaway_would_be_seen() -> None:
    hate = rows("hate")
    assert auroc([{**row, "text": "kindly " * row["label"] + row["text"]} for row in hate], "text") > WORDS_ALONE
    assert auroc([{**row, "text": row["text"] + "!" * row["label"]} for row in hate], "form") > FORM_ALONE
    harmful_replies = [{**row, "prompt": "kindly " * row["label"] + row.get("prompt", "")} for row in hate]
    assert auroc(harmful_replies, "prompt") > WORDS_ALONE


# --- the cards ---


@pytest.mark.parametrize("name", SETS)
def test_the_cards_numbers_are_the_files(name: str) -> None:
    card = DATA / "examples" / f"{name}.md"
    assert between(card, "counts")[1] == counts(name), "count again: python tests/test_example_sets.py"
    text = " ".join(card.read_text(encoding="utf-8").split())
    assert "written for this project, not collected" in text
    assert "Apache-2.0" in text


def test_the_readme_names_every_set_and_its_floors() -> None:
    readme = DATA / "README.md"
    for name in SETS:
        assert f"examples/{name}.md" in readme.read_text(encoding="utf-8")
    table = between(readme, "floors")[1]
    for name in CATEGORIES:
        line = next(line for line in table.splitlines() if line.startswith(f"| {name} "))
        stated = [float(cell) for cell in line.strip("| ").split(" | ")[1:]]
        assert np.allclose(stated, floors(name), atol=0.03), "count again: python tests/test_example_sets.py"


if __name__ == "__main__":
    count_again()
