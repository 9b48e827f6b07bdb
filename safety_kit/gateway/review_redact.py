"""A body as the review store keeps it: personal data and secrets masked, and what cannot be masked left out.

More is masked than the policy redacts: also what it only flags, and both in requests and in replies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from safety_kit.catalogue import secret_categories
from safety_kit.chat.conversation import read_request, read_response
from safety_kit.chat.examine import examine
from safety_kit.chat.places import Walker, rewritten
from safety_kit.chat.verdict_cache import batches
from safety_kit.chat.wire import MEDIA_PARTS, PAYLOADS
from safety_kit.check_options import PiiOptions, SecretsOptions
from safety_kit.checks.base import utf8_safe
from safety_kit.errors import ConversationError
from safety_kit.guard import Guard
from safety_kit.policy import Policy, Rule
from safety_kit.policy_schema import given_by
from safety_kit.types import Action, Sample, Stage

WITHHELD: Final = "[WITHHELD]"
"""Stands for a body that could not be masked."""

_ABOUT_THE_CALLER: Final = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})
_SPELT_OUT: Final = frozenset({"logprobs", "prompt_logprobs", "token_ids", "prompt_token_ids"})
"""They repeat a text in pieces that no check can read."""

_PAYLOAD: Final = 256
"""Characters from which on a field for encoded data is taken to hold some."""


class Redaction:
    """Masks what any of the policies calls personal data, and every secret. Safe for threads.

    Attributes:
        masks_pii: Whether any policy says what personal data is: it has a `pii` check, and rules for what that finds.
    """

    def __init__(self, policies: Iterable[Policy]) -> None:
        personal: set[str] = set()
        countries: set[str] = set()
        views = False
        for policy in policies:
            views |= policy.views
            for name, options in policy.checks.items():
                if isinstance(options, PiiOptions):
                    countries |= set(options.countries)
                    personal |= {c for c in given_by(name, options) or () if policy.stages_of(c)}
        self.masks_pii = bool(personal)
        checks: dict[str, PiiOptions | SecretsOptions] = {"secrets": SecretsOptions(type="secrets")}
        if personal:
            checks["pii"] = PiiOptions(type="pii", countries=tuple(sorted(countries)))
        self._guard = Guard(
            Policy(
                name="review",
                on_error=Action.BLOCK,
                checks=checks,
                rules=tuple(Rule(c, frozenset(Stage), Action.REDACT) for c in sorted(personal | secret_categories())),
                messages={},
                folder=Path(),
                content="",
                uncheckable=Action.ALLOW,
                views=views,
            )
        )

    def body(self, body: Any) -> Any:
        """A request or a reply as it may be kept; `WITHHELD` where it cannot be made so.

        Images and other media, and what a request says of its caller, are left out.
        """
        if not isinstance(body, Mapping):
            return None if body is None else WITHHELD
        try:
            kept = _without_media({key: value for key, value in body.items() if key not in _ABOUT_THE_CALLER})
            return self._every_text(self._conversation(kept))
        except (ConversationError, RecursionError):
            return WITHHELD

    def _conversation(self, body: dict[str, Any]) -> Any:
        """What messages say together, or in JSON, is masked where they are read as a conversation."""
        try:
            read = read_response(body) if "choices" in body else read_request(body)
        except ConversationError:  # another kind of body; its texts are still read one by one
            return body
        examined = examine(self._guard, read, "")
        if any(place.verdict.errors for place in examined.places):
            raise ConversationError("A check failed.")
        return rewritten(body, examined.edits)

    def _every_text(self, body: Any) -> Any:
        places = [place for place in Walker().strings(body) if place.text]
        samples = [Sample(place.text) for place in places]
        verdicts = [verdict for batch in batches(samples) for verdict in self._guard.check(batch, "text")]
        edits = {}
        for place, verdict in zip(places, verdicts, strict=True):
            if verdict.text is None:
                raise ConversationError("A check failed.")
            if (text := utf8_safe(verdict.text)) != place.text:
                edits[place.path] = text
        return rewritten(body, edits)


def _without_media(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_media(item) for item in value]
    if not isinstance(value, dict):
        return value
    if isinstance(kind := value.get("type"), str) and kind in MEDIA_PARTS:
        return {"type": kind}
    return {key: _without_media(item) for key, item in value.items() if key not in _SPELT_OUT and not _data(key, item)}


def _data(key: Any, item: Any) -> bool:
    return key in PAYLOADS and isinstance(item, str) and len(item) > _PAYLOAD
