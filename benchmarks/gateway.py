"""What the gateway costs and what it stands, in one run: `make bench-gateway` → `results/gateway.json`.

The gateway, a fake upstream of known pace and this client are processes of their own on one machine. Finished parts
are kept in the cache folder, so that a stopped run goes on where it was (`--fresh` begins anew). All but the long run
take about nine minutes; `--only endurance` is the long run, ten minutes, and joins its figures to theirs.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.guard_cost import percentile
from benchmarks.load import NO_CHECKS, TEXT_CHECKS, Level, hold, policy_file, prompt, request
from benchmarks.parts import run
from benchmarks.processes import Server, fake_upstream, gateway
from benchmarks.replicas import kill_one
from benchmarks.result import Figure, figure
from benchmarks.streams import Answer, ask

RATE, TOKENS, ARRIVALS = 20.0, 32, 20.0
"""Replies of 1.6 s at 20 requests a second: 32 streams are open at a time."""
HOLD_BACK = 32
SETTLED = 60.0
LONG = "endurance"
"""The part that runs only when it is named."""
POLICIES = {"checks off": (NO_CHECKS, 5.0), "text checks on": (TEXT_CHECKS, 10.0)}


# --- overhead


def overhead(seconds: float) -> list[Figure]:
    """Time to the first byte and to the first text, through the gateway minus direct."""
    figures = []
    for name, (policy, most) in POLICIES.items():
        with (
            policy_file(policy) as file,
            fake_upstream(RATE, first=1 / RATE, tokens=TOKENS) as upstream,
            gateway(file, upstream.url) as server,
        ):
            asyncio.run(_pairs(server, upstream, 40))  # warm up
            pairs = asyncio.run(_pairs(server, upstream, int(seconds * ARRIVALS)))
        bytes_, texts = _added(pairs, "first_byte"), _added(pairs, "first_text")
        what = f"{name}, {ARRIVALS:g} requests/s, {ARRIVALS * TOKENS / RATE:.0f} streams open"
        figures += [
            percentile(f"time to first byte, gateway minus direct, {what}: p50", bytes_, 50),
            percentile(f"time to first byte, gateway minus direct, {what}: p95", bytes_, 95, most=most),
            percentile(f"time to first text, gateway minus direct, {what}: p50", texts, 50),
            percentile(
                f"time to first text, gateway minus direct, {what}: p95", texts, 95, most=HOLD_BACK * 1000 / RATE + 5
            ),
            _count(f"requests of {2 * len(pairs)} that failed, {what}", _failed(pairs)),
        ]
    return figures


async def _pairs(server: Server, upstream: Server, pairs: int) -> list[tuple[Answer, Answer]]:
    """Open loop: a pair each interval whether or not the ones before have ended, half an interval from one to the
    other, so that they do not wait for each other; which goes first alternates."""

    async def pair(number: int) -> tuple[Answer, Answer]:
        first, then = (server, upstream) if number % 2 else (upstream, server)
        body = {**request(number, TOKENS), "fake": {}}
        one = asyncio.ensure_future(ask(first.url, body))
        await asyncio.sleep(0.5 / ARRIVALS)
        two = await ask(then.url, body)
        return (await one, two) if number % 2 else (two, await one)

    loop = asyncio.get_running_loop()
    begin, tasks = loop.time(), []
    for number in range(pairs):
        await asyncio.sleep(max(0.0, begin + number / ARRIVALS - loop.time()))
        tasks.append(asyncio.ensure_future(pair(number)))
    return list(await asyncio.gather(*tasks))


def _added(pairs: Sequence[tuple[Answer, Answer]], when: str) -> list[float]:
    """Milliseconds through the gateway minus direct, of the pairs where both are good."""
    good = [(through, direct) for through, direct in pairs if through.good and direct.good]
    return [1000 * (getattr(through, when) - getattr(direct, when)) for through, direct in good]


def _failed(pairs: Sequence[tuple[Answer, Answer]]) -> int:
    return sum(not answer.good for pair in pairs for answer in pair)


# --- saturation


def saturation(rounds: int, seconds: float) -> list[Figure]:
    """Requests a second that are answered whole, with the text checks on and off, in turns."""
    made: dict[str, list[float]] = {name: [] for name in POLICIES}
    with ExitStack() as stack:
        upstream = stack.enter_context(fake_upstream(0, tokens=TOKENS))
        servers = {
            name: stack.enter_context(gateway(stack.enter_context(policy_file(policy)), upstream.url))
            for name, (policy, _) in POLICIES.items()
        }
        for server in servers.values():
            asyncio.run(_throughput(server, 1, 0))
        for number in range(rounds):
            for name in reversed(servers) if number % 2 else servers:
                made[name].append(asyncio.run(_throughput(servers[name], seconds, 1_000_000 * (number + 1))))
    off, on = made.values()
    what = f"requests answered whole, {TOKENS} tokens, prompts of 500 characters, 32 at a time"
    return [
        figure(f"{what}: checks off", off, "requests/s"),
        figure(f"{what}: text checks on", on, "requests/s"),
        figure(f"{what}: on over off", [b / a for a, b in zip(off, on, strict=True)], "ratio", least=0.6),
    ]


async def _throughput(server: Server, seconds: float, numbers: int) -> float:
    loop = asyncio.get_running_loop()
    end, good, number = loop.time() + seconds, 0, numbers

    async def worker() -> None:
        nonlocal good, number
        while loop.time() < end:
            number += 1
            messages = [{"role": "user", "content": prompt(number)}]
            answer = await ask(server.url, {"model": "fake", "messages": messages})
            if not answer.good:
                raise RuntimeError(f"a request failed under load: {answer.error or answer.status}")
            good += 1

    await asyncio.gather(*(worker() for _ in range(32)))
    return good / (loop.time() - end + seconds)


# --- start


def start(repeats: int) -> list[Figure]:
    """Seconds from the start of the process until `/readyz` says so."""
    times: dict[str, list[float]] = {"text checks only": [], "with the embedded Gemma": []}
    with policy_file(TEXT_CHECKS) as text_checks, fake_upstream() as upstream:
        for _ in range(repeats):
            with gateway(text_checks, upstream.url) as server:
                times["text checks only"].append(server.seconds)
            with gateway("default", upstream.url) as server:
                times["with the embedded Gemma"].append(server.seconds)
    return [
        figure(f"start of the process to ready, {name}", values, "s", most=most)
        for (name, values), most in zip(times.items(), (2, 10), strict=True)
    ]


# --- memory


def endurance(seconds: float, streams: int = 128) -> list[Figure]:
    """So many streams for so long: errors, unchecked texts, memory."""
    with (
        policy_file(TEXT_CHECKS) as file,
        fake_upstream(RATE) as upstream,
        gateway(file, upstream.url) as server,
    ):
        level = asyncio.run(hold(server, streams, seconds))
    what = f"{streams} streams of {RATE:g} tokens/s for {seconds / 60:g} minutes"
    return [
        figure(f"{what}: memory, last minute against the second", _drift(level, seconds), "%", most=5),
        figure(f"{what}: memory in the last minute", [mb for at, mb in level.memory if at > 0.9 * seconds], "MB"),
        _count(f"{what}: errors, {len(level.answers)} requests", sum(level.errors.values()) - level.leaks),
        _count(f"{what}: replies in which an unchecked text arrived", level.leaks),
        percentile(f"{what}: time to first byte, p95", _firsts(level), 95),
        figure(f"{what}: processor time of the gateway", [level.gateway], "cores"),
    ]


def _drift(level: Level, seconds: float) -> list[float]:
    """Per cent that each sample of the last minute is away from the second minute; of a short run, of its tenths."""
    minute = min(SETTLED, seconds / 10)
    second = np.median([mb for at, mb in level.memory if minute <= at < 2 * minute])
    return [abs(100 * (mb / second - 1)) for at, mb in level.memory if seconds - minute <= at <= seconds]


def _firsts(level: Level) -> list[float]:
    return [1000 * one.first_byte for one in level.answers if one.first_byte is not None]


# --- replicas


def replicas(rounds: int, seconds: float) -> list[Figure]:
    """The figures of `kill_one`."""
    runs = [kill_one(32, seconds) for _ in range(rounds)]
    what = "kill -9 of one of two replicas under 32 streams"
    ended = [100 * run_.ended / run_.open for run_ in runs]
    return [
        figure(f"{what}: streams open on it that ended with an error", ended, "%", least=100),
        _count(f"{what}: other streams that failed", sum(run_.others for run_ in runs)),
        figure(f"{what}: requests answered afterwards", [run_.after for run_ in runs], "requests", least=1),
        figure(f"{what}: audit chains that verify", [sum(run_.verified) for run_ in runs], "of 2", least=2),
    ]


# --- all


def _count(what: str, number: int) -> Figure:
    return Figure(what, number, number, number, "", "at most 0", number == 0)


def model(quick: bool) -> list[Figure]:
    """What the guard's model stands: prompts a second, streams with output probes."""
    from benchmarks.gateway_model import figures  # loads torch, which the other parts do not want

    return list(figures(quick))


def parts(quick: bool, minutes: float) -> dict[str, Callable[[], list[Figure]]]:
    """Each part of the benchmark by name."""
    measured: dict[str, Callable[[], list[Figure]]] = {
        "overhead": lambda: overhead(5 if quick else 45),
        "saturation": lambda: saturation(1 if quick else 7, 2 if quick else 6),
        "start": lambda: start(1 if quick else 5),
        "replicas": lambda: replicas(1 if quick else 3, 6 if quick else 12),
        "model": lambda: model(quick),
        LONG: lambda: endurance(60 * minutes),
    }
    return measured


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats: to see that it runs, not for the record")
    parser.add_argument("--fresh", action="store_true", help="forget the finished parts of a stopped run")
    parser.add_argument("--only", nargs="+", help="these parts alone; the others' figures stay in the file")
    parser.add_argument("--minutes", type=float, help="of the long run; 10, or 0.5 with --quick")
    options = parser.parse_args()
    minutes: Any = options.minutes or (0.5 if options.quick else 10)
    measured = parts(options.quick, minutes)
    if not options.only and not options.quick:
        del measured[LONG]
    run("gateway", measured, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
