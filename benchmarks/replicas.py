"""Two replicas behind a balancer under load, one of them killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import balancer
from benchmarks.load import TEXT_CHECKS, policy_file, request
from benchmarks.processes import Server, fake_upstream, free_port, gateway
from benchmarks.streams import Answer, ask

RATE, TOKENS = 20.0, 32


@dataclass(frozen=True)
class Killed:
    """What a `kill -9` of one of two replicas did.

    Attributes:
        open: Streams that were open on it.
        ended: Those of them that ended with an error.
        others: Streams of the other replica that failed.
        after: Requests that were answered after the kill.
        verified: Whether `safety-kit audit verify` finds both audit chains whole.
    """

    open: int
    ended: int
    others: int
    after: int
    verified: tuple[bool, ...]


def kill_one(streams: int, seconds: float) -> Killed:
    """Two replicas behind a balancer under load, one of them killed half way."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = stack.enter_context(policy_file(TEXT_CHECKS))
        upstream = stack.enter_context(fake_upstream(RATE, tokens=TOKENS))
        ports, audits = [free_port(), free_port()], [folder / "one.jsonl", folder / "two.jsonl"]
        servers = [
            stack.enter_context(gateway(file, upstream.url, "--audit", str(audit), port=port))
            for port, audit in zip(ports, audits, strict=True)
        ]
        killed = asyncio.run(_killing(servers, ports, streams, seconds))
        servers[1].stop()  # so that its last lines are written
        command = [sys.executable, "-m", "safety_kit", "audit", "verify"]
        verified = tuple(
            subprocess.run([*command, str(audit)], capture_output=True).returncode == 0 for audit in audits
        )
    return Killed(*killed, verified)


async def _killing(
    servers: Sequence[Server], ports: Sequence[int], streams: int, seconds: float
) -> tuple[int, int, int, int]:
    loop = asyncio.get_running_loop()
    begin, killed_at, victims = loop.time(), float("inf"), set[int]()
    answers: list[tuple[float, Answer]] = []

    async with balancer.running(ports) as front:

        async def worker(turn: int) -> None:
            await asyncio.sleep(turn / streams)
            number = turn
            while loop.time() - begin < seconds:
                number += streams
                at = loop.time()
                answers.append((at, await ask(front.url, {**request(number, TOKENS), "fake": {}})))

        workers = [asyncio.ensure_future(worker(turn)) for turn in range(streams)]
        await asyncio.sleep(seconds / 2)
        victims = set(front.open.get(0, ()))
        servers[0].process.kill()
        killed_at = loop.time()
        await asyncio.gather(*workers)
    hit = [answer for _, answer in answers if answer.port in victims]
    others = [answer for _, answer in answers if front.went.get(answer.port) != 0]
    return (
        len(victims),
        sum(answer.status == 200 and not answer.done and answer.error is not None for answer in hit),
        sum(not answer.good for answer in others),
        sum(at > killed_at and answer.good for at, answer in answers),
    )
