"""Guarded generation: a Gemma and a guard, around one forward pass.

The text checks come first and redact what they must; then the prompt is read once, and its activations feed the
input probes before a token is chosen and its KV cache the decoding after. Each decoded token brings its own
activations to the `StreamGuard`. The blocking call drains the stream, so both give the same reply.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from safety_kit.checks.length import too_many_turns
from safety_kit.gemma.trace import Capture
from safety_kit.guard import new_request_id
from safety_kit.stream import StreamGuard
from safety_kit.types import Message, Sample, Stage, Verdict
from safety_kit.vault import Vault

if TYPE_CHECKING:
    import torch

    from safety_kit.gemma import Gemma, Prefill, Sampling, Step
    from safety_kit.guard import Guard


@dataclass(frozen=True, slots=True)
class Reply:
    """What a guarded generation came to.

    Attributes:
        reply: The text that may be shown: the reply, what was released of it and the policy's message, or the
            message alone. Placeholders of what the user gave are restored in it, in no verdict.
        finish_reason: ``stop`` | ``length`` | ``content_filter`` (the guard blocked).
        inputs: The verdict on each message, in order.
        output: The verdict on the reply; None when the input was blocked.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens made, whether released or not.
        seconds: Wall time.
    """

    reply: str
    finish_reason: Literal["stop", "length", "content_filter"]
    inputs: tuple[Verdict, ...]
    output: Verdict | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float

    @property
    def input(self) -> Verdict:
        """The verdict on the message that fared worst, the last of equals."""
        return max(reversed(self.inputs), key=lambda verdict: verdict.action)

    @property
    def blocked(self) -> bool:
        return self.finish_reason == "content_filter"

    @property
    def code(self) -> str | None:
        """Why it was blocked, by the input or else the output; None when it was not."""
        return self.input.code or (self.output.code if self.output else None)

    @property
    def request_id(self) -> str:
        """What all its verdicts carry."""
        return self.inputs[0].request_id

    def to_json(self) -> dict[str, Any]:
        """The document that `safety-kit generate --json` prints."""
        return {
            "reply": self.reply,
            "finish_reason": self.finish_reason,
            "code": self.code,
            "request_id": self.request_id,
            "input": self.input.to_json(),
            "output": self.output.to_json() if self.output else None,
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "total_tokens": self.prompt_tokens + self.completion_tokens,
            },
            "seconds": round(self.seconds, 3),
        }


class GuardedStream(Iterator[str]):
    """Released pieces of a reply; `reply` holds the outcome once they are drained."""

    def __init__(self, pieces: Iterator[str | Reply]) -> None:
        self._pieces = pieces
        self._reply: Reply | None = None

    def __next__(self) -> str:
        piece = next(self._pieces)
        if isinstance(piece, Reply):
            self._reply = piece
            raise StopIteration
        return piece

    @property
    def reply(self) -> Reply:
        """The outcome; drains what is left of the stream first."""
        for _ in self:
            pass
        assert self._reply is not None
        return self._reply


class GuardedGemma:
    """A Gemma that answers inside a policy."""

    def __init__(self, gemma: Gemma, guard: Guard) -> None:
        self.gemma = gemma
        self.guard = guard
        self._capture = guard.capture or Capture()

    def generate(
        self,
        prompt: str | Sequence[Message],
        sampling: Sampling | None = None,
        *,
        blocked: Literal["prefix", "message"] = "prefix",
        vault: Vault | None = None,
        request_id: str | None = None,
    ) -> Reply:
        """Answer a prompt or a conversation inside the policy: the drained `stream`.

        Args:
            prompt: The user's message, or a conversation.
            sampling: Greedy and at most 256 tokens by default.
            blocked: What a reply that is blocked on its way comes to: what was released of it and the policy's
                message (what a stream shows), or the message alone.
            vault: Of the conversation, where it has several requests; see `stream`.
            request_id: Stands on the verdicts; one is made without it.
        """
        reply = self.stream(prompt, sampling, vault=vault, request_id=request_id).reply
        if blocked == "message" and reply.output is not None and reply.output.blocked:
            return replace(reply, reply=self.guard.message(reply.output))
        return reply

    def stream(
        self,
        prompt: str | Sequence[Message],
        sampling: Sampling | None = None,
        *,
        vault: Vault | None = None,
        request_id: str | None = None,
    ) -> GuardedStream:
        """The same, piece by piece; each piece is proven safe when it comes.

        Args:
            prompt: The user's message, or a conversation.
            sampling: Greedy and at most 256 tokens by default.
            vault: Of the conversation; by default one for this call. Where the policy pseudonymises what the user
                gave, the reply has it again.
            request_id: Stands on the verdicts; one is made without it.

        Raises:
            UserError: The conversation is empty or longer than the model's context.
        """
        from safety_kit.gemma import Sampling

        messages = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
        kept = Vault() if vault is None else vault
        return GuardedStream(self._run(messages, sampling or Sampling(), kept, request_id or new_request_id()))

    def _run(self, messages: list[Message], sampling: Sampling, vault: Vault, request_id: str) -> Iterator[str | Reply]:
        begin = time.perf_counter()
        verdicts, prefill = self._read(messages, vault, request_id)
        read = len(prefill.trace.ids) if prefill else 0
        blocking = next((verdict for verdict in verdicts if verdict.blocked), None)
        if blocking is not None or prefill is None:
            message = self.guard.message(blocking) if blocking else ""
            yield message
            yield Reply(message, "content_filter", tuple(verdicts), None, read, 0, time.perf_counter() - begin)
            return
        system = next((message.content for message in messages if message.role == "system"), None)
        stream = StreamGuard(self.guard, prompt=messages[-1].content, system=system, vault=vault, request_id=request_id)
        restorer = vault.restorer()  # after the guard: the output rules read what the model wrote
        made, shown = 0, []
        finish: Literal["stop", "length", "content_filter"] = "stop"
        for step in self.gemma.steps(prefill, sampling, self._capture):
            made += 1
            finish = step.finish or finish
            released = restorer.feed(stream.feed(step.text, self._activations(step)).text)
            if released:
                shown.append(released)
                yield released
            if stream.verdict is not None:
                break
        rest = stream.close()
        output = rest.verdict
        assert output is not None
        tail = restorer.feed(rest.text) + restorer.close()
        if output.blocked:
            finish = "content_filter"
            tail += ("\n\n" if shown or tail else "") + self.guard.message(output)
        if tail:
            shown.append(tail)
            yield tail
        yield Reply("".join(shown), finish, tuple(verdicts), output, read, made, time.perf_counter() - begin)

    def _read(self, messages: list[Message], vault: Vault, request_id: str) -> tuple[list[Verdict], Prefill | None]:
        """Every message's verdict, and the prompt as read: None where the text checks blocked before that."""
        samples = [Sample(message.content, message.role, Stage.INPUT) for message in messages]
        verdicts = self.guard.check(samples, "text", vault=vault, request_id=request_id)
        if found := too_many_turns(self.guard.policy.checks, len(messages)):
            whole = replace(self.guard.decide(Stage.INPUT, found, (), {}), text=verdicts[-1].text)
            verdicts[-1] = self.guard.merge(verdicts[-1], whole)
        if any(verdict.blocked for verdict in verdicts):
            return verdicts, None
        passed = [replace(m, content=verdict.text or "") for m, verdict in zip(messages, verdicts, strict=True)]
        prefill = self.gemma.prefill(self.gemma.render(passed), self._capture)
        if self.guard.probes is None and not self.guard.judges:
            return verdicts, prefill
        probed = [
            Sample(message.content, message.role, Stage.INPUT, trace=prefill.trace.view(*tokens))
            for message, tokens in zip(passed, prefill.prompt.ranges, strict=True)
        ]
        seen = self.guard.check(probed, "model", vault=vault, request_id=request_id)
        return [self.guard.merge(text, probe) for text, probe in zip(verdicts, seen, strict=True)], prefill

    def _activations(self, step: Step) -> Mapping[int, torch.Tensor] | None:
        if not self._capture.blocks:
            return None
        if step.hidden:
            return {block: hidden[None] for block, hidden in step.hidden.items()}
        import torch

        # The token that ends a reply has no text of its own: what comes out with it was held back before.
        return {block: torch.empty(0, self.gemma.hidden_size) for block in self._capture.blocks}
