"""The language of a text, by py3langid: a naive Bayes model of 4.6 MB, offline, 0.1 ms for 1,000 characters.

    checks:
      language: {type: language, allow: [en, de]}
    rules:
      - {category: language.not_allowed, action: block}
      - {category: language.unknown, action: flag}

A text is read in parts of 200 letters (or 400 characters, where these hold fewer). The first part decides early: a
reply in another language is stopped before any of it is released. If it does not, all parts decide at the text's end,
each by its letters: `not_allowed` where another language is far more probable than all those allowed, `unknown` where
one is only more probable, as in mixed texts. A text of fewer than `min_letters` letters is neither.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from safety_kit.catalogue import language_categories
from safety_kit.check_options import LanguageOptions
from safety_kit.checks.base import Delta, StepResult, TextCheck
from safety_kit.errors import MissingExtra
from safety_kit.types import Finding

PART_LETTERS: Final = 200
PART_CHARACTERS: Final = 400
LEAST_PROBABLE: Final = 0.3
"""A text's language has at least this probability; one of names, numbers or word lists seldom has it in any."""

_NO_LANGUAGE: Final = "zxx"
_LOCK = threading.Lock()
_LOADED: list[Identifier] = []


class Identifier(Protocol):
    """What this check needs of py3langid."""

    def rank(self, text: str) -> list[tuple[str, float]]:
        """All languages and their probabilities, the most probable first."""
        ...


@dataclass(frozen=True, slots=True)
class _Tally:
    """Sums over the parts identified, each weighed with its letters.

    Attributes:
        allowed: Probability of the allowed languages and of no language at all.
        others: Probability of each language that was a part's most probable other one.
    """

    letters: int = 0
    allowed: float = 0.0
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """The other languages' share, in [0, 1]."""
        other = sum(self.others.values())
        return other / (other + self.allowed) if other else 0.0

    @property
    def probable(self) -> bool:
        """Whether it is a text in another language at all."""
        return sum(self.others.values()) >= LEAST_PROBABLE * self.letters


@dataclass(frozen=True, slots=True)
class _State:
    """`part` is not identified yet; `first` is still to come; `decided`: a finding was given."""

    total: int = 0
    part: str = ""
    part_letters: int = 0
    first: bool = True
    decided: bool = False
    tally: _Tally = field(default_factory=_Tally)


class LanguageCheck(TextCheck):
    """Finds texts in a language that is not allowed.

    Scores are the other language's share of its probability and the allowed ones', of the kind ``uncalibrated``.
    """

    lookahead = PART_CHARACTERS

    def __init__(self, name: str, options: LanguageOptions, identifier: Identifier) -> None:
        self.name = name
        self.categories = language_categories()
        self._allow = frozenset(options.allow)
        self._min_letters = options.min_letters
        self._confidence = options.confidence
        self._identifier = identifier

    def start(self) -> _State:
        return _State()

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        part, letters, first, decided, tally = state.part, state.part_letters, state.first, state.decided, state.tally
        total = state.total + len(new.text)
        found: list[Finding] = []
        rest = new.text
        while rest:
            size, counted = _measure(rest, PART_LETTERS - letters, PART_CHARACTERS - len(part))
            part, letters, rest = part + rest[:size], letters + counted, rest[size:]
            if letters < PART_LETTERS and len(part) < PART_CHARACTERS:
                break
            tally = self._add(tally, part, letters)
            if first and self._is_other(tally):
                found.append(self._finding("not_allowed", tally, "at its beginning"))
            part, letters, first = "", 0, False
        if final:
            tally = self._add(tally, part, letters)
            if not (decided or found):
                found += self._at_end(tally)
        decided = decided or bool(found)
        return _State(total, part, letters, first, decided, tally), found, 0 if first and not final else total

    def _add(self, tally: _Tally, part: str, letters: int) -> _Tally:
        if letters < self._min_letters:
            return tally
        allowed, other, other_probability = 0.0, "", 0.0
        for language, probability in self._identifier.rank(part):
            if language in self._allow or language == _NO_LANGUAGE:
                allowed += probability
            elif probability > other_probability:
                other, other_probability = language, probability
        others = dict(tally.others)
        others[other] = others.get(other, 0.0) + letters * other_probability
        return _Tally(tally.letters + letters, tally.allowed + letters * allowed, others)

    def _is_other(self, tally: _Tally) -> bool:
        return tally.probable and tally.share >= self._confidence

    def _at_end(self, tally: _Tally) -> list[Finding]:
        if self._is_other(tally):
            return [self._finding("not_allowed", tally, "as a whole")]
        return [self._finding("unknown", tally, "as a whole")] if tally.share > 0.5 else []

    def _finding(self, kind: str, tally: _Tally, where: str) -> Finding:
        language = max(tally.others, key=lambda code: tally.others[code])
        detail = f"{where} most probably {language}"
        return Finding(self.name, f"language.{kind}", min(1.0, tally.share), "uncalibrated", (), detail)


def _measure(text: str, letters: int, characters: int) -> tuple[int, int]:
    """How much of a text fills a part that still takes so many letters and characters, and the letters in that."""
    counted = sum(map(str.isalpha, text[:characters]))
    if counted <= letters:
        return min(len(text), characters), counted
    counted = 0
    for place, char in enumerate(text):
        counted += char.isalpha()
        if counted == letters:
            return place + 1, counted
    return len(text), counted


def identifier() -> Identifier:
    """py3langid's identifier, loaded once: a second.

    Raises:
        MissingExtra: py3langid is not installed.
    """
    with _LOCK:
        if not _LOADED:
            try:
                from py3langid.langid import MODEL_FILE, LanguageIdentifier
            except ImportError as error:
                raise MissingExtra("py3langid", "all") from error
            _LOADED.append(LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True))
        return _LOADED[0]


def build(name: str, options: LanguageOptions, wanted: frozenset[str]) -> LanguageCheck:
    """The check of a policy's `language` entry."""
    return LanguageCheck(name, options, identifier())
