"""A judge: a Gemma that is asked whether a text violates a guideline. It reads texts whole, a forward pass each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from safety_kit.check_options import JudgeOptions
from safety_kit.checks.base import WHOLE, Delta, Lookahead, StepResult
from safety_kit.errors import PolicyError
from safety_kit.evidence import BLOCKS_ABOVE, Evidence, Guideline, read_evidence
from safety_kit.policy import Policy
from safety_kit.policy_schema import covers
from safety_kit.types import Action, Finding, Sample, Stage

if TYPE_CHECKING:
    from safety_kit.gemma.judge import Asked
    from safety_kit.gemma.trace import Capture


class JudgeCheck:
    """Scores are P(Yes), uncalibrated; at a stage that the evidence measured, the calibrated probability."""

    capture: Capture | None = None
    lookahead: Lookahead = WHOLE

    def __init__(self, name: str, guideline: Guideline, gemma: Asked, evidence: Evidence | None = None) -> None:
        self.name = name
        self.categories = frozenset({guideline.name})
        self._guideline = guideline
        self._gemma = gemma
        self._evidence = evidence

    def run(self, samples: Sequence[Sample]) -> list[list[Finding]]:
        """A finding for each text that holds more than white space; a reply is judged with its message."""
        from safety_kit.gemma.judge import log_odds

        asked = [(s.prompt or "" if s.stage is Stage.OUTPUT else None, s.text) for s in samples]
        found = log_odds(self._gemma, asked, self._guideline)
        return [
            [self._finding(odds, sample.stage)] if sample.text.strip() else []
            for odds, sample in zip(found, samples, strict=True)
        ]

    def _finding(self, odds: float, stage: Stage) -> Finding:
        from safety_kit.gemma.judge import probability

        said = probability(odds)
        if self._evidence is None or stage not in self._evidence.stages:
            return Finding(self.name, self._guideline.name, said, "uncalibrated")
        scale = self._evidence.stages[stage].calibration
        score = probability(scale.slope * odds + scale.intercept)
        return Finding(self.name, self._guideline.name, score, "calibrated", (), f"P(Yes) {said:.3f}")

    def start(self) -> str:
        return ""

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        """Collect the text and clear nothing before its end, then judge it, without the message that it answers."""
        text = state + new.text
        if not final:
            return text, [], 0
        return text, self.run([Sample(text, "assistant", Stage.OUTPUT)])[0], len(text)


def guideline_of(name: str, options: JudgeOptions) -> Guideline:
    """What a policy's judge asks about."""
    return Guideline(options.category or name, options.guideline)


def check_evidence(policy: Policy) -> dict[str, Evidence]:
    """The evidence of a policy's judges by check, read and held against their guidelines and rules.

    Raises:
        PolicyError: Evidence is missing, unreadable, of another guideline, or too weak for a rule that blocks.
    """
    found: dict[str, Evidence] = {}
    for name, options in _judges(policy).items():
        if options.evidence is not None:
            found[name] = read_evidence(policy.folder / options.evidence)
            if found[name].guideline_digest != guideline_of(name, options).digest:
                raise PolicyError(
                    f"checks.{name}.evidence: was found with another guideline; measure this one with safety-kit judge."
                )
        for stage in _blocks_at(policy, options.category or name):
            if name not in found or not found[name].may_block(stage):
                raise PolicyError(
                    f"checks.{name}: its evidence shows no AUROC above {BLOCKS_ABOVE} at {stage} (95 % interval), so "
                    "it may not block there; use flag, or measure a better guideline or model with safety-kit judge."
                )
    return found


def load_judges(policy: Policy, gemma: object) -> tuple[list[JudgeCheck], dict[str, str]]:
    """The judges that a policy has rules for, and by check the digests of their models and evidence.

    Args:
        policy: The policy.
        gemma: The guard's own model, for judges that name none; none that can be asked (a fake, say): there is none.

    Raises:
        PolicyError: There is no model, or the evidence does not allow what the policy asks for.
        ModelError: A judge's model cannot be had.
    """
    from safety_kit.gemma import Gemma
    from safety_kit.gemma.judge import Asked

    evidence = check_evidence(policy)
    models: dict[str | None, Asked] = {None: gemma, gemma.name: gemma} if isinstance(gemma, Asked) else {}
    judges, digests = [], {}
    for name, options in _judges(policy).items():
        guideline = guideline_of(name, options)
        if not policy.stages_of(guideline.name):
            continue
        if options.model is None and None not in models:
            raise PolicyError(f"checks.{name}: a judge asks a model; give the guard a Gemma, or name a model here.")
        if options.model not in models:
            beside = policy.folder / (options.model or "")
            models[options.model] = Gemma.load(beside if beside.is_dir() else options.model or "")
        asked, shown = models[options.model], evidence.get(name)
        if shown is not None and shown.model.digest != asked.digest:
            raise PolicyError(
                f"checks.{name}.evidence: was found with the model {shown.model.name}, not with {asked.name}; measure "
                "this one with safety-kit judge."
            )
        judges.append(JudgeCheck(name, guideline, asked, shown))
        digests[name] = asked.digest + (shown.digest if shown else "")
    return judges, digests


def _judges(policy: Policy) -> dict[str, JudgeOptions]:
    return {name: options for name, options in policy.checks.items() if isinstance(options, JudgeOptions)}


def _blocks_at(policy: Policy, category: str) -> list[Stage]:
    rules = [rule for rule in policy.rules if rule.action is Action.BLOCK and covers(rule.category, category)]
    return sorted({stage for rule in rules for stage in rule.stages})
