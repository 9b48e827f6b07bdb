"""A streamed chat completion: chunks in, the chunks that may be released out. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from safety_kit.chat.answers import MAX_CHOICES
from safety_kit.chat.choice_stream import ChoiceStream
from safety_kit.chat.conversation import NOTHING, read_request
from safety_kit.chat.examine import PlaceVerdict
from safety_kit.chat.exchange import Verdicts
from safety_kit.chat.places import Path, Walker, is_identifier, rewritten, show
from safety_kit.chat.verdict_cache import check_cached
from safety_kit.chat.wire import RECORDS
from safety_kit.errors import ConversationError
from safety_kit.guard import new_request_id
from safety_kit.types import Action, CheckError, Sample, Stage, Verdict

if TYPE_CHECKING:
    from safety_kit.followed_stream import Follow
    from safety_kit.guard import Guard
    from safety_kit.vault import Vault

_OWN: Final = frozenset({"index", "delta", "finish_reason"})
_TELLTALE: Final = frozenset({"logprobs", "token_ids", "obfuscation"})
"""What spells out tokens that are still held back, or pads a chunk to a length that it no longer has: left out."""


class ResponseStream:
    """Guards one streamed response.

    However it was cut into chunks, each text that grows (content, reasoning, a refusal) is released as a `StreamGuard`
    of its own releases it. Calls of tools come whole, in the chunk that ends their choice. A blocked choice ends with
    the policy's message and the finish_reason ``content_filter``; the other choices go on.
    """

    def __init__(
        self,
        guard: Guard,
        request: Mapping[str, Any] | None = None,
        *,
        vault: Vault | None = None,
        request_id: str | None = None,
        follow: Follow | None = None,
    ) -> None:
        """Start a stream.

        Args:
            guard: What to hold the response against.
            request: What is answered.
            vault: Of the conversation; what is released is not restored yet, which is the vault's `restorer`'s part.
            request_id: Stands on every verdict; one is made without it.
            follow: Makes what reads a text that comes without activations, so that output probes decide as it grows;
                without it a policy that has some withholds the text until its end.

        Raises:
            ConversationError: The request is none.
        """
        self._guard = guard
        self._follow = follow
        self._asked = read_request(request).asked if request is not None else NOTHING
        self._request_id = request_id or new_request_id()
        self._vault = vault
        self._choices: dict[int, ChoiceStream] = {}
        self._places: list[PlaceVerdict] = []  # of the fields around the deltas
        self._head: dict[str, Any] = {}
        self._closed = False

    @property
    def verdicts(self) -> Verdicts:
        """What was decided so far; all of it once the stream is closed."""
        own = (place for choice in self._choices.values() for place in choice.places)
        return Verdicts((*self._places, *own), self._guard.digest)

    @property
    def held(self) -> int:
        """Characters that came and are not released."""
        return sum(choice.held for choice in self._choices.values())

    def feed(self, chunk: Mapping[str, Any], hidden: Mapping[int, Any] | None = None) -> list[dict[str, Any]]:
        """Read a chunk: the chunks that may be released now.

        Args:
            chunk: A ``chat.completion.chunk``, as `json.loads` gives it.
            hidden: Where the guard's own model writes: activations of the chunk's content, which is one token of one
                choice. If the first piece of a text brings some, all must; if not, a policy with probes withholds it
                until its end, when the guard's model reads it, or has it followed.

        Raises:
            ConversationError: It is none. The stream is then closed, and gives nothing more.
        """
        if self._closed:
            return []
        try:
            return self._feed(chunk, hidden)
        except Exception:
            self._closed = True
            broken = CheckError("conversation", "a chunk could not be read")
            digest, request_id = self._guard.digest, self._request_id
            fault = Verdict(
                Stage.OUTPUT, Action.BLOCK, None, errors=(broken,), policy_digest=digest, request_id=request_id
            )
            self._places.append(PlaceVerdict(show(()), "uncheckable", "assistant", self._guard.explained(fault)))
            raise

    def close(self) -> list[dict[str, Any]]:
        """The stream has ended: what may still be released of choices that had no finish_reason."""
        if self._closed:
            return []
        self._closed = True
        ended = [choice.end({}, None) for choice in self._choices.values() if not choice.done]
        ended = [choice for choice in ended if choice["delta"] or choice["finish_reason"]]
        return [{**self._head, "choices": ended}] if ended else []

    def _feed(self, chunk: Any, hidden: Mapping[int, Any] | None) -> list[dict[str, Any]]:
        if not isinstance(chunk, dict) or not isinstance(chunk.get("choices"), list):
            raise ConversationError("A chunk must be a mapping with a list of choices.")
        head, blocking = self._around({name: value for name, value in chunk.items() if name != "choices"})
        if blocking is not None:  # it stands beside the choices: none goes on
            for given in chunk["choices"]:
                self._choice(given)
            ended = [choice.block(blocking, {}) for choice in self._choices.values() if not choice.done]
            return [{**self._head, "choices": ended}] if ended else []
        self._head = {name: value for name, value in head.items() if name in RECORDS - {"usage"}}
        made = [out for given in chunk["choices"] if (out := self._one(given, hidden)) is not None]
        return [{**head, "choices": made}] if made or not chunk["choices"] or head.get("usage") else []

    def _choice(self, given: Any) -> ChoiceStream:
        index = given.get("index", 0) if isinstance(given, dict) else None
        if not isinstance(index, int):
            raise ConversationError("A chunk's choice must be a mapping with an index.")
        if index not in self._choices:
            if len(self._choices) == MAX_CHOICES:
                raise ConversationError(f"A stream has more than {MAX_CHOICES} choices.")
            self._choices[index] = ChoiceStream(
                self._guard, index, self._asked, self._request_id, self._vault, self._follow
            )
        return self._choices[index]

    def _one(self, given: Any, hidden: Mapping[int, Any] | None) -> dict[str, Any] | None:
        choice = self._choice(given)
        if choice.done:
            return None
        delta, finish = given.get("delta"), given.get("finish_reason")
        if not isinstance(delta, dict | None) or not (
            finish is None or (isinstance(finish, str) and is_identifier(finish))
        ):
            raise ConversationError("A chunk's choice must have a delta and, at its end, a finish_reason.")
        beside, blocking = self._around({name: value for name, value in given.items() if name not in _OWN})
        if blocking is not None:
            return choice.block(blocking, {})
        out = choice.read(delta or {}, hidden)
        if choice.verdict is not None:
            return choice.block(choice.verdict, out)
        if finish is not None:
            return {**beside, **choice.end(out, finish)}
        return {**beside, "index": choice.index, "delta": out, "finish_reason": None} if out else None

    def _around(self, fields: Mapping[Any, Any]) -> tuple[dict[str, Any], Verdict | None]:
        """Fields around the deltas, each whole in its chunk: as they may be passed on, and what blocks, if anything."""
        fields = {name: value for name, value in fields.items() if name not in _TELLTALE}
        strange = {name: value for name, value in fields.items() if not _is_record(name, value)}
        if not strange:  # most chunks, and each is on the way of a stream
            return fields, None
        edits: dict[Path, str] = {}
        places = list(Walker().strings(strange, label=True))
        asked = self._asked
        samples = [Sample(place.text, "assistant", Stage.OUTPUT, asked.prompt, system=asked.system) for place in places]
        for place, verdict in zip(
            places, check_cached(self._guard, samples, "text", self._request_id, self._vault), strict=True
        ):
            if verdict.action is not Action.ALLOW:
                self._places.append(PlaceVerdict(show(place.path), "field", "assistant", verdict))
            if verdict.blocked:
                return {}, verdict
            if verdict.text is not None and verdict.text != place.text:
                edits[place.path] = verdict.text
        return rewritten(fields, edits), None


def _is_record(name: Any, value: Any) -> bool:
    """Whether a field is one that the server writes, in the form that it has."""
    return name in RECORDS and (is_identifier(value) if isinstance(value, str) else True)
