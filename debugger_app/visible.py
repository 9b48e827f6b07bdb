"""Hostile text made inert: what cannot be seen, or would change how the rest is seen, is written as an escape."""

from __future__ import annotations

import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def visible(text: str) -> str:
    """The text with every control, format, private and unassigned character as ``\\u{…}``; a line end as ⏎, a tab as ⇥.

    A joiner inside an emoji or a Persian word is shown, too: what the model saw is the matter here, not how it prints.
    """
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character == "\n":
        return "⏎"
    if character == "\t":
        return "⇥"
    return f"\\u{{{ord(character):x}}}" if unicodedata.category(character) in _HIDDEN else character
