"""A gateway under load on this machine, for a bounded time: `make load` (ten minutes; one with `ARGS=--quick`).

The gateway, a fake upstream of known pace and this client are processes of their own. Some replies hold what the policy
blocks or redacts; a character of it that arrives is an error like any other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fake_upstream import STORY
from benchmarks.processes import Server, fake_upstream, gateway
from benchmarks.streams import Answer, ask

TEXT_CHECKS = """
version: 1
name: text-checks
checks:
  words: {type: patterns, keywords: [project bluebird]}
  pii: {type: pii, countries: [us, uk, de, fr, es, it]}
  secrets: {type: secrets}
rules:
  - {category: words, action: block}
  - {category: pii.*, action: redact}
  - {category: secrets.*, stages: [input], action: redact}
  - {category: secrets.*, stages: [output], action: block}
"""
"""The default policy's text checks, and words."""

NO_CHECKS = """
version: 1
name: no-checks
views: false
checks:
  length: {type: length, characters: 100000000}
rules: [{category: length, stages: [input], action: flag}]
"""
"""As little as a policy can ask for."""

PLANTED = ("ana.lopez@example.org", "Project Bluebird")
PLANT_EVERY = 8
RATE, TOKENS = 20.0, 64
STREAMS = (1, 8, 32, 128)
PROMPT = 500


@dataclass
class Level:
    """What so many streams at once came to.

    Attributes:
        streams: How many were open at once.
        answers: Of all requests.
        leaks: Replies in which something arrived that the policy forbids.
        seconds: How long it took.
        memory: Seconds since its begin, and resident megabytes of the gateway.
        gateway, client: Processor seconds a second.
    """

    streams: int
    answers: list[Answer] = field(default_factory=list)
    leaks: int = 0
    seconds: float = 0.0
    memory: list[tuple[float, float]] = field(default_factory=list)
    gateway: float = 0.0
    client: float = 0.0

    @property
    def errors(self) -> Counter[str]:
        """What went wrong, by kind."""
        wrong = Counter(answer.error or f"status {answer.status}" for answer in self.answers if not answer.good)
        return wrong + Counter({"an unchecked text arrived": self.leaks})

    def row(self) -> list[str]:
        """Cells of the table."""
        good = [answer for answer in self.answers if answer.good]
        firsts = [1000 * answer.first_byte for answer in good if answer.first_byte is not None]
        texts = [1000 * answer.first_text for answer in good if answer.first_text is not None]
        wholes = [answer.whole for answer in good]
        return [
            str(self.streams),
            str(len(self.answers)),
            f"{len(good) / self.seconds:.1f}",
            *(_percentiles(firsts, ".0f"), _percentiles(texts, ".0f"), _percentiles(wholes, ".2f")),
            str(sum(self.errors.values())),
            f"{self.memory[0][1]:.0f} → {self.memory[-1][1]:.0f}" if self.memory else "",
            f"{self.gateway:.2f}",
            f"{self.client:.2f}",
        ]


HEAD = [
    *("streams", "requests", "good/s", "first byte ms p50/p95/p99", "first text ms", "whole s", "errors"),
    *("MB", "CPU gateway", "CPU client"),
]


def prompt(number: int, characters: int = PROMPT) -> str:
    """A prompt of so many characters that no other number has, so that no verdict is known already."""
    return f"Question {number}: {(STORY + '. ') * (characters // len(STORY) + 1)}"[:characters]


def request(number: int, tokens: int = TOKENS, **fake: Any) -> dict[str, Any]:
    """A streamed chat completion; every eighth reply of the fake holds what must not arrive."""
    if number % PLANT_EVERY == 0:
        words = [*STORY.split() * (tokens // 16 + 1)][:tokens]
        words[len(words) // 2] = PLANTED[number // PLANT_EVERY % len(PLANTED)]
        fake["text"] = " ".join(words)
    messages = [{"role": "user", "content": prompt(number)}]
    return {"model": "fake", "messages": messages, "stream": True, "fake": {"tokens": tokens, **fake}}


def leaked(answer: Answer) -> bool:
    """Whether a planted text, or its telling part, is in a reply that was kept."""
    said = ""
    for line in bytes(answer.body).split(b"\n"):
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:]).get("choices", []):
                said += (choice.get("delta") or {}).get("content") or ""
    return any(planted.split()[-1].casefold() in said.casefold() for planted in PLANTED)


async def hold(
    server: Server, streams: int, seconds: float, make: Callable[[int], Mapping[str, Any]] = request
) -> Level:
    """Keep so many streams open for some time: each that ends is followed by the next.

    Args:
        server: The gateway.
        streams: How many.
        seconds: No stream begins later; those that run are waited for.
        make: The request of a number.
    """
    level, begin = Level(streams), time.perf_counter()
    busy, own = server.busy(), time.process_time()
    numbers = iter(range(1_000_000_000))

    async def worker(turn: int) -> None:
        await asyncio.sleep(turn / streams * min(1.0, seconds / 10))  # not all at the same moment
        while time.perf_counter() - begin < seconds:
            number = next(numbers)
            keep = number % PLANT_EVERY == 0
            answer = await ask(server.url, make(number), keep=keep)
            if keep and leaked(answer):
                level.leaks += 1
            answer.body = bytearray()
            level.answers.append(answer)

    async def watch() -> None:
        while True:
            level.memory.append((time.perf_counter() - begin, server.memory()))
            await asyncio.sleep(1)

    watching = asyncio.ensure_future(watch())
    try:
        await asyncio.gather(*(worker(turn) for turn in range(streams)))
    finally:
        watching.cancel()
    level.seconds = time.perf_counter() - begin
    level.gateway = (server.busy() - busy) / level.seconds
    level.client = (time.process_time() - own) / level.seconds
    return level


@contextmanager
def policy_file(text: str) -> Iterator[str]:
    """A policy in a file of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.yaml"
        path.write_text(text, encoding="utf-8")
        yield str(path)


def small(number: int) -> dict[str, Any]:
    """A request that a 270M Gemma on a processor can answer: a short prompt, few tokens."""
    messages = [{"role": "user", "content": f"Name {2 + number % 7} things that one finds in a museum."}]
    return {"model": "embedded", "messages": messages, "stream": True, "max_tokens": 12}


def main() -> int:
    """Run, print tables, and end with 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one minute")
    parser.add_argument("--minutes", type=float, help="for all of it; 10, or 1 with --quick")
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS)
    parser.add_argument("--policy", help="for the fake upstream; the default policy's text checks if not given")
    parser.add_argument("--only", choices=("fake", "embedded"))
    options = parser.parse_args()
    seconds = 60 * (options.minutes or (1 if options.quick else 10))
    share = 1.0 if options.only else 0.75
    failed = 0
    if options.only != "embedded":
        with (
            policy_file(TEXT_CHECKS) as text_checks,
            fake_upstream(RATE, tokens=TOKENS) as upstream,
            gateway(options.policy or text_checks, upstream.url) as server,
        ):
            print(f"A fake upstream at {RATE:g} tokens/s, {TOKENS} tokens a reply, prompts of {PROMPT} characters:")
            failed += _levels(server, options.streams, share * seconds, request)
    if options.only != "fake":
        streams = options.streams[:2] if options.quick else options.streams
        share = 1.0 if options.only else 0.25
        with gateway("default", None) as server:
            print("The embedded Gemma generates 12 tokens under the default policy:")
            failed += _levels(server, streams, share * seconds, small)
    return 1 if failed else 0


def _levels(server: Server, streams: Sequence[int], seconds: float, make: Callable[[int], Mapping[str, Any]]) -> int:
    print(f"ready after {server.seconds:.1f} s")
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD), flush=True)
    failed = 0
    for number in streams:
        level = asyncio.run(hold(server, number, seconds / len(streams), make))
        print("| " + " | ".join(level.row()) + " |", flush=True)
        for error, count in level.errors.most_common(5):
            print(f"  {count} × {error}", file=sys.stderr)
        failed += sum(level.errors.values())
    print(f"of {os.cpu_count()} cores\n")
    return failed


def _percentiles(values: Sequence[float], form: str) -> str:
    if not values:
        return "–"
    return " / ".join(f"{value:{form}}" for value in np.percentile(values, [50, 95, 99]))


if __name__ == "__main__":
    raise SystemExit(main())
