"""Options of checks: the base of all, that of what an installed package brings, and those of the newer text checks."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from safety_kit.catalogue import LANGUAGES


class Strict(BaseModel):
    """Refuses what it does not know: a misspelt option must not be a check that silently does less."""

    model_config = ConfigDict(extra="forbid", frozen=True)


DEFAULT_TIMEOUT_MS, MODEL_TIMEOUT_MS = 60_000, 600_000

Timeout = Annotated[int, Field(ge=1, le=86_400_000)]


class Options(Strict):
    """What every check's options have.

    `timeout_ms` is the time that the check may take for one text; one that takes longer has failed.
    """

    exact_spans: ClassVar[bool] = False
    """Whether its findings say exactly which characters they mean, so that a rule may redact them."""

    timeout_ms: Timeout = DEFAULT_TIMEOUT_MS


class InstalledOptions(Options):
    """Base of the options of a check that another package brings; `type` is to be a `Literal` of the type's name."""

    type: str


_HOST = re.compile(r"[^\s/\\:@?#%*\[\]]{1,253}|\[?[0-9a-f:.]{2,45}\]?", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+-]{1,30}")


def _host(host: str) -> str:
    host = host.strip().rstrip(".").casefold()
    if not _HOST.fullmatch(host):
        raise ValueError("name a host alone, such as example.com: no scheme, port, path or *; subdomains are included")
    return host


Host = Annotated[str, AfterValidator(_host)]


class UrlsOptions(Options):
    """Web addresses: hosts allowed or denied, look-alikes, credentials, raw IPs, schemes, exfiltration by images.

    A host means its subdomains too. With an `allow` list every other host is `urls.not_allowed`. Look-alikes are those
    of `protected` and of `allow`. An image from a host that is not allowed is `urls.exfiltration` when its query
    carries more than `max_image_data` characters.
    """

    exact_spans: ClassVar[bool] = True

    type: Literal["urls"]
    allow: tuple[Host, ...] = ()
    deny: tuple[Host, ...] = ()
    protected: tuple[Host, ...] = ()
    schemes: tuple[str, ...] = ("javascript", "vbscript", "data")
    max_image_data: int = Field(default=16, ge=0, le=2048)

    @field_validator("schemes")
    @classmethod
    def _schemes(cls, schemes: tuple[str, ...]) -> tuple[str, ...]:
        schemes = tuple(scheme.strip().lower().removesuffix(":") for scheme in schemes)
        for scheme in schemes:
            if not _SCHEME.fullmatch(scheme) or scheme in ("http", "https"):
                raise ValueError("name schemes such as javascript or file; for http and https use allow and deny")
        return schemes

    @model_validator(mode="after")
    def _apart(self) -> UrlsOptions:
        if both := sorted(set(self.allow) & set(self.deny)):
            raise ValueError(f"{both[0]} is in allow and in deny; remove it from one of them")
        return self


class InvisibleOptions(Options):
    """Characters that a reader does not see and a model does.

    Private-use characters are found from `private_use_run` in a row on: single ones are the icons of fonts.
    """

    exact_spans: ClassVar[bool] = True

    type: Literal["invisible"]
    private_use_run: int = Field(default=4, ge=1, le=64)


class LengthOptions(Options):
    """A text of more than so many `characters`, or `tokens` of the embedded Gemma's tokenizer."""

    type: Literal["length"]
    category: str | None = Field(default=None, min_length=1)
    characters: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _something(self) -> LengthOptions:
        if self.characters is None and self.tokens is None:
            raise ValueError("name a limit: characters or tokens")
        return self


class LanguageOptions(Options):
    """The languages that a text may be in, as ISO 639 codes.

    A text of fewer than `min_letters` letters is never found; one is `language.not_allowed` when another language has
    at least the share `confidence` of its probability and the allowed ones'.
    """

    type: Literal["language"]
    allow: tuple[str, ...] = Field(min_length=1)
    min_letters: int = Field(default=20, ge=5, le=200)
    confidence: float = Field(default=0.95, ge=0.5, lt=1)

    @field_validator("allow")
    @classmethod
    def _known(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        for code in codes:
            if code not in LANGUAGES:
                raise ValueError(f"{code!r} is not one of the {len(LANGUAGES)} languages known; use a code such as en")
        return codes
