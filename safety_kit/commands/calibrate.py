"""`safety-kit calibrate`: thresholds from the owner's own traffic, or what a classifier's examples support."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_kit import console
from safety_kit.commands import budget_tables, models, rows_options
from safety_kit.commands.inputs import STDIN, Row, read_rows
from safety_kit.errors import DataError, PolicyError, UserError
from safety_kit.types import Stage

if TYPE_CHECKING:
    from safety_kit.artifacts import Artifact
    from safety_kit.gemma import Gemma
    from safety_kit.heads import Head
    from safety_kit.policy import Policy
    from safety_kit.thresholds import Calibrated, Calibration
    from safety_kit.traffic import Scores


def calibrate(
    source: Annotated[str, typer.Argument(metavar="DIR|POLICY", help="A classifier folder, or a policy's YAML file.")],
    logs: Annotated[
        str | None,
        typer.Argument(
            metavar="[LOGS]",
            help='Your traffic, mostly harmless: rows {"text", "prompt"?, "stage"?} in JSONL, CSV or Parquet, or a hub '
            "data set hf:ORG/NAME@CONFIG:SPLIT.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="For a DIR: write the classifier with the log's scores there.")
    ] = None,
    stage: Annotated[Stage, typer.Option("--stage", help="Of rows that name none.")] = Stage.INPUT,
    nearest: Annotated[
        int, typer.Option("--nearest", min=0, help="Rows to list that are nearest to a threshold.")
    ] = 10,
    show: Annotated[bool, typer.Option("--show", help="Also show the texts of these rows.")] = False,
    text_column: rows_options.TextColumn = None,
    prompt_column: rows_options.PromptColumn = None,
    as_json: models.Json = False,
    model: models.Model = "embedded",
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Set thresholds by false-positive budget, from your own traffic.

    For a POLICY, writes the file that its `calibration` names. For a DIR, prints the threshold of each budget; without
    LOGS from the classifier's own held-out examples. Texts are never stored.
    """
    from safety_kit import artifacts

    folder = Path(source)
    taught = artifacts.load(folder) if (folder / "manifest.json").exists() else None
    if taught and logs is None:
        if out is not None:
            raise UserError("There is nothing to write without LOGS; name a file of your traffic, or leave --out.")
        return budget_tables.show_classifier(taught, taught.heads, "the calibration set", as_json)
    if logs is None:
        raise UserError("A policy is calibrated on a log; name a file of your traffic after it.")
    if taught and out is not None:
        artifacts.check_target(out)
    elif out is not None:
        raise UserError("--out is for a classifier folder; a policy names its file itself: calibration: FILE.")
    policy = None if taught else _policy(source)
    rows = read_rows(logs, rows_options.columns(text_column, prompt_column))
    digest = _digest(logs, rows)
    gemma = models.load(model, revision, device, dtype)
    if taught:
        return _folder(taught, gemma, rows, stage, digest, out, as_json)
    assert policy is not None
    return _calibrate_policy(policy, gemma, rows, stage, digest, nearest, show, as_json)


def _policy(source: str) -> Policy:
    from safety_kit.policy import Policy

    policy = Policy.load(source)
    if policy.budget is None and all(rule.max_fpr is None for rule in policy.rules):
        raise PolicyError(
            f"{source} has no budget to calibrate; give its probes max_fpr, or the policy budget: "
            "{blocked_harmless: 0.01}."
        )
    if policy.calibration is None:
        raise PolicyError(
            "The policy does not say where its calibration goes; add to its file: calibration: calibration.json"
            + (" (start one: safety-kit policy show default --yaml > policy.yaml)" if source == "default" else "")
        )
    return policy


def _folder(
    artifact: Artifact, gemma: Gemma, rows: list[Row], stage: Stage, digest: str, out: Path | None, as_json: bool
) -> int:
    from dataclasses import replace

    import numpy as np

    from safety_kit.checks.probe import Probe, ProbeCheck
    from safety_kit.errors import ArtifactError
    from safety_kit.traffic import MARGIN, read_log

    artifact.check_model(gemma.name, gemma.digest)
    if artifact.manifest.reading != "causal":
        raise ArtifactError(f"{artifact.path} has the reading 'alone'; only causal classifiers stand in a guard.")
    check = ProbeCheck([Probe(name, head, frozenset(head.calibration)) for name, head in artifact.heads.items()], gemma)
    samples = [row.sample(stage) for row in rows]
    scores = read_log(check, None, samples, _bar)
    heads: dict[str, Head] = {}
    for name, head in artifact.heads.items():
        own = {}
        for at, scale in head.calibration.items():
            logits = np.sort(scores.at(at, [name])[:, 0])
            logits = np.maximum(logits, -60.0)  # nothing to read: below all that can be read
            if len(logits):
                own[at] = ((logits + MARGIN - scale.intercept) / scale.slope).astype(np.float32)
        heads[name] = replace(head, negatives=own, lengths={})
    counted = {at: n for at in Stage if (n := sum(sample.stage is at for sample in samples))}
    if out is not None:
        _write(artifact, heads, counted, digest, out)
        console.note(f"{out}: the classifier, with the log's scores as its harmless examples")
    return budget_tables.show_classifier(artifact, heads, "the log's", as_json)


def _write(artifact: Artifact, heads: dict[str, Head], rows: dict[Stage, int], digest: str, out: Path) -> None:
    from safety_kit import artifacts

    tensors: dict[str, Any] = {}
    for name, head in heads.items():
        old = artifact.heads[name]
        tensors[f"weight.{name}"] = head.weight
        for at in old.negatives:  # a stage of which the log has no text keeps its own
            tensors[f"negatives.{at}.{name}"] = head.negatives.get(at, old.negatives[at])
            if at not in head.negatives and at in old.lengths:
                tensors[f"lengths.{at}.{name}"] = old.lengths[at]
    manifest = artifact.manifest.model_dump(exclude={"checksums"})
    manifest["traffic"] = {"log": digest, "date": _today(), "rows": rows}
    artifacts.save(out, manifest, tensors, (artifact.path / "card.md").read_text(encoding="utf-8"))


def _calibrate_policy(
    policy: Policy, gemma: Gemma, rows: list[Row], stage: Stage, digest: str, nearest: int, show: bool, as_json: bool
) -> int:
    from safety_kit import traffic
    from safety_kit.checks.probe import ProbeCheck, load_probes

    probes, loaded = load_probes(policy, gemma, {})
    samples = [row.sample(stage) for row in rows]
    if not probes:
        raise PolicyError("The policy has no probe; only probes have budgets.")
    scores = traffic.read_log(ProbeCheck(probes, gemma), policy, samples, _bar)
    heads = {probe.head.category: probe.head for probe in probes}
    made = calibration_of(policy, heads, {name: artifact.digest for name, artifact in loaded.items()}, scores, digest)
    thresholds = made.thresholds
    assert policy.calibration is not None
    made.save(policy.calibration)
    margins = traffic.margins(scores, thresholds)
    read = [i for i, (_, one) in enumerate(margins) if one is not None]
    near = sorted(sorted(read, key=lambda i: abs(margins[i][0]))[:nearest], key=lambda i: -margins[i][0])
    listed = [_near(rows[i], *margins[i]) | ({"text": rows[i].text} if show else {}) for i in near]
    above = sum(margin > 0 for margin, _ in margins)
    for at in {at for rule in policy.rules for at in rule.stages} - {one.stage for one in thresholds}:
        console.note(f"The log has no text at {at.value}: there the classifiers' own examples go on to decide.")
    if as_json:
        console.emit(
            {
                "calibration": str(policy.calibration),
                **made.model_dump(mode="json"),
                "rows": len(rows),
                "above": above,
                "nearest": listed,
            }
        )
        return 0
    budget_tables.show_thresholds(thresholds, policy)
    budget_tables.show_nearest(listed, show)
    print(f"{above} of {len(rows)} rows are above a threshold: look at them and at the nearest rows.")
    for line in budget_tables.contamination(thresholds, policy):
        print(line)
    print(console.safe(f"→ {policy.calibration}"))
    return 0


def calibration_of(
    policy: Policy, heads: Mapping[str, Head], artifacts: Mapping[str, str], scores: Scores, digest: str
) -> Calibration:
    """What a log's scores come to for a policy: the content of the file that its `calibration` names.

    Args:
        policy: The policy.
        heads: Its classifiers by category.
        artifacts: Their digests by check.
        scores: Of the log, by these.
        digest: SHA-256 of the log.

    Raises:
        DataError: The log has too few texts, or none at a stage that the policy is about.
    """
    from safety_kit import traffic
    from safety_kit.budget import CONFIDENCE
    from safety_kit.thresholds import Calibration

    thresholds = traffic.calibrate(policy, heads, scores)
    if not thresholds:
        raise DataError("The log has no text that a budget of the policy is about; see --stage.")
    return Calibration(
        log=digest,
        date=_today(),
        policy=policy.digest,
        budget=policy.budget,
        confidence=CONFIDENCE,
        artifacts=dict(artifacts),
        thresholds=tuple(thresholds),
        blocked=tuple(traffic.blocked(policy, scores, thresholds)),
    )


def _near(row: Row, margin: float, one: Calibrated | None) -> dict[str, Any]:
    import math

    assert one is not None
    logit = margin + math.log(one.threshold / (1 - one.threshold))
    return {
        "line": row.line,
        "stage": one.stage.value,
        "category": one.category,
        "score": round(1 / (1 + math.exp(-logit)), 6),
        "threshold": round(one.threshold, 6),
        "above": margin > 0,
    }


def _bar(batches: Sequence[int]) -> Any:
    from tqdm import tqdm

    return tqdm(batches, desc="scoring", unit="batch", file=sys.stderr, disable=None, leave=False)


def _digest(logs: str, rows: Sequence[Row]) -> str:
    """SHA-256 of a file; of what has no bytes of its own here (a hub data set, a pipe), of its rows."""
    path = Path(logs)
    if logs != STDIN and path.is_file():
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}); name another file.") from error
    read = [[row.text, row.prompt, row.stage] for row in rows]
    return hashlib.sha256(json.dumps(read).encode()).hexdigest()


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")
