"""What a gateway is told: one YAML file, overridden by the options of `safety-kit serve`."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator


class Section(BaseModel):
    """Strict, so that a misspelt setting is told and never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(gt=0)]


class Upstream(Section):
    """An OpenAI-compatible server that generates.

    Attributes:
        url: Its base, such as ``http://127.0.0.1:8000/v1``.
        api_key: What it is called with; an environment variable is better: ``api_key_env``.
        pass_caller_key: The caller's own key goes on to it, in place of any other.
        retries: Of a call that failed before its first byte (429, 502, 503, 504, no connection).
    """

    url: str
    api_key: SecretStr | None = None
    api_key_env: str | None = None
    pass_caller_key: bool = False
    connect_timeout: Seconds = 5
    read_timeout: Seconds = 120
    retries: Annotated[int, Field(ge=0, le=10)] = 2


class Limits(Section):
    """What one caller, and all of them, may take.

    Attributes:
        rate: Such as ``60/minute``, for each key (or, without keys, each address); None: no limit.
        redis: Where the counts are kept, for several replicas; None: in memory.
        body: Bytes of a request.
        concurrent: Requests at once.
        waiting: Requests that may wait for the model; the next gets 503.
        header_timeout: Seconds that a client may take for its headers and body.
        drain: Seconds that running requests get on SIGTERM.
    """

    rate: str | None = None
    redis: str | None = None
    body: Count = 4_000_000
    concurrent: Count = 256
    waiting: Count = 512
    header_timeout: Seconds = 20
    drain: Seconds = 30


class Audit(Section):
    """The audit log.

    Attributes:
        file: Where it is written, a ``.jsonl`` file; None: nowhere. ``{host}`` in it stands for the machine's name.
        fsync: ``always`` (after each line), ``second`` (once a second) or ``never``.
        max_bytes: A file that reaches this is rotated; the chain goes on in the next.
        required: A request whose line cannot be written is answered with 503, not passed on.
        key: File with the key of its digests, made where there is none; None: beside the log, ending in ``.key``.
    """

    file: Path | None = None
    fsync: Literal["always", "second", "never"] = "second"
    max_bytes: Count = 100_000_000
    required: bool = True
    key: Path | None = None

    @field_validator("file")
    @classmethod
    def _is_jsonl(cls, file: Path | None) -> Path | None:
        if file is not None and file.suffix != ".jsonl":
            raise ValueError("name a .jsonl file")
        return file

    @property
    def path(self) -> Path | None:
        """The file on this machine."""
        return None if self.file is None else Path(str(self.file).replace("{host}", socket.gethostname()))


class Review(Section):
    """The review store: texts for the people who improve the guard.

    Attributes:
        keep: Which requests' texts are kept: ``blocked``, or ``flagged`` and everything stronger.
        folder: Where, private to its owner; needed for anything but ``none``.
        days: After so many they are deleted.
        unredacted: Keep texts even where no policy says, by a `pii` check, what personal data is to be masked.
    """

    keep: Literal["flagged", "blocked", "none"] = "none"
    folder: Path | None = None
    days: Count = 30
    unredacted: bool = False

    @model_validator(mode="after")
    def _has_a_folder(self) -> Review:
        if self.keep != "none" and self.folder is None:
            raise ValueError("review.folder says where the texts are kept; name one, or set keep: none")
        return self


class Settings(Section):
    """All of a gateway.

    Attributes:
        host, port: Where it listens.
        policy: Name or file of the policy.
        shadow: A second policy, judged and counted, not enforced.
        model: The Gemma that generates (without an upstream) and that the guard reads.
        upstream: Who generates instead.
        keys: File of API keys (hashed); None: none is asked for.
        allow_anonymous: Listen beyond loopback without keys.
        blocked: A blocked reply is a ``completion`` with the policy's message, or an ``error`` (400).
        parallel: The upstream reads the prompt while it is checked; nothing is released before both are done.
        overload: What happens past what the guard's model can read: ``queue`` (wait, then 503), ``slow`` (streams
            wait for their checks) or ``refuse`` (503 at once).
        reload: Seconds between looks at the policy file; 0: never.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    policy: str = "default"
    shadow: str | None = None
    model: str = "embedded"
    upstream: Upstream | None = None
    keys: Path | None = None
    allow_anonymous: bool = False
    blocked: Literal["completion", "error"] = "completion"
    parallel: bool = False
    overload: Literal["queue", "slow", "refuse"] = "queue"
    reload: Annotated[float, Field(ge=0)] = 2
    limits: Limits = Limits()
    audit: Audit = Audit()
    review: Review = Review()
