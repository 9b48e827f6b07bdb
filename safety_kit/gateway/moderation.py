"""`/v1/moderations`: what the policy's input rules say of texts, under its own names and under OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from safety_kit.chat.examine import PlaceVerdict, uncheckable
from safety_kit.chat.exchange import Verdicts
from safety_kit.chat.verdict_cache import batches
from safety_kit.chat.wire import MEDIA_PARTS, TEXT_PARTS
from safety_kit.errors import ConversationError
from safety_kit.guard import Guard
from safety_kit.types import Action, Sample, Stage, Verdict

STANDARD: Final[Mapping[str, str | None]] = {
    "harassment": "harassment",
    "harassment/threatening": None,
    "hate": "hate",
    "hate/threatening": None,
    "illicit": "dangerous_content",
    "illicit/violent": None,
    "self-harm": "self_harm",
    "self-harm/instructions": None,
    "self-harm/intent": None,
    "sexual": "sexual_content",
    "sexual/minors": None,
    "violence": None,
    "violence/graphic": None,
}
"""OpenAI's categories, and the kit's that each is read from. None: no classifier tells it; its score is 0 and its list
of applied input types empty, which says nothing of the text."""


@dataclass(frozen=True, slots=True)
class Moderated:
    """What was said of one input.

    Attributes:
        verdict: The policy's.
        scores: Of every category that was read, whether or not its rule fired.
    """

    verdict: Verdict
    scores: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """A result in OpenAI's form; the policy's own categories stand beside the standard ones."""
        fired = {finding.category for finding in self.verdict.findings}
        read = dict(self.scores)
        for finding in self.verdict.findings:
            read[finding.category] = max(finding.score, read.get(finding.category, 0.0))
        sources = {**{name: name for name in read}, **STANDARD}
        return {
            "flagged": self.verdict.action is not Action.ALLOW,
            "categories": {name: source in fired for name, source in sources.items()},
            "category_scores": {name: round(read.get(source or "", 0.0), 6) for name, source in sources.items()},
            "category_applied_input_types": {
                name: ["text"] if source in read else [] for name, source in sources.items()
            },
        }


def moderate(guard: Guard, given: Any, request_id: str) -> tuple[list[Moderated], Verdicts]:
    """Read every input.

    Args:
        guard: Whose rules.
        given: A text, a list of texts, or a list of parts, which are one input.
        request_id: Stands on every verdict.

    Raises:
        ConversationError: It is none of these.
    """
    inputs, media = _inputs(given)
    samples = [Sample(text) for text in inputs]
    results = [result for batch in batches(samples) for result in _read(guard, batch, request_id)]
    if media:
        other = replace(uncheckable(guard, media[0], Stage.INPUT), request_id=request_id)
        results = [replace(result, verdict=guard.merge(result.verdict, other)) for result in results]
    places = [
        PlaceVerdict(f"input[{number}]" if isinstance(given, list) else "input", "content", "user", result.verdict)
        for number, result in enumerate(results)
    ]
    return results, Verdicts(tuple(places), guard.digest)


def _read(guard: Guard, samples: Sequence[Sample], request_id: str) -> list[Moderated]:
    """One pass for the scores and the verdicts; the probes read what the text checks would pass on."""
    verdicts = guard.check(samples, "text", request_id=request_id)
    rest = [
        sample if verdict.text is None else replace(sample, text=verdict.text)
        for sample, verdict in zip(samples, verdicts, strict=True)
    ]
    out = []
    judged = guard.check(rest, "judge", request_id=request_id)
    for verdict, judgement, outcome in zip(verdicts, judged, guard.probed(rest), strict=True):
        probed = replace(guard.decide(Stage.INPUT, outcome.findings, outcome.errors, {}), request_id=request_id)
        scores = {finding.category: finding.score for finding in outcome.findings}
        out.append(Moderated(guard.explained(guard.merge(guard.merge(verdict, probed), judgement)), scores))
    return out


def _inputs(given: Any) -> tuple[list[str], list[str]]:
    """The texts, and what of the parts is none."""
    if isinstance(given, str):
        return [given], []
    if isinstance(given, list) and given and all(isinstance(item, str) for item in given):
        return given, []
    if not (isinstance(given, list) and given and all(isinstance(item, dict) for item in given)):
        raise ConversationError("input: must be a text, a list of texts, or a list of parts.")
    texts, media = [], []
    for part in given:
        kind = part.get("type")
        text = part.get(TEXT_PARTS.get(kind, "")) if isinstance(kind, str) else None
        if isinstance(text, str):
            texts.append(text)
        else:
            media.append(MEDIA_PARTS.get(kind, "part") if isinstance(kind, str) else "part")
    return ["\n".join(texts)], media
