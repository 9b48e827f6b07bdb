"""Ways to hide a text from who reads its characters: one for each view of `safety_kit.views`, and two at once."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable
from typing import Final

Disguise = Callable[[str], str]

_LEET = str.maketrans("aeiostAEIOST", "431057431057")
_CYRILLIC = str.maketrans("aceopxyiABCEHKMOPTX", "асеорхуіАВСЕНКМОРТХ")  # noqa: RUF001
_GREEK = str.maketrans("ovABEHIKMNOPTXYZ", "ονΑΒΕΗΙΚΜΝΟΡΤΧΥΖ")  # noqa: RUF001


def _shifted(text: str, upper: int, lower: int, digit: int | None = None) -> str:
    """Letters (and figures) moved to where Unicode has them in another style."""
    out = []
    for char in text:
        if "A" <= char <= "Z":
            char = chr(ord(char) - ord("A") + upper)
        elif "a" <= char <= "z":
            char = chr(ord(char) - ord("a") + lower)
        elif digit is not None and "0" <= char <= "9":
            char = chr(ord(char) - ord("0") + digit)
        out.append(char)
    return "".join(out)


def wide(text: str) -> str:
    """Full-width ASCII, blanks left as they are."""
    return "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in text)


def bold(text: str) -> str:
    return _shifted(text, 0x1D400, 0x1D41A, 0x1D7CE)


def circled(text: str) -> str:
    return _shifted(text, 0x24B6, 0x24D0)


def cyrillic(text: str) -> str:
    return text.translate(_CYRILLIC)


def greek(text: str) -> str:
    return text.translate(_GREEK)


def leet(text: str) -> str:
    return text.translate(_LEET)


def spaced(text: str) -> str:
    return " ".join(text)


def dotted(text: str) -> str:
    return ".".join(text)


def hyphened(text: str) -> str:
    """Letters joined by hyphens, words kept apart."""
    return " ".join("-".join(word) for word in text.split(" "))


def invisible(text: str) -> str:
    return "\u200b".join(text)


def soft_hyphens(text: str) -> str:
    return "\u00ad".join(text)


def struck(text: str) -> str:
    return "".join(f"{char}\u0336" for char in text)


def tags(text: str) -> str:
    return "".join(chr(0xE0000 + ord(char)) if " " <= char <= "~" else char for char in text)


def overridden(text: str) -> str:
    """Written backwards, with an override that shows it forwards."""
    return f"\u202e{text[::-1]}\u202c"


def entities(text: str) -> str:
    return "".join(f"&#{ord(char)};" for char in text)


def hex_entities(text: str) -> str:
    return "".join(f"&#x{ord(char):x};" for char in text)


def url(text: str) -> str:
    return "".join(f"%{octet:02X}" for octet in text.encode())


def base_64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def base_64_url(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def hexadecimal(text: str) -> str:
    return text.encode().hex()


def hex_pairs(text: str) -> str:
    return text.encode().hex(" ")


def rot13(text: str) -> str:
    return codecs.encode(text, "rot13")


def quoted_printable(text: str) -> str:
    return "".join(f"={octet:02X}" for octet in text.encode())


def escapes(text: str) -> str:
    return "".join(f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}" for char in text)


def hex_escapes(text: str) -> str:
    return "".join(f"\\x{octet:02x}" for octet in text.encode("latin-1", "replace"))


def _both(inner: Disguise, outer: Disguise) -> Disguise:
    return lambda text: outer(inner(text))


ONCE: Final[dict[str, Disguise]] = {
    "wide": wide,
    "bold": bold,
    "circled": circled,
    "cyrillic": cyrillic,
    "greek": greek,
    "leet": leet,
    "spaced": spaced,
    "dotted": dotted,
    "hyphened": hyphened,
    "invisible": invisible,
    "soft hyphens": soft_hyphens,
    "struck": struck,
    "tags": tags,
    "override": overridden,
    "entities": entities,
    "hex entities": hex_entities,
    "url": url,
    "base64": base_64,
    "base64url": base_64_url,
    "hex": hexadecimal,
    "hex pairs": hex_pairs,
    "rot13": rot13,
    "quoted-printable": quoted_printable,
    "escapes": escapes,
    "hex escapes": hex_escapes,
}
"""One disguise each, from a text to the disguised text."""

TWICE: Final[dict[str, Disguise]] = {
    f"{outer} of {inner}": _both(ONCE[inner], ONCE[outer])
    for inner, outer in (
        ("base64", "base64"),
        ("hex", "base64"),
        ("base64", "hex"),
        ("url", "base64"),
        ("base64", "url"),
        ("url", "url"),
        ("entities", "base64"),
        ("base64", "entities"),
        ("escapes", "base64"),
        ("quoted-printable", "base64"),
        ("rot13", "base64"),
        ("base64", "rot13"),
        ("hex", "rot13"),
        ("rot13", "hex"),
        ("rot13", "entities"),
        ("rot13", "wide"),
        ("rot13", "spaced"),
        ("rot13", "invisible"),
        ("leet", "base64"),
        ("leet", "wide"),
        ("leet", "invisible"),
        ("cyrillic", "base64"),
        ("leet", "cyrillic"),
        ("cyrillic", "url"),
        ("invisible", "base64"),
        ("invisible", "escapes"),
        ("tags", "base64"),
        ("tags", "escapes"),
        ("wide", "base64"),
        ("bold", "url"),
        ("spaced", "base64"),
        ("spaced", "cyrillic"),
        ("base64", "spaced"),
        ("base64", "invisible"),
        ("base64", "wide"),
        ("base64", "override"),
    )
}
"""Two disguises, one over the other."""

DISGUISES: Final[dict[str, Disguise]] = ONCE | TWICE
"""All disguises, from a text to the disguised text."""
