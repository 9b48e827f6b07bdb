"""Letters of other alphabets that look like Latin ones.

Unicode's own table maps thousands of characters to a skeleton that is meant for comparing names: it also makes `m` of
`rn` and `l` of `1`, and leaves out small capitals. This one holds what is in fonts that people have. Styled Latin
letters (full-width, mathematical, circled) are not in it, because Unicode's compatibility forms cover them.
"""

from __future__ import annotations

from typing import Final

_ALIKE: Final = {
    "A": "\u0410\u0391\u13aa\ua4ee",
    "a": "\u0430\u1d00\u0251",
    "B": "\u0412\u0392\u13f4\ua4d0",
    "b": "\u0299",
    "C": "\u0421\u03f9\u13df\u2ca4\ua4da",
    "c": "\u0441\u03f2\u2ca5\u1d04",
    "D": "\u13a0\ua4d3",
    "d": "\u0501\u1d05",
    "E": "\u0415\u0395\u13ac\ua4f0",
    "e": "\u0435\u04bd\u1d07",
    "F": "\ua4dd",
    "f": "\ua730",
    "G": "\u050c\u13f3\ua4d6",
    "g": "\u0581\u0262\u0261",
    "H": "\u041d\u0397\u13bb\ua4e7",
    "h": "\u04bb\u0570\u029c",
    "I": "\u0406\u04c0\u0399\ua4f2",
    "i": "\u0456\u03b9\u026a\u0269",
    "J": "\u0408\u13ab\ua4d9",
    "j": "\u0458\u03f3\u0575\u1d0a",
    "K": "\u041a\u039a\u13e6\ua4d7",
    "k": "\u03ba\u1d0b",
    "L": "\u053c\u13de\ua4e1",
    "l": "\u04cf\u029f",
    "M": "\u041c\u039c\u03fa\u13b7\ua4df",
    "m": "\u1d0d",
    "N": "\u039d\ua4e0",
    "n": "\u0578\u0274",
    "O": "\u041e\u039f\u0555\u2c9e\ua4f3",
    "o": "\u043e\u03bf\u0585\u2c9f\u1d0f",
    "P": "\u0420\u03a1\u13e2\u2ca2\ua4d1",
    "p": "\u0440\u03c1\u2ca3\u1d18",
    "Q": "\u051a",
    "q": "\u051b\u0566",
    "R": "\u13d2\ua4e3",
    "r": "\u0280",
    "S": "\u0405\u054f\u13da\ua4e2",
    "s": "\u0455\ua731",
    "T": "\u0422\u03a4\u13a2\ua4d4",
    "t": "\u1d1b",
    "U": "\u054d\ua4f4",
    "u": "\u03c5\u057d\u1d1c",
    "V": "\u0474\u13d9\ua4e6",
    "v": "\u0475\u03bd\u1d20",
    "W": "\u051c\u13d4\ua4ea",
    "w": "\u051d\u1d21",
    "X": "\u0425\u03a7\ua4eb",
    "x": "\u0445",
    "Y": "\u0423\u04ae\u03a5\ua4ec",
    "y": "\u0443\u028f",
    "Z": "\u0396\u13c3\ua4dc",
    "z": "\u1d22",
}
"""Cyrillic, Greek, Armenian, Cherokee, Coptic, Lisu, small capitals and phonetic letters, by Latin letter."""

_CLOSE: Final = {
    "a": "\u03b1",
    "b": "\u0431\u0432\u044c\u03b2",
    "d": "\u0434",
    "e": "\u044d\u03b5",
    "h": "\u043d",
    "k": "\u043a",
    "m": "\u043c",
    "n": "\u043b\u043f\u03b7",
    "o": "\u03b8\u03c3",
    "r": "\u0433\u044f",
    "t": "\u0442\u03c4",
    "u": "\u0438\u0439\u0446",
    "w": "\u0448\u0449\u03c9",
    "x": "\u03c7",
    "y": "\u03b3",
}

ALIKE: Final = {foreign: latin for latin, letters in _ALIKE.items() for foreign in letters}
"""What looks the same. A whole word of these, among Latin words, is read as Latin."""

CLOSE: Final = {foreign: latin for latin, letters in _CLOSE.items() for foreign in letters}
"""What is near enough within a word that has Latin letters too."""
