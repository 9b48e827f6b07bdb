"""Personal data: this kit's recognizers and presidio's defaults on a blank spaCy pipeline, by entity, with one scorer.

A part of `make bench-guard`.

Rows are `{"text", "spans": [{"entity", "start", "end"}]}`. Figures are of the rows whose text has an odd SHA-256; the
even ones are for development.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.result import Figure, figure
from benchmarks.sets import is_held_out

ENTITIES = {
    "CREDIT_CARD": "pii.credit_card",
    "EMAIL_ADDRESS": "pii.email",
    "IBAN_CODE": "pii.iban",
    "IP_ADDRESS": "pii.ip",
    "PHONE_NUMBER": "pii.phone",
    "US_DRIVER_LICENSE": "pii.us_driver_license",
    "US_SSN": "pii.us_ssn",
}
"""The set's entities that have a form by which they are found, and our categories."""

Found = tuple[str, int, int]
"""Entity, start, end."""


@dataclass(frozen=True, slots=True)
class Row:
    """A text, and the spans of its structured entities."""

    text: str
    spans: frozenset[Found]


@dataclass(frozen=True, slots=True)
class Score:
    """What was found of one entity: a span counts where it overlaps one of the same entity."""

    precision: float
    recall: float
    f1: float
    spans: int


def read_rows(folder: Path, odd: bool = True) -> list[Row]:
    """The rows of one half of the set."""
    rows = []
    with (folder / "train.jsonl").open(encoding="utf-8") as file:
        for record in map(json.loads, file):
            text = record["text"]
            if is_held_out(text) is odd:
                spans = ((span["entity"], span["start"], span["end"]) for span in record["spans"])
                rows.append(Row(text, frozenset(span for span in spans if span[0] in ENTITIES)))
    return rows


def joined(rows: Iterable[Row], length: int = 500) -> list[str]:
    """The rows' texts one after the other, cut to texts of this many characters."""
    text = " ".join(row.text for row in rows)
    return [text[at : at + length] for at in range(0, len(text) - length + 1, length)]


def ours(countries: Sequence[str] | None = None) -> Callable[[str], list[Found]]:
    """This kit's check: all countries by default."""
    from safety_kit.catalogue import COUNTRIES, pii_categories
    from safety_kit.check_options import PiiOptions
    from safety_kit.checks.pii import PiiCheck
    from safety_kit.types import Sample

    chosen = tuple(countries or COUNTRIES)
    check = PiiCheck("pii", PiiOptions(type="pii", countries=chosen), pii_categories(chosen))
    entities = {category: entity for entity, category in ENTITIES.items()}

    def find(text: str) -> list[Found]:
        (findings,) = check.run([Sample(text)])
        return [
            (entities[finding.category], start, end)
            for finding in findings
            if finding.category in entities
            for start, end in finding.spans
        ]

    return find


def presidio() -> Callable[[str], list[Found]]:
    """Presidio's default recognizers on a blank English pipeline; it asks for no network."""
    os.environ.setdefault("TLDEXTRACT_PUBLIC_SUFFIX_LIST_URLS", "")
    import spacy
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    class Blank(SpacyNlpEngine):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.nlp = {"en": spacy.blank("en")}

        def load(self) -> None:
            """Nothing to load."""

        def is_loaded(self) -> bool:
            return True

    engine = AnalyzerEngine(nlp_engine=Blank(), supported_languages=["en"])

    def find(text: str) -> list[Found]:
        return [
            (result.entity_type, result.start, result.end)
            for result in engine.analyze(text, language="en")
            if result.entity_type in ENTITIES
        ]

    return find


def scores(rows: Sequence[Row], find: Callable[[str], list[Found]]) -> dict[str, Score]:
    """Precision, recall and F1 by entity."""
    found = [find(row.text) for row in rows]
    table = {}
    for entity in ENTITIES:
        hit = missed = right = wrong = 0
        for row, spans in zip(rows, found, strict=True):
            true = [span for span in row.spans if span[0] == entity]
            said = [span for span in spans if span[0] == entity]
            covered = sum(any(_overlap(one, other) for other in said) for one in true)
            hit, missed = hit + covered, missed + len(true) - covered
            sound = sum(any(_overlap(one, other) for other in true) for one in said)
            right, wrong = right + sound, wrong + len(said) - sound
        precision = right / (right + wrong) if right + wrong else 0.0
        recall = hit / (hit + missed) if hit + missed else 0.0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        table[entity] = Score(precision, recall, f1, hit + missed)
    return table


def _overlap(one: Found, other: Found) -> bool:
    return one[1] < other[2] and other[1] < one[2]


def times(texts: Sequence[str], run: Callable[[str], Any], rounds: int = 3) -> dict[str, float]:
    """Milliseconds a text, warm: of each the median of some rounds; of these the median, 95th percentile and sum."""
    for text in texts:
        run(text)
    spent: list[list[float]] = [[] for _ in texts]
    for _ in range(rounds):
        for text, some in zip(texts, spent, strict=True):
            begin = time.perf_counter()
            run(text)
            some.append((time.perf_counter() - begin) * 1000)
    each = sorted(statistics.median(some) for some in spent)
    return {"median": statistics.median(each), "p95": each[int(0.95 * len(each))], "sum": sum(each)}


def measure(folder: Path, odd: bool = True) -> Mapping[str, Any]:
    """F1 by entity, and milliseconds a row and a text of 500 characters, of both."""
    rows = read_rows(folder, odd)
    texts = joined(rows)
    result: dict[str, Any] = {}
    # Presidio's defaults know eight phone regions and a dozen identity numbers, so two settings of ours are told.
    finders = {"safety-kit": ours(), "safety-kit, default countries": ours(("us", "uk")), "presidio": presidio()}
    for name, find in finders.items():
        table = {entity: asdict(score) for entity, score in scores(rows, find).items()}
        spent = {"rows": times([row.text for row in rows], find), "500 characters": times(texts, find)}
        result[name] = {"entities": table, "milliseconds": spent}
    return result


def figures(folder: Path) -> list[Figure]:
    """F1 by entity beside Presidio's default recognizers, and the time of both, on the odd rows."""
    found = measure(folder / "pii")
    mine, theirs = found["safety-kit"], found["presidio"]
    out = []
    for entity, score in mine["entities"].items():
        other = theirs["entities"][entity]
        if not score["spans"]:
            continue
        what = f"F1 of {entity} (presidio {other['f1']:.2f}; {score['spans']} spans)"
        out.append(figure(what, [score["f1"]], "", least=other["f1"]))
    took = {name: one["milliseconds"]["rows"]["sum"] for name, one in found.items()}
    share = took["safety-kit"] / took["presidio"]
    out.append(
        figure("time of all countries' personal data over presidio's default recognizers", [share], "", most=0.1)
    )
    share = (
        found["safety-kit, default countries"]["milliseconds"]["rows"]["sum"] / theirs["milliseconds"]["rows"]["sum"]
    )
    return [*out, figure("the same for us and uk alone", [share], "", most=0.1)]
