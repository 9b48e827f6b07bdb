"""Verdicts of texts that were checked before: a conversation comes again with every turn, and only its end is new."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from safety_kit.types import Sample, Verdict

if TYPE_CHECKING:
    from safety_kit.guard import Guard, Which
    from safety_kit.vault import Vault

BATCH: Final = 64
BATCH_CHARACTERS: Final = 32_000
"""What is checked at once: a batch shares its forward passes, and its activations stay in memory."""

MAX_FINDINGS: Final = 64
"""A verdict with more findings is not kept, so that a cache of n verdicts has a bound in bytes."""


class VerdictCache:
    """The last verdicts of one guard, by a keyed digest of the sample; no text is kept, neither raw nor redacted.

    A verdict with a fault is not kept: the next time the check may work. Safe for threads.
    """

    def __init__(self, size: int = 65_536) -> None:
        """Begin empty.

        Args:
            size: How many verdicts are kept, one with n findings counting as n + 1. A conversation of 10,000 messages
                has some 40,000, and none of them would be found again in a cache that holds fewer.
        """
        self._size = size
        self._held = 0
        self._salt = secrets.token_bytes(16)
        self._kept: OrderedDict[bytes, Verdict] = OrderedDict()
        self._clean: dict[tuple[object, ...], Verdict] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def key(self, sample: Sample, which: str, policy_digest: str) -> bytes:
        """Digest of all that a verdict depends on."""
        digest = hashlib.blake2b(key=self._salt, digest_size=24)
        known = (sample.prompt, sample.system, sample.tool, sample.text)
        for part in (policy_digest, which, sample.stage.value, sample.role, *known):
            data = b"" if part is None else part.encode("utf-8", "surrogatepass")
            digest.update(b"-" if part is None else b"%d:" % len(data))
            digest.update(data)
        return digest.digest()

    def get(self, key: bytes) -> Verdict | None:
        """The verdict, without its text."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: bytes, verdict: Verdict) -> None:
        """Keep a verdict, without its text; the one unused for longest gives way."""
        if verdict.errors or len(verdict.findings) > MAX_FINDINGS:
            return
        with self._lock:
            before = self._kept.pop(key, None)
            self._kept[key] = self._bare(verdict)
            self._held += _weight(verdict) - (_weight(before) if before else 0)
            while self._held > self._size:
                self._held -= _weight(self._kept.popitem(last=False)[1])

    def _bare(self, verdict: Verdict) -> Verdict:
        """What is kept of a verdict; those without a finding are one object, since most texts are ordinary."""
        bare = replace(verdict, text=None, timings={}, request_id="")
        if bare.findings:
            return bare
        alike = bare.stage, bare.action, bare.policy_digest, bare.code, bare.message
        return self._clean.setdefault(alike, bare)


def _weight(verdict: Verdict) -> int:
    return 1 + len(verdict.findings)


def batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Samples in order, at most `BATCH` and `BATCH_CHARACTERS` at once; a longer text comes alone."""
    batch: list[Sample] = []
    room = BATCH_CHARACTERS
    for sample in samples:
        if batch and (len(batch) == BATCH or len(sample.text) > room):
            yield batch
            batch, room = [], BATCH_CHARACTERS
        batch.append(sample)
        room -= len(sample.text)
    if batch:
        yield batch


def check_cached(
    guard: Guard, samples: Sequence[Sample], which: Which, request_id: str, vault: Vault | None = None
) -> list[Verdict]:
    """`Guard.check` for texts that may have been checked before; equal ones among them are checked once.

    Args:
        guard: Whose checks and cache.
        samples: Samples without a trace.
        which: Which checks; a kept verdict is of the same.
        request_id: Stands on every verdict, kept or new.
        vault: Of the conversation.
    """
    if vault is not None:
        for sample in samples:
            vault.note(sample.text)
    if not samples or not any(guard.checks_at(stage, which) for stage in {sample.stage for sample in samples}):
        return guard.check(samples, which, vault=vault, request_id=request_id)
    keys = [guard.cache.key(sample, which, guard.digest) for sample in samples]
    known: dict[bytes, Verdict] = {}
    new: dict[bytes, Sample] = {}
    for key, sample in zip(keys, samples, strict=True):
        if key not in known and key not in new:
            kept = guard.cache.get(key)
            if kept is None:
                new[key] = sample
            else:
                known[key] = kept
    fresh = (
        verdict
        for batch in batches(new.values())
        for verdict in guard.check(batch, which, vault=vault, request_id=request_id)
    )
    for key, verdict in zip(new, fresh, strict=True):
        known[key] = verdict
        guard.cache.put(key, verdict)
    return [
        known[key] if key in new else guard.passed(replace(known[key], request_id=request_id), sample, vault)
        for key, sample in zip(keys, samples, strict=True)
    ]
