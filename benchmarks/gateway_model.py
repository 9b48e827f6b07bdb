"""What sharing the model costs and gives: prompts through the queue, replies decoded together, streams followed.

Called by the gateway's benchmark; by itself: `python -m benchmarks.gateway_model`.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from benchmarks.guard_cost import STORY
from benchmarks.result import Figure, figure, seconds
from safety_kit.gateway.backends import Call
from safety_kit.gateway.backends.local import LocalBackend
from safety_kit.gateway.batching import ModelQueue
from safety_kit.gemma import Capture, Gemma
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.types import Message, Sample

TOGETHER = 32
RATE = 20.0


def _texts(gemma: Gemma, count: int) -> list[str]:
    """Different texts of 60 to 140 tokens."""
    content = gemma.vocabulary.content(STORY * 20)
    ends = [content.offsets[60 + 80 * n // count][0] for n in range(count)]
    return [f"{n} {(STORY * 20)[:end]}" for n, end in enumerate(ends)]


def prompts(gemma: Gemma, repeats: int) -> list[Figure]:
    """All taught categories through the queue, a thread a request, over bare forwards of the same batch."""
    queue = ModelQueue(gemma)
    guard = Guard(Policy.load("default"), queue)
    assert guard.capture is not None
    bare = Capture((max(guard.capture.blocks),))
    texts = _texts(gemma, TOGETHER)
    tokens = [gemma.render([Message("user", text)]).tokens for text in texts]
    samples = [[Sample(text)] for text in texts]
    ratios, rates = [], []
    with ThreadPoolExecutor(TOGETHER) as pool:
        for _ in range(repeats + 1):
            alone = seconds(lambda: gemma.forward(tokens, bare))
            through = seconds(lambda: list(pool.map(lambda sample: guard.check(sample, "probe"), samples)))
            ratios.append(alone / through)
            rates.append(len(texts) / through)
    queue.close()
    what = f"all taught categories, {TOGETHER} requests of 60-140 tokens at once"
    return [
        figure(f"{what}: prompts/s through the queue over texts/s of bare forwards", ratios[1:], "ratio", least=0.85),
        figure(f"{what}: through the queue", rates[1:], "prompts/s"),
    ]


def decoding(gemma: Gemma, repeats: int, tokens: int = 24) -> list[Figure]:
    """Tokens a second of 1 and of 8 replies written at once, with the activations of all taught categories."""
    figures = []
    for count in (1, 8):
        rates = []
        for _ in range(repeats):
            queue = ModelQueue(gemma)
            backend = LocalBackend(queue, Capture((8, 9, 10, 11)))

            async def write(backend: LocalBackend = backend, count: int = count) -> None:
                request = {"prompt": STORY, "max_tokens": tokens, "temperature": 0}
                await asyncio.gather(*(backend.complete(request, Call("bench")) for _ in range(count)))

            rates.append(count * tokens / seconds(lambda write=write: asyncio.run(write())))
            queue.close()
        figures.append(figure(f"local generation, {count} replies at once", rates, "tokens/s"))
    return figures


def follows(gemma: Gemma, streams: int, duration: float = 10.0) -> tuple[float, float]:
    """Streams of 20 tokens a second with output probes: how far reading is behind at the end, and at worst, in seconds.

    Each stream has a thread, which feeds what has come since its last feed, as a gateway does.
    """
    queue = ModelQueue(gemma)
    capture = Guard(Policy.load("default"), queue).capture
    assert capture is not None
    follow = queue.follower(capture)
    words = [f"{word} " for word in (STORY * 60).split()]
    last, worst = [0.0] * streams, [0.0] * streams
    start = threading.Barrier(streams)

    def run(number: int) -> None:
        follower = follow("Tell me of the town.")
        start.wait()
        begin, fed = time.perf_counter() + number / streams / RATE, 0
        while (now := time.perf_counter()) < begin + duration:
            due = int((now - begin) * RATE)
            if due <= fed:
                time.sleep(1 / RATE / 4)
                continue
            follower.feed("".join(words[fed:due]))
            last[number] = time.perf_counter() - begin - due / RATE
            worst[number] = max(worst[number], last[number])
            fed = due

    threads = [threading.Thread(target=run, args=(number,)) for number in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.close()
    return max(last), max(worst)


def sustained(gemma: Gemma, counts: Sequence[int] = (8, 16, 24, 32, 48, 64), behind: float = 1.0) -> list[Figure]:
    """The most streams of 20 tokens a second whose reading stays within a second of their text."""
    figures, most = [], 0
    for count in counts:
        last, worst = follows(gemma, count)
        figures.append(
            figure(f"{count} streams of 20 tokens/s with output probes: reading behind, at worst", [worst], "s")
        )
        if max(last, worst) <= behind:
            most = count
        else:
            break
    what = f"streams of 20 tokens/s with output probes, read within {behind:g} s"
    return [*figures, figure(what, [float(most)], "streams")]


def figures(quick: bool) -> Iterator[Figure]:
    """All of them, as they are measured."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gemma = Gemma.load("embedded")
        few = 2 if quick else 10
        yield from prompts(gemma, few)
        yield from decoding(gemma, few)
        yield from sustained(gemma, (8, 16) if quick else (8, 16, 24, 32, 48, 64))
    finally:
        torch.set_num_threads(before)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(argv)
    for one in figures(options.quick):
        print(one, flush=True)


if __name__ == "__main__":
    main()
