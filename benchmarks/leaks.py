"""Streams: what leaves of what must not, and how much is held back while nothing is open.

python -m benchmarks.leaks [--replies 1000] [--chunkings 10000]
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from benchmarks.result import figure
from safety_kit.data import data_dir
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.stream import StreamGuard
from safety_kit.types import Action

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WORDS = 20  # characters before a blocking span that another check may not have cleared
KEYWORD, TICKET = "project bluebird", "PRJ-4417"
SENTENCES = (
    "The harbour was quiet when the first boats came in, and nobody spoke about the storm.",
    "A good dough rests for an hour; a better one rests overnight in a cold room.",
    "If the function returns early, the file stays open, so close it in a finally block.",
    "She asked for the recipe, and he wrote it on the back of an envelope.",
    "Most of the letters in the archive are short, and some are only a list of names.",
    "You can plant beans after the last frost: they like warm soil and a little shade.",
    "The proof goes by induction, and the base case is the one that people forget.",
    "I am a bit late, so go on without me and I will find a seat at the back.",
)


@dataclass(frozen=True)
class Reply:
    """A reply with planted violations, and what a stream may release of it at the most."""

    text: str
    allowed: str


def text_policy() -> Policy:
    """The default policy's text checks, with a keyword and a regex of a policy's own."""
    page = yaml.safe_load((data_dir() / "policies" / "default.yaml").read_text(encoding="utf-8"))
    page["checks"] = {name: check for name, check in page["checks"].items() if check["type"] != "probe"}
    page["checks"]["names"] = {"type": "patterns", "keywords": [KEYWORD], "regexes": [r"\bPRJ-\d{4}\b"]}
    rules = [rule for rule in page["rules"] if rule["category"].startswith(("pii.", "secrets."))]
    page |= {"rules": [*rules, {"category": "names", "action": "redact", "form": "mask"}], "messages": {}}
    return Policy.parse(yaml.safe_dump(page))


def _word(rng: random.Random, letters: str, length: int) -> str:
    return "".join(rng.choices(letters, k=length))


_LOWER, _CAPITAL = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BASE64 = f"{_LOWER}{_CAPITAL}0123456789+/"


def _card(rng: random.Random) -> str:
    digits = [4, *(rng.randrange(10) for _ in range(14))]
    doubled = (digit * 2 if place % 2 == 0 else digit for place, digit in enumerate(digits))
    total = sum(digit - 9 if digit > 9 else digit for digit in doubled)
    number = "".join(map(str, [*digits, -total % 10]))
    return rng.choice(["", " ", "-"]).join(number[i : i + 4] for i in range(0, 16, 4))


def _private_key(rng: random.Random) -> str:
    body = "\n".join(_word(rng, _BASE64, 64) for _ in range(rng.randrange(2, 25)))
    return f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----"


def _plant(rng: random.Random) -> tuple[str, str | None]:
    """A violation, and what it is rewritten to; None for one that blocks."""
    kind = rng.choice(["keyword", "ticket", "mail", "card", "key", "private key"])
    if kind == "keyword":
        return rng.choice([KEYWORD, KEYWORD.title(), KEYWORD.upper()]), "[NAMES]"
    if kind == "ticket":
        return TICKET, "[NAMES]"
    if kind == "mail":
        return f"{_word(rng, _LOWER, rng.randrange(2, 40))}@{_word(rng, _LOWER, 8)}.example.org", "[EMAIL]"
    if kind == "card":
        return _card(rng), "[CREDIT_CARD]"
    if kind == "key":
        return f"AKIA{_word(rng, _CAPITAL, 16)}", None
    return _private_key(rng), None


def replies(count: int, seed: int = 0) -> list[Reply]:
    """Replies of prose with one to three violations between its words."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        words = " ".join(rng.choices(SENTENCES, k=rng.randrange(2, 10))).split(" ")
        places = sorted(rng.sample(range(len(words) + 1), rng.randrange(1, 4)))
        text, allowed, blocked, before = [], [], False, 0
        for place in places:
            between = words[before:place]
            violation, rewritten = _plant(rng)
            text += [*between, violation]
            if not blocked:
                allowed += between if rewritten is None else [*between, rewritten]
            if rewritten is None and not blocked:
                blocked = True
                allowed.append("")  # the space before it may go out
            before = place
        text += words[before:]
        allowed += [] if blocked else words[before:]
        made.append(Reply(" ".join(text), " ".join(allowed)))
    return made


def chunks(text: str, rng: random.Random) -> list[str]:
    """The text, cut at random: in small pieces, in large ones, or into characters."""
    mean = rng.choice([1, 3, 8, 40, 200])
    out, at = [], 0
    while at < len(text):
        size = 1 if mean == 1 else max(1, round(rng.expovariate(1 / mean)))
        out.append(text[at : at + size])
        at += size
    return out


@dataclass(frozen=True)
class Leaks:
    """What came of many chunkings.

    Attributes:
        replies: Replies with planted violations.
        chunkings: Ways in which one of them was cut, all told.
        characters: Released characters that are not in what a reply may release.
        differing: Chunkings whose released text or verdict differs from those of one feed of the whole.
        short: Replies of which less was released than could be; for one that blocks, a word or two are not counted.
    """

    replies: int
    chunkings: int
    characters: int
    differing: int
    short: int


def leaks(guard: Guard, made: Sequence[Reply], chunkings: int, seed: int = 1) -> Leaks:
    """Stream each reply in its share of `chunkings` random ways, one feed of the whole not counted."""
    rng = random.Random(seed)
    done = leaked = differing = short = 0
    for number, reply in enumerate(made):
        whole = _stream(guard, [reply.text])
        short += len(whole[0]) < len(reply.allowed) - (_WORDS if whole[1][0] is Action.BLOCK else 0)
        for _ in range(chunkings * (number + 1) // len(made) - chunkings * number // len(made)):
            out = _stream(guard, chunks(reply.text, rng))
            done += 1
            leaked += len(out[0]) - _common(out[0], reply.allowed)
            differing += out != whole
    return Leaks(len(made), done, leaked, differing, short)


def _common(one: str, other: str) -> int:
    """Characters with which both begin."""
    equal = (a == b for a, b in zip(one, other, strict=False))
    return sum(1 for _ in itertools.takewhile(bool, equal))


def _stream(guard: Guard, pieces: Iterable[str]) -> tuple[str, Any]:
    flow = StreamGuard(guard)
    for piece in pieces:
        flow.feed(piece)
    flow.close()
    assert flow.verdict is not None
    return flow.released, (flow.verdict.action, flow.verdict.findings, flow.verdict.errors)


def tokens(text: str) -> list[str]:
    """Pieces like those of a tokenizer: about four characters of English prose each."""
    return re.findall(r"\s?\w{1,5}|\s?[^\w\s]|\s", text)


def hold_back(guard: Guard, texts: Iterable[str]) -> list[int]:
    """How many characters are held after each token of each text."""
    held = []
    for text in texts:
        flow, fed, out = StreamGuard(guard), 0, 0
        for token in tokens(text):
            fed += len(token)
            out += len(flow.feed(token).text)
            held.append(fed - out)
    return held


def prose() -> list[str]:
    """The kit's harmless example texts in English, those without a digit or an @: in these nothing is open."""
    rows = map(json.loads, (data_dir() / "examples" / "benign.jsonl").read_text(encoding="utf-8").splitlines())
    return [row["text"] for row in rows if row["lang"] == "en" and not re.search(r"[\d@]", row["text"])]


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--replies", type=int, default=1000)
    options.add_argument("--chunkings", type=int, default=10_000)
    asked = options.parse_args()
    guard = Guard(text_policy())
    held = hold_back(guard, [" ".join(prose())])
    figures = [
        figure("characters held, no match open: median", [float(np.median(held))], "characters", most=100),
        figure("characters held, no match open: 99th percentile", [float(np.quantile(held, 0.99))], "characters"),
        figure("characters held, no match open: most", [float(max(held))], "characters", most=100),
    ]
    found = leaks(guard, replies(asked.replies), asked.chunkings)
    figures.append(figure("characters leaked", [float(found.characters)], "characters", most=0))
    print(json.dumps({"figures": [asdict(one) for one in figures], "leaks": asdict(found)}, indent=1))


if __name__ == "__main__":
    main()
