"""Personal data: this kit's recognizers and presidio's defaults on a blank spaCy pipeline, by entity, with one scorer.

python -m benchmarks.pii [FOLDER]

Rows are `{"text", "spans": [{"entity", "start", "end"}]}`. Figures are of the rows whose text has an odd SHA-256; the
even ones are for development.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
            if int(hashlib.sha256(text.encode()).hexdigest(), 16) % 2 == odd:
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
    from safety_kit.checks.pii import PiiCheck
    from safety_kit.policy_schema import PiiOptions
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
    """Milliseconds a text, warm: of each text the median of some rounds, of these the median and the 95th percentile."""
    for text in texts:
        run(text)
    spent: list[list[float]] = [[] for _ in texts]
    for _ in range(rounds):
        for text, some in zip(texts, spent, strict=True):
            begin = time.perf_counter()
            run(text)
            some.append((time.perf_counter() - begin) * 1000)
    each = sorted(statistics.median(some) for some in spent)
    return {"median": statistics.median(each), "p95": each[int(0.95 * len(each))]}


def measure(folder: Path, odd: bool = True) -> Mapping[str, Any]:
    """F1 by entity and milliseconds a text of 500 characters, of both."""
    rows = read_rows(folder, odd)
    texts = joined(rows)
    result: dict[str, Any] = {}
    for name, find in {"safety-kit": ours(), "presidio": presidio()}.items():
        table = {entity: asdict(score) for entity, score in scores(rows, find).items()}
        result[name] = {"entities": table, "milliseconds": times(texts, find)}
    return result


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/datasets/pii")), indent=1))
