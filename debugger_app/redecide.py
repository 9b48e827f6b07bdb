"""Deciding again without reading again: what the checks said is kept, and other thresholds are held against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from safety_kit.chat.verdict_cache import VerdictCache
from safety_kit.guard import Guard
from safety_kit.policy import Policy, Rule
from safety_kit.types import Action, Finding, Message, Sample, Stage, Verdict

if TYPE_CHECKING:
    from safety_kit.chat.exchange import ResponseVerdict, Verdicts
    from safety_kit.checks.base import Check


@dataclass(frozen=True, slots=True)
class Limit:
    """A rule on a taught category, as the policy's file has it.

    Attributes:
        number: Of the rule in the file, from 0.
        category: What it is about.
        action: What it does.
        thresholds: By stage, the probability above which it fires.
        own: Whether the file gives this rule a rate or a threshold, which may then be changed; else the budget of all
            decides.
    """

    number: int
    category: str
    action: Action
    thresholds: Mapping[Stage, float]
    own: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """What one check said of one text, whatever the policy then made of it."""

    check: str
    sample: Sample
    findings: tuple[Finding, ...]


class Remembering(Guard):
    """A guard that asks each check about a text once, and that can be had again with other thresholds.

    For one conversation of one session: nothing is ever forgotten.
    """

    _kept: dict[tuple[int, Sample], Heard]

    @classmethod
    def of(cls, guard: Guard) -> Remembering:
        """The same guard, its checks and classifiers shared, with a memory of its own."""
        made = cls.__new__(cls)
        made.__dict__.update(guard.__dict__, cache=VerdictCache(), _kept={})
        return made

    def with_thresholds(self, file: Policy, thresholds: Mapping[int, float]) -> Remembering:
        """The guard as it would be with other thresholds; it remembers what this one was told.

        Args:
            file: The guard's policy as its file has it.
            thresholds: In (0, 1), by the rule's number in the file.
        """
        made = Remembering.of(self)
        rules = tuple(
            replace(rule, threshold=thresholds.get(number, rule.threshold))
            for number, rule in _numbered(file, self.policy, self._probed)
        )
        made.policy = replace(self.policy, rules=rules)
        made._kept = self._kept
        return made

    def limits(self, file: Policy) -> list[Limit]:
        """The rules on taught categories, in the file's order."""
        found: dict[int, Limit] = {}
        for number, rule in _numbered(file, self.policy, self._probed):
            if rule.category in self._probed and rule.threshold is not None:
                own = not file.budgets(file.rules[number], self._probed)
                before = found[number].thresholds if number in found else {}
                here = {stage: rule.threshold for stage in Stage if stage in rule.stages}
                found[number] = Limit(number, rule.category, rule.action, {**before, **here}, own)
        return list(found.values())

    @property
    def heard(self) -> list[Heard]:
        """All that was asked so far, in order."""
        return list(self._kept.values())

    @property
    def _probed(self) -> frozenset[str]:
        return self.probes.categories if self.probes else frozenset()

    def _answers(self, check: Check, samples: Sequence[Sample]) -> Sequence[Sequence[Finding]]:
        keys = [(id(check), replace(sample, trace=None)) for sample in samples]
        new = [i for i, key in enumerate(keys) if key not in self._kept]
        if new:
            answers = super()._answers(check, [samples[i] for i in new])
            if not isinstance(answers, list | tuple) or len(answers) != len(new):
                raise TypeError("no list of answers")
            for i, found in zip(new, answers, strict=True):
                self._kept[keys[i]] = Heard(check.name, keys[i][1], tuple(found))
        return [list(self._kept[key].findings) for key in keys]


@dataclass(frozen=True, slots=True)
class Placed:
    """A message of a conversation, or what is read together with it, and the verdict on it.

    Attributes:
        message: Which one, from 0; of texts that are read together, the last.
        kind: ``content``, or ``turns`` for neighbouring messages read together.
        verdict: The guard's.
    """

    message: int
    kind: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Judged:
    """What a guard makes of a conversation.

    Attributes:
        action: The strongest of all.
        places: In reading order.
        reply: What is shown for the reply, the policy's message where it is blocked; None without one.
    """

    action: Action
    places: tuple[Placed, ...]
    reply: str | None


def judge(guard: Guard, messages: Sequence[Message]) -> Judged:
    """A conversation through the whole policy; where it ends with the assistant, that is a reply to the rest.

    Raises:
        ConversationError: It is empty, or holds nothing but a reply.
    """
    asked = list(messages)
    reply = asked.pop() if asked and asked[-1].role == "assistant" else None
    request = {"model": "debugger", "messages": [{"role": m.role, "content": m.content} for m in asked]}
    came_in = guard.check_request(request)
    places = _placed(came_in)
    answered: ResponseVerdict | None = None
    if reply is not None:
        choice = {"index": 0, "message": {"role": "assistant", "content": reply.content}, "finish_reason": "stop"}
        answered = guard.check_response({"choices": [choice]}, request)
        places += _placed(answered, len(asked))
    shown: Any = answered.response["choices"][0]["message"]["content"] if answered else None
    action = max(came_in.action, answered.action if answered else Action.ALLOW)
    return Judged(action, tuple(places), shown)


def _placed(verdicts: Verdicts, reply: int | None = None) -> list[Placed]:
    made = []
    for place in verdicts.places:
        digits = place.path.removeprefix("messages[").partition("]")[0]
        number = reply if reply is not None else int(digits) if digits.isdecimal() else 0
        made.append(Placed(number, place.kind, place.verdict))
    return made


def _numbered(file: Policy, resolved: Policy, probed: frozenset[str]) -> list[tuple[int, Rule]]:
    """The resolved rules with their numbers in the file: a rate becomes a rule a stage (`Policy.resolved`)."""
    numbers = [
        number
        for number, rule in enumerate(file.rules)
        for _ in (rule.stages if rule.max_fpr is not None or file.budgets(rule, probed) else (None,))
    ]
    return list(zip(numbers, resolved.rules, strict=True))
