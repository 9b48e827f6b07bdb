"""Cutting a growing text where no token can cross, so that what was read stays as it was read.

A BPE token that covers two neighbouring characters is an entry of the vocabulary that holds them side by side. Between
two characters that stand so in no entry, the tokens of what is left of them and of what is right are therefore those of
each part alone, whatever follows. In Gemma's vocabulary that is before nearly every space, and after a line's end.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from safety_kit.gemma.tokens import Vocabulary

LONGEST: Final = 64
"""Characters of a segment; a longer run without a place to cut is cut there all the same, in any text alike."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class Segmenter:
    """Cuts one text, however it arrives, into the same segments.

    The tokens of all segments are those of the whole text, unless a run of more than `LONGEST` characters has no place
    to cut.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._joined = vocabulary.pairs
        self._open = ""

    def feed(self, text: str) -> list[str]:
        """Read on: the segments that no further text can change."""
        pending = self._open + text
        seen = _SURROGATE.sub("\ufffd", pending).replace(" ", "▁")
        segments, start = [], 0
        for at in range(max(1, len(self._open)), len(pending)):
            if at - start == LONGEST or seen[at - 1 : at + 1] not in self._joined:
                segments.append(pending[start:at])
                start = at
        self._open = pending[start:]
        return segments

    def close(self) -> list[str]:
        """The last segment, if there is one."""
        rest, self._open = self._open, ""
        return [rest] if rest else []
