"""Personal data, by presidio's pattern recognizers: no model, no network."""

from __future__ import annotations

import re
from typing import Any

from safety_kit.catalogue import COUNTRIES, PII
from safety_kit.check_options import PiiOptions
from safety_kit.checks._recognizers import CONTEXT_AFTER, CONTEXT_BEFORE, Recognizers
from safety_kit.checks.base import Delta, StepResult, TextCheck, utf8_safe
from safety_kit.checks.disguise import through_views
from safety_kit.checks.runs import DISGUISE, Held, Runs
from safety_kit.checks.windows import Hit
from safety_kit.types import Finding

_MARK = re.compile(rf"[\d@]|::|{DISGUISE}")
"""Where a match may be: everything personal has a digit, an at sign or two colons, or hides in a disguise."""


class PiiCheck(TextCheck):
    """Finds personal data; scores are presidio's confidence (1: a checksum holds), of the kind ``uncalibrated``."""

    def __init__(self, name: str, options: PiiOptions, wanted: frozenset[str]) -> None:
        self.name = name
        kinds = [
            kind
            for kind, (country, _, _) in PII.items()
            if f"pii.{kind}" in wanted and (country is None or country in options.countries)
        ]
        self._recognizers = Recognizers(kinds, [COUNTRIES[country][1] for country in options.countries])
        self.categories = self._recognizers.categories
        self._through_views = through_views(self._find, loose=False)
        self._runs = Runs(_MARK, before=CONTEXT_BEFORE, after=CONTEXT_AFTER)
        self.lookahead = self._runs.lookahead

    def start(self) -> Held:
        return Held()

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        state, hits, cleared = self._runs.advance(state, utf8_safe(new.text), final, self._scan)
        findings = [
            Finding(self.name, hit.category, hit.score, "uncalibrated", ((hit.start, hit.end),), hit.detail)
            for hit in hits
        ]
        return state, findings, cleared

    def _scan(self, piece: str) -> list[Hit]:
        return self._through_views(piece) if self.views else self._find(piece)

    def _find(self, piece: str) -> list[Hit]:
        return without_overlaps(self._recognizers.scan(piece))


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
