"""The policy file: strict YAML, checked by pydantic; faults become one sentence that names the place and the remedy."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from safety_kit.catalogue import COUNTRIES, pii_categories, secret_categories
from safety_kit.errors import PolicyError

Probability = Annotated[float, Field(strict=True, gt=0, lt=1, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProbeOptions(_Strict):
    """A taught category: reads the model's activations.

    `artifact` is a bare name (the kit's own classifier for the model in use) or, with a slash or a dot, a folder
    relative to the policy file.
    """

    type: Literal["probe"]
    artifact: str = Field(min_length=1)

    @property
    def is_folder(self) -> bool:
        return "/" in self.artifact or "." in self.artifact or "\\" in self.artifact


class PatternsOptions(_Strict):
    """Keywords and linear-time regular expressions (RE2 syntax).

    A regex match longer than `max_length` characters may be found in parts.
    """

    type: Literal["patterns"]
    category: str | None = None
    keywords: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = ()
    regexes: tuple[str, ...] = ()
    ignore_case: bool = True
    whole_words: bool = True
    max_length: int = Field(default=128, ge=16, le=4096)

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


class PiiOptions(_Strict):
    """Personal data: e-mail, phone, card, IBAN, IP …, and the identity numbers of the countries named."""

    type: Literal["pii"]
    countries: tuple[Literal[tuple(COUNTRIES)], ...] = ("us", "uk")  # type: ignore[valid-type]


class SecretsOptions(_Strict):
    """API keys, tokens, private keys."""

    type: Literal["secrets"]


class JudgeOptions(_Strict):
    """A Gemma that is asked whether a text violates a guideline, and says how probable Yes is.

    `model` is a hub id or a folder, perhaps beside the policy file; without it the guard's own model is asked.
    `evidence` is a file relative to the policy file, written by `safety-kit judge`; blocking needs it.
    """

    type: Literal["judge"]
    guideline: str = Field(pattern=r"\S", max_length=4000)
    category: str | None = Field(default=None, min_length=1)
    model: str | None = Field(default=None, min_length=1)
    evidence: str | None = Field(default=None, min_length=1)


CheckOptions = Annotated[
    ProbeOptions | PatternsOptions | PiiOptions | SecretsOptions | JudgeOptions, Field(discriminator="type")
]


class ReplaceForm(_Strict):
    """Redact with a fixed text."""

    replace: str


FormName = Literal["mask", "hash", "pseudonymise"]


class RuleOptions(_Strict):
    """What is done about one category at some stages."""

    category: str = Field(min_length=1)
    stages: tuple[Literal["input", "output"], ...] = Field(default=("input", "output"), min_length=1)
    action: Literal["flag", "redact", "block"]
    threshold: Probability | None = None
    max_fpr: Probability | None = None
    form: FormName | ReplaceForm | None = None

    @model_validator(mode="after")
    def _consistent(self) -> RuleOptions:
        if self.form is not None and self.action != "redact":
            raise ValueError("a form belongs to a redact rule; remove it or set action: redact")
        return self


class BudgetOptions(_Strict):
    """What all probes of the policy together may cost; it takes the place of their blocking rules' rates.

    `blocked_harmless` is the share of harmless texts that may be blocked by mistake at a stage: all categories and
    windows together.
    """

    blocked_harmless: Probability


class PolicyFile(_Strict):
    """The whole file."""

    version: Literal[1]
    name: str = Field(min_length=1)
    on_error: Literal["block", "flag"] = "block"
    checks: dict[str, CheckOptions] = Field(min_length=1)
    rules: tuple[RuleOptions, ...] = Field(min_length=1)
    views: bool = Field(
        default=True, strict=True, description="Also read what a text hides: in other letters, invisible, encoded."
    )
    messages: dict[str, str] = Field(default_factory=dict)
    budget: BudgetOptions | None = None
    calibration: str | None = Field(
        default=None, min_length=1, description="What `safety-kit calibrate` writes, relative to this file."
    )


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                line = key.start_mark.line + 1
                raise PolicyError(f"line {line}: the key {key.value!r} is given twice; remove one of them.")
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(text: str) -> PolicyFile:
    """Parse and check a policy file.

    Raises:
        PolicyError: With the place and the remedy.
    """
    try:
        content = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise PolicyError(f"{place}this is no valid YAML ({problem}); correct it.") from error
    if not isinstance(content, dict):
        raise PolicyError("A policy is a mapping with version, name, checks and rules; see data/policies/default.yaml.")
    try:
        file = PolicyFile.model_validate(content)
    except ValidationError as error:
        raise PolicyError(_sentence(error)) from error
    _check_rules(file)
    return file


def _sentence(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    loc = list(fault["loc"])
    if loc[:1] == ["checks"] and len(loc) > 3:
        del loc[2]  # pydantic's tag of the union
    if "form" in loc:
        loc = loc[: loc.index("form") + 1]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".") or "policy"
    context = fault.get("ctx", {})
    match fault["type"]:
        case "extra_forbidden":
            return f"{place}: unknown key; correct its spelling or remove it."
        case "missing":
            return f"{place}: is missing."
        case "union_tag_invalid":
            return f"{place}.type: unknown check type; use one of {context['expected_tags']}."
        case "union_tag_not_found":
            return f"{place}.type: is missing."
        case "string_type":
            return f"{place}: must be a text; put it in quotes."
        case "literal_error" if loc[-1] != "form":
            return f"{place}: use {context['expected']}."
        case _ if "form" in loc:
            return f"{place}: use mask, hash, pseudonymise or {{replace: 'text'}}."
        case "value_error":
            return f"{place}: {context['error']}."
        case _ if loc[-1:] in (["threshold"], ["max_fpr"], ["blocked_harmless"]):
            return f"{place}: use a number between 0 and 1, both excluded."
        case _:
            return f"{place}: {fault['msg'][:1].lower()}{fault['msg'][1:]}."


def given_by(name: str, options: CheckOptions) -> frozenset[str] | None:
    """Categories that a check gives; None where only the artifact's folder knows."""
    match options:
        case ProbeOptions():
            return None if options.is_folder else frozenset({options.artifact})
        case PatternsOptions() | JudgeOptions():
            return frozenset({options.category or name})
        case PiiOptions():
            return pii_categories(options.countries)
        case SecretsOptions():
            return secret_categories()


def covers(pattern: str, category: str) -> bool:
    """Whether a rule's category names this one: `pii.*` names all that begin with `pii.`."""
    return category.startswith(pattern[:-1]) if pattern.endswith(".*") else pattern == category


def _check_rules(file: PolicyFile) -> None:
    given = {name: given_by(name, options) for name, options in file.checks.items()}
    for number, rule in enumerate(file.rules):
        exact = {c for categories in given.values() for c in categories or () if covers(rule.category, c)}
        probe = not exact or any(
            file.checks[name].type == "probe" and exact & (found or frozenset()) for name, found in given.items()
        )
        place = f"rules[{number}]"
        if not exact and None not in given.values():
            raise PolicyError(
                f"{place}.category: no check gives {rule.category!r}; add a check for it or correct the name."
            )
        budgeted = file.budget is not None and rule.action == "block"
        check_rule(place, rule.category, rule.action == "redact", rule.threshold, rule.max_fpr, probe, budgeted)
        for name, options in file.checks.items():
            if isinstance(options, JudgeOptions) and covers(rule.category, options.category or name):
                _check_judge_rule(place, rule, options)
    for name, options in file.checks.items():
        others = {c for other, categories in given.items() if other != name for c in categories or ()}
        if isinstance(options, JudgeOptions) and (options.category or name) in others:
            raise PolicyError(f"checks.{name}: another check gives its category too; give the judge one of its own.")
    categories = {rule.category for rule in file.rules}
    for key in file.messages:
        if key != "default" and not any(covers(category, key) for category in categories):
            raise PolicyError(f"messages.{key}: no rule names this category; correct the name or remove the message.")


def _check_judge_rule(place: str, rule: RuleOptions, options: JudgeOptions) -> None:
    """Refuse a rule that a judge cannot serve; whether its evidence suffices is for the guard to see."""
    if rule.category.endswith(".*"):
        raise PolicyError(f"{place}.category: name each judge's category by itself, not as {rule.category!r}.")
    if rule.action == "redact":
        raise PolicyError(f"{place}.action: a judge has no exact span to redact; use flag for {rule.category!r}.")
    if rule.threshold is None:
        raise PolicyError(f"{place}: a judge's category needs a threshold.")
    if rule.action == "block" and options.evidence is None:
        raise PolicyError(
            f"{place}.action: a judge without evidence may only flag; measure it with safety-kit judge --evidence FILE "
            "and name the file in the check."
        )


def check_rule(
    place: str,
    category: str,
    redact: bool,
    threshold: float | None,
    max_fpr: float | None,
    probe: bool,
    budgeted: bool = False,
) -> None:
    """Refuse a rule that does not fit what scores its category: a probe, or not.

    Raises:
        PolicyError: With the place and the remedy.
    """
    if not probe:
        if max_fpr is not None:
            raise PolicyError(f"{place}.max_fpr: only a probe's category has rates; remove it or use threshold.")
        return
    if category.endswith(".*"):
        raise PolicyError(f"{place}.category: name each probe's category by itself, not as {category!r}.")
    if redact:
        raise PolicyError(f"{place}.action: a probe has no exact span to redact; use flag or block for {category!r}.")
    if budgeted:
        if threshold is not None or max_fpr is not None:
            raise PolicyError(f"{place}: the policy's budget sets this rule's threshold; remove threshold and max_fpr.")
    elif (threshold is None) == (max_fpr is None):
        raise PolicyError(f"{place}: a probe's category needs exactly one of threshold and max_fpr.")
