"""The policy file: strict YAML, checked by pydantic; faults become one sentence that names the place and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    Field,
    SerializeAsAny,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from safety_kit import strict_yaml
from safety_kit.catalogue import (
    invisible_categories,
    language_categories,
    pii_categories,
    secret_categories,
    url_categories,
)
from safety_kit.check_options import (
    InstalledOptions,
    InvisibleOptions,
    JsonOptions,
    JudgeOptions,
    LanguageOptions,
    LeakOptions,
    LengthOptions,
    PatternsOptions,
    PiiOptions,
    ProbeOptions,
    RefusalOptions,
    SecretsOptions,
    Strict,
    ToolsOptions,
    UrlsOptions,
)
from safety_kit.errors import PolicyError, UserError
from safety_kit.plugins import installed, plugin

Probability = Annotated[float, Field(strict=True, gt=0, lt=1, allow_inf_nan=False)]


_BuiltIn: TypeAlias = (
    ProbeOptions
    | PatternsOptions
    | PiiOptions
    | SecretsOptions
    | UrlsOptions
    | InvisibleOptions
    | LengthOptions
    | LanguageOptions
    | JsonOptions
    | ToolsOptions
    | LeakOptions
    | RefusalOptions
    | JudgeOptions
)
CheckOptions: TypeAlias = _BuiltIn | InstalledOptions

_BUILT_IN = frozenset(get_args(options.model_fields["type"].annotation)[0] for options in get_args(_BuiltIn))


def _or_installed(value: Any, built_in: ValidatorFunctionWrapHandler) -> Any:
    """Read a check's options; packages are looked through only for a type that is not the kit's own."""
    type_ = value.get("type") if isinstance(value, dict) else None
    if not isinstance(type_, str) or type_ in _BUILT_IN or (brought := plugin(type_)) is None:
        return built_in(value)
    return brought.options.model_validate(value)


class ReplaceForm(Strict):
    """Redact with a fixed text."""

    replace: str


FormName = Literal["mask", "hash", "pseudonymise"]


class RuleOptions(Strict):
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


class BudgetOptions(Strict):
    """What all probes of the policy together may cost; it takes the place of their blocking rules' rates.

    `blocked_harmless` is the share of harmless texts that may be blocked by mistake at a stage: all categories and
    windows together.
    """

    blocked_harmless: Probability


class ExampleOptions(Strict):
    """A text and what shall be done about it; `safety-kit policy test` runs them.

    `category`, or a family such as `pii.*`, must then be among what was found. `prompt` is the message that an output
    answers.
    """

    text: str
    stage: Literal["input", "output"] = "input"
    expect: Literal["allow", "flag", "redact", "block"]
    category: str | None = Field(default=None, min_length=1)
    prompt: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ExampleOptions:
        if self.category is not None and self.expect == "allow":
            raise ValueError("nothing is found in a text that is allowed; remove category, or expect an action")
        return self


class PolicyFile(Strict):
    """The whole file."""

    version: Literal[1]
    name: str = Field(min_length=1)
    on_error: Literal["block", "flag"] = "block"
    uncheckable: Literal["block", "flag", "allow"] = Field(
        default="block", description="What is done about parts that are no text: images, audio, files, unknown types."
    )
    checks: dict[
        str, SerializeAsAny[Annotated[_BuiltIn, Field(discriminator="type"), WrapValidator(_or_installed)]]
    ] = Field(min_length=1)
    rules: tuple[RuleOptions, ...] = Field(min_length=1)
    views: bool = Field(
        default=True, strict=True, description="Also read what a text hides: in other letters, invisible, encoded."
    )
    messages: dict[str, str] = Field(default_factory=dict)
    budget: BudgetOptions | None = None
    calibration: str | None = Field(
        default=None, min_length=1, description="What `safety-kit calibrate` writes, relative to this file."
    )
    examples: tuple[ExampleOptions, ...] = Field(default=(), description="What `safety-kit policy test` runs.")


def read(text: str) -> PolicyFile:
    """Parse and check a policy file.

    Raises:
        PolicyError: With the place and the remedy.
    """
    try:
        content = strict_yaml.parse(text)
    except UserError as error:
        raise PolicyError(str(error)) from error
    if not isinstance(content, dict):
        raise PolicyError("A policy is a mapping with version, name, checks and rules; see data/policies/default.yaml.")
    try:
        file = PolicyFile.model_validate(content)
    except ValidationError as error:
        raise PolicyError(_sentence(error)) from error
    _check_rules(file)
    return file


def _sentence(error: ValidationError) -> str:
    fault = strict_yaml.first_fault(error)
    loc = list(fault["loc"])
    if loc[:1] == ["checks"] and len(loc) > 2 and loc[2] in _BUILT_IN:
        del loc[2]  # pydantic's tag of the union
    if "form" in loc:
        loc = loc[: loc.index("form") + 1]
    place = strict_yaml.place_of(loc, "policy")
    match fault["type"]:
        case "union_tag_invalid":
            known = ", ".join([*sorted(_BUILT_IN), *sorted(installed().keys() - _BUILT_IN)])
            return f"{place}.type: unknown check type; use one of {known}."
        case "union_tag_not_found":
            return f"{place}.type: is missing."
        case "extra_forbidden" | "missing" | "string_type" | "value_error":
            return f"{place}: {strict_yaml.remedy(fault)}"
        case _ if "form" in loc:
            return f"{place}: use mask, hash, pseudonymise or {{replace: 'text'}}."
        case _ if loc[-1:] in (["threshold"], ["max_fpr"], ["blocked_harmless"]):
            return f"{place}: use a number between 0 and 1, both excluded."
        case _:
            return f"{place}: {strict_yaml.remedy(fault)}"


def given_by(name: str, options: CheckOptions) -> frozenset[str] | None:
    """Categories that a check gives; None where only the artifact's folder knows."""
    match options:
        case ProbeOptions():
            return None if options.is_folder else frozenset({options.artifact})
        case PatternsOptions() | LengthOptions() | JudgeOptions():
            return frozenset({options.category or name})
        case PiiOptions():
            return pii_categories(options.countries)
        case SecretsOptions():
            return secret_categories()
        case UrlsOptions():
            return url_categories()
        case InvisibleOptions():
            return invisible_categories()
        case LanguageOptions():
            return language_categories()
        case InstalledOptions():
            brought = plugin(options.type)
            return brought.categories(name, options) if brought else frozenset()
        case JsonOptions():
            return frozenset({"json.invalid"} | ({"json.schema"} if options.json_schema is not None else set()))
        case ToolsOptions():
            return frozenset({"tools.not_allowed", "tools.arguments"})
        case LeakOptions():
            return frozenset({"leak.canary", "leak.overlap"})
        case RefusalOptions():
            return frozenset({"refusal"})


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
        if rule.action == "redact":
            _check_spans(place, rule.category, file.checks, given)
        check_rule(place, rule.category, rule.action == "redact", rule.threshold, rule.max_fpr, probe, budgeted)
        for name, options in file.checks.items():
            if isinstance(options, JudgeOptions) and covers(rule.category, options.category or name):
                _check_judge_rule(place, rule, options)
            if isinstance(options, LengthOptions) and covers(rule.category, options.category or name):
                _check_length_rule(place, rule, name, options)
    for name, options in file.checks.items():
        others = {c for other, categories in given.items() if other != name for c in categories or ()}
        if isinstance(options, JudgeOptions) and (options.category or name) in others:
            raise PolicyError(f"checks.{name}: another check gives its category too; give the judge one of its own.")
    categories = {rule.category for rule in file.rules}
    for number, example in enumerate(file.examples):
        named = example.category
        if named and not any(covers(c, named) or covers(named, c) for c in categories):
            raise PolicyError(f"examples[{number}].category: no rule names {named!r}; correct it or remove it.")
    for key in file.messages:
        if key != "default" and not any(covers(category, key) for category in categories):
            raise PolicyError(f"messages.{key}: no rule names this category; correct the name or remove the message.")


def _check_spans(
    place: str, category: str, checks: Mapping[str, CheckOptions], given: Mapping[str, frozenset[str] | None]
) -> None:
    """Refuse to redact what a check cannot point at."""
    for name, options in checks.items():
        if not options.exact_spans and any(covers(category, found) for found in given[name] or ()):
            raise PolicyError(
                f"{place}.action: a {options.type} has no exact span to redact (checks.{name}); use flag or block for "
                f"{category!r}."
            )


def _check_judge_rule(place: str, rule: RuleOptions, options: JudgeOptions) -> None:
    """Refuse a rule that a judge cannot serve; whether its evidence suffices is for the guard to see."""
    if rule.category.endswith(".*"):
        raise PolicyError(f"{place}.category: name each judge's category by itself, not as {rule.category!r}.")
    if rule.threshold is None:
        raise PolicyError(f"{place}: a judge's category needs a threshold.")
    if rule.action == "block" and options.evidence is None:
        raise PolicyError(
            f"{place}.action: a judge without evidence may only flag; measure it with safety-kit judge --evidence FILE "
            "and name the file in the check."
        )


def _check_length_rule(place: str, rule: RuleOptions, name: str, options: LengthOptions) -> None:
    """Refuse a rule that never fires: a reply has no turns."""
    if "input" not in rule.stages and options.characters is None and options.tokens is None:
        raise PolicyError(f"{place}.stages: turns are counted at input alone (checks.{name}); name input.")


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
