"""What a run will take, told before it starts; and what is refused, with the reason."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import streamlit as st

from debugger_app.study import WHOLE
from safety_kit.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safety_kit.gemma import Gemma
    from safety_kit.types import Message

MOST_CHARACTERS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run takes.

    Attributes:
        tokens: Of prompt and reply.
        seconds: About; None before this model has run once.
        bytes: Of activations that are kept.
        whole: Whether the one pass keeps what lens and attention need, or they read the text again.
    """

    tokens: int
    seconds: float | None
    bytes: int
    whole: bool

    def __str__(self) -> str:
        time_ = "" if self.seconds is None else f", about {max(1, round(self.seconds))} s"
        again = "" if self.whole else "; lens and attention read so long a text again, a block at a time"
        return f"{self.tokens:,} tokens{time_}, {self.bytes / 2**20:,.0f} MB of activations{again}"


def estimate(gemma: Gemma, messages: Sequence[Message], reply: int) -> Estimate:
    """What an inspection will take, with so many tokens of a reply decoded.

    Raises:
        UserError: It is not to be run: there is no text, or more than can be read or held.
    """
    if not any(message.content.strip() for message in messages if message.role != "system"):
        raise UserError("The prompt is empty; write what a user would.")
    characters = sum(len(message.content) for message in messages)
    if characters > MOST_CHARACTERS:
        raise UserError(f"The text has {characters:,} characters; at most {MOST_CHARACTERS:,} are read. Shorten it.")
    tokens = len(gemma.render(messages).tokens) + reply
    if tokens > gemma.context_length:
        raise UserError(
            f"Prompt and reply come to {tokens:,} tokens; the model reads {gemma.context_length:,}. Shorten one."
        )
    whole = tokens <= WHOLE
    needed = tokens * held(gemma, whole)
    if needed > (free := available()):
        raise UserError(
            f"The run would keep {needed / 2**20:,.0f} MB of activations and {free / 2**20:,.0f} MB are free. "
            "Shorten the text."
        )
    rate = rates(gemma.digest, str(gemma.device), gemma.dtype)
    known = rate.prompt is not None and rate.reply is not None
    seconds = tokens * (rate.prompt or 0) + reply * (rate.reply or 0) if known else None
    return Estimate(tokens, seconds, needed, whole)


def held(gemma: Gemma, whole: bool) -> int:
    """Bytes a token that a trace keeps."""
    config = gemma.trunk.config
    size = 2 if "16" in gemma.dtype else 4
    streams = (gemma.n_blocks if whole else 8) + 1
    heads = getattr(config, "num_attention_heads", 1)
    groups = getattr(config, "num_key_value_heads", heads)
    attention = gemma.n_blocks * ((heads + groups) * getattr(config, "head_dim", 0) * size + heads * 4) if whole else 0
    return int(streams * gemma.hidden_size * size + attention)


def available() -> int:
    """Bytes of memory that are free here."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2**33


@dataclass
class Rates:
    """Seconds a token on one model, as measured by its last run; None before."""

    prompt: float | None = None
    reply: float | None = None


@st.cache_resource(max_entries=8, show_spinner=False)
def rates(digest: str, device: str, dtype: str) -> Rates:
    """Shared by all sessions."""
    return Rates()


@contextmanager
def timed(gemma: Gemma, prompt: int, reply: int) -> Iterator[None]:
    """Measure a run, for the next estimate: decoding a token is taken to cost as much as reading fifteen."""
    start = time.perf_counter()
    yield
    each = (time.perf_counter() - start) / max(1, prompt + 16 * reply)
    rate = rates(gemma.digest, str(gemma.device), gemma.dtype)
    rate.prompt, rate.reply = each, 15 * each
