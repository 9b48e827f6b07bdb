"""What a user gave and a model only saw as a placeholder, written again into a reply that was checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from safety_kit.chat.places import Key, Path, Walker, rewritten
from safety_kit.vault import Restorer

if TYPE_CHECKING:
    from safety_kit.vault import Vault


def restored(choice: Mapping[str, Any], vault: Vault) -> dict[str, Any]:
    """A choice with its placeholders restored: in its texts, and inside the JSON of its calls' arguments.

    Logprobs are left out where a text changed, since they spell out what it was.
    """
    edits: dict[Path, str] = {}
    for place in Walker().strings(choice):
        if isinstance(place.path[-1], Key) or place.path[0] == "logprobs":
            continue
        text = _in_json(place.text, vault) if place.path[-1] == "arguments" else vault.restore(place.text)
        if text != place.text:
            edits[place.path] = text
    out: dict[str, Any] = rewritten(choice, edits)
    return {**out, "logprobs": None} if edits and "logprobs" in out else out


def _in_json(text: str, vault: Vault) -> str:
    """A value may hold quotes: it is restored inside the strings, so that the text stays the JSON that was checked."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return vault.restore(text)
    edits = {
        place.path: new
        for place in Walker().strings(document)
        if not (place.path and isinstance(place.path[-1], Key)) and (new := vault.restore(place.text)) != place.text
    }
    return json.dumps(rewritten(document, edits), ensure_ascii=False) if edits else text


class DeltaRestorer:
    """The same for the choices of a stream: texts grow, all else comes whole."""

    def __init__(self, vault: Vault, key: str = "delta") -> None:
        """Begin.

        Args:
            vault: Of the conversation, which has read the request.
            key: Where a choice holds what is new; a text completion holds its text itself.
        """
        self._vault = vault
        self._key = key
        self._growing: dict[tuple[int, str], Restorer] = {}
        self._head: dict[str, Any] = {}

    def feed(self, chunk: Mapping[str, Any]) -> dict[str, Any]:
        """A chunk, but for what may yet become a placeholder; that follows, at the latest with the choice's end."""
        self._head = {name: value for name, value in chunk.items() if name not in ("choices", "usage")}
        return {**chunk, "choices": [self._choice(choice) for choice in chunk["choices"]]}

    def close(self) -> list[dict[str, Any]]:
        """The stream has ended: what was held of choices that had no end of their own is no placeholder."""
        rest = [(index, name, text) for (index, name), held in self._growing.items() if (text := held.close())]
        choices: list[dict[str, Any]] = []
        for index, name, text in rest:
            new: dict[str, Any] = {name: text} if self._key == "text" else {self._key: {name: text}}
            choices.append({"index": index, **new, "finish_reason": None})
        return [{**self._head, "choices": choices}] if choices else []

    def _choice(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        whole = self._key == "text"
        delta = {"text": choice["text"]} if whole else choice[self._key]
        texts = {name: value for name, value in delta.items() if isinstance(value, str) and name != "role"}
        index: int = choice["index"]
        ends = choice.get("finish_reason") is not None
        for at, name in self._growing:
            if ends and at == index:
                texts.setdefault(name, "")
        grown = {}
        for name, value in texts.items():
            restorer = self._growing.setdefault((index, name), self._vault.restorer())
            grown[name] = restorer.feed(value) + (restorer.close() if ends else "")
        rest = restored({name: value for name, value in delta.items() if name not in texts}, self._vault)
        grown = {name: text for name, text in grown.items() if text or name in delta}
        return {**choice, **grown} if whole else {**choice, self._key: {**rest, **grown}}
