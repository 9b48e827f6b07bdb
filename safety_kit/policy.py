"""A policy: which checks are made, and what is done about what they find."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from safety_kit.check_options import JudgeOptions, ProbeOptions
from safety_kit.contradictions import never_decides, refuse_contradictions
from safety_kit.data import policy_names, shipped_policy
from safety_kit.errors import PolicyError
from safety_kit.policy_schema import CheckOptions, PolicyFile, RuleOptions, check_rule, covers, given_by, read
from safety_kit.types import Action, Finding, Stage

FormKind: TypeAlias = Literal["mask", "hash", "pseudonymise", "replace"]

DEFAULT_MESSAGE = "This text was withheld by the safety policy."


@dataclass(frozen=True, slots=True)
class Form:
    """How a redacted span is written: `text` is the replacement of the kind ``replace``."""

    kind: FormKind = "mask"
    text: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done about one category at some stages.

    Attributes:
        category: A category, or a family such as ``pii.*``.
        stages: Where the rule holds.
        action: What is done.
        threshold: In (0, 1): the rule fires above it. None: any finding fires, unless `max_fpr` is set.
        max_fpr: In (0, 1): the false-positive rate that a guard turns into a threshold.
        form: How a redact rule writes.
    """

    category: str
    stages: frozenset[Stage]
    action: Action
    threshold: float | None = None
    max_fpr: float | None = None
    form: Form = Form()

    def fires(self, finding: Finding, stage: Stage) -> bool:
        """Whether this finding at this stage sets the rule off."""
        if stage not in self.stages or not covers(self.category, finding.category):
            return False
        if self.max_fpr is not None and self.threshold is None:
            raise PolicyError(f"The rule for {self.category} has no threshold yet; a Guard resolves max_fpr.")
        return self.threshold is None or finding.score_kind == "rule" or finding.score > self.threshold


@dataclass(frozen=True, slots=True)
class Example:
    """A text of which the policy's owner says what shall be done.

    Attributes:
        text: The text.
        stage: Where it stands.
        expect: The verdict's action.
        category: What must be found, or a family such as ``pii.*``; None where that does not matter.
        prompt: The message that an output answers.
    """

    text: str
    stage: Stage
    expect: Action
    category: str | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class Policy:
    """A validated policy.

    Attributes:
        name: Its name.
        on_error: What a fault does; FLAG or BLOCK.
        checks: Options of each check, by its name.
        rules: In the file's order.
        messages: Shown instead of a blocked text, by category; ``default`` for the others.
        folder: What artifact folders are relative to.
        content: The file as canonical JSON, comments and order of keys left out.
        budget: In (0, 1): the share of harmless texts that all probes together may block at one stage; None: each rule
            has a rate or a threshold of its own.
        calibration: What `safety-kit calibrate` writes the thresholds to.
        uncheckable: What is done about a part of a conversation that no check can read; ALLOW, FLAG or BLOCK.
        examples: Texts and what is expected; they change nothing that is enforced, so no digest covers them.
        views: Whether checks also read what a text hides: in other letters, invisible, encoded.
    """

    name: str
    on_error: Action
    checks: Mapping[str, CheckOptions]
    rules: tuple[Rule, ...]
    messages: Mapping[str, str]
    folder: Path
    content: str
    budget: float | None = None
    calibration: Path | None = None
    uncheckable: Action = Action.BLOCK
    examples: tuple[Example, ...] = ()
    views: bool = True

    @classmethod
    def load(cls, source: Path | str = "default") -> Policy:
        """Read a policy from a file, or a shipped one by its name: ``default``, ``strict`` and so on.

        Raises:
            PolicyError: The file is missing, unreadable or not a valid policy.
        """
        path = (shipped_policy(source) if isinstance(source, str) else None) or Path(source)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise PolicyError(
                f"The policy {path} cannot be read; name a YAML file, or a shipped policy: {', '.join(policy_names())}."
            ) from error
        try:
            return cls.parse(text, path.parent)
        except PolicyError as error:
            raise PolicyError(f"{path}: {error}") from error

    @classmethod
    def parse(cls, text: str, folder: Path | str = ".") -> Policy:
        """Read a policy from YAML text.

        Args:
            text: The YAML.
            folder: What artifact folders are relative to.

        Raises:
            PolicyError: In one or two sentences with the place and the remedy.
        """
        file = read(text)
        rules = tuple(_rule(options) for options in file.rules)
        refuse_contradictions(rules)
        return cls(
            name=file.name,
            on_error=Action[file.on_error.upper()],
            checks=dict(file.checks),
            rules=rules,
            messages=dict(file.messages),
            folder=Path(folder),
            content=_canonical(
                {
                    key: value
                    for key, value in file.model_dump(mode="json", exclude={"examples"}).items()
                    if value is not None and (key, value) != ("views", True)  # as where a file does not name them
                }
            ),
            budget=file.budget.blocked_harmless if file.budget else None,
            calibration=Path(folder) / file.calibration if file.calibration else None,
            uncheckable=Action[file.uncheckable.upper()],
            examples=tuple(
                Example(entry.text, Stage(entry.stage), Action[entry.expect.upper()], entry.category, entry.prompt)
                for entry in file.examples
            ),
            views=file.views,
        )

    @staticmethod
    def json_schema() -> dict[str, Any]:
        """JSON Schema of the file, for editors."""
        return PolicyFile.model_json_schema()

    @property
    def warnings(self) -> list[str]:
        """What may be enforced as written, but can hardly be meant: rules that never decide."""
        return never_decides(self.rules, self.budget is not None)

    @property
    def needs_model(self) -> bool:
        """Whether its guard wants a Gemma: for probes, or for judges that name no model of their own."""
        return any(
            isinstance(options, ProbeOptions) or (isinstance(options, JudgeOptions) and options.model is None)
            for options in self.checks.values()
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the content alone; a verdict carries `digest_with`'s."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    def digest_with(self, artifacts: Mapping[str, str]) -> str:
        """SHA-256 over the content, the artifacts' digests by check, and the rules' resolved thresholds."""
        thresholds = [[rule.category, sorted(rule.stages), rule.threshold] for rule in self.rules]
        return hashlib.sha256(_canonical([self.content, dict(artifacts), thresholds]).encode()).hexdigest()

    def resolved(
        self, threshold_for: Callable[[str, float | None, Stage], float], probed: Collection[str] = ()
    ) -> Policy:
        """The same policy with a threshold for every `max_fpr` and every rule under the budget, a rule a stage.

        Args:
            threshold_for: Category, rate (None: the budget's), stage → probability.
            probed: The categories of probes.
        """
        rules: list[Rule] = []
        for rule in self.rules:
            if rule.max_fpr is None and not self.budgets(rule, probed):
                rules.append(rule)
                continue
            for stage in sorted(rule.stages):
                threshold = threshold_for(rule.category, rule.max_fpr, stage)
                rules.append(replace(rule, stages=frozenset({stage}), threshold=threshold))
        return replace(self, rules=tuple(rules))

    def budgets(self, rule: Rule, probed: Collection[str]) -> bool:
        """Whether the policy's budget sets the threshold of this rule: it blocks on a probe's category."""
        return self.budget is not None and rule.action is Action.BLOCK and rule.category in probed

    def check_categories(self, probed: frozenset[str]) -> None:
        """Refuse what the file alone could not tell: rules that the categories in artifact folders do not serve.

        Args:
            probed: The categories of the probes that were loaded.

        Raises:
            PolicyError: With the rule's place and the remedy.
        """
        others = {n: options for n, options in self.checks.items() if not isinstance(options, ProbeOptions)}
        given = {name: given_by(name, options) or frozenset() for name, options in others.items()}
        judged = {c for name, options in others.items() if isinstance(options, JudgeOptions) for c in given[name]}
        known = probed.union(*given.values())
        for number, rule in enumerate(self.rules):
            place = f"rules[{number}]"
            found = {category for category in known if covers(rule.category, category)}
            probe = bool(found & probed)
            if not found:
                raise PolicyError(
                    f"{place}.category: no check gives {rule.category!r}; correct the name or the artifact."
                )
            if probe and found & judged:
                raise PolicyError(f"{place}.category: a probe and a judge both give {rule.category!r}; rename one.")
            redact, budgeted = rule.action is Action.REDACT, self.budgets(rule, probed)
            check_rule(place, rule.category, redact, rule.threshold, rule.max_fpr, probe, budgeted)

    def stages_of(self, category: str) -> frozenset[Stage]:
        """Stages at which any rule asks for a category."""
        return frozenset(stage for rule in self.rules if covers(rule.category, category) for stage in rule.stages)

    def message_for(self, category: str) -> str | None:
        """A category's own message, else its narrowest family's; None where it shares the default."""
        keys = [key for key in self.messages if key != "default" and covers(key, category)]
        return self.messages[max(keys, key=lambda key: (not key.endswith(".*"), len(key)))] if keys else None

    def rule_for(self, finding: Finding, stage: Stage) -> Rule | None:
        """The strongest rule that a finding sets off; the first of equals."""
        return max((r for r in self.rules if r.fires(finding, stage)), key=lambda rule: rule.action, default=None)

    def decide(self, findings: Sequence[Finding], stage: Stage) -> tuple[Action, tuple[Finding, ...], Rule | None]:
        """What is done about a text: the strongest action, the findings that set off a rule, and the deciding rule."""
        fired = [(finding, rule) for finding in findings if (rule := self.rule_for(finding, stage))]
        strongest = max((rule for _, rule in fired), key=lambda rule: rule.action, default=None)
        return strongest.action if strongest else Action.ALLOW, tuple(f for f, _ in fired), strongest


def withholds(policy: Policy) -> list[str]:
    """Names of the checks that read a reply whole: with any of them, a stream gives nothing before its end."""
    return [
        name
        for name, options in policy.checks.items()
        if options.reads_whole
        and any(Stage.OUTPUT in policy.stages_of(category) for category in given_by(name, options) or ())
    ]


def _rule(options: RuleOptions) -> Rule:
    form = options.form or "mask"
    return Rule(
        options.category,
        frozenset(Stage(stage) for stage in options.stages),
        Action[options.action.upper()],
        options.threshold,
        options.max_fpr,
        Form(form) if isinstance(form, str) else Form("replace", form.replace),
    )


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
