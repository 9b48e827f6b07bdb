"""Options of checks, as a policy states them: the base of all, the kit's own, and that of what a package brings."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from safety_kit.catalogue import COUNTRIES, LANGUAGES


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

    @property
    def reads_whole(self) -> bool:
        """Whether the check says nothing of a reply before its end."""
        return False


class InstalledOptions(Options):
    """Base of the options of a check that another package brings; `type` is to be a `Literal` of the type's name."""

    type: str


class ProbeOptions(Options):
    """A taught category: reads the model's activations.

    `artifact` is a bare name (the kit's own classifier for the model in use) or, with a slash or a dot, a folder
    relative to the policy file.
    """

    type: Literal["probe"]
    timeout_ms: Timeout = MODEL_TIMEOUT_MS
    artifact: str = Field(min_length=1)

    @property
    def is_folder(self) -> bool:
        return "/" in self.artifact or "." in self.artifact or "\\" in self.artifact


class PatternsOptions(Options):
    """Keywords and linear-time regular expressions (RE2 syntax).

    A regex match longer than `max_length` characters may be found in parts. With ``unbounded`` it is found whole, and
    a reply is withheld to its end.
    """

    exact_spans: ClassVar[bool] = True

    type: Literal["patterns"]
    category: str | None = None
    keywords: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = ()
    regexes: tuple[str, ...] = ()
    ignore_case: bool = True
    whole_words: bool = True
    max_length: Annotated[int, Field(ge=16, le=4096)] | Literal["unbounded"] = 128

    @property
    def reads_whole(self) -> bool:
        return self.max_length == "unbounded" and bool(self.regexes)

    @field_validator("regexes")
    @classmethod
    def _compile(cls, regexes: tuple[str, ...]) -> tuple[str, ...]:
        import re2

        quiet = re2.Options()
        quiet.log_errors = False
        for number, regex in enumerate(regexes):
            try:
                empty = re2.compile(regex, quiet).search("") is not None
            except (re2.error, UnicodeEncodeError) as error:
                raise ValueError(f"number {number} does not compile as RE2 (which has no look-around)") from error
            if empty:
                raise ValueError(f"number {number} matches the empty string; make it match at least one character")
        return regexes

    @model_validator(mode="after")
    def _something(self) -> PatternsOptions:
        if not self.keywords and not self.regexes:
            raise ValueError("name at least one keyword or regex")
        return self


class PiiOptions(Options):
    """Personal data: e-mail, phone, card, IBAN, IP …, and the identity numbers of the countries named."""

    exact_spans: ClassVar[bool] = True

    type: Literal["pii"]
    countries: tuple[Literal[tuple(COUNTRIES)], ...] = ("us", "uk")  # type: ignore[valid-type]


class SecretsOptions(Options):
    """API keys, tokens, private keys."""

    exact_spans: ClassVar[bool] = True

    type: Literal["secrets"]


class JudgeOptions(Options):
    """A Gemma that is asked whether a text violates a guideline, and says how probable Yes is.

    `model` is a hub id or a folder, perhaps beside the policy file; without it the guard's own model is asked.
    `evidence` is a file relative to the policy file, written by `safety-kit judge`; blocking needs it.
    """

    type: Literal["judge"]
    timeout_ms: Timeout = MODEL_TIMEOUT_MS
    guideline: str = Field(pattern=r"\S", max_length=4000)
    category: str | None = Field(default=None, min_length=1)
    model: str | None = Field(default=None, min_length=1)
    evidence: str | None = Field(default=None, min_length=1)

    @property
    def reads_whole(self) -> bool:
        return True


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
    """A text of more than so many `characters`, or `tokens` of the embedded Gemma's tokenizer.

    `turns` limits how many messages, of any role, a conversation that comes in may have.
    """

    type: Literal["length"]
    category: str | None = Field(default=None, min_length=1)
    characters: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)
    turns: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _something(self) -> LengthOptions:
        if self.characters is None and self.tokens is None and self.turns is None:
            raise ValueError("name a limit: characters, tokens or turns")
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


def _sound_schema(schema: dict[str, Any]) -> dict[str, Any]:
    from safety_kit.schemas import check_schema

    check_schema(schema)
    return schema


JsonSchema = Annotated[dict[str, Any], AfterValidator(_sound_schema)]


class JsonOptions(Options):
    """The text must be JSON, and meet a JSON Schema (draft 2020-12) where one is given; a reply is withheld whole.

    `fences` takes JSON inside a Markdown code fence too; `max_depth` is how deep arrays and objects may be nested.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["json"]
    json_schema: JsonSchema | None = Field(default=None, alias="schema")
    fences: bool = False
    max_depth: int = Field(default=64, ge=1, le=128)

    @property
    def reads_whole(self) -> bool:
        return True


class ToolsOptions(Options):
    """Tools that may be called: their names, each with the JSON Schema of its arguments, or nothing."""

    type: Literal["tools"]
    allow: dict[str, JsonSchema | None] = Field(min_length=1)


class LeakOptions(Options):
    """A reply that gives the system prompt away.

    `canaries` are strings of the prompt that belong in no reply; a reply overlaps with the prompt from `words` common
    words on.
    """

    exact_spans: ClassVar[bool] = True

    type: Literal["leak"]
    canaries: tuple[Annotated[str, Field(pattern=r"^[!-~]*$", min_length=8, max_length=64)], ...] = ()
    words: int = Field(default=12, ge=4, le=50)

    @field_validator("canaries")
    @classmethod
    def _long_enough(cls, canaries: tuple[str, ...]) -> tuple[str, ...]:
        for number, canary in enumerate(canaries):
            if sum(map(str.isalnum, canary)) < 8:
                raise ValueError(
                    f"number {number} has less than 8 letters and digits; see safety_kit.checks.leak.canary"
                )
        return canaries


class RefusalOptions(Options):
    """A reply that begins with a refusal, so that refusals can be counted."""

    type: Literal["refusal"]
