"""Text completions, held against a guard as chats of one message: each prompt by itself, each choice as its answer.

What a prompt's token ids say cannot be read: such a prompt is uncheckable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from safety_kit.chat.answers import blocked_chat, choices_of
from safety_kit.chat.examine import PlaceVerdict, uncheckable
from safety_kit.chat.exchange import (
    RequestVerdict,
    ResponseVerdict,
    Verdicts,
    blocked_choice,
    check_request,
    check_response,
)
from safety_kit.chat.response_stream import ResponseStream
from safety_kit.errors import ConversationError
from safety_kit.types import Stage

if TYPE_CHECKING:
    from safety_kit.followed_stream import Follow
    from safety_kit.guard import Guard
    from safety_kit.vault import Vault

_OWN: Final = frozenset({"prompt", "suffix"})


def prompts_of(request: Mapping[str, Any]) -> list[Any]:
    """Its prompts: texts, or lists of token ids.

    Raises:
        ConversationError: It has none.
    """
    prompt = request.get("prompt")
    if "messages" in request:
        raise ConversationError("messages: a text completion has none; ask for a chat completion.")
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if all(map(_is_id, prompt)):
            return [prompt]
        if all(isinstance(item, str) or (isinstance(item, list) and all(map(_is_id, item))) for item in prompt):
            return prompt
    raise ConversationError("prompt: must be a text, a list of texts, or token ids.")


def choices_of_all(request: Mapping[str, Any]) -> int:
    """How many choices a request asks for, over all its prompts."""
    return choices_of(request) * len(prompts_of(request))


def check_completion_request(
    guard: Guard, request: Mapping[str, Any], request_id: str, vault: Vault | None = None
) -> RequestVerdict:
    """The verdicts on a text completion's request, by place, and the request that may be passed on.

    Raises:
        ConversationError: It is none.
    """
    prompts = prompts_of(request)
    several = prompts is request["prompt"]
    passed: list[Any] = []
    beside: dict[str, Any] = {}
    places: list[PlaceVerdict] = []
    for number, prompt in enumerate(prompts):
        names = {"messages[0].content": f"prompt[{number}]" if several else "prompt", "messages[1].content": "suffix"}
        if not isinstance(prompt, str):
            verdict = replace(uncheckable(guard, "tokens", Stage.INPUT), request_id=request_id)
            places.append(PlaceVerdict(names["messages[0].content"], "uncheckable", "user", verdict))
        checked = check_request(guard, _as_chat(request, prompt, beside=number == 0), request_id, vault)
        places += [replace(place, path=names.get(place.path, place.path)) for place in checked.places]
        if checked.request is None:
            continue
        message, *more = checked.request.pop("messages")
        passed.append(message["content"] if isinstance(prompt, str) else prompt)
        if number == 0:
            beside = {**checked.request, **({"suffix": more[0]["content"]} if more else {})}
    verdicts = RequestVerdict(tuple(places), guard.digest)
    if verdicts.blocked:
        return verdicts
    body = {**request, **beside, "prompt": passed if several else passed[0]}
    return replace(verdicts, request=request if isinstance(request, dict) and body == request else body)


def check_completion_response(
    guard: Guard,
    response: Any,
    request: Mapping[str, Any],
    request_id: str,
    vault: Vault | None = None,
    follow: Follow | None = None,
) -> ResponseVerdict:
    """The verdicts on a text completion, and the completion that may be passed on.

    Raises:
        ConversationError: It is none.
    """
    if not isinstance(response, dict) or not isinstance(response.get("choices"), list):
        raise ConversationError("A completion must be a mapping with a list of choices.")
    chats = [_as_chat(request, prompt) for prompt in prompts_of(request)]
    around = check_response(guard, {**response, "choices": []}, None, request_id, vault)
    places = list(around.places)
    choices: list[dict[str, Any]] = []
    for number, choice in enumerate(response["choices"]):
        answered = chats[_prompt_number(len(chats), request, choice)]
        if around.blocking is not None:
            choices.append(_text_choice(blocked_choice(guard, choice, around.blocking.verdict), "message"))
            continue
        checked = check_response(guard, {"choices": [_message_choice(choice)]}, answered, request_id, vault, follow)
        places += [
            replace(p, path=p.path.replace("choices[0]", f"choices[{number}]", 1), choice=number)
            for p in checked.places
        ]
        choices.append(_text_choice(checked.response["choices"][0], "message"))
    return ResponseVerdict(tuple(places), guard.digest, {**around.response, "choices": choices})


class CompletionStream:
    """`ResponseStream` for a streamed text completion."""

    def __init__(
        self,
        guard: Guard,
        request: Mapping[str, Any],
        *,
        vault: Vault | None = None,
        request_id: str | None = None,
        follow: Follow | None = None,
    ) -> None:
        self._guard = guard
        self._request = request
        self._streams = [
            ResponseStream(guard, _as_chat(request, prompt), vault=vault, request_id=request_id, follow=follow)
            for prompt in prompts_of(request)
        ]

    @property
    def verdicts(self) -> Verdicts:
        """What was decided so far; all of it once the stream is closed."""
        return Verdicts(tuple(p for stream in self._streams for p in stream.verdicts.places), self._guard.digest)

    @property
    def held(self) -> int:
        """Characters that are held back now."""
        return sum(stream.held for stream in self._streams)

    def feed(self, chunk: Mapping[str, Any], hidden: Mapping[int, Any] | None = None) -> list[dict[str, Any]]:
        """See `ResponseStream.feed`."""
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        if not isinstance(choices, list):
            raise ConversationError("A chunk must be a mapping with a list of choices.")
        around = {name: value for name, value in chunk.items() if name != "choices"}
        by_prompt: dict[int, list[Any]] = {} if choices else {0: []}
        for choice in choices:
            number = _prompt_number(len(self._streams), self._request, choice)
            by_prompt.setdefault(number, []).append(_delta_choice(choice))
        out = []
        for number, group in by_prompt.items():
            out += self._streams[number].feed({**around, "choices": group}, hidden)
        return list(map(_text_chunk, out))

    def close(self) -> list[dict[str, Any]]:
        """See `ResponseStream.close`."""
        return [_text_chunk(chunk) for stream in self._streams for chunk in stream.close()]


def blocked_completion(request: Mapping[str, Any], message: str) -> dict[str, Any]:
    """The completion of a request that was blocked before a model read it."""
    reply = blocked_chat({**request, "n": choices_of_all(request)}, message)
    key = "delta" if request.get("stream") else "message"
    reply["id"] = reply["id"].replace("chatcmpl", "cmpl")
    return {**reply, "object": "text_completion", "choices": [_text_choice(choice, key) for choice in reply["choices"]]}


def _as_chat(request: Mapping[str, Any], prompt: Any, *, beside: bool = True) -> dict[str, Any]:
    """A prompt as a chat; `beside`: with the suffix and whatever else the request holds."""
    messages = [{"role": "user", "content": prompt if isinstance(prompt, str) else ""}]
    if not beside:
        return {"messages": messages}
    if (suffix := request.get("suffix")) is not None:
        messages.append({"role": "user", "content": suffix})
    return {**{name: value for name, value in request.items() if name not in _OWN}, "messages": messages}


def _prompt_number(prompts: int, request: Mapping[str, Any], choice: Any) -> int:
    index = choice.get("index", 0) if isinstance(choice, dict) else None
    if not isinstance(index, int) or index < 0:
        raise ConversationError("A choice must be a mapping with an index.")
    return min(index // choices_of(request), prompts - 1)


def _message_choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in choice.items() if name != "text"}
    return {**rest, "message": {"role": "assistant", "content": _text(choice)}}


def _delta_choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in choice.items() if name != "text"}
    return {**rest, "delta": {"content": _text(choice)}}


def _text(choice: Mapping[str, Any]) -> str:
    text = choice.get("text")
    if text is not None and not isinstance(text, str):
        raise ConversationError("A choice's text must be a text.")
    return text or ""


def _text_choice(choice: Mapping[str, Any], key: str) -> dict[str, Any]:
    rest = {name: value for name, value in choice.items() if name != key}
    return {"text": choice[key].get("content") or "", "logprobs": None, **rest}


def _text_chunk(chunk: Mapping[str, Any]) -> dict[str, Any]:
    return {**chunk, "choices": [_text_choice(choice, "delta") for choice in chunk["choices"]]}


def _is_id(item: Any) -> bool:
    return type(item) is int
