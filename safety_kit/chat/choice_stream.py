"""One choice of a streamed chat completion: each of its texts grows under its own guard, its calls wait for the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from safety_kit.chat.conversation import Asked, Kind
from safety_kit.chat.examine import PlaceVerdict, uncheckable
from safety_kit.chat.exchange import check_reply
from safety_kit.chat.places import Path, Walker, is_identifier, show
from safety_kit.chat.wire import MEDIA_PARTS, ROLES, TEXT_PARTS
from safety_kit.errors import ConversationError
from safety_kit.followed_stream import FollowedStream
from safety_kit.stream import Released, StreamGuard
from safety_kit.types import Stage, Verdict

if TYPE_CHECKING:
    from safety_kit.followed_stream import Follow
    from safety_kit.guard import Guard
    from safety_kit.vault import Vault

MAX_CHANNELS: Final = 16
"""Texts of one choice that may grow side by side."""

MAX_HELD: Final = 4_000_000
"""Characters of one choice's calls and other structures; more are refused."""

_OVERHEAD: Final = 64
_KINDS: Final[Mapping[str, Kind]] = {
    "content": "content",
    "refusal": "refusal",
    "reasoning": "reasoning",
    "reasoning_content": "reasoning",
}


@dataclass(slots=True)
class _Call:
    """A call in the making: its texts grow, anything else is as it was last given."""

    fields: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    kind: str = "function"

    def grow(self, body: Any) -> None:
        for name, value in body.items() if isinstance(body, dict) else [("", body)]:
            if isinstance(value, str) and name:
                self.texts.setdefault(name, []).append(value)
            elif value is not None:
                raise ConversationError("A chunk's call must be a mapping of texts.")

    def add(self, delta: Mapping[str, Any]) -> None:
        for name, value in delta.items():
            if name in ("function", "custom") and value is not None:
                self.kind = name
                self.grow(value)
            elif value is not None:
                self.fields[name] = value

    @property
    def body(self) -> dict[str, str]:
        return {name: "".join(parts) for name, parts in self.texts.items()}


class ChoiceStream:
    """The state of one choice. `verdict` is set once it is blocked; `done` once it has ended, in either way."""

    def __init__(
        self,
        guard: Guard,
        index: int,
        asked: Asked,
        request_id: str,
        vault: Vault | None,
        follow: Follow | None = None,
    ) -> None:
        self.index = index
        self.places: list[PlaceVerdict] = []
        self.verdict: Verdict | None = None
        self.done = False
        self._guard = guard
        self._asked = asked
        self._request_id = request_id
        self._vault = vault
        self._follow = follow
        self._channels: dict[Path, StreamGuard | FollowedStream] = {}
        self._calls: dict[int, _Call] = {}
        self._function: _Call | None = None
        self._rest: dict[str, list[Any]] = {}  # deltas that are no text, by field
        self._parts: list[Any] = []  # of the content, that are no text
        self._held = 0
        self._shown = False  # some content was released
        self._hidden: Mapping[int, Any] | None = None  # activations of the content that is being read
        self._noted: set[str] = set()

    @property
    def held(self) -> int:
        """Characters of its texts that came and are not released."""
        return sum(channel.held for channel in self._channels.values())

    def read(self, delta: Mapping[Any, Any], hidden: Mapping[int, Any] | None = None) -> dict[str, Any]:
        """Take in a delta: the delta that may be released now.

        Args:
            delta: The delta.
            hidden: Activations of its content, where this is one token.

        Raises:
            ConversationError: It is no delta.
        """
        out: dict[str, Any] = {}
        self._hidden = hidden
        for key, value in delta.items():
            if self.verdict is not None:
                break
            if not isinstance(key, str) or not is_identifier(key):
                raise ConversationError("A chunk's delta has a field that none has.")
            self._field(key, value, out)
        self._shown |= bool(out.get("content"))
        return out

    def end(self, out: dict[str, Any], finish: str | None) -> dict[str, Any]:
        """The choice is complete: its last form on the wire, with what was held, or its end by a block.

        Args:
            out: What its last delta released.
            finish: The finish_reason that came.
        """
        for path, channel in self._channels.items():
            self._release(path, channel.close(), out)
            assert channel.verdict is not None
            if channel.verdict is not self.verdict:
                self._note(path, channel.verdict)
        if self.verdict is None:
            self._release_held(out)
        if self.verdict is not None:
            return self.block(self.verdict, out)
        self.done = True
        return {"index": self.index, "delta": out, "finish_reason": finish}

    def block(self, verdict: Verdict, out: Mapping[str, Any]) -> dict[str, Any]:
        """End the choice: what was cleared before the block, then the policy's message."""
        self.done, self.verdict = True, verdict
        delta = {key: value for key, value in out.items() if isinstance(value, str)}
        text = delta.get("content", "")
        delta["content"] = text + ("\n\n" if self._shown or text else "") + self._guard.message(verdict)
        return {"index": self.index, "delta": delta, "finish_reason": "content_filter"}

    # --- what a delta holds

    def _field(self, key: str, value: Any, out: dict[str, Any]) -> None:
        if key == "role":
            if value is not None and not (isinstance(value, str) and value in ROLES):
                raise ConversationError(f"A delta's role must be one of {', '.join(ROLES)}.")
            out["role"] = value
        elif isinstance(value, str):
            self._grow((key,), value, out)
        elif value is None or isinstance(value, (bool, int, float)):
            return
        elif key == "content" and isinstance(value, list):
            for part in value:
                self._part(part, out)
        elif key == "tool_calls":
            self._add_calls(value)
        elif key == "function_call":
            self._hold(value)
            self._function = self._function or _Call()
            self._function.grow(value)
        elif key == "audio" and isinstance(value, dict):
            self._audio(value, out)
        else:
            self._hold(value)
            self._rest.setdefault(key, []).append(value)

    def _grow(self, path: Path, text: str, out: dict[str, Any]) -> None:
        hidden = self._hidden if path == ("content",) else None
        if not text and hidden is None:  # says nothing yet, not even whether activations will come
            if self.verdict is None:
                _put(out, path, "")
            return
        if path not in self._channels:
            if len(self._channels) == MAX_CHANNELS:
                raise ConversationError(f"A choice has more than {MAX_CHANNELS} texts.")
            self._channels[path] = self._channel(hidden is not None)
        if self.verdict is None:
            if not text:
                _put(out, path, "")
            self._release(path, self._channels[path].feed(text, hidden), out)

    def _channel(self, activations: bool) -> StreamGuard | FollowedStream:
        follow = None if activations or self._guard.probes is None else self._follow
        stream = StreamGuard(
            self._guard,
            self._asked.prompt,
            activations=activations or follow is not None,
            system=self._asked.system,
            vault=self._vault,
            request_id=self._request_id,
        )
        return stream if follow is None else FollowedStream(stream, follow(self._asked.prompt))

    def _release(self, path: Path, released: Released, out: dict[str, Any]) -> None:
        if released.text:
            _put(out, path, released.text)
        if released.verdict is not None and released.verdict.blocked and self.verdict is None:
            self._note(path, released.verdict)

    def _part(self, part: Any, out: dict[str, Any]) -> None:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get(TEXT_PARTS[kind]) if isinstance(kind, str) and kind in TEXT_PARTS else None
        if isinstance(text, str):
            self._grow(("content",), text, out)
        else:
            self._media(MEDIA_PARTS.get(kind, "part") if isinstance(kind, str) else "part", "content")
            self._hold(part)
            self._parts.append(part)

    def _audio(self, value: Mapping[str, Any], out: dict[str, Any]) -> None:
        self._media("audio", "audio")
        if self.verdict is None:
            out["audio"] = {name: value[name] for name in ("id", "data", "expires_at") if name in value}
            if isinstance(transcript := value.get("transcript"), str):
                self._grow(("audio", "transcript"), transcript, out)

    def _media(self, what: str, key: str) -> None:
        if what not in self._noted:
            self._noted.add(what)
            self._note((key,), uncheckable(self._guard, what, Stage.OUTPUT), "uncheckable")

    def _add_calls(self, calls: Any) -> None:
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            raise ConversationError("A delta's tool_calls must be a list of mappings.")
        for number, call in enumerate(calls):
            at = call.get("index", number)
            if not isinstance(at, int):
                raise ConversationError("A tool call's index must be a whole number.")
            self._hold(call)
            self._calls.setdefault(at, _Call()).add(call)

    def _hold(self, value: Any) -> None:
        self._held += _OVERHEAD + sum(len(place.text) for place in Walker().strings(value))
        if self._held > MAX_HELD:
            raise ConversationError(f"A choice holds more than {MAX_HELD} characters of calls.")

    # --- what was held

    def _release_held(self, out: dict[str, Any]) -> None:
        """Check calls and other structures as those of a whole message, and release what may be."""
        order = sorted(self._calls)
        message: dict[str, Any] = {}
        if order:
            message["tool_calls"] = [{**c.fields, c.kind: c.body} for c in (self._calls[at] for at in order)]
        if self._function is not None:
            message["function_call"] = self._function.body
        rest = {**self._rest, "parts": self._parts} if self._parts else dict(self._rest)
        if rest:
            texts = (p.text for p in Walker().strings(rest) if isinstance(p.path[-1], (str, int)))
            message |= {"rest": rest, "reasoning": "".join(texts)}  # their texts may be one, cut into pieces
        if not message:
            return
        checked = check_reply(
            self._guard, {"choices": [{"message": message}]}, self._asked, self._request_id, self._vault
        )
        for place in checked.places:
            path = show(("choices", self.index, "delta")) + place.path.removeprefix("choices[0].message")
            self.places.append(PlaceVerdict(path, place.kind, place.role, place.verdict, self.index))
        if checked.blocking is not None:
            self.verdict = checked.blocking.verdict
            return
        passed = checked.response["choices"][0]["message"]
        if order:
            out["tool_calls"] = [{**call, "index": at} for at, call in zip(order, passed["tool_calls"], strict=True)]
        if self._function is not None:
            out["function_call"] = passed["function_call"]
        if rest and all(passed[name] == message[name] for name in ("rest", "reasoning")):
            for name, values in self._rest.items():
                out[name] = [item for value in values for item in (value if isinstance(value, list) else [value])]
            if self._parts:
                text = out.get("content")
                out["content"] = [*([{"type": "text", "text": text}] if text else []), *self._parts]

    def _note(self, path: Path, verdict: Verdict, kind: Kind | None = None) -> None:
        at = show(("choices", self.index, "delta", *path))
        kind = kind or _KINDS.get(str(path[-1]), "field")
        verdict = replace(verdict, request_id=self._request_id)
        self.places.append(PlaceVerdict(at, kind, "assistant", verdict, self.index))
        if verdict.blocked and self.verdict is None:
            self.verdict = verdict


def _put(out: dict[str, Any], path: Path, text: str) -> None:
    *above, last = path
    for step in above:
        out = out.setdefault(str(step), {})
    out[str(last)] = out.get(str(last), "") + text
