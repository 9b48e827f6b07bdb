"""The guard for a text that grows: feed what was written, get what is proven safe. No I/O."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from safety_kit.checks.base import WHOLE, Check, Delta, started
from safety_kit.guard import Guard, Which, new_request_id
from safety_kit.outcome import fault, vet
from safety_kit.redact import Cut, merge
from safety_kit.types import Action, CheckError, Finding, Sample, Stage, Verdict

if TYPE_CHECKING:
    from safety_kit.vault import Vault

QUANTUM: Final = 8
"""Text that comes without activations is read in pieces of so many characters, however it was cut before."""


@dataclass(frozen=True, slots=True)
class Released:
    """What may be shown now, and the verdict once there is one."""

    text: str
    verdict: Verdict | None = None


@dataclass(slots=True)
class _Reader:
    """A check at work on the reply; two checks may share a name, so each has a state of its own."""

    check: Check
    state: Any
    cleared: int = 0


def withholding(guard: Guard, activations: bool = True) -> tuple[str, ...]:
    """Names of the checks because of which a reply is only released at its end.

    Args:
        guard: The guard.
        activations: Each token comes with its activations; else the probes, too, read the whole reply.
    """
    at_end: Which = "judge" if activations else "model"
    late = guard.checks_at(Stage.OUTPUT, at_end)
    return tuple(c.name for c in guard.checks_at(Stage.OUTPUT) if c in late or c.lookahead == WHOLE)


class StreamGuard:
    """Guards one reply.

    Whatever the chunks, the released text and the verdict are those of one feed of the whole; when nothing is blocked,
    those of `Guard.check`.
    """

    def __init__(
        self,
        guard: Guard,
        prompt: str | None = None,
        activations: bool = True,
        *,
        system: str | None = None,
        vault: Vault | None = None,
        request_id: str | None = None,
    ) -> None:
        """Start a stream.

        Args:
            guard: What to hold the reply against.
            prompt: The message that is answered.
            activations: Each feed brings its token's activations, for the probes. If not, a policy with probes
                withholds the reply until its end, when the guard's own model reads it.
            system: The system prompt that the reply is written under.
            vault: Of the conversation; what is released is not restored yet, which is the vault's `restorer`'s part.
            request_id: Stands on the verdict; one is made without it.

        A judge at output, or another check that must see the whole (its lookahead is WHOLE), withholds the reply in
        any case; `withholding` names them.
        """
        self._guard = guard
        self._prompt = prompt
        checks = guard.checks_at(Stage.OUTPUT)
        self._reads_tokens = activations and guard.probes in checks
        # What reads the whole reply, at its end: the judges, and the probes where tokens bring no activations.
        self._at_end: Which = "judge" if activations else "model"
        whole = guard.checks_at(Stage.OUTPUT, self._at_end)
        self._reads_late = bool(whole)
        self._withhold = bool(withholding(guard, activations))
        beside = Sample("", "assistant", Stage.OUTPUT, prompt, system=system)
        self._readers = [_Reader(check, started(check, beside)) for check in checks if check not in whole]
        self._redactor = guard.redactor(vault)
        self._request_id = request_id or new_request_id()
        self._queue = ""  # not yet read by the checks
        self._held = ""  # read and not released: the reply from character `_at` on
        self._at = 0
        self._total = 0
        self._cuts: list[Cut] = []
        self._findings: list[Finding] = []
        self._worst: dict[tuple[str, str], Finding] = {}  # findings without a span, the worst by check and category
        self._errors: list[CheckError] = []
        self._timings: dict[str, float] = {reader.check.name: 0.0 for reader in self._readers}
        self._released: list[str] = []
        self._verdict: Verdict | None = None

    @property
    def verdict(self) -> Verdict | None:
        """None until something blocks or the stream is closed."""
        return self._verdict

    @property
    def released(self) -> str:
        """All that was released so far."""
        return "".join(self._released)

    @property
    def held(self) -> int:
        """Characters that came and are not released."""
        return len(self._held) + len(self._queue)

    def feed(self, text: str, hidden: Mapping[int, Any] | None = None) -> Released:
        """Read on. After a block nothing is released any more.

        Args:
            text: New characters of the reply; with activations, those of one token.
            hidden: For each block of the guard's capture, the 1 x d activations of the token.

        Raises:
            ValueError: The activations are those of several tokens: where one ends could not be told.
        """
        if self._verdict is not None:
            return Released("", self._verdict)
        if self._reads_tokens:
            if hidden and max(map(len, hidden.values())) > 1:
                raise ValueError("Feed one token at a time with its activations.")
            return self._release(self._step(Delta(text, hidden), False))
        pending = self._queue + text
        parts = []
        position = 0
        while len(pending) - position >= QUANTUM and self._verdict is None:
            parts.append(self._step(Delta(pending[position : position + QUANTUM]), False))
            position += QUANTUM
        self._queue = pending[position:]
        return self._release("".join(parts))

    def lose_activations(self, error: Exception) -> None:
        """No more activations will come: the probes have failed, and `on_error` says what that does to the rest.

        Args:
            error: Why.
        """
        if self._verdict is None and self._reads_tokens:
            assert self._guard.probes is not None
            self._errors.append(fault(self._guard.probes, error))
            self._readers = [reader for reader in self._readers if reader.check is not self._guard.probes]
            if self._guard.policy.on_error is Action.BLOCK:
                self._verdict = self._decide()

    def close(self) -> Released:
        """The reply is complete: release or withhold the rest, and decide."""
        if self._verdict is not None:
            return Released("", self._verdict)
        text = self._step(Delta(self._queue), True)
        if self._verdict is None:
            self._verdict = replace(self._decide(), text=self.released + text)
            if self._reads_late:
                text = self._read_whole(text)
        return self._release(text)

    def _step(self, delta: Delta, final: bool) -> str:
        """One canonical step: every check reads on, then what they all have cleared goes out."""
        self._held += delta.text
        self._total += len(delta.text)
        stop: int | None = None
        for reader in list(self._readers):
            begin = time.perf_counter()
            try:
                findings, faults = self._read(reader, delta, final)
            except Exception as error:
                findings, faults = (), (fault(reader.check, error),)
            self._timings[reader.check.name] += (time.perf_counter() - begin) * 1000
            if faults:
                self._errors += faults
                self._readers.remove(reader)
                if self._guard.policy.on_error is Action.BLOCK:
                    stop = self._at
            blocked_at = self._note(findings)
            stop = min((place for place in (stop, blocked_at) if place is not None), default=None)
        clear = min((reader.cleared for reader in self._readers), default=self._total)
        if self._withhold and not final:
            clear = 0
        if stop is None:
            return self._take(clear)
        text = self._take(min(clear, stop))
        self._verdict = self._decide()
        return text

    def _read(self, reader: _Reader, delta: Delta, final: bool) -> tuple[tuple[Finding, ...], tuple[CheckError, ...]]:
        state, findings, cleared = self._guard.call(reader.check, lambda: reader.check.step(reader.state, delta, final))
        if not reader.cleared <= cleared <= self._total:
            raise ValueError("cleared what it had not seen")
        reader.state, reader.cleared = state, self._total if final else cleared
        outcome = vet(self._guard.policy, reader.check, findings, Stage.OUTPUT, self._total)
        return outcome.findings, outcome.errors

    def _note(self, findings: tuple[Finding, ...]) -> int | None:
        """Keep what sets off a rule; where the release must stop, if anything blocks."""
        stop: int | None = None
        for finding in findings:
            rule = self._guard.policy.rule_for(finding, Stage.OUTPUT)
            if rule is None:
                continue
            if finding.spans:
                self._findings.append(finding)
            else:
                key = finding.check, finding.category
                if key not in self._worst or finding.score > self._worst[key].score:
                    self._worst[key] = finding
            if rule.action is Action.BLOCK:
                place = min((start for start, _ in finding.spans), default=self._at)
                stop = place if stop is None else min(stop, place)
            # A check that finds what it had cleared still has the rest rewritten.
            cuts = self._guard.cuts(finding, Stage.OUTPUT)
            self._cuts += [replace(cut, start=max(cut.start, self._at)) for cut in cuts if cut.end > self._at]
        return stop

    def _take(self, upto: int) -> str:
        """Release the reply up to a character; a redacted span goes whole or not at all."""
        done = []
        for cut in merge(self._cuts):
            if cut.end > upto:
                upto = min(upto, cut.start)
                break
            done.append(cut)
        upto = max(upto, self._at)
        text = self._redactor.apply(self._held[: upto - self._at], done, self._at)
        self._held, self._at = self._held[upto - self._at :], upto
        self._cuts = [cut for cut in self._cuts if cut.start >= upto]
        return text

    def _release(self, text: str) -> Released:
        self._released.append(text)
        return Released(text, self._verdict)

    def _decide(self) -> Verdict:
        findings = [*self._findings, *self._worst.values()]
        verdict = self._guard.decide(Stage.OUTPUT, findings, self._errors, self._timings)
        return replace(verdict, request_id=self._request_id)

    def _read_whole(self, text: str) -> str:
        """Hold the whole reply, as redacted, against the checks that read it at its end."""
        assert self._verdict is not None
        sample = Sample(text, "assistant", Stage.OUTPUT, self._prompt)
        self._verdict = self._guard.merge(self._verdict, self._guard.check([sample], self._at_end)[0])
        return "" if self._verdict.blocked else text
