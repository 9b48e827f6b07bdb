"""Checking all texts of a conversation: each by itself, then what is read together, then what a model reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from safety_kit.chat.conversation import NOTHING, Asked, Conversation, Kind, Unit, parse
from safety_kit.chat.joined import Joined, Piece, seams, windows
from safety_kit.chat.places import Path, Walker, rewritten, show
from safety_kit.chat.verdict_cache import check_cached
from safety_kit.checks.length import too_many_turns
from safety_kit.errors import ConversationError, Overloaded
from safety_kit.redact import Cut, merge, writer
from safety_kit.types import Action, Finding, Role, Sample, Stage, Verdict

if TYPE_CHECKING:
    from safety_kit.followed_stream import Follow
    from safety_kit.guard import Guard, Which
    from safety_kit.vault import Vault

_GROWING = frozenset({"content", "reasoning", "refusal"})


@dataclass(frozen=True, slots=True)
class PlaceVerdict:
    """The verdict on one place.

    Attributes:
        path: Where, e.g. ``messages[3].tool_calls[0].function.arguments``; where texts are read together, the last.
        kind: What stands there; ``turns`` for neighbouring messages read together, or the number of all;
            ``uncheckable`` for what no check can read.
        role: Whose text it is.
        verdict: The guard's answer; its spans point into the place's text.
        choice: The position of the response's choice it belongs to; None: to the whole.
    """

    path: str
    kind: Kind
    role: Role
    verdict: Verdict
    choice: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "kind": self.kind, "role": self.role, "verdict": self.verdict.to_json()}


@dataclass(slots=True)
class Examined:
    """What came of checking a conversation.

    Attributes:
        places: All verdicts.
        edits: New texts of the strings that are redacted, by their path from the top.
    """

    places: list[PlaceVerdict] = field(default_factory=list)
    edits: dict[Path, str] = field(default_factory=dict)

    def blocking(self, choice: int | None) -> Verdict | None:
        """The first verdict that blocks this choice (None: the whole)."""
        return next((p.verdict for p in self.places if p.choice == choice and p.verdict.blocked), None)


def examine(
    guard: Guard,
    conversation: Conversation,
    request_id: str,
    vault: Vault | None = None,
    follow: Follow | None = None,
) -> Examined:
    """Check every place: strings by themselves, then what is read together, then what a model reads.

    A later step reads what the earlier ones would pass on, and nothing of a choice, or of a request, that is blocked.
    With `follow` the probes read what a stream's would: each text of a reply as it came.
    """
    return _Examiner(guard, conversation, request_id, vault, follow).run()


@dataclass(frozen=True, slots=True)
class _Reading:
    """A joined text to check, and what its verdict is filed under."""

    joined: Joined
    path: Path
    kind: Kind
    role: Role
    stage: Stage
    choice: int | None = None
    asked: Asked = NOTHING

    @property
    def sample(self) -> Sample:
        return Sample(self.joined.text, self.role, self.stage, self.asked.prompt, system=self.asked.system)


class _Examiner:
    def __init__(
        self, guard: Guard, conversation: Conversation, request_id: str, vault: Vault | None, follow: Follow | None
    ) -> None:
        self.follow = follow if conversation.stage is Stage.OUTPUT and guard.probes else None
        self.guard = guard
        self.conversation = conversation
        self.vault = vault
        self.request_id = request_id
        self.texts: dict[Path, str] = {}  # every string of the conversation, as redacted so far
        self.given: dict[Path, str] = {}
        self.at: dict[Path, int] = {}  # where in `places` the verdict on a unit of one string is
        self.blocked: set[int | None] = set()
        self.out = Examined()

    def run(self) -> Examined:
        self._turns()
        if self.blocked:  # it may be of any size: nothing of it is read
            return self.out
        for part in self.conversation.uncheckable:
            self._note(
                uncheckable(self.guard, part.what, self.conversation.stage),
                part.path,
                "uncheckable",
                part.role,
                part.choice,
            )
        self._strings()
        self._joined()
        self._models()
        self.out.edits = {path: text for path, text in self.texts.items() if text != self.given[path]}
        return self.out

    def _check(self, samples: Sequence[Sample], which: Which) -> list[Verdict]:
        if any(sample.trace is not None for sample in samples):  # the cache knows texts, not their traces
            return self.guard.check(samples, which, vault=self.vault, request_id=self.request_id)
        return check_cached(self.guard, samples, which, self.request_id, self.vault)

    def _note(self, verdict: Verdict, path: Path, kind: Kind, role: Role, choice: int | None) -> None:
        verdict = replace(verdict, request_id=self.request_id)
        self.out.places.append(PlaceVerdict(show(path), kind, role, verdict, choice))
        if verdict.blocked:
            self.blocked.add(choice)

    def _open(self, choice: int | None) -> bool:
        """Whether it matters what else is found there."""
        return choice not in self.blocked and None not in self.blocked

    def _sample(self, unit: Unit, text: str, tool: str | None = None) -> Sample:
        asked = self._asked
        return Sample(text, unit.role, self.conversation.stage, asked.prompt, system=asked.system, tool=tool)

    def _followed(self, unit: Unit, text: str) -> Sample:
        """A text as a stream's follower reads it; what grows in no stream is left to the guard."""
        sample = self._sample(unit, text)
        if self.follow is None or unit.raw is not None or len(unit.places) != 1 or unit.kind not in _GROWING:
            return sample
        try:
            return replace(sample, trace=self.follow(sample.prompt).trace(self.given[unit.places[0].path]))
        except Overloaded:
            raise
        except Exception:  # the guard reads it itself; when that fails, too, it is a fault
            return sample

    @property
    def _asked(self) -> Asked:
        """What the texts are written to; what comes in answers nothing."""
        return self.conversation.asked if self.conversation.stage is Stage.OUTPUT else NOTHING

    # --- the conversation as a whole

    def _turns(self) -> None:
        if found := too_many_turns(self.guard.policy.checks, self.conversation.turns):
            verdict = self.guard.decide(self.conversation.stage, found, (), {})
            if verdict.findings:
                self._note(verdict, ("messages",), "turns", "user", None)

    # --- every string by itself

    def _strings(self) -> None:
        units = self.conversation.units
        samples = []
        for unit in units:
            samples += [self._sample(unit, text, unit.tool) for text in _whole(unit)]
            samples += [self._sample(unit, place.text) for place in unit.places]
        verdicts = iter(self._check(samples, "text"))
        for unit in units:
            if unit.raw is None and unit.tool is not None:  # the call; its texts follow
                self._note(next(verdicts), unit.path, unit.kind, unit.role, unit.choice)
            if unit.raw is not None:
                self._json(unit, next(verdicts), [next(verdicts) for _ in unit.places])
                continue
            for place in unit.places:
                self._string(unit, place.path, place.text, next(verdicts))
            if len(unit.places) == 1:
                self.at[unit.path] = len(self.out.places) - 1

    def _string(self, unit: Unit, path: Path, text: str, verdict: Verdict) -> None:
        self.given[path] = text
        self.texts[path] = text if verdict.text is None else verdict.text
        self._note(verdict, path, unit.kind, unit.role, unit.choice)

    def _json(self, unit: Unit, whole: Verdict, inside: Sequence[Verdict]) -> None:
        """A JSON text: its strings are redacted inside it, so that it stays JSON; then what is left, in the whole."""
        assert unit.raw is not None
        edits = {}
        for place, verdict in zip(unit.places, inside, strict=True):
            self._note(verdict, unit.place(place), unit.kind, unit.role, unit.choice)
            if verdict.text is not None and verdict.text != place.text:
                edits[place.path] = verdict.text
        if edits:
            text = json.dumps(rewritten(unit.document, edits), ensure_ascii=False)
            (whole,) = self._check([self._sample(unit, text, unit.tool)], "text")
            whole = replace(whole, action=max(whole.action, Action.REDACT))
        if unit.kind == "arguments" and whole.action is Action.REDACT and not _is_json(whole.text or ""):
            whole = self.guard.explained(replace(whole, action=Action.BLOCK, text=None))  # redacted it is no call
        self._string(unit, unit.path, unit.raw, whole)
        self.at[unit.path] = len(self.out.places) - 1

    # --- what is read together

    def _together(self) -> Iterator[_Reading]:
        """Neighbouring turns of those who write to the model, the parts of any message, a prefix to be continued."""
        stage = self.conversation.stage
        units = [unit for unit in self.conversation.units if unit.kind in ("content", "reasoning")]
        turns = [u for u in units if u.kind == "content" and u.role in ("user", "tool") and stage is Stage.INPUT]
        of = {path: unit for unit in turns for path in self._paths(unit)}
        for joined in self._neighbours(of):
            last = of[joined.pieces[-1].path]
            kind: Kind = "turns" if of[joined.pieces[0].path] is not last else last.kind
            yield _Reading(joined, last.path, kind, last.role, stage)
        for unit in units:
            if unit.raw is None and len(unit.places) > 1 and unit.places[0].path not in of:
                for joined in self._neighbours(self._paths(unit)):
                    yield _Reading(joined, unit.path, unit.kind, unit.role, stage, unit.choice, self._asked)
        if (prefix := self.conversation.prefix) is not None:
            whole = Joined(tuple(Piece(path, self.texts[path]) for path in self._paths(prefix)))
            yield _Reading(whole, prefix.path, prefix.kind, prefix.role, Stage.OUTPUT, None, self.conversation.asked)

    def _neighbours(self, paths: Iterable[Path]) -> Iterator[Joined]:
        pieces = [Piece(path, self.texts[path]) for path in paths]
        yield from windows(pieces)
        yield from seams(pieces)

    def _paths(self, unit: Unit) -> list[Path]:
        return [unit.path] if unit.raw is not None else [place.path for place in unit.places]

    def _joined(self) -> None:
        readings = [reading for reading in self._together() if self._open(reading.choice)]
        cuts: dict[Path, list[Cut]] = {}
        writers: dict[Path, Role | None] = {}
        verdicts = self._check([reading.sample for reading in readings], "text")
        for reading, verdict in zip(readings, verdicts, strict=True):
            if verdict.action is Action.ALLOW:
                continue
            self._note(verdict, reading.path, reading.kind, reading.role, reading.choice)
            for finding in verdict.findings:
                for path, cut in reading.joined.cuts(self.guard.cuts(finding, reading.stage)):
                    cuts.setdefault(path, []).append(cut)
                    writers[path] = writer(reading.sample)
        for path, own in cuts.items():
            self.texts[path] = self.guard.redactor(self.vault, writers[path]).apply(self.texts[path], merge(own))

    # --- what a model reads

    def _models(self) -> None:
        stages = (Stage.INPUT, Stage.OUTPUT)
        if not any(self.guard.checks_at(stage, "model") for stage in stages):
            return
        samples, filed = [], []
        for unit in self.conversation.units:
            if self._open(unit.choice) and (text := self._prose(unit)):
                samples.append(self._followed(unit, text))
                filed.append((unit.path, unit.kind, unit.role, unit.choice))
        for reading in self._together():
            new = reading.kind == "turns" or reading.stage is not self.conversation.stage
            if new and reading.joined.separator and self._open(reading.choice):
                samples.append(reading.sample)
                filed.append((reading.path, reading.kind, reading.role, reading.choice))
        seen: set[Path] = set()
        for (path, kind, role, choice), verdict in zip(filed, self._check(samples, "model"), strict=True):
            number = self.at.get(path)
            if kind == "turns" or number is None or path in seen:
                self._note(verdict, path, kind, role, choice)
                continue
            seen.add(path)
            place = self.out.places[number]
            self.out.places[number] = replace(place, verdict=self.guard.merge(place.verdict, verdict))
            if verdict.blocked:
                self.blocked.add(choice)

    def _prose(self, unit: Unit) -> str:
        """What a model reads of a unit: all but names, keys and constants."""
        if unit.raw is None:
            return "\n".join(self.texts[place.path] for place in unit.places if place.is_prose)
        try:
            document = parse(self.texts[unit.path])
        except ConversationError:
            document = None
        if document is None:
            return self.texts[unit.path]
        return "\n".join(place.text for place in Walker().strings(document) if place.is_prose)


def _whole(unit: Unit) -> Iterable[str]:
    """A JSON text, or a call's arguments, as one text beside the strings in it."""
    if unit.raw is not None:
        return (unit.raw,)
    if unit.tool is None:
        return ()
    plain = unit.document is None and unit.places  # a text that is no JSON
    return (unit.places[0].text if plain else json.dumps(unit.document or {}),)


def _is_json(text: str) -> bool:
    try:
        return parse(text) is not None
    except ConversationError:
        return False


def uncheckable(guard: Guard, what: str, stage: Stage) -> Verdict:
    action = guard.policy.uncheckable
    finding = Finding("conversation", f"uncheckable.{what}", 1.0, "rule", (), "no check can read this part")
    return guard.explained(Verdict(stage, action, None, (finding,), policy_digest=guard.digest))
