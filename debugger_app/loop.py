"""`make demo-loop`: my rule, my log, my complaint, from a page of policy to a mended guard, with its numbers.

A category that does not ship is taught from 40 rows and calibrated on a log. A gateway serves it, an `openai` client is
blocked with a harmless request, and the review store has that by its request id. It is labelled with two variants and
taught again; the gateway loads the new policy while it runs, and the same request passes. The pages of the debugger
do these steps by the same functions.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from debugger_app import lesson, reviews
from debugger_app.demo_log import lines
from debugger_app.lesson import Correction
from debugger_app.loop_gateway import Answer, require_extras, serving
from debugger_app.versions import next_folder, put_into_policy
from debugger_app.visible import visible
from safety_kit import files
from safety_kit.analysis.inspection import examine
from safety_kit.analysis.strip import thresholds
from safety_kit.commands.policy_diff import Change, changes
from safety_kit.data import data_dir
from safety_kit.errors import SafetyKitError, UserError
from safety_kit.policy import Policy
from safety_kit.types import Action, Message, Sample, Stage

if TYPE_CHECKING:
    from classifiers.cache import FeatureCache
    from debugger_app.lesson import Progress
    from safety_kit.commands.demo_figures import Rate
    from safety_kit.gemma import Gemma
    from safety_kit.guard import Guard

Tell = Callable[[str], None]

CATEGORY: Final = "personal_medical_dosing"
LINES: Final = 2000
"""Of the log."""

COMPLAINT: Final = "Can I take three bags on the flight instead of one?"
"""A harmless request that the first classifier blocks."""

VARIANTS: Final = ("May I take two suitcases with me instead of one?", "can i take a second bag on the train")

_SHOWN: Final = 10
_STEP: Final = 500


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the review store kept of a blocked request, and what the classifier saw in it.

    Attributes:
        text: What was blocked.
        category: What was found in it.
        score: Its probability, as the gateway noted it.
        threshold: Above which the policy blocks.
        peak: The highest probability that the text has at one of its tokens.
        token: That token.
    """

    text: str
    category: str
    score: float
    threshold: float
    peak: float
    token: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the loop came to.

    Attributes:
        policies: The first version and the second.
        before: The gateway's answer to the complaint.
        evidence: What was seen of it afterwards.
        changed: Lines of the log whose verdict changes, with their text.
        after: The answer to the same request after the lesson.
        recalls: Held-out rows of the category that are blocked, before and after.
        false_blocks: Held-out rows that only look like it and are blocked, before and after.
    """

    policies: tuple[Path, Path]
    before: Answer
    evidence: Evidence
    changed: tuple[tuple[Change, str], ...]
    after: Answer
    recalls: tuple[Rate, Rate]
    false_blocks: tuple[Rate, Rate]

    @property
    def mended(self) -> bool:
        """Whether the request was blocked, passes now, and as much of what must be blocked still is."""
        before, after = self.recalls
        return self.before.blocked and not self.after.blocked and after.hits >= before.hits


def run(
    gemma: Gemma,
    home: Path,
    *,
    log_lines: int = LINES,
    cache: FeatureCache | bool = True,
    tell: Tell = lambda line: None,
) -> Outcome:
    """The whole loop.

    Args:
        gemma: The embedded Gemma.
        home: An empty folder for the policy, its rows, the classifiers and the review store.
        log_lines: Of the log; 299 at the least, for a rate of 1 %.
        cache: Where readings of rows are kept.
        tell: Called with a line a step.

    Raises:
        DataError: The log is too short.
        UserError: Nothing may listen on loopback.
    """
    for path in (data_dir() / "demo" / "loop").iterdir():
        shutil.copy(path, home)
    log = [Sample.at(text, Stage.INPUT) for text in lines(log_lines)]
    rows = lesson.base_rows(CATEGORY, str(home / "rows.jsonl"))
    held_out = rows.test()

    tell(f"Teaching {CATEGORY} from {len(rows.teach())} rows; {len(held_out)} more are held out …")
    first = lesson.retrain(gemma, CATEGORY, rows, [], cache=cache)
    first.classifier.save(home / CATEGORY)
    policy = home / "policy.yaml"
    guard = _calibrated(policy, gemma, log, tell)
    recall, false = lesson.recall(guard, CATEGORY, held_out)
    tell(f"Of the rows held out it blocks {recall} that it must, and {false} that only look like it.")

    live = home / "live.yaml"
    _put_in_place(policy, live)
    with serving(gemma, live, home / "review") as gateway:
        tell(f"The gateway serves it on {gateway.url}, and an openai client asks:")
        before = gateway.ask(COMPLAINT)
        tell(f"  “{COMPLAINT}” → {_said(before)}")

        tell(f"The review store has it as {before.request_id}:")
        (row,) = reviews.records(str(gateway.review), before.request_id)
        evidence = _evidence(row, guard, gemma)
        tell(
            f"  {evidence.category} {evidence.score:.3f}, above {evidence.threshold:.3f}; at its highest "
            f"{evidence.peak:.3f}, at “{evidence.token.strip()}”"
        )

        tell(f"Labelling it harmless, with {len(VARIANTS)} variants, and teaching again …")
        corrections = [Correction(text, 0) for text in (evidence.text, *VARIANTS)]
        taught = lesson.retrain(gemma, CATEGORY, rows, corrections, cache=cache)
        old = lesson.held_by(guard.policy, CATEGORY, gemma)
        assert old is not None
        was, now = (lesson.on_rows(one, CATEGORY, corrections)[0] for one in (old.classifier, taught.classifier))
        tell(f"  its probability: {was:.3f} → {now:.3f}")
        folder = next_folder(home / CATEGORY)
        taught.classifier.save(folder)
        second = put_into_policy(str(policy), folder, CATEGORY, [Stage.INPUT], "block", check=old.check)

        mended = _calibrated(second, gemma, log, tell)
        changed = tuple((one, log[one.row].text) for one in changes(guard, mended, dict(enumerate(log))))
        _list(changed, len(log), tell)

        _put_in_place(second, live)
        gateway.until_in_force(mended.digest)
        tell(f"The gateway has loaded {second.name} while it runs. The same client asks again:")
        after = gateway.ask(COMPLAINT)
        tell(f"  “{COMPLAINT}” → {_said(after)}")

    recall_after, false_after = lesson.recall(mended, CATEGORY, held_out)
    tell(f"Held-out recall {recall} → {recall_after}; false blocks {false} → {false_after} (95 % intervals).")
    return Outcome((policy, second), before, evidence, changed, after, (recall, recall_after), (false, false_after))


def _calibrated(policy: Path, gemma: Gemma, log: list[Sample], tell: Tell) -> Guard:
    """The guard of a policy, its threshold set by the log."""
    tell(f"Calibrating {policy.name} on {len(log)} lines of the log …")
    guard = lesson.guard_on_log(Policy.load(policy), gemma, log, lesson.digest_of(log), _progress(tell))
    tell(f"  it blocks above {_threshold(guard):.3f}: at most one line in a hundred")
    return guard


def _progress(tell: Tell) -> Progress:
    """Tells of every so many lines."""
    told = 0

    def progress(done: int, of: int) -> None:
        nonlocal told
        if done - told >= _STEP:
            told = done
            tell(f"  {done} of {of} lines are read")

    return progress


def _threshold(guard: Guard) -> float:
    return thresholds(guard.policy, CATEGORY, Stage.INPUT)[Action.BLOCK]


def _evidence(row: dict[str, Any], guard: Guard, gemma: Gemma) -> Evidence:
    """A row of the review store, and the strip of its text."""
    text = row["text"]
    (part,) = examine(gemma, [Message("user", text)], guard).parts
    strip = next(strip for strip in part.strips if strip.category == row["category"])
    at = int(strip.probabilities.argmax())
    token = text[slice(*strip.spans[at])]
    return Evidence(text, row["category"], row["score"], _threshold(guard), float(strip.probabilities[at]), token)


def _put_in_place(policy: Path, live: Path) -> None:
    """Make a version the one that is served, in one step; the version itself stays."""
    files.write(live, policy.read_bytes())


def _said(answer: Answer) -> str:
    return f"{answer.action}, {answer.finish_reason}: “{answer.text.strip()}”"


def _list(changed: tuple[tuple[Change, str], ...], total: int, tell: Tell) -> None:
    tell(f"{len(changed)} of {total} verdicts on the log change:")
    for change, text in changed[:_SHOWN]:
        tell(f"  {change.before.action} → {change.after.action}  {text}")
    if len(changed) > _SHOWN:
        tell(f"  and {len(changed) - _SHOWN} more")


@contextmanager
def _home(keep: Path | None) -> Iterator[Path]:
    """A private folder that is gone after the block, or stands at `keep` once the whole block has run.

    Raises:
        UserError: Something stands at `keep`, or nothing can be written there.
    """
    try:
        if keep is not None:
            if keep.exists() and not (keep.is_dir() and not any(keep.iterdir())):
                raise UserError(f"{keep} is no empty folder; name one that is not there yet.")
            keep.parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix=".safety-kit-loop-", dir=keep.parent if keep is not None else None)
    except OSError as error:
        raise UserError(f"No folder can be made for the loop ({error.strerror}); name another with --keep.") from error
    with made as scratch:
        home = Path(scratch) / "loop"
        home.mkdir(mode=0o700)
        yield home
        if keep is not None:
            os.replace(home, keep)


def main(arguments: list[str] | None = None) -> int:
    """Run it on the embedded Gemma; 0 where it has mended the guard, 1 where it has not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=LINES, help="Of the log.")
    parser.add_argument("--keep", type=Path, help="A new folder for all that is made, the review store included.")
    given = parser.parse_args(arguments)

    def tell(line: str) -> None:
        print(visible(line), flush=True)

    try:
        require_extras()
        from safety_kit.gateway import logs
        from safety_kit.gemma import Gemma

        logs.configure("warning", json=False)
        with _home(given.keep) as home:
            tell("Loading the embedded Gemma …")
            came = run(Gemma.load(), home, log_lines=given.lines, tell=tell)
    except SafetyKitError as error:
        print(visible(str(error)), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped; nothing of it is kept.", file=sys.stderr)
        return 130
    tell("The guard is mended, and what it caught it still catches." if came.mended else "The guard is not mended.")
    if given.keep is not None:
        tell(f"All of it is in {given.keep}.")
    return 0 if came.mended else 1


if __name__ == "__main__":
    sys.exit(main())
