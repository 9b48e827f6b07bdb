"""`safety-kit scan`: a verdict a row, in order, resumed after a kill, refused with other input, no text left behind."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import ROOT, TEXT_POLICY, app, runner, write_text_policy
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safety_kit.checks.patterns import PatternsCheck
from safety_kit.commands import corpus, scan_workers
from safety_kit.commands.scan_output import Output
from safety_kit.errors import DataError
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.types import Sample, Stage

TEXTS = ["Good morning.", "Write to ana@example.com today.", "When does Project Bluebird start?", ""]
ACTIONS = ["allow", "redact", "block", "allow"]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return write_text_policy(tmp_path / "text.yaml")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", [{"text": text, "id": f"n{i}", "tags": [i]} for i, text in enumerate(TEXTS)])


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def scan(source: Path | str, out: Path, policy: Path, *arguments: str) -> Result:
    return runner.invoke(app, ["scan", str(source), str(out), "--policy", str(policy), *arguments])


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="ascii").splitlines()]


def without_times(out: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "timings"} for row in read(out)]


def test_a_verdict_a_row_without_its_text(rows: Path, policy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = scan(rows, out, policy)
    assert done.exit_code == 0, done.stderr
    got = read(out)
    assert [row["row"] for row in got] == [1, 2, 3, 4]
    assert [row["action"] for row in got] == ACTIONS
    assert {key for row in got for key in row} == {
        *("row", "stage", "action", "code", "findings", "errors", "timings", "policy_digest")
    }
    assert [(f["category"], f["action"]) for row in got for f in row["findings"]] == [
        ("pii.email", "redact"),
        ("banned", "block"),
    ]
    written = out.read_text() + (tmp_path / "out.jsonl.scan.json").read_text()
    assert not [word for text in TEXTS for word in text.split() if word in written]
    assert done.stdout.startswith("4 rows: 2 allow · 0 flag · 1 redact · 1 block\n")
    assert "The slowest check is " in done.stdout
    assert done.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl",
        "out.jsonl",
        "out.jsonl.scan.json",
        "text.yaml",
    ]


def test_the_summary_as_json(rows: Path, policy: Path, tmp_path: Path) -> None:
    done = scan(rows, tmp_path / "out.jsonl", policy, "--json")
    said = json.loads(done.stdout)
    assert said["actions"] == {"allow": 2, "flag": 0, "redact": 1, "block": 1}
    assert said["categories"] == {"banned": {"block": 1}, "pii.email": {"redact": 1}}
    assert said["slowest"] in said["checks"]
    assert said["checks"].keys() == {"pii", "banned"}
    assert (said["rows"], said["resumed"], said["rows_with_errors"]) == (4, 0, 0)


def test_columns_and_texts_are_kept_by_option(rows: Path, policy: Path, tmp_path: Path) -> None:
    assert scan(rows, tmp_path / "a", policy, "--keep", "id").exit_code == 0
    assert [row["columns"] for row in read(tmp_path / "a")] == [{"id": f"n{i}"} for i in range(4)]
    assert scan(rows, tmp_path / "b", policy, "--keep", "*", "--keep-text").exit_code == 0
    assert read(tmp_path / "b")[1]["columns"] == {"id": "n1", "tags": [1]}
    assert [row["text"] for row in read(tmp_path / "b")] == [TEXTS[0], "Write to [EMAIL] today.", None, ""]
    for column, says in (("text", "--keep-text"), ("nothing", "the columns are: text, id, tags")):
        done = scan(rows, tmp_path / "c", policy, "--keep", column)
        assert (done.exit_code, (tmp_path / "c").exists()) == (2, False)
        assert says in done.stderr


def test_stage_and_columns_of_other_names(policy: Path, tmp_path: Path) -> None:
    source = write(
        tmp_path / "in.jsonl",
        [
            {"body": "Hi", "asked": "Hello", "stage": "output"},
            {"body": "Hi", "asked": None},
            {"body": "Hi", "stage": ""},
        ],
    )
    done = scan(
        source, tmp_path / "out", policy, "--text-column", "body", "--prompt-column", "asked", "--stage", "input"
    )
    assert done.exit_code == 0, done.stderr
    assert [row["stage"] for row in read(tmp_path / "out")] == ["output", "input", "input"]
    done = scan(source, tmp_path / "other", policy)
    assert done.exit_code == 2
    assert "--text-column" in done.stderr


@pytest.mark.parametrize("kind", ["csv", "parquet", "folder"])
def test_other_kinds_of_sources(kind: str, policy: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"text": TEXTS[:3], "id": [1, 2, 3]})
    source = tmp_path / f"rows.{kind}"
    match kind:
        case "csv":
            source.write_text("text,id\n" + "".join(f'"{text}",{i}\n' for i, text in enumerate(TEXTS[:3], 1)))
        case "parquet":
            made.to_parquet(str(source))
        case _:
            made.save_to_disk(str(source))
    done = scan(source, tmp_path / "out", policy, "--keep", "id")
    assert done.exit_code == 0, done.stderr
    got = read(tmp_path / "out")
    assert [row["action"] for row in got] == ACTIONS[:3]
    assert [str(row["columns"]["id"]) for row in got] == ["1", "2", "3"]


def test_values_that_json_does_not_have(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import datetime

    import pyarrow.parquet as pq

    table = pa.table({"text": ["a"], "when": [datetime.date(2026, 1, 2)], "x": [float("nan")], "raw": [b"\xff"]})
    pq.write_table(table, tmp_path / "in.parquet")
    (entry,) = corpus.read(str(tmp_path / "in.parquet"), keep=["*"])
    assert entry.kept == {"when": "2026-01-02", "x": None, "raw": None}


BAD = ['{"text": 7}', "nonsense", "[]", '{"text": "a", "prompt": 1}', '{"text": "a", "stage": "middle"}', "\xff"]


def test_broken_rows_are_named_before_anything_is_done(policy: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes("\n".join(['{"text": "secret"}', *BAD]).encode("latin-1"))
    done = scan(source, tmp_path / "out", policy)
    assert (done.exit_code, (tmp_path / "out").exists()) == (2, False)
    for line in range(2, 8):
        assert f"line {line}: " in done.stderr
    assert "secret" not in done.stderr
    assert "--skip-bad" in done.stderr


def test_broken_rows_can_be_faults(policy: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes("\n".join(['{"text": "bluebird"}', *BAD, '{"text": "hello"}']).encode("latin-1"))
    done = scan(source, tmp_path / "out", policy, "--skip-bad", "--json")
    assert done.exit_code == 0, done.stderr
    got = read(tmp_path / "out")
    assert [row["row"] for row in got] == list(range(1, 9))
    assert [row["action"] for row in got] == ["block"] * 7 + ["allow"]
    assert [bool(row["errors"]) for row in got] == [False, *[True] * 6, False]
    assert json.loads(done.stdout)["errors"] == {"row": 6}


def test_a_check_that_fails_is_counted_and_never_allows(
    rows: Path, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: PatternsCheck, samples: list[Any]) -> list[Any]:
        if any("Good" in sample.text for sample in samples):
            raise ValueError(samples[0].text)
        return [[] for _ in samples]

    monkeypatch.setattr(PatternsCheck, "run", fail)
    done = scan(rows, tmp_path / "out", policy, "--json")
    assert [row["action"] for row in read(tmp_path / "out")] == ["block", "redact", "allow", "allow"]
    assert json.loads(done.stdout)["errors"] == {"banned": 1}
    assert "Good" not in (tmp_path / "out").read_text()


@pytest.mark.parametrize(
    ("keep", "torn"),
    [(0, b""), (4, b""), (0, b'{"row": '), (2, b'{"row": 9}\n'), (3, b"\0\0\0\n\0"), (1, b"[]\n"), (4, b"more")],
)
def test_what_is_torn_is_done_again(rows: Path, policy: Path, tmp_path: Path, keep: int, torn: bytes) -> None:
    out = tmp_path / "out"
    assert scan(rows, out, policy).exit_code == 0
    whole, lines = without_times(out), out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:keep]) + torn)
    done = scan(rows, out, policy, "--json")
    assert done.exit_code == 0, done.stderr
    assert without_times(out) == whole
    assert out.read_bytes().startswith(b"".join(lines[:keep]))
    assert json.loads(done.stdout)["resumed"] == keep
    assert json.loads(done.stdout)["actions"] == {"allow": 2, "flag": 0, "redact": 1, "block": 1}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.integers(1, 10**6), unique=True, max_size=12).map(sorted), data=st.data())
def test_a_cut_anywhere_is_mended(tmp_path: Path, places: list[int], data: st.DataObject) -> None:
    path, lines = tmp_path / "out", [json.dumps({"row": place, "x": "y" * (place % 50)}) for place in places]
    whole = "".join(f"{line}\n" for line in lines).encode()
    seen: list[int] = []
    path.unlink(missing_ok=True)
    for at in data.draw(st.lists(st.integers(0, len(whole)), max_size=4)):
        with Output(path, {"input": "a"}, places, lambda row: None) as output:
            output.write(lines[output.done :])
        path.write_bytes(whole[:at])
    with Output(path, {"input": "a"}, places, lambda row: seen.append(row["row"])) as output:
        assert seen == places[: output.done]
        output.write(lines[output.done :])
        output.sync()
    assert path.read_bytes() == whole


def test_another_input_policy_or_option_is_refused(rows: Path, policy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert scan(rows, out, policy).exit_code == 0
    before = out.read_bytes()
    other_rows = write(tmp_path / "other.jsonl", [{"text": text} for text in ["Good evening.", *TEXTS[1:]]])
    other_policy = tmp_path / "other.yaml"
    other_policy.write_text(policy.read_text().replace("bluebird", "kestrel"))
    for arguments, says in (
        ([other_rows, out, policy], "another input"),
        ([rows, out, other_policy], "another policy"),
        ([rows, out, policy, "--keep-text"], "another --keep-text"),
        ([rows, out, policy, "--keep", "id"], "another input"),
    ):
        done = scan(*arguments)
        assert done.exit_code == 2
        assert says in done.stderr
        assert "out.scan.json to begin anew" in done.stderr
    assert out.read_bytes() == before
    out.unlink()
    assert scan(other_rows, out, policy).exit_code == 0  # with the output gone there is nothing to go on with


def test_files_that_no_scan_wrote_are_left_alone(rows: Path, policy: Path, tmp_path: Path) -> None:
    out = write(tmp_path / "out", [{"precious": 1}])
    done = scan(rows, out, policy)
    assert done.exit_code == 2
    assert "no scan wrote it" in done.stderr
    assert out.read_text() == '{"precious": 1}\n'
    done = scan(rows, rows, policy)
    assert (done.exit_code, "OUT is IN" in done.stderr) == (2, True)
    done = scan(rows, tmp_path / "out.parquet", policy)
    assert (done.exit_code, "name it out.jsonl" in done.stderr, (tmp_path / "out.parquet").exists()) == (2, True, False)
    assert scan(rows, rows / "out", policy).exit_code == 3
    assert scan(rows, tmp_path / "new folder" / "out", policy).exit_code == 0
    assert scan(tmp_path / "nothing.jsonl", tmp_path / "new", policy).exit_code == 2
    assert scan(write(tmp_path / "empty.jsonl", []), tmp_path / "new", policy).exit_code == 2
    assert not (tmp_path / "new").exists()


def test_two_scans_do_not_write_one_file(rows: Path, policy: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / "out.lock"):
        done = scan(rows, tmp_path / "out", policy)
    assert done.exit_code == 2
    assert "Another scan is writing" in done.stderr


def process(arguments: list[str], **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "safety_kit", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    )


@pytest.mark.parametrize("processes", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_kill_loses_and_repeats_nothing(policy: Path, tmp_path: Path, processes: str) -> None:
    """The scan is killed as soon as its output has grown past a hundred rows, while it still writes."""
    source = write(tmp_path / "in.jsonl", [{"text": f"{TEXTS[i % 3]} {'word ' * 40}{i}"} for i in range(3000)])
    out, whole = tmp_path / "out", tmp_path / "whole"
    arguments = ["scan", str(source), str(out), "--policy", str(policy), "--processes", processes]
    running = process(arguments)
    while not out.exists() or out.read_bytes().count(b"\n") < 100:
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert running.wait(0.01) is None  # it must not end by itself
    running.send_signal(signal.SIGKILL)
    running.communicate()  # until its other processes have gone, too: they hold the same pipes
    assert running.returncode == -signal.SIGKILL
    left = out.read_bytes()
    assert 100 <= left.count(b"\n") < 3000
    done = scan(source, out, policy, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["resumed"] == left.count(b"\n")
    assert scan(source, whole, policy).exit_code == 0
    assert without_times(out) == without_times(whole)
    assert out.read_bytes().startswith(left[: left.rindex(b"\n") + 1])
    assert not (tmp_path / "out.lock").exists()


def test_a_full_disk_keeps_what_was_done(rows: Path, policy: Path, tmp_path: Path) -> None:
    """The limit on a file's size stands in for the disk's: writing ends in the middle of a line."""
    source = write(tmp_path / "in.jsonl", [{"text": TEXTS[i % 3]} for i in range(200)])
    out = tmp_path / "out"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    running = process(["scan", str(source), str(out), "--policy", str(policy)], preexec_fn=limit)
    _, said = running.communicate()
    assert running.returncode == 3, said
    kept = out.read_bytes().count(b"\n")
    assert out.stat().st_size == 10_000
    assert f"The first {kept} rows are kept" in said
    assert "run the same command" in said
    done = scan(source, out, policy, "--json")
    assert json.loads(done.stdout)["resumed"] == kept
    assert [row["row"] for row in read(out)] == list(range(1, 201))


@pytest.mark.slow
def test_several_processes_give_the_same(rows: Path, policy: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"text": f"{TEXTS[i % 3]} {i}", "id": i} for i in range(400)])
    for number in ("1", "2"):
        done = scan(source, tmp_path / number, policy, "--processes", number, "--keep", "id")
        assert done.exit_code == 0, done.stderr
    assert without_times(tmp_path / "1") == without_times(tmp_path / "2")


@pytest.mark.slow
def test_a_fault_in_another_process_is_told_as_in_this_one(rows: Path, policy: Path, tmp_path: Path) -> None:
    policy.write_text(policy.read_text().replace("type: pii,", "type: magic,"))
    told = [scan(rows, tmp_path / "out", policy, "--processes", number) for number in ("1", "2")]
    assert [done.exit_code for done in told] == [2, 2]
    assert told[0].stderr == told[1].stderr
    assert "checks.pii.type" in told[0].stderr


@pytest.mark.slow
def test_a_killed_process_is_told(rows: Path, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_workers, "_lines", die)
    done = scan(rows, tmp_path / "out", policy, "--processes", "2")
    assert done.exit_code == 3
    assert "ended too early" in done.stderr
    monkeypatch.undo()
    assert scan(rows, tmp_path / "out", policy).exit_code == 0
    assert [row["action"] for row in read(tmp_path / "out")] == ACTIONS


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


GUARD = Guard(Policy.parse(TEXT_POLICY))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(max_size=20), min_size=1, max_size=8),
    value=st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), st.lists),
)
def test_any_row_has_a_line(tmp_path: Path, texts: list[str], value: object) -> None:
    source = write(tmp_path / "in.jsonl", [{"text": text, "x": value, "y": 0} for text in texts])
    lines = scan_workers.lines(GUARD, list(corpus.read(str(source), keep=["*"])), keep_text=True)
    got = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["row"] for row in got] == list(range(1, len(texts) + 1))
    assert not any(row["errors"] for row in got)
    assert all(row["columns"]["y"] == 0 and line.isascii() for row, line in zip(got, lines, strict=True))


@pytest.mark.parametrize(("processes", "ahead"), [(1, 1), pytest.param(2, 8, marks=pytest.mark.slow)])
def test_rows_are_asked_for_a_few_batches_ahead(processes: int, ahead: int, policy: Path) -> None:
    asked = 0

    def endless() -> Iterator[corpus.Entry]:
        nonlocal asked
        while True:
            asked += 1
            yield corpus.Entry(asked, Sample("word"))

    settings = scan_workers.Settings(str(policy), "embedded", None, "auto", "auto", False)
    with scan_workers.scanner(settings, processes) as (_, scanned):
        for written, lines in zip(range(12), scanned(endless()), strict=False):
            assert len(lines) == scan_workers.BATCH
            assert asked <= (written + ahead) * scan_workers.BATCH + 1  # one more tells that the batch is full


def test_a_long_text_comes_alone() -> None:
    sizes = [10, 300_000, 10, 200_000, 100_000, 20]
    parts = scan_workers._parts(corpus.Entry(i, Sample("x" * size)) for i, size in enumerate(sizes))
    assert [[entry.place for entry in part] for part in parts] == [[0], [1], [2, 3], [4, 5]]


def test_a_source_that_changes_under_the_scan_is_told(rows: Path, policy: Path, tmp_path: Path) -> None:
    read_ = corpus.read(str(rows))
    assert [entry.place for entry in read_] == [1, 2, 3, 4] == [entry.place for entry in read_]
    write(rows, [{"text": text} for text in [*TEXTS[:3], "another"]])
    with pytest.raises(DataError, match="was changed while it was read"):
        list(read_)


def test_the_digest_covers_what_is_read(tmp_path: Path) -> None:
    def digest(*rows: Any, stage: Stage = Stage.INPUT, keep: tuple[str, ...] = ()) -> str:
        return corpus.read(str(write(tmp_path / "in.jsonl", list(rows))), stage, keep=keep).digest

    same = digest({"text": "a", "id": 1})
    assert same == digest({"id": 2, "text": "a", "prompt": None})
    others = [
        digest({"text": "b"}),
        digest({"text": "a"}, {"text": "a"}),
        digest({"text": "a", "prompt": "p"}),
        digest({"text": "a"}, stage=Stage.OUTPUT),
        digest({"text": "a", "id": 1}, keep=("id",)),
        digest({"text": "a", "id": 2}, keep=("id",)),
    ]
    assert len({same, *others}) == 7


def test_a_folder_that_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder that `datasets` saved"):
        corpus.read(str(tmp_path))
