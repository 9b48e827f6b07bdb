"""What is wrong with labelled rows, by line: duplicates, leaks, contradictions, giveaways, likely label errors, PII.

An *error* makes a classifier or its figures wrong and fails the check; a *warning* is for a person to judge. No issue
quotes a text: places, numbers, and at most the single words that give a label away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from tqdm import tqdm

from classifiers.relations import Relations, relate
from classifiers.rows import Row, Rows, count, sha256
from safety_kit.catalogue import PII
from safety_kit.check_options import PiiOptions
from safety_kit.checks.base import build
from safety_kit.types import Sample

if TYPE_CHECKING:
    from safety_kit.gemma import Gemma

Severity: TypeAlias = Literal["error", "warning"]

KINDS = (
    "bad_row",
    "contradiction",
    "leakage",
    "one_sided",
    "duplicate",
    "near_duplicate",
    "shortcut",
    "label_error",
    "pii",
)
"""Kinds of issues, in the order of a report."""

FEW = 20
"""Rows of one label below which there is a warning; with less than half, no giveaway or label error is looked for."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong.

    Attributes:
        kind: One of `KINDS`.
        places: Lines (or rows) of the data, in order; empty where it is about all of them.
        detail: What it is, in words that quote no text.
        severity: error or warning.
    """

    kind: str
    places: tuple[int, ...]
    detail: str
    severity: Severity


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found.

    Attributes:
        name: The data's name.
        unit: What places count: line or row.
        rows: How many rows can be used.
        known: Which of them belong together; what `clean` works from.
        issues: By kind, then by place.
        notes: What was not looked for, and why.
    """

    name: str
    unit: str
    rows: int
    known: Relations
    issues: tuple[Issue, ...]
    notes: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[Issue, ...]:
        return tuple(issue for issue in self.issues if issue.severity == "error")

    @property
    def warnings(self) -> tuple[Issue, ...]:
        return tuple(issue for issue in self.issues if issue.severity == "warning")


def check(
    rows: Rows,
    against: Rows | None = None,
    *,
    category: str | None = None,
    gemma: Gemma | None = None,
    thorough: bool = True,
    progress: bool = False,
) -> Report:
    """Look for every kind of issue.

    Args:
        rows: What `read_rows` gave.
        against: The rows of a test that nothing taught from may be in.
        category: The only category to look at; None: all.
        gemma: Look for label errors with its activations instead of with words: a forward pass a text.
        thorough: False: only what counts as an error, with duplicates and near duplicates.
        progress: Show progress bars on stderr.

    Raises:
        DataError: No row can be used, or none has the category.
    """
    known = relate(rows, against, category=category, progress=progress)
    told, notes = giveaways(known, gemma, progress) if thorough else ([], [])
    issues = [
        *(Issue("bad_row", (place,), problem, "error") for place, problem in rows.bad.items()),
        *copies(known),
        *leakage(known),
        *one_sided(known),
        *told,
        *(personal_data(known, progress) if thorough else ()),
    ]
    if against is not None and against.bad:
        detail = f"{count(len(against.bad), 'row')} of {against.name} cannot be used and were not compared"
        issues.append(Issue("bad_row", (), detail, "warning"))
    issues.sort(key=lambda issue: (KINDS.index(issue.kind), issue.severity, issue.places))
    return Report(rows.name, rows.unit, len(rows.good), known, tuple(issues), tuple(notes))


def copies(known: Relations) -> list[Issue]:
    """Contradictions, and duplicates that are no leaks."""
    issues = []
    for group in known.same:
        places = known.places(group)
        if names := known.contradicting.get(group[0]):
            issues.append(Issue("contradiction", places, f"one text, labelled 0 and 1 for {', '.join(names)}", "error"))
        elif not any(i in known.leaks for i in group):
            issues.append(Issue("duplicate", places, f"one text {len(group)} times", "warning"))
    for group, least in known.near:
        rest = [i for i in group if i not in known.leaks]
        if len({known.rows[i].group for i in rest}) > 1:
            differ = any(len({known.labels[i].get(name) for i in rest} - {None}) > 1 for name in known.categories)
            detail = f"{len(rest)} texts that are nearly one (similarity from {least:.2f})"
            detail += "; their labels differ" if differ else ""
            issues.append(Issue("near_duplicate", known.places(rest), detail, "warning"))
    return issues


def leakage(known: Relations) -> list[Issue]:
    """Rows taught from that the test has too, and pairs of which a part is held out."""
    issues = []
    for i, (where, alike) in known.leaks.items():
        nearly = "" if alike == 1 else f"nearly (similarity {alike:.2f}) "
        issues.append(Issue("leakage", known.places([i]), f"taught from, and {nearly}also {where}", "error"))
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(known.rows):
        if i not in known.leaks:
            groups.setdefault(row.group, []).append(i)
    for group in groups.values():
        if len({known.rows[i].held_out for i in group}) > 1:
            detail = "rows of one pair, or of one text, of which some are taught from and some held out"
            issues.append(Issue("leakage", known.places(group), detail, "warning"))
    return issues


def one_sided(known: Relations) -> list[Issue]:
    """Categories without rows of one label, or with few, among the rows taught from and among those held out."""
    issues = []
    for name in known.categories:
        for held_out in (False, True):
            rows = [i for i, row in enumerate(known.rows) if row.held_out == held_out and name in known.labels[i]]
            tally = Counter(known.labels[i][name] for i in rows)
            if held_out and not rows:
                continue
            for label in (0, 1):
                where = "held out" if held_out else "to teach from"
                if tally[label] == 0:
                    issues.append(Issue("one_sided", (), f"{name}: no row of label {label} {where}", "error"))
                elif tally[label] < FEW:
                    detail = f"{name}: only {count(tally[label], 'row')} of label {label} {where}, fewer than {FEW}"
                    issues.append(Issue("one_sided", (), detail, "warning"))
    return issues


def giveaways(known: Relations, gemma: Gemma | None = None, progress: bool = False) -> tuple[list[Issue], list[str]]:
    """Single properties and words that tell the label alone, and labels that the other rows speak against.

    Also says which of it was not looked for, and why.
    """
    from sklearn.metrics import roc_auc_score

    from classifiers import labelcheck
    from classifiers.heads import make_folds
    from classifiers.shortcuts import find_shortcuts

    once = known.once()
    texts = [(known.rows[i].prompt, known.rows[i].text) for i in once]
    features = None
    if gemma and once:
        from classifiers.transformer import GemmaFeatures

        features = GemmaFeatures(gemma, progress=progress).fit_transform(texts)
    issues, notes = [], []
    for name in known.categories:
        at = [n for n, i in enumerate(once) if name in known.labels[i]]
        rows = [once[n] for n in at]
        y = np.array([int(known.labels[i][name]) for i in rows], dtype=np.int64)
        groups = [known.together[i] for i in rows]
        if min(len({g for g, label in zip(groups, y, strict=True) if label == one}) for one in (0, 1)) < FEW // 2:
            notes.append(
                f"{name}: fewer than {FEW // 2} different texts of one label; neither giveaways nor label errors "
                "were looked for"
            )
            continue
        folds = make_folds(y, groups, 5, seed=0)
        words = [known.rows[i].text for i in rows]
        for told in find_shortcuts(words, _columns([known.rows[i] for i in rows]), y, folds):
            values = ", ".join(f"{_shown(value)} ({ones} of {n} rows have label 1)" for value, ones, n in told.values)
            detail = (
                f"{name}: {_shown(told.name)} alone tells the label, AUROC {told.auroc:.2f} on rows held out: {values}"
            )
            issues.append(Issue("shortcut", known.places(rows[row] for row in told.rows), detail, "warning"))
        if features is None:
            both = [f"{texts[n][0] or ''}\n{texts[n][1]}" for n in at]
            scores = labelcheck.word_scores(both, y, folds)
        else:
            scores = labelcheck.feature_scores(features[at], y, folds)
        quality = float(roc_auc_score(y, scores))
        if quality < labelcheck.KNOWS:
            how = "words" if features is None else "the model's activations"
            notes.append(
                f"{name}: {how} rank held-out rows with AUROC {quality:.2f}, too little to doubt a label "
                f"(from {labelcheck.KNOWS}); likely label errors were not looked for"
            )
            continue
        for row, sure in labelcheck.likely_errors(y, scores):
            detail = f"{name}: labelled {y[row]}, but the other rows speak for {1 - y[row]} ({sure:.2f})"
            issues.append(Issue("label_error", known.places([rows[row]]), detail, "warning"))
    return issues, notes


def _shown(value: str) -> str:
    """A word or a column's value; of one that may be a text, its digest only."""
    return value if len(value) <= 24 and value.isprintable() else f"sha256 {sha256(value)[:8]}"


def _columns(rows: Sequence[Row]) -> dict[str, list[str | None]]:
    names = dict.fromkeys(name for row in rows for name in row.slices)
    columns: dict[str, list[str | None]] = {name: [row.slices.get(name) for row in rows] for name in names}
    return {**columns, "prompt": ["there" if row.prompt else None for row in rows]}


def personal_data(known: Relations, progress: bool = False) -> list[Issue]:
    """What the kit's own `pii` check finds in texts and prompts, by category and never by value."""
    wanted = frozenset(f"pii.{kind}" for kind in PII)
    finder = build("pii", PiiOptions(type="pii"), wanted)
    issues = []
    for i, row in enumerate(tqdm(known.rows, desc="pii", unit="row", disable=None if progress else True, leave=False)):
        found = finder.run([Sample(text) for text in (row.text, row.prompt) if text])
        if names := sorted({finding.category for findings in found for finding in findings}):
            issues.append(Issue("pii", known.places([i]), ", ".join(names), "warning"))
    return issues
