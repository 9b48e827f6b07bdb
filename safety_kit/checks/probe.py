"""Taught categories: linear heads on the model's own activations, all from one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safety_kit import artifacts
from safety_kit.artifacts import Artifact
from safety_kit.check_options import ProbeOptions
from safety_kit.checks.base import Delta, Lookahead, StepResult
from safety_kit.data import classifiers_dir
from safety_kit.errors import ArtifactError, MissingArtifact, PolicyError
from safety_kit.gemma.trace import Capture
from safety_kit.golden import Tracer, check_models
from safety_kit.heads import Head, decision_score
from safety_kit.policy import Policy
from safety_kit.types import Finding, Sample, Stage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safety_kit.gemma.trace import TraceView

Features = Mapping[int, "NDArray[np.float32]"]


@dataclass(frozen=True, slots=True)
class Probe:
    """A head, the check of the policy that named it, and the stages at which it is read."""

    check: str
    head: Head
    stages: frozenset[Stage]


@dataclass(frozen=True, slots=True)
class _Run:
    """One head's stream: running totals of the token scores in its window, the oldest first."""

    totals: NDArray[np.float64]
    tokens: int = 0
    read: int = 0  # where the last reading ended


@dataclass(frozen=True, slots=True)
class _State:
    runs: tuple[_Run, ...]
    tokens: int = 0
    characters: int = 0
    cleared: int = 0


@dataclass(frozen=True, slots=True)
class _Window:
    """What is kept of one window: its tokens, and for each probe the highest reading and the token where it ends."""

    tokens: int
    readings: tuple[tuple[float, int], ...]


class ProbeCheck:
    """All probes of a guard; scores are calibrated probabilities at the sample's stage."""

    lookahead: Lookahead

    def __init__(self, probes: Sequence[Probe], gemma: Tracer) -> None:
        self.name = "probe"
        self.probes = tuple(probes)
        self.categories = frozenset(probe.head.category for probe in probes)
        self.capture: Capture | None = Capture(tuple(sorted({b for probe in probes for b in probe.head.blocks})))
        self._gemma = gemma
        self._streamed = tuple(probe for probe in probes if Stage.OUTPUT in probe.stages)
        # Given in tokens, which are a character each at the least.
        self.lookahead = 2 * max((probe.head.stride for probe in self._streamed), default=0)

    def run(self, samples: Sequence[Sample]) -> list[list[Finding]]:
        """Score each sample: by its own trace, or by one batched forward for those that have none.

        Of a window's activations the scores alone are kept: a text may have any number of them.
        """
        assert self.capture is not None
        unread = [i for i, sample in enumerate(samples) if sample.trace is None and sample.text]
        texts = [(samples[i].prompt, samples[i].text, samples[i].role) for i in unread]
        read: dict[int, list[_Window]] = {}
        if unread:
            made = self._gemma.read_texts(
                texts, self.capture, lambda number, view: self._window(view, samples[unread[number]].stage)
            )
            read = dict(zip(unread, made, strict=True))
        for i, sample in enumerate(samples):
            if sample.trace is not None:
                read[i] = [self._window(sample.trace, sample.stage)]
        return [
            self._worst([window for window in read.get(i, []) if window.tokens], sample.stage)
            for i, sample in enumerate(samples)
        ]

    def _window(self, view: TraceView, stage: Stage) -> _Window:
        probes = self._at(stage)
        if not len(view):
            return _Window(0, ())
        hidden = {b: _floats(view.hidden(b)) for b in sorted({b for probe in probes for b in probe.head.blocks})}
        features = _by_blocks(probes, hidden)
        heads = [probe.head for probe in probes]
        scores = [(head, head.token_scores(features[head.blocks])) for head in heads]
        return _Window(
            len(view),
            tuple(decision_score(own, head.bias, stage, head.window_at(stage), head.stride) for head, own in scores),
        )

    def _worst(self, windows: Sequence[_Window], stage: Stage) -> list[Finding]:
        findings = []
        for i, probe in enumerate(self._at(stage)) if windows else ():
            scores = [window.readings[i][0] for window in windows]
            number = int(np.argmax(scores))  # the first of equals; a NaN wins, and the guard refuses it
            score, end = windows[number].readings[i]
            which = f", window {number + 1} of {len(windows)}" if len(windows) > 1 else ""
            detail = f"highest reading ends at token {end} of {windows[number].tokens}{which}"
            findings.append(_finding(probe, score, stage, detail))
        return findings

    def _at(self, stage: Stage) -> list[Probe]:
        return [probe for probe in self.probes if stage in probe.stages]

    def start(self) -> _State:
        return _State(tuple(_Run(np.zeros(1)) for _ in self._streamed))

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        """Read the activations of new reply tokens.

        Raises:
            ValueError: Text came without activations.
        """
        characters = state.characters + len(new.text)
        features: dict[tuple[int, ...], NDArray[np.float32]] = {}
        if new.hidden is not None:
            features = _by_blocks(self._streamed, {b: _floats(values) for b, values in new.hidden.items()})
        elif new.text:
            raise ValueError("text came without activations")
        tokens = state.tokens + (len(next(iter(features.values()))) if features else 0)
        findings, runs = [], []
        for probe, run in zip(self._streamed, state.runs, strict=True):
            scores = probe.head.token_scores(features[probe.head.blocks]) if features else np.zeros(0, np.float32)
            run, found = _read_on(probe, run, scores, final)
            runs.append(run)
            findings += found
        read = min((run.read for run in runs), default=tokens)
        cleared: int = state.cleared
        if final or read == tokens:
            cleared = characters
        elif read >= state.tokens:  # a reading within these tokens clears what stood before them
            cleared = state.characters
        return _State(tuple(runs), tokens, characters, cleared), findings, cleared


def _read_on(probe: Probe, run: _Run, scores: NDArray[np.float32], final: bool) -> tuple[_Run, list[Finding]]:
    """The new totals, and a finding for each reading that ends in the new tokens."""
    head = probe.head
    totals = np.concatenate([run.totals, run.totals[-1] + np.cumsum(scores, dtype=np.float64)])
    tokens = run.tokens + len(scores)
    first = tokens - len(totals) + 1  # tokens before totals[0]
    ends = [end for end in range(run.tokens + 1, tokens + 1) if end >= 2 * head.stride and end % head.stride == 0]
    if final and tokens and (not ends or ends[-1] != tokens):
        ends.append(tokens)
    findings = []
    window = head.window_at(Stage.OUTPUT)
    for end in ends:
        begin = max(0, end - window)
        score = float(totals[end - first] - totals[begin - first]) / (end - begin) + head.bias
        findings.append(_finding(probe, score, Stage.OUTPUT, f"reading ends at token {end}"))
    return _Run(totals[-(window + 1) :], tokens, ends[-1] if ends else run.read), findings


def _finding(probe: Probe, score: float, stage: Stage, detail: str) -> Finding:
    probability = probe.head.probability(score, stage)
    return Finding(probe.check, probe.head.category, probability, "calibrated", (), detail)


def _floats(hidden: Any) -> NDArray[np.float32]:
    """A tensor of any float type, or an array, as float32."""
    if hasattr(hidden, "detach"):
        hidden = hidden.detach().float().cpu().numpy()
    return np.asarray(hidden, dtype=np.float32)


def _by_blocks(probes: Sequence[Probe], hidden: Features) -> dict[tuple[int, ...], NDArray[np.float32]]:
    return {
        blocks: np.concatenate([hidden[b] for b in blocks], axis=1)
        for blocks in {probe.head.blocks for probe in probes}
    }


def load_probes(
    policy: Policy, gemma: Tracer | None, folders: Mapping[str, Path]
) -> tuple[list[Probe], dict[str, Artifact]]:
    """The probes that a policy names, and their artifacts by check.

    Args:
        policy: The policy.
        gemma: The model whose activations are read.
        folders: Artifact folders by the policy's artifact names, before the kit's own.

    Raises:
        PolicyError: No model was given, or two checks give one category.
        MissingArtifact: A classifier was not taught for this model.
        ArtifactError: A folder cannot be read, was changed, or was taught on a model that reads texts differently.
    """
    options = {name: entry for name, entry in policy.checks.items() if isinstance(entry, ProbeOptions)}
    if not options:
        return [], {}
    if gemma is None:
        raise PolicyError(
            f"The policy {policy.name!r} has probes ({', '.join(options)}), which read a model: "
            "give the guard a Gemma, or remove them."
        )
    loaded = {name: _load(entry, policy, gemma, folders) for name, entry in options.items()}
    check_models(list(loaded.values()), gemma)
    probes: dict[str, Probe] = {}
    for name, artifact in loaded.items():
        for category, head in artifact.heads.items():
            stages = policy.stages_of(category)
            if not stages:
                continue
            if category in probes:
                raise PolicyError(f"checks.{name}: {category} is given by checks.{probes[category].check} already.")
            if missing := [str(stage) for stage in stages if stage not in head.calibration]:
                raise PolicyError(f"checks.{name}: {category} is not calibrated at {missing[0]}; teach it again.")
            probes[category] = Probe(name, head, stages)
    return list(probes.values()), loaded


def _load(options: ProbeOptions, policy: Policy, gemma: Tracer, folders: Mapping[str, Path]) -> Artifact:
    name = options.artifact
    if name in folders:
        folder = Path(folders[name])
    elif options.is_folder:
        folder = policy.folder / name
    else:
        folder = classifiers_dir(gemma.name, gemma.digest) / name
    if not (folder / "manifest.json").is_file():
        raise MissingArtifact(
            f"There is no classifier for {name!r} and the model {gemma.name}; "
            f"teach it with: safety-kit prepare --model {gemma.name}"
        )
    artifact = artifacts.load(folder)
    if artifact.manifest.reading != "causal":
        raise ArtifactError(
            f"The classifier in {folder} has the reading 'alone', which a guard cannot take from a running text; "
            "teach it with the causal reading."
        )
    return artifact
