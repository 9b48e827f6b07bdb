"""Presidio's recognizers all at once: what each of them finds, run only where it can find something."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ahocorasick_rs
import regex

from safety_kit.checks._gate import Gate, skeleton
from safety_kit.checks._phones import Phones
from safety_kit.checks._presidio import recognizer_class
from safety_kit.checks.windows import Hit

MIN_SCORE: Final = 0.4
CONTEXT_BONUS: Final = 0.35
CONTEXT_BEFORE: Final = 64
CONTEXT_AFTER: Final = 24

_PHONE_GATE = re.compile(r"\d(?:\D*\d){6}")
_PHONE_SCORE = 0.4
_SHARED = ("PatternRecognizer", "LocalRecognizer", "EntityRecognizer")

Match = tuple[int, int, float]
"""Start, end and presidio's score, context left out."""


@dataclass(frozen=True, slots=True)
class _Pattern:
    """One pattern, compiled with its recognizer's flags.

    Attributes:
        weak: What it matches counts only with a word near it: its score is low, and no checksum raises it.
    """

    text: str
    regex: Any
    score: float
    weak: bool


class Recognizer:
    """One of presidio's pattern recognizers: its category, and the words that raise a weak match next to them."""

    def __init__(self, kind: str, ignore_case: bool = False) -> None:
        self.category = f"pii.{kind}"
        self.presidio = presidio = recognizer_class(kind)()
        if ignore_case:
            presidio.global_regex_flags |= regex.IGNORECASE
        self.words = tuple(word.strip() for word in presidio.context or () if word.strip())
        words = "|".join(map(re.escape, self.words))
        self._context = re.compile(rf"\b(?:{words})\b", re.IGNORECASE) if words else None
        self._analyzes = _overrides(type(presidio), "analyze")
        checked = self._analyzes or _overrides(type(presidio), "validate_result")
        flags = getattr(presidio, "global_regex_flags", 0)
        self.ignores_case = bool(flags & regex.IGNORECASE)
        self.patterns = tuple(
            _Pattern(one.regex, regex.compile(one.regex, flags), one.score, not checked and one.score < MIN_SCORE)
            for one in getattr(presidio, "patterns", ())
        )

    def matches(self, piece: str, patterns: Iterable[_Pattern]) -> list[Match]:
        """What presidio's `analyze` finds with these of its patterns, without the explanations that it makes."""
        if self._analyzes:
            found = self.presidio.analyze(piece, self.presidio.supported_entities)
            return [(one.start, one.end, one.score) for one in found]
        matches = {
            (*match.span(), score)
            for pattern in patterns
            for match in pattern.regex.finditer(piece)
            if match[0] and (score := self._score(match[0], pattern.score)) > 0
        }
        return _without_contained(sorted(matches, key=lambda one: (one[0], -one[1], -one[2])))

    def _score(self, text: str, score: float) -> float:
        valid = self.presidio.validate_result(text)
        if valid is not None:
            score = 1.0 if valid else 0.0
        return 0.0 if self.presidio.invalidate_result(text) else score

    def hits(self, piece: str, matches: Sequence[Match]) -> list[Hit]:
        """The matches that count, with what a word near them adds."""
        hits = []
        for start, end, given in matches:
            score, detail = given, "checked" if given >= 1 else "form"
            if score < 1 and self._near_context(piece, start, end):
                score, detail = min(1.0, max(score + CONTEXT_BONUS, MIN_SCORE)), "form and a word near it"
            if score >= MIN_SCORE:
                hits.append(Hit(start, end, self.category, score, detail))
        return hits

    def _near_context(self, piece: str, start: int, end: int) -> bool:
        if self._context is None:
            return False
        around = piece[max(0, start - CONTEXT_BEFORE) : start], piece[end : end + CONTEXT_AFTER]
        return any(self._context.search(part) for part in around)


class PhoneRecognizer(Recognizer):
    """Phone numbers of at least seven digits, by the regions they are dialled from."""

    def __init__(self, regions: Sequence[str]) -> None:
        super().__init__("phone")
        self._phones = Phones(regions)

    def matches(self, piece: str, patterns: Iterable[_Pattern] = ()) -> list[Match]:
        if not _PHONE_GATE.search(piece):
            return []
        found = [(start, end, _PHONE_SCORE) for start, end in self._phones.find(piece)]
        return _without_contained(sorted(found, key=lambda one: (one[0], -one[1])))


class Recognizers:
    """The recognizers of some categories."""

    def __init__(self, kinds: Sequence[str], regions: Sequence[str]) -> None:
        """Build them.

        Args:
            kinds: Categories of `catalogue.PII`.
            regions: Where phone numbers may be dialled from, as `phonenumbers` names regions.
        """
        self.phone = PhoneRecognizer(regions) if "phone" in kinds else None
        others = [Recognizer(kind) for kind in kinds if kind != "phone"]
        # Presidio's IBAN pattern reads upper case only, its registry any: the first tells a number from prose after it.
        if "iban" in kinds:
            others.append(Recognizer("iban", ignore_case=True))
        self.others = tuple(others)
        self.categories = frozenset(f"pii.{kind}" for kind in kinds)
        each = [(number, pattern) for number, one in enumerate(self.others) for pattern in one.patterns]
        self._strong = self._gate([(number, pattern) for number, pattern in each if not pattern.weak])
        self._weak = self._gate([(number, pattern) for number, pattern in each if pattern.weak])
        words = [(_folded(word), number) for number, one in enumerate(self.others) for word in one.words]
        self._named_by = [number for _, number in words]
        self._words = ahocorasick_rs.AhoCorasick([word for word, _ in words])

    def _gate(self, patterns: list[tuple[int, _Pattern]]) -> tuple[list[tuple[int, _Pattern]], Gate]:
        return patterns, Gate([(pattern.text, self.others[number].ignores_case) for number, pattern in patterns])

    def scan(self, piece: str) -> list[Hit]:
        """All that counts, of every recognizer; hits may overlap."""
        plain = skeleton(piece)
        patterns, gate = self._strong
        to_run = [patterns[i] for i in gate.may_match(plain)]
        if named := self._named(piece):
            patterns, gate = self._weak
            to_run += [patterns[i] for i in gate.may_match(plain) if patterns[i][0] in named]
        by_recognizer: dict[int, list[_Pattern]] = {}
        for number, pattern in to_run:
            by_recognizer.setdefault(number, []).append(pattern)
        hits = [
            hit
            for number, some in by_recognizer.items()
            for hit in self.others[number].hits(piece, self.others[number].matches(piece, some))
        ]
        return hits + (self.phone.hits(piece, self.phone.matches(piece)) if self.phone else [])

    def _named(self, piece: str) -> set[int]:
        """Numbers of the recognizers of whose words one stands somewhere in the text."""
        found = self._words.find_matches_as_indexes(_folded(piece), overlapping=True)
        return {self._named_by[index] for index, _, _ in found}


def _folded(text: str) -> str:
    """Folded at least as far as a regular expression does that ignores case."""
    return text.replace("\u0130", "i").replace("\u0131", "i").casefold()


def _overrides(kind: type, method: str) -> bool:
    """Whether a recognizer has a method of its own, not the one that all pattern recognizers share."""
    return next(one for one in kind.__mro__ if method in one.__dict__).__name__ not in _SHARED


def _without_contained(found: list[Match]) -> list[Match]:
    """The matches that lie in no other with at least their score; they come by start, the longest first."""
    kept: list[Match] = []
    for start, end, score in found:
        if all(end > other_end or score > other for _, other_end, other in kept):
            kept.append((start, end, score))
    return kept
