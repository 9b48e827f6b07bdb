"""Hostile text made inert: what cannot be seen, or would change how the rest is seen, is written as an escape."""

from __future__ import annotations

import re
import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&])")


def visible(text: str) -> str:
    """The text with every control, format, private and unassigned character as ``\\u{…}``; a line end as ⏎, a tab as ⇥.

    A joiner inside an emoji or a Persian word is shown, too: what the model saw is the matter here, not how it prints.
    """
    return "".join(_shown(character) for character in text)


def plain(text: str) -> str:
    """The same for the labels that Streamlit reads as Markdown: nothing in it is a mark-up."""
    return _MARKDOWN.sub(r"\\\1", visible(text))


def short(text: str, most: int = 40) -> str:
    """The same as `visible`, cut to what fits a line."""
    shown = visible(text[: most + 1])
    return shown if len(text) <= most else f"{shown[: most - 1]}…"


def _shown(character: str) -> str:
    if character == "\n":
        return "⏎"
    if character == "\t":
        return "⇥"
    return f"\\u{{{ord(character):x}}}" if unicodedata.category(character) in _HIDDEN else character
