"""Phone numbers of many regions, as `phonenumbers` finds them region by region, in a fraction of the time.

A region is tried only where one of the text's candidates could be a valid number of it: its digits, without a country
code and national prefix, match a pattern of the region's kinds of number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import re2
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, Leniency, PhoneMetadata, PhoneNumberMatch, PhoneNumberMatcher
from phonenumbers.phonenumbermatcher import (  # type: ignore[attr-defined]
    _PATTERN,
    _SECOND_NUMBER_START_PATTERN,
)

# Other characters (an extension's mark, digits of another script) make a candidate one for every region.
_PLAIN: Final = re.compile(r"[0-9 ()\[\]./\-\n\t]*")
_ABROAD: Final = re.compile(r"[(\[]?\+([0-9 ()\[\]./\-\n\t]*)")
_NOT_DIGIT: Final = re.compile(r"[^0-9]+")
SHORTEST: Final = 7  # digits: shorter numbers are of a few places only, and look like any number
_LONGEST: Final = 40  # digits; the longest numbers with all their prefixes have fewer
_ANY: Final = -1
"""Stands for every region that takes nothing but numbers that name their country."""
_KINDS: Final = (
    *("fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost", "personal_number", "voip", "pager", "uan"),
    "voicemail",
)


class Phones:
    """The matchers of some regions."""

    def __init__(self, regions: Sequence[str]) -> None:
        self._regions = tuple(regions)
        self._every = frozenset(range(len(self._regions)))
        options = re2.Options()
        options.log_errors = False
        options.max_mem = 64 << 20
        self._set = re2.Set.FullMatchSet(options)
        for region in self._regions:
            self._set.Add(_shape(region))
        self._set.Add("(?s).*")
        self._set.Compile()

    def find(self, text: str) -> list[tuple[int, int]]:
        """The spans of all numbers of at least `SHORTEST` digits, in order, but for some that lie in another.

        What looks like a number is tried whole first. Where one region takes it, what another would find in it lies
        inside, and all go on behind it: one parse is enough. Where only a part of it may be a number, each region looks
        for that by itself.
        """
        spans = []
        candidates, index = _Candidates(text), 0
        while (found := candidates.next_whole(index)) is not None:
            start, whole = found
            index = start + len(whole)
            if _digits(whole) < SHORTEST:
                continue
            tried = candidates.tried(whole, start)
            abroad = {candidate for candidate in tried if _names_its_country(candidate)}
            regions = {candidate: self._of(candidate) for candidate in tried if candidate not in abroad}
            first = [0] if whole in abroad else sorted(regions.pop(whole, ()))  # all read it alike: one speaks for them
            if any(self._takes(text, n, whole, start) for n in first):
                spans.append((start, index))
                continue
            numbers = set().union(*regions.values())
            if abroad - {whole}:
                numbers.add(_ANY)
            inside = self._region_by_region(text, start, index, numbers)
            if inside is None:
                return [*spans, *(self._region_by_region(text, start, len(text), set(self._every)) or ())]
            spans += inside
        return spans

    def _takes(self, text: str, number: int, whole: str, start: int) -> bool:
        matcher = PhoneNumberMatcher(text, self._regions[number], Leniency.VALID)
        return matcher._parse_and_verify(whole, start) is not None

    def _region_by_region(self, text: str, start: int, end: int, numbers: set[int]) -> list[tuple[int, int]] | None:
        """What these regions' own matchers find from `start` to `end`; None where one of them goes on beyond."""
        possible: dict[str, frozenset[int]] = {}
        spans: set[tuple[int, int]] = set()
        todo = sorted(numbers)  # `_ANY` comes first
        for n in todo:
            matcher = _Gated(text, start, end, self._regions[max(n, 0)], n, possible, self._of)
            spans |= {(match.start, match.end) for match in matcher if _digits(match.raw_string) >= SHORTEST}
            if matcher.goes_beyond:
                return None
            if n == _ANY:  # behind what all find, some may find more
                todo += sorted(frozenset().union(*possible.values()) - numbers)
        return sorted(spans)

    def _of(self, candidate: str) -> frozenset[int]:
        """Numbers of the regions in which this may be a valid number."""
        if not _PLAIN.fullmatch(candidate):
            return self._every
        digits = _NOT_DIGIT.sub("", candidate)
        if len(digits) > _LONGEST:
            return frozenset()
        found = self._set.Match(digits)  # the pattern behind the regions' matches all; without it RE2 gave up
        return self._every if found is None else self._every.intersection(found)


class _Candidates(PhoneNumberMatcher):
    """Tells what a matcher would parse, in any region, as long as it finds nothing."""

    def __init__(self, text: str) -> None:
        super().__init__(text, "ZZ", Leniency.VALID)
        self._seen: dict[str, None] = {}

    def next_whole(self, index: int) -> tuple[int, str] | None:
        """Where the next one begins, and what is tried first; as in `PhoneNumberMatcher._find`."""
        match = _PATTERN.search(self.text, index)
        return match and (match.start(), self._trim_after_first_match(_SECOND_NUMBER_START_PATTERN, match[0]))

    def tried(self, whole: str, start: int) -> dict[str, None]:
        """What is parsed of it, one after the other."""
        self._seen = {}
        self._extract_match(whole, start)
        return self._seen

    def _parse_and_verify(self, candidate: str, offset: int) -> None:
        self._seen[candidate] = None


class _Gated(PhoneNumberMatcher):
    """The matcher of one region in a part of a text, which parses only what may be a number of it.

    Attributes:
        goes_beyond: Behind what it found, there was something that begins in the part and ends behind it.
    """

    def __init__(
        self,
        text: str,
        start: int,
        end: int,
        region: str,
        number: int,
        possible: dict[str, frozenset[int]],
        of: Callable[[str], frozenset[int]],
    ) -> None:
        super().__init__(text, region, Leniency.VALID)
        self._search_index, self._end = start, end
        self.goes_beyond = False
        self._number, self._possible, self._of = number, possible, of

    def _extract_match(self, candidate: str, offset: int) -> PhoneNumberMatch | None:
        if offset + len(candidate) > self._end:
            self.goes_beyond = offset < self._end
            self._max_tries = 0  # which ends the search
            return None
        found: PhoneNumberMatch | None = super()._extract_match(candidate, offset)
        return found

    def _parse_and_verify(self, candidate: str, offset: int) -> PhoneNumberMatch | None:
        regions = self._possible.get(candidate)
        if regions is None and not _names_its_country(candidate):
            regions = self._possible[candidate] = self._of(candidate)
        if regions is not None and self._number not in regions:
            return None
        found: PhoneNumberMatch | None = super()._parse_and_verify(candidate, offset)
        return found


def _digits(candidate: str) -> int:
    return sum(map(str.isdecimal, candidate))


def _names_its_country(candidate: str) -> bool:
    """Whether the number is read the same in every region: a plus, and a country code that there is."""
    if not (found := _ABROAD.fullmatch(candidate)):
        return False
    digits = _NOT_DIGIT.sub("", found[1])
    if digits.startswith("0"):
        return False
    return any(digits[:n].isdigit() and int(digits[:n]) in COUNTRY_CODE_TO_REGION_CODE for n in (1, 2, 3))


def _shape(region: str) -> str:
    """A pattern that the digits of each valid number of a region match, however it is dialled from there."""
    metadata = _metadata(region)
    code = metadata.country_code
    kinds = {
        pattern
        for one in COUNTRY_CODE_TO_REGION_CODE[code]
        for kind in _KINDS
        if (pattern := _national(getattr(_metadata(one), kind)))
    }
    prefix = metadata.national_prefix_for_parsing or ""
    # A transform rewrites what the prefix's pattern took, so nothing can be said of the digits after it.
    prefix = rf"(?:{prefix})?" * 2 if not metadata.national_prefix_transform_rule else r"(?:\d{0,5})"
    abroad = rf"(?:{metadata.international_prefix})\d*" if metadata.international_prefix else r"\d*"
    return rf"{abroad}|(?:{code})?{prefix}(?:{'|'.join(sorted(kinds))})"


def _metadata(region: str) -> Any:
    return PhoneMetadata.metadata_for_region(region, None)


def _national(description: Any) -> str | None:
    return description.national_number_pattern if description is not None else None
