"""A guardrail for LiteLLM: requests before they are sent, replies after, streams as they come through its proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, cast

from safety_kit.errors import ConversationError, MissingExtra, UserError
from safety_kit.guard import Guard
from safety_kit.integrations import OnBlock
from safety_kit.integrations._chat import Checked, ReplyStream, check_request, check_response
from safety_kit.policy import Policy

try:
    from litellm.exceptions import GuardrailRaisedException, ModifyResponseException
    from litellm.integrations.custom_guardrail import CustomGuardrail
    from litellm.types.guardrails import GuardrailEventHooks
    from litellm.types.utils import ModelResponse, ModelResponseStream, all_litellm_params
except ImportError as error:
    raise MissingExtra("litellm", "integrations") from error

_HOOKS: Final = (
    "async_pre_call_hook",
    "async_post_call_success_hook",
    "async_post_call_streaming_iterator_hook",
)
_TEXTS: Final = {
    "assistant_continue_message",
    "final_prompt_value",
    "initial_prompt_value",
    "litellm_system_prompt",
    "prompt_variables",
    "roles",
    "user_continue_message",
}
"""Of LiteLLM's own settings, those that reach the model."""

_MACHINERY: Final = {*all_litellm_params, "extra_headers"} - _TEXTS
_EVENTS: Final = [GuardrailEventHooks.pre_call, GuardrailEventHooks.post_call]


class CallError(UserError):
    """A call that cannot be read; the proxy answers with this status."""

    status_code = 400


class SafetyKitGuardrail(CustomGuardrail):
    """Holds chat completions against a policy; any other kind of call is refused, so that nothing passes unseen.

    LiteLLM hands streams to guardrails in its proxy only: in the SDK a guarded stream is refused. Its synchronous
    `completion` runs no guardrails at all; call `acompletion`, or `guarded` around a function.
    """

    def __init__(
        self,
        guard: Guard | None = None,
        policy: str = "default",
        on_block: OnBlock = "message",
        guardrail_name: str = "safety-kit",
        **kwargs: Any,
    ) -> None:
        """Build the guardrail; the proxy passes what its configuration says.

        Args:
            guard: What to hold completions against.
            policy: Without a guard: the policy's file, or ``default``; the embedded Gemma serves its probes.
            on_block: ``message``: the reply is the policy's message, with the status 200; ``raise``: an error, with
                the status 400.
            guardrail_name: Its name in requests and logs.
            **kwargs: LiteLLM's own, such as `default_on` and `event_hook`, which is pre_call and post_call by default.
        """
        kwargs = {"event_hook": _EVENTS, "supported_event_hooks": _EVENTS, **kwargs}
        super().__init__(guardrail_name=guardrail_name, **kwargs)
        self._guard = guard or _load(policy)
        self._raises = on_block == "raise"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for hook in _HOOKS:  # the proxy calls only those that the class itself defines
            if hook not in vars(cls):
                setattr(cls, hook, getattr(cls, hook))

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: Any
    ) -> Any:
        """The request, redacted in place.

        Raises:
            ModifyResponseException: It is blocked; the proxy answers with the message.
            GuardrailRaisedException: It is blocked, by option.
            CallError: It is no chat completion request.
        """
        if "messages" not in data:
            raise self._unread()
        try:
            checked = await asyncio.to_thread(check_request, self._guard, _request(data))
        except ConversationError as error:
            raise CallError(str(error)) from error
        if checked.message is not None:
            raise self._refusal(checked, data)
        data.update(checked.value)
        return data

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> dict[str, Any] | None:
        """What the SDK calls instead of the proxy."""
        if kwargs.get("stream") and kwargs.get("guardrails") and "proxy_server_request" not in kwargs:
            raise UserError("LiteLLM's SDK passes streams by its guardrails; do not stream, or go through its proxy.")
        return cast("dict[str, Any] | None", await super().async_pre_call_deployment_hook(kwargs, call_type))

    async def async_post_call_success_hook(self, data: dict[str, Any], user_api_key_dict: Any, response: Any) -> Any:
        """The reply that may be shown, the policy's message in the place of a blocked choice.

        Raises:
            GuardrailRaisedException: It is blocked, by option.
            CallError: It is no chat completion.
        """
        if not isinstance(response, ModelResponse):
            raise self._unread()
        given = response.model_dump(mode="json")
        checked = await asyncio.to_thread(check_response, self._guard, given, _asked(data))
        if checked.message is not None and self._raises:
            raise self._refusal(checked, data)
        if checked.value == given:
            return response
        passed = ModelResponse(**checked.value)
        passed._hidden_params = response._hidden_params
        return passed

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: dict[str, Any]
    ) -> AsyncGenerator[ModelResponseStream, None]:
        """The chunks that may be shown; see `async_post_call_success_hook`."""
        if self.should_run_guardrail(data=request_data, event_type=GuardrailEventHooks.post_call) is not True:
            async for chunk in response:
                yield chunk
            return
        stream = ReplyStream(self._guard, _asked(request_data))
        async for chunk in response:
            if not isinstance(chunk, ModelResponseStream):
                raise self._unread()
            for passed in await asyncio.to_thread(stream.feed, chunk.model_dump(mode="json")):
                yield self._chunk(passed, stream, request_data)
            if stream.done:
                return
        for passed in await asyncio.to_thread(stream.close):
            yield self._chunk(passed, stream, request_data)

    def _chunk(self, passed: dict[str, Any], stream: ReplyStream, data: dict[str, Any]) -> ModelResponseStream:
        if stream.message is not None and self._raises:
            raise self._refusal(Checked({}, stream.blocked, stream.message), data)
        return ModelResponseStream(**passed)

    def _refusal(self, checked: Checked, data: Mapping[str, Any]) -> Exception:
        message, name = str(checked.message), self.guardrail_name
        if not self._raises:
            return ModifyResponseException(message, data.get("model", "unknown"), dict(data), name)
        judged = checked.blocked is not None and not checked.blocked.errors
        return GuardrailRaisedException(name, message, should_wrap_with_default_message=False, blocked_content=judged)

    def _unread(self) -> CallError:
        return CallError(f"The guardrail {self.guardrail_name} reads chat completions only; take it off this call.")


def _load(source: str) -> Guard:
    policy = Policy.load(source)
    if not policy.needs_model:
        return Guard(policy)
    from safety_kit.gemma import Gemma

    return Guard(policy, Gemma.load())


def _request(data: Mapping[str, Any]) -> dict[str, Any]:
    """What of a call's arguments the model reads."""
    return {name: value for name, value in data.items() if name not in _MACHINERY}


def _asked(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a reply is read beside; by then the proxy has put objects of its own among the call's arguments."""
    return {name: data[name] for name in ("messages", "n") if name in data} if "messages" in data else None
