"""`safety-kit policy`: check a policy, show it, and add a taught category to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from safety_kit import console
from safety_kit.commands import corpus, models, policy_diff, policy_examples, policy_explain
from safety_kit.commands.budget_tables import show_budgets
from safety_kit.commands.joint_rates import measured, show_joint
from safety_kit.commands.models import Json
from safety_kit.errors import ArtifactError, PolicyError
from safety_kit.types import Stage

if TYPE_CHECKING:
    from safety_kit.artifacts import Artifact
    from safety_kit.joint import Joint
    from safety_kit.policy import Policy, Rule
    from safety_kit.policy_schema import CheckOptions
    from safety_kit.thresholds import Resolved

app = typer.Typer(help="Check, show and extend policies.", no_args_is_help=True)

File = Annotated[str, typer.Argument(metavar="POLICY", help="A YAML file, or a shipped policy's name.")]


@app.command()
def validate(
    policy: File,
    on: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="ROWS", help="Harmless texts of yours, as for `scan`: count how many any rule blocks."
        ),
    ] = None,
    stage: Annotated[Stage, typer.Option("--stage", help="Of rows that name none.")] = Stage.INPUT,
    as_json: Json = False,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Check a policy.

    Exit 0 where it can be enforced as written, 2 with the place and the remedy where not. False-positive budgets must
    be supported by the classifiers' examples, or by the policy's calibration; of the kit's own classifiers those of
    the embedded Gemma are read. A model is loaded with --on only.
    """
    from dataclasses import asdict

    from safety_kit.check_options import JudgeOptions
    from safety_kit.policy import Policy, withholds

    read = Policy.load(policy)
    if any(isinstance(options, JudgeOptions) for options in read.checks.values()):
        from safety_kit.checks.judge import check_evidence

        check_evidence(read)
    budgets, joint = _budgets(read, _classifiers(read))
    if on is not None:
        joint += measured(corpus.read(on, stage), models.guard_for(policy, model, revision, device, dtype))
    withheld_by = withholds(read)
    if as_json:
        console.emit(
            {
                "valid": True,
                "name": read.name,
                "digest": read.digest,
                "budgets": [asdict(budget) for budget in budgets],
                "joint": [asdict(one) for one in joint],
                "withheld_by": withheld_by,
                "warnings": read.warnings,
            }
        )
    else:
        counts = f"{len(read.checks)} checks, {len(read.rules)} rules"
        print(console.safe(f"{read.name}: {counts}, digest {read.digest[:12]}"))
        show_budgets(read, budgets)
        show_joint(joint)
        if withheld_by:
            verb = "reads" if len(withheld_by) == 1 else "read"
            print(console.safe(f"A reply is withheld until its end, because {', '.join(withheld_by)} {verb} it whole."))
        for warning in read.warnings:
            console.note(f"warning: {warning}")
    return 0


@app.command()
def show(
    policy: File,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print the file: the start of one of your own.")] = False,
    as_json: Json = False,
) -> int:
    """Show what a policy looks for and what it does about it."""

    from safety_kit.data import shipped_policy
    from safety_kit.policy import Policy

    read = Policy.load(policy)
    if as_json:
        from dataclasses import asdict

        examples = [{**asdict(one), "expect": str(one.expect)} for one in read.examples]
        console.emit({**json.loads(read.content), "examples": examples, "digest": read.digest})
    elif as_yaml:
        path = shipped_policy(policy) or Path(policy)
        print(path.read_text(encoding="utf-8"), end="")
    else:
        _show(read)
    return 0


@app.command()
def schema() -> int:
    """Print the JSON Schema of policy files, for an editor."""
    from safety_kit.policy import Policy

    console.emit(Policy.json_schema())
    return 0


@app.command()
def add(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="The YAML file to extend.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A classifier folder that `train` wrote.")],
    category: Annotated[
        str | None, typer.Option("--category", help="One of its categories, where it has several.")
    ] = None,
    stage: Annotated[Stage | None, typer.Option("--stage", help="input or output; both by default.")] = None,
    action: Annotated[str, typer.Option("--action", help="block or flag.")] = "block",
    max_fpr: Annotated[
        float | None, typer.Option("--max-fpr", help="Share of harmless texts it may hit; 0.03 by default.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="Or: a probability above which it acts.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Add a taught category to a policy.

    A check and a rule are written into the file's own text; its comments stay.
    """
    from safety_kit.commands import policy_edit
    from safety_kit.data import data_dir, shipped_policy

    if max_fpr is not None and threshold is not None:
        raise PolicyError("Give --max-fpr or --threshold, not both.")
    if action not in ("block", "flag"):
        raise PolicyError("--action is block or flag.")
    if shipped_policy(str(policy)) or policy.resolve().is_relative_to(data_dir().resolve()):
        raise PolicyError(
            "A shipped policy stays as it is; start one of your own: "
            f"safety-kit policy new policy.yaml --template {policy.stem}"
        )
    artifact, name = _artifact(folder, category)
    stages = [stage] if stage else list(Stage)
    if threshold is None:
        max_fpr = 0.03 if max_fpr is None else max_fpr
        for at in stages:
            artifact.heads[name].threshold_for(max_fpr, at)  # refuses a rate that its examples cannot support
    policy_edit.add_probe(
        policy, folder, name, stages, cast("Literal['block', 'flag']", action), max_fpr=max_fpr, threshold=threshold
    )
    if as_json:
        console.emit({"policy": str(policy), "check": name, "stages": [at.value for at in stages]})
    else:
        print(console.safe(f'{policy}: {name} is checked now. Try: safety-kit check --policy {policy} "a text"'))
    return 0


app.command("test")(policy_examples.run)
app.command()(policy_diff.diff)
app.command()(policy_explain.explain)
app.command()(policy_examples.new)


def _classifiers(policy: Policy) -> dict[str, Artifact]:
    """The policy's classifiers by check; of the kit's own those of the embedded Gemma, where it has one."""
    from safety_kit import artifacts
    from safety_kit.check_options import ProbeOptions
    from safety_kit.data import classifiers_dir

    loaded = {}
    for name, options in policy.checks.items():
        if not isinstance(options, ProbeOptions):
            continue
        shipped = classifiers_dir("embedded", "") / options.artifact
        if options.is_folder:
            loaded[name] = artifacts.load(policy.folder / options.artifact)
        elif (shipped / "manifest.json").is_file():
            loaded[name] = artifacts.load(shipped)
        else:
            console.note(f"checks.{name}: the embedded Gemma has no classifier {options.artifact!r}; not looked into.")
    return loaded


def _budgets(policy: Policy, classifiers: dict[str, Artifact]) -> tuple[list[Resolved], list[Joint]]:
    """What every rate and the joint budget come to, and what the probes block together.

    Raises:
        PolicyError: One is not supported; all of these are named.
    """
    from safety_kit.errors import UserError

    if not classifiers:
        return [], []
    from safety_kit.joint import joint_rates
    from safety_kit.thresholds import Thresholds

    heads = {c: head for artifact in classifiers.values() for c, head in artifact.heads.items()}
    thresholds = Thresholds(policy, heads, {name: artifact.digest for name, artifact in classifiers.items()})
    found: list[Resolved] = []
    faults: list[str] = []
    for rule in policy.rules:
        if rule.category not in heads or (rule.max_fpr is None and not policy.budgets(rule, heads)):
            continue
        for stage in sorted(rule.stages):
            try:
                found.append(thresholds.of(rule.category, rule.max_fpr, stage))
            except UserError as error:
                faults.append(str(error))
    if faults:
        raise PolicyError("\n  ".join([f"{policy.name} has budgets that cannot be kept:", *faults]))
    return found, joint_rates(policy, heads, thresholds)


def _artifact(folder: Path, category: str | None) -> tuple[Artifact, str]:
    from safety_kit import artifacts

    artifact = artifacts.load(folder)
    taught = list(artifact.heads)
    if artifact.manifest.reading != "causal":
        raise ArtifactError(f"{folder} has the reading 'alone'; a guard needs one taught with --reading causal.")
    if category is None and len(taught) > 1:
        raise ArtifactError(f"{folder} has several categories; name one with --category: {', '.join(taught)}.")
    name = category or taught[0]
    if name not in taught:
        raise ArtifactError(f"{folder} does not score {name!r}; it has: {', '.join(taught)}.")
    return artifact, name


def _show(policy: Policy) -> None:
    checks = console.table("check", "type", "looks for", title=f"{policy.name} — a fault leads to: {policy.on_error}")
    for name, options in policy.checks.items():
        console.add_row(checks, name, options.type, _looks_for(name, options))
    rules = console.table("category", "at", "action", "when")
    for rule in policy.rules:
        console.add_row(rules, rule.category, ", ".join(sorted(rule.stages)), str(rule.action), _when(rule))
    if policy.budget is not None:
        console.add_row(rules, "all probes together", "each", "block", f"at most {policy.budget:.1%} of harmless texts")
    messages = console.table("message for", "text")
    for category, text in policy.messages.items():
        console.add_row(messages, category, text.strip())
    console.show(checks, rules, *([messages] if policy.messages else []))
    if policy.examples:
        print(f"{len(policy.examples)} examples: safety-kit policy test runs them.")


def _looks_for(name: str, options: CheckOptions) -> str:
    from safety_kit.check_options import (
        JsonOptions,
        JudgeOptions,
        LeakOptions,
        PatternsOptions,
        PiiOptions,
        ProbeOptions,
        RefusalOptions,
        SecretsOptions,
        ToolsOptions,
    )
    from safety_kit.policy_schema import given_by

    match options:
        case ProbeOptions():
            return f"the classifier {options.artifact}"
        case PatternsOptions():
            return f"{len(options.keywords)} keywords, {len(options.regexes)} regular expressions"
        case PiiOptions():
            return f"personal data; numbers of {', '.join(options.countries)}"
        case JudgeOptions():
            return f"what violates: {options.guideline.strip()}"
        case JsonOptions():
            return "what is no JSON" + (", or does not meet the schema" if options.json_schema is not None else "")
        case ToolsOptions():
            return f"calls of other tools than {', '.join(options.allow)}, and their arguments"
        case LeakOptions():
            return f"{options.words} words of the system prompt, and its canaries"
        case RefusalOptions():
            return "replies that begin with a refusal"
        case SecretsOptions():
            return "keys, tokens, passwords"
        case _:
            return ", ".join(sorted(given_by(name, options) or ()))


def _when(rule: Rule) -> str:
    form = f"as {rule.form.kind}" if str(rule.action) == "redact" else ""
    if rule.threshold is not None:
        return f"probability above {rule.threshold:g}"
    return f"at most {rule.max_fpr:.1%} of harmless texts" if rule.max_fpr is not None else form or "found"
