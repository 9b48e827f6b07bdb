"""From a chat completion's request or response to the texts in it, each with its place, role and stage.

Every string is a text to check unless it is known not to be one: what a model does not read (`SETTINGS`), and ids of
an identifier's form. A field that is not known here is checked too, so that a server's extension is no way round.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from safety_kit.chat.places import Key, Path, Place, Walker, is_identifier, show
from safety_kit.chat.wire import (
    MEDIA_PARTS,
    MESSAGE_FIELDS,
    PAYLOADS,
    RECORDS,
    ROLES,
    SCHEMA_WORDS,
    SETTINGS,
    TEXT_PARTS,
)
from safety_kit.errors import ConversationError
from safety_kit.types import Role, Stage

Kind: TypeAlias = Literal[
    "content", "name", "definition", "call", "arguments", "reasoning", "refusal", "field", "turns", "uncheckable"
]


@dataclass(frozen=True, slots=True)
class Unit:
    """What is read as one: a message's content, a tool's definition, a call's arguments.

    Attributes:
        path: Where it stands.
        kind: What it is.
        role: Whose text it is.
        places: Its strings, with paths from the top; of a JSON text the strings inside, with paths inside it.
        document: The value of a JSON text.
        raw: The JSON text itself; None where the unit is no JSON text.
        tool: Of a call's arguments, the tool that is called.
        choice: The index of the response's choice it belongs to; None: to the whole.
    """

    path: Path
    kind: Kind
    role: Role
    places: tuple[Place, ...]
    document: Any = None
    raw: str | None = None
    tool: str | None = None
    choice: int | None = None

    def place(self, place: Place) -> Path:
        """The path of one of its strings from the top."""
        return place.path if self.raw is None else (*self.path, *place.path)


@dataclass(frozen=True, slots=True)
class Uncheckable:
    """A part that no check can read: an image, an audio recording, a file, or something unknown."""

    path: Path
    what: str
    role: Role
    choice: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a reply is written to: the last user message, and the system and developer messages."""

    prompt: str | None = None
    system: str | None = None


NOTHING: Final = Asked()


@dataclass(frozen=True, slots=True)
class Conversation:
    """All that is to be checked of one request or response.

    Attributes:
        stage: Where it stands.
        units: In reading order.
        uncheckable: In reading order.
        asked: What a reply is written to.
        prefix: The unit of a trailing assistant message, which the model will continue.
        turns: A request's messages, of any role; 0 for a response.
    """

    stage: Stage
    units: tuple[Unit, ...]
    uncheckable: tuple[Uncheckable, ...]
    asked: Asked = NOTHING
    prefix: Unit | None = None
    turns: int = 0


@dataclass(slots=True)
class _Reader:
    units: list[Unit] = field(default_factory=list)
    uncheckable: list[Uncheckable] = field(default_factory=list)
    walker: Walker = field(default_factory=Walker)
    choice: int | None = None

    def add(self, kind: Kind, role: Role, path: Path, places: Iterable[Place]) -> None:
        if found := tuple(places):
            self.units.append(Unit(path, kind, role, found, choice=self.choice))

    def skip(self, what: str, role: Role, path: Path) -> None:
        self.uncheckable.append(Uncheckable(path, what, role, self.choice))

    def text(self, kind: Kind, role: Role, path: Path, value: Any, *, label: bool = False) -> None:
        if value is None:
            return
        if not isinstance(value, str):
            raise ConversationError(f"{show(path)}: must be a text.")
        self.add(kind, role, path, self.walker.strings(value, path, label=label))

    def identifier(self, role: Role, path: Path, value: Any) -> None:
        if not (isinstance(value, str) and is_identifier(value)):
            self.text("field", role, path, value, label=True)

    def fields(self, role: Role, path: Path, holder: Mapping[Any, Any], known: Collection[str]) -> None:
        """Whatever else is there."""
        for key, value in holder.items():
            if not isinstance(key, str):
                raise ConversationError(f"{show(path)}: has a key that is no text; send plain JSON.")
            if key not in known:
                if not is_identifier(key):
                    self.add("field", role, (*path, Key(key)), [Place((*path, Key(key)), key, True)] if key else [])
                self.add("field", role, (*path, key), self.walker.strings(value, (*path, key), label=True))

    def definition(self, path: Path, value: Any) -> None:
        """All strings of a tool's definition or a reply's schema, but for the grammar around them."""
        self.add("definition", "developer", path, (p for p in self.walker.strings(value, path, label=True) if _says(p)))

    def content(self, role: Role, path: Path, value: Any) -> None:
        """A text, or a list of parts."""
        if isinstance(value, str) and role == "tool":
            self.json_text("content", role, path, value)
        elif value is None or isinstance(value, str):
            self.text("content", role, path, value)
        elif isinstance(value, (list, tuple)):
            places: list[Place] = []
            for number, part in enumerate(value):
                places += self._part(role, (*path, number), part)
            self.add("content", role, path, places)
        else:
            raise ConversationError(f"{show(path)}: must be a text or a list of parts.")

    def _part(self, role: Role, path: Path, part: Any) -> list[Place]:
        if isinstance(part, str):
            return list(self.walker.strings(part, path))
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise ConversationError(f"{show(path)}: must be a part with a type, such as {{'type': 'text', 'text': …}}.")
        if (holds := TEXT_PARTS.get(kind)) is not None:
            text = part.get(holds)
            if not isinstance(text, str):
                raise ConversationError(f"{show((*path, holds))}: must be a text.")
            self.fields(role, path, part, ("type", holds))
            return list(self.walker.strings(text, (*path, holds)))
        self.media(MEDIA_PARTS.get(kind, "part"), role, path, part)
        return []

    def media(self, what: str, role: Role, path: Path, value: Any) -> None:
        """Note what cannot be read; the texts around it, such as a file's name, can be."""
        self.skip(what, role, path)
        places = self.walker.strings(value, path, label=True)
        if what != "part":
            places = (p for p in places if p.path[-1] not in PAYLOADS and not p.text.startswith("data:"))
        known = (*path, "type")
        self.add("field", role, path, (p for p in places if not isinstance(p.path[-1], Key) and p.path != known))

    def json_text(
        self, kind: Kind, role: Role, path: Path, text: str, *, must: bool = False, tool: str | None = None
    ) -> None:
        """A text that may be JSON, in which escapes may hide what is said.

        Args:
            kind: Of the unit.
            role: Of the unit.
            path: Where the text stands.
            text: The text.
            must: Someone will parse it: JSON that has two readings, or that goes too deep, is uncheckable.
            tool: Of a call's arguments, the tool that is called.
        """
        try:
            document = parse(text)
            places = tuple(self.walker.strings(document)) if document is not None else ()
        except ConversationError:
            if must:
                self.skip("json", role, path)
            document = None
        if document is not None:
            self.units.append(Unit(path, kind, role, places, document, text, tool, self.choice))
        elif tool is None:
            self.text(kind, role, path, text)
        else:
            self.units.append(Unit(path, kind, role, (Place(path, text),), tool=tool, choice=self.choice))

    def arguments(self, role: Role, path: Path, value: Any, tool: str | None) -> None:
        """A call's arguments: JSON as text, or, as some servers have it, plain."""
        if isinstance(value, str):
            self.json_text("arguments", role, path, value, must=True, tool=tool)
        elif value is None or isinstance(value, (dict, list)):
            places = tuple(self.walker.strings(value, path))
            if places or tool is not None:
                self.units.append(Unit(path, "arguments", role, places, value, tool=tool, choice=self.choice))
        else:
            raise ConversationError(f"{show(path)}: must be a text of JSON.")

    def calls(self, role: Role, path: Path, calls: Any) -> None:
        for number, call in enumerate(_list(path, calls)):
            at: Path = (*path, number)
            holder = _mapping(at, call)
            for name in ("id", "type"):
                self.identifier(role, (*at, name), holder.get(name))
            self.fields(role, at, holder, ("id", "type", "function", "custom"))
            for kind in ("function", "custom"):
                if holder.get(kind) is not None:
                    self.call(role, (*at, kind), holder[kind])

    def call(self, role: Role, path: Path, call: Any) -> None:
        holder = _mapping(path, call)
        name, freeform = holder.get("name"), holder.get("input")
        self.text("call", role, (*path, "name"), name, label=True)
        if holder.get("arguments") is not None or freeform is None:
            self.arguments(role, (*path, "arguments"), holder.get("arguments"), name)
        if freeform is not None:
            self.arguments(role, (*path, "input"), freeform, name)
        self.fields(role, path, holder, ("name", "arguments", "input"))

    def message(self, role: Role, path: Path, message: Mapping[Any, Any]) -> None:
        self.text("name", role, (*path, "name"), message.get("name"), label=True)
        for key in ("reasoning_content", "reasoning"):
            value = message.get(key)
            if value is None or isinstance(value, str):
                self.text("reasoning", role, (*path, key), value)
            else:
                self.add("reasoning", role, (*path, key), self.walker.strings(value, (*path, key)))
        self.text("refusal", role, (*path, "refusal"), message.get("refusal"))
        self.content(role, (*path, "content"), message.get("content"))
        self.calls(role, (*path, "tool_calls"), message.get("tool_calls"))
        if message.get("function_call") is not None:
            self.call(role, (*path, "function_call"), message["function_call"])
        if message.get("audio") is not None:
            self.media("audio", role, (*path, "audio"), message["audio"])
        for name in ("role", "tool_call_id"):
            self.identifier(role, (*path, name), message.get(name))
        self.fields(role, path, message, MESSAGE_FIELDS)


def read_request(request: Any) -> Conversation:
    """The texts of a request, all of stage input.

    Args:
        request: The body of a chat completion request, as `json.loads` gives it.

    Raises:
        ConversationError: It has not that form: where, and what belongs there.
    """
    body = _mapping((), request)
    messages = _list(("messages",), body.get("messages"))
    if not messages:
        raise ConversationError("messages: there must be at least one message.")
    reader = _Reader()
    for name in ("tools", "functions"):
        for number, tool in enumerate(_list((name,), body.get(name))):
            reader.definition((name, number), _mapping((name, number), tool))
    if body.get("response_format") is not None:
        reader.definition(("response_format",), body["response_format"])
    roles = [_role(("messages", number), message) for number, message in enumerate(messages)]
    for number, (role, message) in enumerate(zip(roles, messages, strict=True)):
        reader.message(role, ("messages", number), message)
    if body.get("prediction") is not None:
        prediction = _mapping(("prediction",), body["prediction"])
        reader.identifier("assistant", ("prediction", "type"), prediction.get("type"))
        reader.content("assistant", ("prediction", "content"), prediction.get("content"))
        reader.fields("assistant", ("prediction",), prediction, ("type", "content"))
    read = {"messages", "tools", "functions", "response_format", "prediction"}
    reader.fields("user", (), body, SETTINGS | read)
    contents = {unit.path[1]: unit for unit in reader.units if unit.path[0] == "messages" and unit.kind == "content"}
    last = next((n for n in reversed(range(len(roles))) if roles[n] == "user" and n in contents), None)
    instructions = [n for n, role in enumerate(roles) if role in ("system", "developer") and n in contents]

    def told(numbers: Iterable[int]) -> str | None:
        return "\n".join(place.text for n in numbers for place in contents[n].places) or None

    return Conversation(
        Stage.INPUT,
        tuple(reader.units),
        tuple(reader.uncheckable),
        Asked(None if last is None else told([last]), told(instructions)),
        contents.get(len(roles) - 1) if roles[-1] == "assistant" else None,
        len(messages),
    )


def read_response(response: Any, asked: Asked = NOTHING) -> Conversation:
    """The texts of a response, all of stage output, each with its choice.

    Args:
        response: The body of a chat completion, as `json.loads` gives it.
        asked: What is answered.

    Raises:
        ConversationError: It has not that form: where, and what belongs there.
    """
    body = _mapping((), response)
    reader = _Reader()
    choices = body.get("choices")
    if not isinstance(choices, (list, tuple)):
        raise ConversationError("choices: must be a list.")
    for number, choice in enumerate(choices):
        path: Path = ("choices", number)
        holder = _mapping(path, choice)
        reader.choice = number
        reader.message("assistant", (*path, "message"), _mapping((*path, "message"), holder.get("message")))
        reader.identifier("assistant", (*path, "finish_reason"), holder.get("finish_reason"))
        reader.fields("assistant", path, holder, ("finish_reason", "message", "logprobs"))
    reader.choice = None
    for name in sorted(RECORDS & body.keys()):
        if isinstance(body[name], str):
            reader.identifier("assistant", (name,), body[name])
    reader.fields("assistant", (), body, RECORDS | {"choices"})
    return Conversation(Stage.OUTPUT, tuple(reader.units), tuple(reader.uncheckable), asked)


def parse(text: str) -> Any:
    """The value of a text that is a JSON list, mapping or string; None where it is none of these.

    Raises:
        ConversationError: It goes too deep, or has a key twice, which parsers read differently.
    """
    if text.lstrip()[:1] not in ("{", "[", '"'):
        return None
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ConversationError("The JSON is nested too deep; send it flatter.") from error
    except ValueError:
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ConversationError("The JSON has a key twice; remove one of them.")
    return found


def _says(place: Place) -> bool:
    last = place.path[-1]
    grammar = isinstance(last, Key) or (last == "type" and place.label)
    return not (grammar and place.text in SCHEMA_WORDS)


def _role(path: Path, message: Any) -> Role:
    role = _mapping(path, message).get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise ConversationError(f"{show((*path, 'role'))}: use one of {', '.join(ROLES)}.")
    return ROLES[role]


def _mapping(path: Path, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise ConversationError(f"{show(path)}: must be a mapping.")
    return value


def _list(path: Path, value: Any) -> list[Any] | tuple[Any, ...]:
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise ConversationError(f"{show(path)}: must be a list.")
    return value
