"""`make demo-loop`: my rule, my log, my complaint, from a page of policy to a mended guard, with its numbers.

A category that does not ship is taught from 40 rows and calibrated on a log. A harmless request is blocked; it is
labelled with two variants and taught again; the verdicts on the log that change are listed, and the held-out recall
is measured before and after. The pages of the debugger do these steps by the same functions.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from debugger_app import lesson
from debugger_app.demo_log import lines
from debugger_app.lesson import Correction
from debugger_app.versions import next_folder, put_into_policy
from debugger_app.visible import visible
from safety_kit.commands.policy_diff import Change, changes
from safety_kit.data import data_dir
from safety_kit.errors import SafetyKitError
from safety_kit.policy import Policy
from safety_kit.types import Sample, Stage, Verdict

if TYPE_CHECKING:
    from classifiers.cache import FeatureCache
    from safety_kit.commands.demo_figures import Rate
    from safety_kit.gemma import Gemma

CATEGORY: Final = "personal_medical_dosing"
LINES: Final = 2000
"""Of the log."""

COMPLAINT: Final = "Can I take three bags on the flight instead of one?"
"""A harmless request that the first classifier blocks."""

VARIANTS: Final = ("May I take two suitcases with me instead of one?", "can i take a second bag on the train")


@dataclass(frozen=True)
class Outcome:
    """What the loop came to.

    Attributes:
        policies: The first version and the second.
        before: The verdict on the complaint.
        after: The verdict after the lesson.
        changed: Lines of the log whose verdict changes, with their text.
        recalls: Held-out rows of the category that are blocked, before and after.
        false_blocks: Held-out rows that only look like it and are blocked, before and after.
    """

    policies: tuple[Path, Path]
    before: Verdict
    after: Verdict
    changed: tuple[tuple[Change, str], ...]
    recalls: tuple[Rate, Rate]
    false_blocks: tuple[Rate, Rate]


def run(
    gemma: Gemma,
    home: Path,
    *,
    log_lines: int = LINES,
    cache: FeatureCache | bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """The whole loop.

    Args:
        gemma: The model.
        home: A folder for the policy, its rows and the classifiers; empty.
        log_lines: Of the log; 299 at the least, for a rate of 1 %.
        cache: Where readings of rows are kept.
        tell: Called with a line a step.
    """
    for path in (data_dir() / "demo" / "loop").iterdir():
        shutil.copy(path, home)
    log = [Sample.at(text, Stage.INPUT) for text in lines(log_lines)]
    digest = lesson.digest_of(log)

    rows = lesson.base_rows(CATEGORY, str(home / "rows.jsonl"))
    first = lesson.retrain(gemma, CATEGORY, rows, [], cache=cache)
    first.classifier.save(home / CATEGORY)
    tell(f"Taught {CATEGORY} from {len(rows.teach())} rows; {len(rows.test())} more are held out.")

    policy = home / "policy.yaml"
    guard = lesson.guard_on_log(Policy.load(policy), gemma, log, digest)
    tell(f"Calibrated on {len(log)} lines of the log → {guard.policy.calibration}")
    # The gateway: `safety-kit serve` on this policy, an OpenAI client that sends the complaint, and the review store
    # that has it by its request id (debugger_app.reviews.records) take the place of the next line.
    before = guard.check_text(COMPLAINT)
    tell(f"“{COMPLAINT}” → {before.action} ({_why(before)})")

    old = lesson.held_by(guard.policy, CATEGORY, gemma)
    assert old is not None
    corrections = [Correction(text, 0) for text in (COMPLAINT, *VARIANTS)]
    taught = lesson.retrain(gemma, CATEGORY, rows, corrections, cache=cache)
    was, now = (lesson.on_rows(one, CATEGORY, corrections) for one in (old.classifier, taught.classifier))
    tell(f"Labelled harmless with {len(VARIANTS)} variants and taught again: {was[0]:.3f} → {now[0]:.3f}")

    folder = next_folder(home / CATEGORY)
    taught.classifier.save(folder)
    second = put_into_policy(str(policy), folder, CATEGORY, [Stage.INPUT], "block", check=old.check)
    mended = lesson.guard_on_log(Policy.load(second), gemma, log, digest)
    changed = tuple((one, log[one.row].text) for one in changes(guard, mended, dict(enumerate(log))))
    tell(f"{len(changed)} of {len(log)} verdicts on the log change:")
    for change, text in changed[:_SHOWN]:
        tell(f"  {change.before.action} → {change.after.action}  {text}")
    if len(changed) > _SHOWN:
        tell(f"  and {len(changed) - _SHOWN} more")

    after = mended.check_text(COMPLAINT)  # a gateway reloads a policy whose file was replaced: point it at `second`
    held = rows.test()
    (recall, false), (recall_after, false_after) = (lesson.recall(one, CATEGORY, held) for one in (guard, mended))
    tell(f"“{COMPLAINT}” → {after.action}")
    tell(f"Held-out recall {recall} → {recall_after}; false blocks {false} → {false_after} (95 % intervals)")
    return Outcome((policy, second), before, after, changed, (recall, recall_after), (false, false_after))


_SHOWN: Final = 10


def _why(verdict: Verdict) -> str:
    return ", ".join(f"{finding.category} {finding.score:.3f}" for finding in verdict.findings) or "nothing found"


def main() -> int:
    """Run it on the embedded Gemma."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=LINES, help="Of the log.")
    parser.add_argument("--keep", type=Path, help="An empty folder for the policy and the classifiers.")
    given = parser.parse_args()
    from safety_kit.gemma import Gemma

    try:
        with tempfile.TemporaryDirectory(prefix="safety-kit-loop-") as scratch:
            home = given.keep or Path(scratch)
            home.mkdir(parents=True, exist_ok=True)
            run(Gemma.load(), home, log_lines=given.lines, tell=lambda line: print(visible(line), flush=True))
    except SafetyKitError as error:
        print(visible(str(error)), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
