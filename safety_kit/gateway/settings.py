"""What a gateway is told: one YAML file, then the environment, then the options of `safety-kit serve`."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from safety_kit import strict_yaml
from safety_kit.errors import UserError


class Section(BaseModel):
    """Strict, so that a misspelt setting is told and never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]


def like(pattern: str, hint: str) -> AfterValidator:
    """Holds a text against a pattern; `hint` is what to do about one that does not fit."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(hint)
        return value

    return AfterValidator(check)


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError("use an address or a network such as 10.0.0.0/8") from None


Network = Annotated[str, AfterValidator(_network)]
Rate = Annotated[
    str,
    like(r"[1-9]\d{0,8}/([1-9]\d{0,4} )?(second|minute|hour|day)s?", "use a rate such as 60/minute"),
]
Variable = Annotated[str, like(r"[A-Za-z_]\w*", "name an environment variable, such as UPSTREAM_KEY")]
Url = Annotated[str, like(r"https?://[^\s?#]+", "use a URL such as http://127.0.0.1:4318")]
Route = Annotated[str, like(r"/[A-Za-z0-9._/:-]*", "use a path such as /health")]
Host = Annotated[str, like(r"[A-Za-z0-9][A-Za-z0-9._-]*", "name a host without a port, such as gateway.example.com")]
Origin = Annotated[
    str,
    like(
        r"https?://[A-Za-z0-9.-]+(:\d{1,5})?",
        "name an origin such as https://chat.example.com (* would let every web page in)",
    ),
]


class Upstream(Section):
    """An OpenAI-compatible server that generates.

    Attributes:
        url: Its base, such as ``http://127.0.0.1:8000/v1``.
        api_key: What it is called with; an environment variable is better: ``api_key_env``. Loaded settings have here
            what that variable holds.
        pass_caller_key: The caller's own key goes on to it, in place of any other.
        retries: Of a call that failed before its first byte (429, 502, 503, 504, no connection).
    """

    url: str
    api_key: SecretStr | None = None
    api_key_env: Variable | None = None
    pass_caller_key: bool = False
    connect_timeout: Seconds = 5
    read_timeout: Seconds = 120
    retries: Annotated[int, Field(ge=0, le=10)] = 2


class Limits(Section):
    """What one caller, and all of them, may take.

    Attributes:
        rate: Such as ``60/minute``, for each key (or, without keys, each address); None: no limit.
        redis: Where the counts are kept, for several replicas; None: in memory. Or ``redis_env``, the environment
            variable that holds the URL.
        redis_failure: When Redis is gone: ``refuse`` (503) or ``local`` (each replica counts for itself).
        body: Bytes of a request.
        connections: Open at once, idle ones included; the next is closed.
        concurrent: Requests at once.
        waiting: Requests that may wait for the model; the next gets 503.
        header_timeout: Seconds that a client may take for its headers, and again for its body.
        keep_alive: Seconds that an idle connection stays open.
        reply_timeout: Seconds that a client may leave a reply unread before it is cut off.
        drain: Seconds that running requests get on SIGTERM.
    """

    rate: Rate | None = None
    redis: SecretStr | None = None
    redis_env: Variable | None = None
    redis_failure: Literal["refuse", "local"] = "refuse"
    body: Count = 4_000_000
    connections: Count = 1024
    concurrent: Count = 256
    waiting: Count = 512
    header_timeout: Seconds = 20
    keep_alive: Seconds = 5
    reply_timeout: Seconds = 60
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


class Logs(Section):
    """The logs, on stderr.

    Attributes:
        level: The least that is told.
        format: ``json`` for programs, ``text`` for people.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class Telemetry(Section):
    """Spans by OpenTelemetry.

    Attributes:
        endpoint: The OTLP/HTTP collector, such as ``http://127.0.0.1:4318``; None: no spans.
        sample: The share of requests that are traced.
    """

    endpoint: Url | None = None
    sample: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1


class Vertex(Section):
    """Vertex AI's custom container: where it asks.

    Attributes:
        health: ``AIP_HEALTH_ROUTE`` where that is set.
        predict: ``AIP_PREDICT_ROUTE`` where that is set.
    """

    health: Route = "/health"
    predict: Route = "/predict"


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
        hosts: More names that a gateway on loopback without keys may be called by; 127.0.0.1, localhost and [::1] are
            known. A request that names another gets 403: it may come from a web page.
        proxies: Addresses or networks of balancers whose ``X-Forwarded-For`` is believed; none by default.
        cors_origins: Origins whose web pages may call; none by default.
        blocked: A blocked reply is a ``completion`` with the policy's message, or an ``error`` (400).
        parallel: The upstream reads the prompt while it is checked; nothing is released before both are done.
        overload: What happens past what the guard's model can read: ``queue`` (wait, then 503), ``slow`` (streams
            wait for their checks) or ``refuse`` (503 at once).
        reload: Seconds between looks at the policy file and the file of keys; 0: never.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    policy: str = "default"
    shadow: str | None = None
    model: str = "embedded"
    upstream: Upstream | None = None
    keys: Path | None = None
    allow_anonymous: bool = False
    hosts: tuple[Host, ...] = ()
    proxies: tuple[Network, ...] = ()
    cors_origins: tuple[Origin, ...] = ()
    blocked: Literal["completion", "error"] = "completion"
    parallel: bool = False
    overload: Literal["queue", "slow", "refuse"] = "queue"
    reload: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2
    limits: Limits = Limits()
    audit: Audit = Audit()
    review: Review = Review()
    logs: Logs = Logs()
    telemetry: Telemetry = Telemetry()
    vertex: Vertex = Vertex()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.keys is None and not self.allow_anonymous and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} is not loopback and no keys are asked for; name a file of keys "
                "(safety-kit keys new), or set allow_anonymous: true"
            )
        if self.review.keep != "none" and self.review.folder is None:
            raise ValueError("review.keep needs review.folder; name a folder for the texts")
        return self

    @classmethod
    def load(cls, path: Path | None, overrides: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Settings:
        """Read a file; the environment comes before it, and `overrides` before both.

        Args:
            path: A YAML file; None: the defaults. Files that it names are relative to its folder.
            overrides: By dotted name, such as ``limits.rate``; one that is None says nothing.
            environ: Where the variables of Vertex and OpenTelemetry, and those that hold secrets, are looked up.

        Raises:
            UserError: With the file, the setting and what belongs there.
        """
        source = str(path) if path is not None else "settings"
        content = _read(path) if path is not None else {}
        for name, value in [*_from_environment(environ), *overrides.items()]:
            if value is not None:
                _put(content, name, value)
        try:
            settings = cls.model_validate(content)
        except ValidationError as error:
            raise UserError(f"{source}: {_sentence(error)}") from error
        try:
            return _with_secrets(settings, environ)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def beside(path: Path, policy: str) -> str:
    """A policy as the file at `path` names it: one with a path is looked for beside that file, a shipped one is not."""
    return str(path.parent / policy) if "/" in policy or policy.endswith((".yaml", ".yml")) else policy


_AIP = {"AIP_HTTP_PORT": "port", "AIP_HEALTH_ROUTE": "vertex.health", "AIP_PREDICT_ROUTE": "vertex.predict"}
_OTEL = {"OTEL_EXPORTER_OTLP_ENDPOINT": "telemetry.endpoint"}
_FILES = ("keys", "audit.file", "review.folder", "policy", "shadow")
_SECRETS = (("upstream", "api_key", "api_key_env"), ("limits", "redis", "redis_env"))


def _from_environment(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, environ[variable]) for variable, name in {**_AIP, **_OTEL}.items() if environ.get(variable)]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = strict_yaml.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a settings file that is there.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8; save it as such.") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{path}: must be a mapping: names with values below it.")
    for name in _FILES:
        _relative_to(path, content, name)
    return content


def _relative_to(path: Path, content: dict[str, Any], name: str) -> None:
    """Read the name of a file as one from beside the settings."""
    section, _, key = name.rpartition(".")
    where = content.get(section) if section else content
    value = where.get(key) if isinstance(where, dict) else None
    if not isinstance(where, dict) or not isinstance(value, str):
        return
    where[key] = beside(path, value) if name in ("policy", "shadow") else str(path.parent / value)


def _put(content: dict[str, Any], name: str, value: Any) -> None:
    *sections, key = name.split(".")
    where = content
    for section in sections:
        if not isinstance(where.get(section), dict):
            where[section] = {}
        where = where[section]
    where[key] = value


def _sentence(error: ValidationError) -> str:
    fault = strict_yaml.first_fault(error)
    place = f"{strict_yaml.place_of(fault['loc'], '')}: " if fault["loc"] else ""
    return place + strict_yaml.remedy(fault)


def _with_secrets(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Fill in what environment variables hold.

    Raises:
        UserError: A variable is not set, or the secret is given twice.
    """
    for section, secret, variable in _SECRETS:
        told = getattr(settings, section)
        named = getattr(told, variable) if told is not None else None
        if named is None:
            continue
        if getattr(told, secret) is not None:
            raise UserError(f"{section}: {secret} and {variable} are both given; remove one of them.")
        if not environ.get(named):
            raise UserError(f"{section}.{variable}: the environment variable {named} is not set; set it.")
        filled = told.model_copy(update={secret: SecretStr(environ[named])})
        settings = settings.model_copy(update={section: filled})
    return settings
