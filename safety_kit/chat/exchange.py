"""A chat completion's request and response: a verdict for each place, and what may be passed on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from safety_kit.chat.conversation import NOTHING, Asked, read_request, read_response
from safety_kit.chat.examine import PlaceVerdict, examine
from safety_kit.chat.places import rewritten
from safety_kit.chat.wire import RECORDS
from safety_kit.types import Action, Verdict

if TYPE_CHECKING:
    from safety_kit.followed_stream import Follow
    from safety_kit.guard import Guard
    from safety_kit.vault import Vault


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The verdicts on all places of a request or a response.

    Attributes:
        places: In reading order; what is read together comes after its parts.
        policy_digest: Digest of the policy that decided.
    """

    places: tuple[PlaceVerdict, ...]
    policy_digest: str

    @property
    def action(self) -> Action:
        """The strongest of all places."""
        return max((place.verdict.action for place in self.places), default=Action.ALLOW)

    @property
    def blocked(self) -> bool:
        return self.action is Action.BLOCK

    @property
    def blocking(self) -> PlaceVerdict | None:
        """The first place that blocks."""
        return next((place for place in self.places if place.verdict.blocked), None)

    def to_json(self) -> dict[str, Any]:
        """Without the places that merely pass, and without what is passed on."""
        told = [p.to_json() for p in self.places if p.verdict.action is not Action.ALLOW or p.verdict.errors]
        return {"action": str(self.action), "places": told, "policy_digest": self.policy_digest}


@dataclass(frozen=True, slots=True)
class RequestVerdict(Verdicts):
    """The answer for a request.

    Attributes:
        request: What may be passed on, redacted in place and otherwise as it came; None when anything blocks.
    """

    request: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ResponseVerdict(Verdicts):
    """The answer for a response.

    Attributes:
        response: What may be passed on: a choice that is blocked holds the policy's message and the finish_reason
            ``content_filter``; the others are redacted in place.
    """

    response: dict[str, Any] = field(default_factory=dict)


def check_request(guard: Guard, request: Any, request_id: str, vault: Vault | None = None) -> RequestVerdict:
    """See `Guard.check_request`."""
    examined = examine(guard, read_request(request), request_id, vault)
    verdict = RequestVerdict(tuple(examined.places), guard.digest)
    return verdict if verdict.blocked else replace(verdict, request=rewritten(request, examined.edits))


def check_response(
    guard: Guard,
    response: Any,
    request: Any,
    request_id: str,
    vault: Vault | None = None,
    follow: Follow | None = None,
) -> ResponseVerdict:
    """See `Guard.check_response`."""
    asked = NOTHING if request is None else read_request(request).asked
    return check_reply(guard, response, asked, request_id, vault, follow)


def check_reply(
    guard: Guard,
    response: Any,
    asked: Asked,
    request_id: str,
    vault: Vault | None = None,
    follow: Follow | None = None,
) -> ResponseVerdict:
    """The same, by what is answered."""
    examined = examine(guard, read_response(response, asked), request_id, vault, follow)
    body = dict(rewritten(response, examined.edits))
    everywhere = examined.blocking(None)
    if everywhere is not None:
        body = {key: value for key, value in body.items() if key in RECORDS}
    changed = {path[1] for path in examined.edits if path[0] == "choices"}
    choices = []
    for number, choice in enumerate(response["choices"]):
        blocking = everywhere or examined.blocking(number)
        if blocking is not None:
            choices.append(blocked_choice(guard, choice, blocking))
        elif number in changed and "logprobs" in choice:  # they spell out what was redacted
            choices.append({**body["choices"][number], "logprobs": None})
        else:
            choices.append(body["choices"][number])
    return ResponseVerdict(tuple(examined.places), guard.digest, {**body, "choices": choices})


def blocked_choice(guard: Guard, choice: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    """What stands instead of a choice: nothing of it but its index."""
    index = choice.get("index")
    return {
        "index": index if isinstance(index, int) else 0,
        "message": {"role": "assistant", "content": guard.message(verdict)},
        "logprobs": None,
        "finish_reason": "content_filter",
    }
