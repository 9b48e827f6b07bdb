"""Personal data, by presidio's pattern recognizers: no model, no network."""

from __future__ import annotations

import re
from typing import Any

from safety_kit.catalogue import COUNTRIES, PII
from safety_kit.checks._presidio import recognizer_class
from safety_kit.checks.base import Delta, StepResult, TextCheck, utf8_safe
from safety_kit.checks.disguise import through_views
from safety_kit.checks.windows import Hit, Seen, Windows
from safety_kit.policy_schema import PiiOptions
from safety_kit.types import Finding

MIN_SCORE = 0.4
CONTEXT_BONUS = 0.35
CONTEXT_BEFORE, CONTEXT_AFTER = 64, 24

_GATE = re.compile(r"[\d@]|::")
_PHONE_GATE = re.compile(r"\d(?:\D{0,4}\d){6}")


class _Recognizer:
    """One recognizer: its category, and the words that raise a weak match next to them."""

    def __init__(self, name: str, recognizer: Any) -> None:
        self.category = f"pii.{name}"
        self.gate = {"email": re.compile("@"), "phone": _PHONE_GATE}.get(name, _GATE)
        self.recognizer = recognizer
        words = "|".join(re.escape(word.strip()) for word in recognizer.context or () if word.strip())
        self.context = re.compile(rf"\b(?:{words})\b", re.IGNORECASE) if words else None

    def scan(self, piece: str) -> list[Hit]:
        if not self.gate.search(piece):
            return []
        hits = []
        for result in self.recognizer.analyze(piece, self.recognizer.supported_entities):
            score, detail = float(result.score), "checked" if result.score >= 1 else "form"
            if score < 1 and self._near_context(piece, result.start, result.end):
                score, detail = min(1.0, max(score + CONTEXT_BONUS, MIN_SCORE)), "form and a word near it"
            if score >= MIN_SCORE:
                hits.append(Hit(result.start, result.end, self.category, score, detail))
        return hits

    def _near_context(self, piece: str, start: int, end: int) -> bool:
        if self.context is None:
            return False
        around = piece[max(0, start - CONTEXT_BEFORE) : start], piece[end : end + CONTEXT_AFTER]
        return any(self.context.search(part) for part in around)


class PiiCheck(TextCheck):
    """Finds personal data; scores are presidio's confidence (1: a checksum holds), of the kind ``uncalibrated``."""

    def __init__(self, name: str, options: PiiOptions, wanted: frozenset[str]) -> None:
        self.name = name
        regions = tuple(COUNTRIES[country][1] for country in options.countries)
        self._recognizers = [
            _Recognizer(kind, recognizer_class(kind)(**({"supported_regions": regions} if kind == "phone" else {})))
            for kind, (country, _, _) in PII.items()
            if f"pii.{kind}" in wanted and (country is None or country in options.countries)
        ]
        self.categories = frozenset(recognizer.category for recognizer in self._recognizers)
        self._through_views = through_views(self._find, loose=False)
        self._windows = Windows()
        self.lookahead = self._windows.lookahead

    def start(self) -> Seen:
        return Seen()

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        state, hits, cleared = self._windows.advance(state, utf8_safe(new.text), final, self._scan)
        findings = [
            Finding(self.name, hit.category, hit.score, "uncalibrated", ((hit.start, hit.end),), hit.detail)
            for hit in hits
        ]
        return state, findings, cleared

    def _scan(self, piece: str) -> list[Hit]:
        return self._through_views(piece) if self.views else self._find(piece)

    def _find(self, piece: str) -> list[Hit]:
        if not _GATE.search(piece):
            return []
        hits = [hit for recognizer in self._recognizers for hit in recognizer.scan(piece)]
        return without_overlaps(hits)


def without_overlaps(hits: list[Hit]) -> list[Hit]:
    """The hits in order of their start; of those that overlap, the longest stays, else that with the highest score.

    Length goes first, because a checksum of one digit holds for every eleventh number: a phone number is no NHS number.
    """
    kept: list[Hit] = []
    for hit in sorted(hits, key=lambda h: (h.start - h.end, -h.score, h.start, h.category)):
        if all(hit.end <= other.start or hit.start >= other.end for other in kept):
            kept.append(hit)
    return sorted(kept, key=lambda hit: hit.start)


def build(name: str, options: PiiOptions, wanted: frozenset[str]) -> PiiCheck:
    """The check of a policy's `pii` entry, with the recognizers that its rules ask for."""
    return PiiCheck(name, options, wanted)
