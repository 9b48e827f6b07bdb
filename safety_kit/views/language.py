"""How much a text looks like language: log-odds of letter pairs, counted once in a list of common words."""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate, product
from operator import add, sub
from string import ascii_lowercase, ascii_uppercase
from typing import Final

ROT13: Final = str.maketrans(
    ascii_lowercase + ascii_uppercase,
    ascii_lowercase[13:] + ascii_lowercase[:13] + ascii_uppercase[13:] + ascii_uppercase[:13],
)

_WORDS: Final = """
the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not what
all were we when your can said there use an each which she do how their if will up other about out many then them these
so some her would make like him into time has look two more write go see number no way could people my than first water
been call who oil its now find long down day did get come made may part over new sound take only little work know place
year live me back give most very after thing our just name good sentence man think say great where help through much
before line right too mean old any same tell boy follow came want show also around form three small set put end does
another well large must big even such because turn here why ask went men read need land different home us move try kind
hand picture again change off play spell air away animal house point page letter mother answer found study still learn
should america world system instructions ignore previous prompt password secret reveal hidden project message text
user account number address private public information please explain describe create generate provide write between
without against during under never always never every something nothing everything question problem example model
language code function value return string data file program computer network server attack malicious weapon explosive
bomb build kill hate person women children school country government company business money market health doctor
medical history science research university student teacher family friend father brother sister morning evening night
today tomorrow yesterday weather summer winter spring autumn green yellow orange purple black white blue bird color
important possible necessary available following according understand remember believe consider continue develop
include increase interest involve happen appear allow already although almost enough perhaps probably quickly rather
really several simply special together whether within yourself disregard override bypass pretend roleplay confidential
forget above below rules guidelines safety policy content response assistant developer administrator credential token
der die und das ist nicht ein eine ich mit sich auf für den von werden haben sind auch nach über wird oder kann sein bei
einen einem einer dass wenn nur noch aber alle wie was diese dieser durch mehr schon immer bitte anweisungen passwort
geheim schreiben deutsch jahr zeit menschen leben arbeit welt straße wasser zwischen gegen ohne unter vorherigen
le la les des est une dans que qui pour pas sur avec plus par ce cette sont mais nous vous leur tout faire comme être
avoir fait même aussi bien sans peut deux ces autre entre encore temps monde homme jour vie toujours instructions
précédentes ignorez français mot secret question réponse pays ville maison travail enfants
el los las una que con para por como más pero sus este esta entre cuando muy sin sobre también hasta desde todo nos
durante uno ni contra otros ese eso ante ellos instrucciones anteriores contraseña mundo tiempo vida trabajo ciudad
il lo gli che non di per una sono con come questo anche più della nella stato essere fare tutto molto bene sempre dopo
istruzioni precedenti mondo tempo vita lavoro anni casa città
o os uma não com mais mas foi ele das tem seu sua ou ser quando muito nos já está eu também pelo instruções anteriores
het een van niet dat zijn wordt voor met maar ook naar deze door over jaar alle andere wereld vorige instructies
"""

_LETTERS: Final = " " + ascii_lowercase
_PLAIN: Final = str.maketrans("äöüéèêëáàâãåíìîïóòôõúùûñçøæß", "aoueeeeaaaaaiiiioooouuuncoas")
_RUN: Final = re.compile(r"[a-z]+")
_LEAST_PAIRS: Final = 3
_INVISIBLE: Final = re.compile(r"[\u00ad\u034f\u200b-\u200f\u2060-\u2064\ufeff]")
LOOKED_AT: Final = 512
"""Characters of a text that are enough to tell."""
_ALPHABETIC: Final = re.compile(r"[\u0370-\u058f\u0590-\u10ff]")
"""Scripts that write a word in letters."""


def _count() -> tuple[Mapping[str, float], Mapping[str, float]]:
    counts: Counter[str] = Counter()
    for word in _WORDS.translate(_PLAIN).split():
        counts.update(map(add, f" {word}", f"{word} "))
    pairs = ["".join(pair) for pair in product(_LETTERS, repeat=2)]
    total = sum(counts.values()) + 0.3 * len(pairs)
    odds = {pair: math.log((counts[pair] + 0.3) / total * len(pairs)) for pair in pairs}
    # A letter that is drawn out (`yesss`) says nothing of either reading.
    return odds, {pair: odds[pair if pair[0] == pair[1] else pair.translate(ROT13)] for pair in pairs}


_ODDS, _ODDS_ROT13 = _count()

_CODES: Final = bytes((byte | 32) - 96 if 65 <= byte <= 90 or 97 <= byte <= 122 else 0 for byte in range(256))
"""Letters as 1 to 26, all else as a gap."""


_MOST: Final = 3.0
"""Nats that one pair may gain: an abbreviation with a `q` is no ROT13."""


def _gains() -> list[float]:
    """What each pair of codes, read as a number of 16 bits, gains by ROT13."""
    gains = [0.0] * 2**16
    for (i, first), (k, second) in product(enumerate(_LETTERS), repeat=2):
        gain = _ODDS_ROT13[first + second] - _ODDS[first + second]
        gains[int.from_bytes(bytes((i, k)), sys.byteorder)] = max(-_MOST, min(gain, _MOST))
    gains[0] = 0.0
    return gains


_GAINS: Final = _gains()


_COMMON: Final = frozenset(word for word in _WORDS.split() if len(word) >= 3)


def is_common(word: str) -> bool:
    """Whether a word of three letters or more stands in the list."""
    return word in _COMMON


def break_gain(letter: str, word: str) -> float:
    """Log-odds, in nats, that a word begins by itself rather than with one more letter.

    Args:
        letter: The letter, a to z.
        word: How the word begins after it, with at least one letter a to z.
    """
    return _ODDS[" " + word[0]] - _ODDS[" " + letter] - _ODDS[letter + word[0]]


def rot13_gain(text: str) -> float:
    """The most, in nats, that any stretch of a text gains in log-odds when it is read as ROT13.

    The greatest sum of neighbours, by loops that run in C: this is asked of every text.
    """
    codes = b"\0" + text.encode("latin-1", "replace").translate(_CODES) + b"\0"
    size = len(codes) - 1  # pairs
    gains = [0.0] * size
    gains[0::2] = map(_GAINS.__getitem__, memoryview(codes[: size + size % 2]).cast("H"))
    gains[1::2] = map(_GAINS.__getitem__, memoryview(codes[1 : 1 + size - size % 2]).cast("H"))
    sums = list(accumulate(gains))
    most: float = max(map(sub, sums, accumulate(sums, min, initial=0.0)))
    return most


def word_gain(word: str) -> float:
    """The same for a whole word of ASCII letters, good or bad."""
    codes = b"\0" + word.encode().translate(_CODES) + b"\0"
    return sum(_GAINS[int.from_bytes(codes[i : i + 2], sys.byteorder)] for i in range(len(codes) - 1))


def word_odds(word: str, rot13: bool = False) -> float:
    """Log-odds, in nats, that a word is language and not random letters.

    Args:
        word: Letters a to z.
        rot13: Read it as ROT13.
    """
    odds = _ODDS_ROT13 if rot13 else _ODDS
    return sum(map(odds.__getitem__, map(add, f" {word}", f"{word} ")))


def odds(text: str) -> float:
    """Mean log-odds of a letter pair, in nats: about 1 for prose, under 0 for random letters; -inf for too few to tell.

    Pairs within runs of letters only, so that it makes no difference where a piece of a text was cut. A text that is
    mostly in another alphabet is taken for language: who would write random Greek?
    """
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text[:LOOKED_AT]))
    lowered = text[:LOOKED_AT].lower().translate(_PLAIN)
    runs = _RUN.findall(lowered)
    letters = sum(map(len, runs))
    if len(_ALPHABETIC.findall(lowered)) > letters:
        return 1.0
    pairs = letters - len(runs)
    if pairs < _LEAST_PAIRS:
        return -math.inf
    return sum(_ODDS[pair] for run in runs for pair in map(add, run, run[1:])) / pairs


def is_language(text: str, least: float = 0.2) -> bool:
    """Whether a text reads as language, as it stands or as ROT13, in which a disguise may hide another."""
    text = text[:LOOKED_AT]
    shown = [char for char in text if char.isprintable()]
    letters = sum(char.isalpha() or char == " " for char in shown)
    return letters * 4 >= len(shown) * 3 and (odds(text) >= least or odds(text.translate(ROT13)) >= max(least, 0.5))
