"""The review store: what is kept is redacted, private, found again, taught from, and gone when it should be."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import ROOT, app, runner
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from record_helpers import POLICY, asked, judged, replied

from safety_kit.checks.secrets import SecretsCheck
from safety_kit.errors import SafetyKitError, UserError
from safety_kit.gateway.review import ReviewStore
from safety_kit.gateway.review_files import ABOUT, DAY, Shelf
from safety_kit.gateway.review_redact import WITHHELD, Redaction
from safety_kit.gateway.settings import Review
from safety_kit.policy import Policy
from safety_kit.types import Finding, Sample

NOW = 1_764_324_895.0
POLICIES = [Policy.parse(POLICY)]
NO_PII = Policy.parse("\n".join(line for line in POLICY.splitlines() if "pii" not in line))
RUDE = judged(asked("You idiot, write to ana@example.com"), replied("Gladly."), request_id="rude-1")
BLOCKED = judged(asked("What do you plan?"), replied("The bluebird flies."), request_id="blocked-1")
FINE = judged(asked("Hello"), replied("Hello"), request_id="fine-1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "review"


@pytest.fixture
def store(folder: Path) -> Iterator[ReviewStore]:
    store = ReviewStore(Review(keep="flagged", folder=folder), POLICIES)
    yield store
    store.close()


def review(folder: Path, *arguments: str) -> Result:
    return runner.invoke(app, ["review", *arguments, "--folder", str(folder)])


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != ABOUT)


def everything(folder: Path) -> str:
    return "".join(path.read_text() for path in files(folder))


@pytest.mark.parametrize(
    ("keep", "kept"), [("flagged", ["rude-1", "blocked-1"]), ("blocked", ["blocked-1"]), ("none", [])]
)
def test_only_what_is_asked_for_is_kept(folder: Path, keep: Any, kept: list[str]) -> None:
    store = ReviewStore(Review(keep=keep, folder=folder), POLICIES)
    for record in (FINE, RUDE, BLOCKED, replace(RUDE, outcome="refused"), replace(BLOCKED, texts=None)):
        store.write(record)
    store.close()
    listed = json.loads(review(folder, "list", "--json").stdout)["requests"]
    assert [entry["request_id"] for entry in listed] == kept


def test_it_is_private(folder: Path, store: ReviewStore) -> None:
    before = os.umask(0)
    try:
        store.write(RUDE)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600] * 2
    assert "rude" not in " ".join(path.name for path in folder.iterdir())
    folder.chmod(0o750)
    with pytest.raises(UserError, match="chmod 700"):
        ReviewStore(Review(keep="flagged", folder=folder), POLICIES)
    assert review(folder, "list").exit_code == 2


def test_settings_that_would_keep_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"review\.folder"):
        Review(keep="blocked")


# --- redaction


def test_what_the_policy_only_flags_or_looks_for_elsewhere_is_masked_everywhere(
    folder: Path, store: ReviewStore
) -> None:
    card, key = "4111 1111 1111 1111", "AKIAIOSFODNN7EXAMPLE"
    arguments = '{"to": "ana\\u0040example.com", "bob@example.com": 4111111111111111, "KEY": "x"}'
    call = {"name": "mail", "arguments": arguments.replace("KEY", key)}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QU5B", "note": "a portrait"}}
    request = asked(
        "You idiot, I am ana@example.com",
        "My card is 4111 1111",
        "1111 1111, take it",
        user="Ana Miller",
        metadata={"session": "of Ana Miller"},
        number=4111111111111111,
    )
    request["messages"] += [
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": call}]},
        {"role": "user", "content": [{"type": "text", "text": "see\nYW5hQGV4YW1wbGUuY29t"}, picture]},
    ]
    reply = replied(f"The key is {key}, the card {card}")
    reply["choices"][0]["logprobs"] = {"content": [{"token": part, "logprob": -1} for part in ("ana@", "example.com")]}
    store.write(judged(request, reply))
    kept = everything(folder)
    for hidden in (card, "1111", key, "ana@", "u0040", "bob", "example.com", "Ana Miller", "QU5B", "portrait", "YW5h"):
        assert hidden not in kept, hidden
    entry = json.loads(kept)
    assert entry["request"]["messages"][0]["content"] == "You idiot, I am [EMAIL]"
    assert entry["request"]["number"] == "[CREDIT_CARD]"
    assert json.loads(entry["request"]["messages"][3]["tool_calls"][0]["function"]["arguments"])["to"] == "[EMAIL]"
    assert entry["request"]["messages"][4]["content"][1] == {"type": "image_url"}
    assert entry["response"]["choices"][0]["message"]["content"] == "The key is [AWS_KEY], the card [CREDIT_CARD]"


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(["ana@example.com", "so", "\n", "4111111111111111", "{", '"', "\ud83d", "é"]), max_size=9)
)
def test_no_mail_address_stays_wherever_it_stands(words: list[str]) -> None:
    text = " ".join(words)
    body = {"messages": [{"role": "user", "content": text, "name": text}], "prompt": [text], text: {"x": [text]}}
    for kind in (body, {"prompt": text}, {"choices": [{"text": text}]}, {"input": [[text]], "y": json.dumps(text)}):
        kept = json.dumps(Redaction(POLICIES).body(kind))
        assert "ana@" not in kept
        assert "41111" not in kept


def test_what_cannot_be_masked_is_not_kept(folder: Path, store: ReviewStore, monkeypatch: pytest.MonkeyPatch) -> None:
    deep: Any = "ana@example.com"
    for _ in range(200):
        deep = [deep]
    redaction = Redaction(POLICIES)
    assert redaction.body({"messages": deep}) == redaction.body(["ana@example.com"]) == WITHHELD
    assert redaction.body(None) is None

    def fail_together(_: Any, samples: list[Sample]) -> list[list[Finding]]:
        if any("\n" in sample.text for sample in samples):
            raise ValueError("ana@example.com")
        return [[] for _ in samples]

    def fail(*_: Any) -> None:
        raise ValueError("ana@example.com")

    monkeypatch.setattr(SecretsCheck, "run", fail_together)
    assert redaction.body(asked("one")) == asked("one")
    assert redaction.body(asked("one", "two")) == WITHHELD
    monkeypatch.setattr(SecretsCheck, "run", fail)
    store.write(RUDE)
    entry = json.loads(everything(folder))
    assert (entry["request"], entry["response"]) == (WITHHELD, WITHHELD)
    assert redaction.body({"prompt": "ana@example.com"}) == WITHHELD


def test_without_a_pii_check_nothing_is_kept_unless_told(folder: Path) -> None:
    with pytest.raises(UserError, match=r"add a pii check .* or set review\.unredacted"):
        ReviewStore(Review(keep="flagged", folder=folder), [NO_PII])
    assert not folder.exists()
    store = ReviewStore(Review(keep="flagged", folder=folder, unredacted=True), [NO_PII])
    store.write(RUDE)
    store.close()
    assert "ana@example.com" in everything(folder)


def test_another_policy_may_take_over(folder: Path, store: ReviewStore) -> None:
    with pytest.raises(UserError, match="pii check"):
        store.use([NO_PII])
    store.write(RUDE)
    store.use([NO_PII, Policy.parse(POLICY.replace("pii.email", "pii.ip"))])
    store.write(RUDE)
    first, second = (json.loads(path.read_text())["request"]["messages"][0]["content"] for path in files(folder))
    assert (first, second) == ("You idiot, write to [EMAIL]", "You idiot, write to ana@example.com")


# --- what is kept no longer


def test_days_are_counted_whatever_the_clock_does(folder: Path) -> None:
    now = NOW
    store = ReviewStore(Review(keep="flagged", folder=folder, days=2), POLICIES, lambda: now)
    store.write(replace(RUDE, request_id="old"))
    now = NOW + 1.5 * DAY
    store.write(replace(RUDE, request_id="young"))
    for odd in (NOW + 4000 * DAY, math.nan, -1e30, 1e30):  # a clock that was wrong for a while
        now = odd
        store.write(replace(RUDE, request_id=f"odd {odd}"))
    store.close()
    now = NOW + 2.1 * DAY
    shelf = Shelf.open(folder, lambda: now)
    kept = [entry.request_id for entry in shelf.entries()]
    assert kept == ["young", f"odd {NOW + 4000 * DAY}", "odd 1e+30"]
    now = NOW + 4.2 * DAY
    assert (shelf.purge(), files(folder)) == (3, [])


def test_a_start_and_a_list_delete_what_is_too_old(folder: Path) -> None:
    long_ago = time.time() - 3 * DAY
    old = ReviewStore(Review(keep="flagged", folder=folder, days=30), POLICIES, lambda: long_ago)
    old.write(RUDE)
    old.close()
    assert "1 requests" in review(folder, "list").stdout
    (folder / ABOUT).write_text('{"days": 2}')
    assert "0 requests" in review(folder, "list").stdout
    old.write(RUDE)
    ReviewStore(Review(keep="flagged", folder=folder, days=2), POLICIES).close()
    assert files(folder) == []


def test_delete_by_request_id(folder: Path, store: ReviewStore) -> None:
    for record in (RUDE, RUDE, BLOCKED, replace(RUDE, request_id="../../etc/passwd")):
        store.write(record)
    assert len(files(folder)) == 4
    done = review(folder, "delete", "rude-1", "../../etc/passwd", "nobody", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (
        1,
        {"deleted": {"rude-1": 2, "../../etc/passwd": 1, "nobody": 0}},
    )
    assert "idiot" not in everything(folder)
    assert review(folder, "show", "rude-1").exit_code == 2
    assert review(folder, "delete", "blocked-1").exit_code == 0
    assert files(folder) == []


def test_killed_while_it_writes_it_leaves_whole_entries(folder: Path) -> None:
    code = """
import sys
from pathlib import Path
from record_helpers import POLICY, asked, judged
from safety_kit.gateway.review import ReviewStore
from safety_kit.gateway.settings import Review
from safety_kit.policy import Policy
from safety_kit.types import Finding, Sample

store = ReviewStore(Review(keep="flagged", folder=Path(sys.argv[1])), [Policy.parse(POLICY)])
record = judged(asked("You idiot " * 2000))
while True:
    store.write(record)
"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "gateway")])
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], env={**os.environ, "PYTHONPATH": path})
    while not folder.exists() or len(files(folder)) < 5:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left := folder / ".1-2.json-00000000.new").write_text("torn")
    os.utime(left, (0, 0))
    assert len(list(Shelf.open(folder).entries())) >= 4
    assert not left.exists()


def test_a_full_disk_is_told_and_leaves_nothing(folder: Path, store: ReviewStore) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(SafetyKitError, match="make room"):
            store.write(RUDE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(folder) == []
    store.write(RUDE)
    assert len(files(folder)) == 1


# --- the commands


def test_list_filters_and_shows_no_text(folder: Path, store: ReviewStore) -> None:
    for record in (RUDE, BLOCKED):
        store.write(record)
    page = review(folder, "list")
    assert "idiot" not in page.stdout
    assert "pii.email 1.00" in page.stdout
    for option, ids in (
        (["--category", "banned"], ["blocked-1"]),
        (["--outcome", "flag"], ["rude-1"]),
        (["--since", "2999-01-01"], []),
        (["--since", "2001-01-01T00:00:00"], ["rude-1", "blocked-1"]),
    ):
        listed = json.loads(review(folder, "list", *option, "--json").stdout)["requests"]
        assert [entry["request_id"] for entry in listed] == ids
    assert review(folder, "list", "--outcome", "allow").exit_code == 2
    assert review(folder.parent, "list").exit_code == 2
    files(folder)[0].write_text("{}")
    done = review(folder, "list")
    assert (done.exit_code, "no entry of a review store" in done.stderr) == (2, True)


def test_show_lets_no_text_act_on_the_terminal_or_pass_for_the_page(folder: Path, store: ReviewStore) -> None:
    hostile = (
        "idiot \ud83d \x1b[2J\x1b]0;title\x07 \u202e[red]bold[/red]\nresponse choices[0].message.content\r\n  │ fine"
    )
    store.write(judged(asked(hostile), replied("No."), request_id="evil\x1b[31m"))
    page = review(folder, "show", "evil\x1b[31m").stdout
    assert not set(page) & {"\x1b", "\x07", "\r", "\u202e"}
    assert "[red]bold[/red]" in page
    assert [line for line in page.splitlines() if line.startswith("response")] == [
        "response choices[0].message.content"
    ]
    entry = json.loads(review(folder, "show", "evil\x1b[31m", "--json").stdout)
    assert entry["places"][0]["findings"][0]["category"] == "rude"


def test_rows_are_read_by_teaching_once_they_are_labelled(folder: Path, store: ReviewStore, tmp_path: Path) -> None:
    from classifiers.data import read_examples

    for number in range(6):
        store.write(judged(asked(f"Tell me, idiot number {number}"), request_id=f"r{number}"))
        store.write(
            judged(asked(f"What about plan {number}?"), replied(f"It is bluebird {number}"), request_id=f"b{number}")
        )
    out = tmp_path / "rude.jsonl"
    assert review(folder, "export", str(out), "--category", "rude").exit_code == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["text"] for row in rows] == [f"Tell me, idiot number {number}" for number in range(6)]
    assert {(row["category"], row["label"], row["stage"], row["outcome"]) for row in rows} == {
        ("rude", None, "input", "flag")
    }
    assert review(folder, "export", str(out)).exit_code == 2  # it is there
    assert runner.invoke(app, ["data", "check", str(out)]).exit_code == 2  # not labelled yet
    out.write_text("".join(json.dumps({**row, "label": n % 2}) + "\n" for n, row in enumerate(rows)))
    examples = read_examples(out)
    assert (len(examples), examples.categories, examples.slices["request_id"][0]) == (6, ("rude",), "r0")
    assert runner.invoke(app, ["data", "check", str(out)]).exit_code == 0
    review(folder, "export", str(out), "--force")
    replies = [row for row in map(json.loads, out.read_text().splitlines()) if row["stage"] == "output"]
    assert (replies[0]["prompt"], replies[0]["text"]) == ("What about plan 0?", "It is bluebird 0")


def test_audit_and_review_need_no_server_and_no_model() -> None:
    code = """
import sys
from safety_kit.cli import app
from safety_kit.gateway import audit, audit_verify, review, review_rows
print(sorted({"fastapi", "starlette", "uvicorn", "httpx", "torch", "transformers"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
