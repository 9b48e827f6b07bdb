"""The audit log: nothing changes unseen, a fault leaves no half line, and no text is in it."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import ROOT, app, runner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from record_helpers import PLAIN, asked, judged, replied

from safety_kit.chat.examine import PlaceVerdict
from safety_kit.chat.exchange import Verdicts
from safety_kit.errors import AuditError, UserError
from safety_kit.gateway import audit as audit_module
from safety_kit.gateway import audit_chain, audit_verify
from safety_kit.gateway.audit import AuditLog
from safety_kit.gateway.audit_line import MAX_LINE, parse, seal
from safety_kit.gateway.audit_verify import Report, verify
from safety_kit.gateway.settings import Audit
from safety_kit.types import Action, CheckError, Finding, Stage, Verdict

WRITER = """
import sys
from pathlib import Path
from record_helpers import PLAIN
from safety_kit.gateway.audit import AuditLog
from safety_kit.gateway.settings import Audit

log = AuditLog(Audit(file=Path(sys.argv[1]), fsync=sys.argv[2], max_bytes=20_000))
print("open", flush=True)
while True:
    log.write(PLAIN)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@contextmanager
def opened(file: Path, **options: Any) -> Iterator[AuditLog]:
    clock = options.pop("clock", lambda: 1764324895.0)
    log = AuditLog(Audit(file=file, **{"fsync": "never", **options}), clock)
    try:
        yield log
    finally:
        log.close()


def write(file: Path, lines: int, **options: Any) -> None:
    with opened(file, **options) as log:
        for number in range(lines):
            log.write(replace(PLAIN, request_id=f"r{number}"))


def read(*files: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def writer(file: Path, fsync: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "gateway")])
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file), fsync],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def room_for(bytes_: int) -> Iterator[None]:
    """The system itself writes no file beyond a size: it takes the half of a line that fits, then refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_says_what_came_of_a_request_and_repeats_no_text(file: Path) -> None:
    secret = "AKIAIOSFODNN7EXAMPLE"
    call = {"name": "send", "arguments": json.dumps({f"to-{secret}": "ana@example.com", "ana": "an idiot"})}
    request = asked("My key is " + secret, "You idiot", "Ask ana@example.com", user="Anabel", model="tell me Anabel")
    request["messages"].append({"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": call}]})
    record = judged(request, replied("The bluebird"), code="blocked.banned", request_id="ask Anabel", model="tell me")
    with opened(file) as log:
        log.write(record)
    written = file.read_text()
    hidden = [secret, "ana", "Anabel", "idiot", "bluebird", "tell me", "Ask", "to-"]
    assert [word for word in hidden if word in written] == []
    line = read(file)[-1]
    assert (line["outcome"], line["code"], line["status"], line["key"]) == ("block", "blocked.banned", 200, "shop")
    assert (line["request_id"], line["model"]) == ("<10 characters>", "<7 characters>")
    first = line["request"]["places"][0]
    assert (first["path"], first["action"]) == ("messages[0].content", "redact")
    assert first["findings"][0] == {
        **{"check": "secrets", "category": "secrets.aws_key", "score": 1.0, "score_kind": "rule"},
        "spans": [[10, 30]],
    }
    assert {"pii", "rude"} <= line["request"]["timings"].keys()
    assert {p["path"] for p in line["request"]["places"]} >= {"messages[3].tool_calls[0].function.arguments…"}
    assert line["response"]["places"][0]["code"] == "blocked.banned"


def test_digests_need_the_key(file: Path) -> None:
    request = asked("You idiot")
    with opened(file) as log:
        log.write(judged(request))
    key = file.with_suffix(".key")
    assert stat.S_IMODE(key.stat().st_mode) == stat.S_IMODE(file.stat().st_mode) == 0o600
    line = read(file)[-1]["request"]
    done = runner.invoke(app, ["audit", "digest", "You idiot", "--key", str(key)])
    assert done.stdout.strip() == line["places"][0]["digest"]
    done = runner.invoke(app, ["audit", "digest", json.dumps(request, indent=2), "--body", "--key", str(key)])
    assert done.stdout.strip() == line["digest"]
    with opened(file.with_name("other.jsonl")) as log:
        log.write(judged(request))
    assert read(log.file)[-1]["request"]["digest"] != line["digest"]
    key.write_text("short")
    with pytest.raises(UserError, match="64 hexadecimal"):
        AuditLog(Audit(file=file))


def test_huge_verdicts_make_a_bounded_line(file: Path) -> None:
    with opened(file) as log:
        log.write(judged(asked(*["idiot ana@example.com " * 10] * 60)))
    line = read(file)[-1]["request"]
    assert len(file.read_bytes()) < 2**19
    assert (len(line["places"]), line["left_out"]) == (50, line["checked"] - 50)
    assert sum(len(place["findings"]) for place in line["places"]) == 200
    assert verify(file).fault is None


def test_no_verdict_makes_a_line_too_long_to_be_read(file: Path) -> None:
    name = "\U0001f600" * 300
    finding = Finding(name, name, 1 / 3, "uncalibrated", tuple((10**9 + n, 10**9 + n + 1) for n in range(99)))
    verdict = Verdict(Stage.INPUT, Action.BLOCK, None, (finding,) * 99, (CheckError("\x00" * 300, ""),) * 99, code=name)
    verdicts = Verdicts((PlaceVerdict("content[0]." * 99, "content", "user", verdict),) * 99, "")
    with opened(file) as log:
        log.write(replace(PLAIN, request=verdicts, response=verdicts, key=name, code=name, route=name))
    assert 2**18 < len(file.read_bytes()) < MAX_LINE
    write(file, 1)
    assert verify(file).fault is None


# --- what verify finds


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    """The files of a log of 14 requests, rotated twice: name and content, in order."""
    file = tmp_path_factory.mktemp("log") / "audit.jsonl"
    write(file, 14, max_bytes=2_500)
    names = ["audit.000001.jsonl", "audit.000002.jsonl", "audit.jsonl"]
    assert sorted(path.name for path in file.parent.glob("*.jsonl")) == names
    return [(name, file.with_name(name).read_bytes()) for name in names]


def restored(folder: Path, files: list[tuple[str, bytes]]) -> Report:
    for path in folder.glob("*.jsonl"):
        path.unlink()
    for name, content in files:
        (folder / name).write_bytes(content)
    return verify(folder / "audit.jsonl")


def split(files: list[tuple[str, bytes]]) -> list[tuple[int, bytes]]:
    return [(place, line) for place, (_, content) in enumerate(files) for line in content.splitlines(keepends=True)]


def joined(files: list[tuple[str, bytes]], lines: list[tuple[int, bytes]]) -> list[tuple[str, bytes]]:
    return [
        (name, b"".join(line for place, line in lines if place == number)) for number, (name, _) in enumerate(files)
    ]


def test_rotated_files_are_one_chain(written: list[tuple[str, bytes]], tmp_path: Path) -> None:
    report = restored(tmp_path, written)
    assert (report.fault, report.files, report.requests, report.number) == (None, 3, 14, 17)
    assert verify(tmp_path / "audit.000001.jsonl").number == 17
    for _, content in written:
        assert json.loads(content.splitlines()[0])["kind"] == "header"
        assert len(content) < 2_500 + 1_000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.data())
def test_any_single_tampering_is_found(data: st.DataObject, written: list[tuple[str, bytes]], tmp_path: Path) -> None:
    lines = split(written)
    last = len(lines) - 1
    how = data.draw(st.sampled_from(["change", "forge", "remove", "swap", "repeat"]))
    at = data.draw(st.integers(0, last))
    bad = at  # the first line that does not hold
    match how:
        case "change":
            place, line = lines[at]
            # without the end of the very last line that line is a torn one
            byte = data.draw(st.integers(0, len(line) - (2 if at == last else 1)))
            to = data.draw(st.integers(0, 255).filter(lambda value: value != line[byte]))
            lines[at] = (place, line[:byte] + bytes([to]) + line[byte + 1 :])
        case "forge":  # with a hash of its own that is right
            at = data.draw(st.integers(0, last - 1))
            line = parse(lines[at][1])
            lines[at] = (lines[at][0], seal(line.number, line.previous, line.kind, {**line.fields, "more": 1}).raw)
            bad = at + 1
        case "remove":
            at = bad = data.draw(st.integers(0, last - 1))
            del lines[at]
        case "swap":
            other = data.draw(st.integers(0, last).filter(lambda value: value != at))
            (to_place, line), (from_place, second) = lines[at], lines[other]
            lines[at], lines[other] = (to_place, second), (from_place, line)
            bad = min(at, other)
        case "repeat":
            to = data.draw(st.integers(0, last).filter(lambda value: value != at - 1))
            lines.insert(to + 1, (lines[to][0], lines[at][1]))
            bad = to + 1
    report = restored(tmp_path, joined(written, lines))
    assert report.fault is not None
    assert report.number == bad
    name = report.fault.file.name
    before = sum(place < [name for name, _ in written].index(name) for place, _ in lines)
    assert before + report.fault.line - 1 == bad


def test_a_whole_file_that_is_gone(written: list[tuple[str, bytes]], tmp_path: Path) -> None:
    gone = [restored(tmp_path, written[:place] + written[place + 1 :]) for place in range(3)]
    assert ["missing" in str(report.fault) for report in gone] == [True, True, False]
    assert gone[2].fault is None  # as far as can be known
    report = restored(tmp_path, [written[0]])
    assert (report.fault, report.files) == (None, 1)
    swapped = [(written[0][0], written[1][1]), (written[1][0], written[0][1]), written[2]]
    assert restored(tmp_path, swapped).fault is not None
    assert restored(tmp_path, [written[0], (written[1][0], b""), written[2]]).fault is not None
    assert restored(tmp_path, [written[0], (written[1][0], b"x" * (2**20 + 5)), written[2]]).fault is not None


def test_a_tail_that_is_gone_needs_a_head_remembered_elsewhere(file: Path) -> None:
    write(file, 5)
    head = json.loads(runner.invoke(app, ["audit", "head", str(file), "--json"]).stdout)
    assert head["number"] == 6
    whole = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(whole[:-1]))
    assert runner.invoke(app, ["audit", "verify", str(file)]).exit_code == 0
    for option in (["--expect", head["head"]], ["--count", "6"]):
        done = runner.invoke(app, ["audit", "verify", str(file), *option])
        assert (done.exit_code, "the end is cut off" in done.stdout) == (1, True)
    write(file, 3)  # it goes on, and the head is still not there
    assert verify(file, expect=head["head"]).fault is not None
    file.write_bytes(b"".join(whole))
    write(file, 3)
    assert verify(file, expect=head["head"], count=6).fault is None


def test_earlier_files_may_be_archived(written: list[tuple[str, bytes]], tmp_path: Path) -> None:
    report = restored(tmp_path, written[1:])
    assert "missing" in str(report.fault)
    last = json.loads(written[0][1].splitlines()[-1])
    held = verify(tmp_path / "audit.jsonl", after=last["hash"])
    assert (held.fault, held.number, held.requests < 14) == (None, 17, True)
    assert verify(tmp_path / "audit.jsonl", after="1" * 64).fault is not None


def test_the_command_names_the_first_bad_line(file: Path) -> None:
    write(file, 4)
    whole = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*whole[:2], whole[2].replace('"outcome":"allow"', '"outcome":"block"'), *whole[3:]]))
    done = runner.invoke(app, ["audit", "verify", str(file)])
    assert done.exit_code == 1
    assert "audit.jsonl, line 3: was changed; the 2 lines before it hold" in done.stdout
    write(file.with_name("good.jsonl"), 2)
    done = runner.invoke(app, ["audit", "verify", str(file.parent), "--json"])
    logs = {Path(log["file"]).name: log for log in json.loads(done.stdout)["logs"]}
    assert (done.exit_code, logs["good.jsonl"]["ok"], logs["audit.jsonl"]["fault"]["line"]) == (1, True, 3)
    assert runner.invoke(app, ["audit", "verify", str(file.parent), "--count", "3"]).exit_code == 2
    for command in (["verify", "no.jsonl"], ["head", "no.jsonl"], ["verify", str(ROOT / "docs")]):
        assert runner.invoke(app, ["audit", *command]).exit_code == 2


@pytest.mark.parametrize("moment", range(1, 5))
def test_a_log_may_be_rotated_while_it_is_read(file: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    rotated = audit_verify.files.rotated
    looks = 0

    class Late(type(Path())):  # type: ignore[misc]
        def exists(self) -> bool:
            nonlocal looks
            looks += 1
            if looks == moment:
                while not super().exists():
                    log.write(PLAIN)
            return bool(super().exists())

    with opened(file, max_bytes=1_500) as log:
        log.write(PLAIN)
        monkeypatch.setattr(audit_verify.files, "rotated", lambda *which: Late(rotated(*which)))
        report = verify(file)
    assert looks >= moment
    assert (report.fault, report.torn, report.requests > 1) == (None, 0, True)


def test_hostile_files_are_refused_without_being_read_whole(file: Path) -> None:
    deep = b"[" * 100_000 + b"\n"
    for content in (b"\xff\xfe\n", b"[]\n", b'{"number": 1}\n', deep, b"x" * 2_000_000, b'"\n"', b"1" * 5_000 + b"\n"):
        file.write_bytes(content)
        assert verify(file).fault is not None, content[:20]
        with pytest.raises(UserError, match="no audit log"):
            AuditLog(Audit(file=file))
        assert file.read_bytes() == content


# --- how it is written


def test_a_torn_line_is_set_aside_wherever_it_was_torn(file: Path) -> None:
    write(file, 3)
    whole = file.read_bytes()
    begin = whole.rindex(b"\n", 0, -1) + 1
    for end in random.Random(7).sample(range(begin + 1, len(whole)), 20):
        file.write_bytes(whole[:end])
        torn = verify(file)
        assert (torn.fault, torn.torn, torn.number) == (None, end - begin, 3)
        write(file, 1)
        after = verify(file)
        assert (after.fault, after.torn, after.set_aside, after.requests) == (None, 0, end - begin, 3)
        aside = file.with_name(f"audit.jsonl.torn-1-{begin}")
        assert aside.read_bytes() == whole[begin:end]
        assert stat.S_IMODE(aside.stat().st_mode) == 0o600


@pytest.mark.parametrize("fsync", ["never", "second", "always"])
def test_killed_at_any_moment_the_chain_holds_and_goes_on(file: Path, fsync: str) -> None:
    rounds = 4
    for number in range(rounds):
        process = writer(file, fsync)
        assert process.stdout is not None
        process.stdout.readline()
        least = verify(file).requests + random.randrange(5, 40)
        while verify(file).requests < least:  # read while it is written and rotated
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        report = verify(file)
        assert report.fault is None, (number, report.fault)
        assert report.requests >= least
    assert verify(file).files > 1
    write(file, 1)
    assert verify(file).fault is None


def test_a_second_process_is_told_and_a_dead_one_leaves_no_lock(file: Path) -> None:
    process = writer(file, "never")
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(UserError, match=r"Another process writes .*audit.file of its own"):
        AuditLog(Audit(file=file))
    second = writer(file, "never")
    assert second.wait() != 0
    process.kill()
    process.communicate()
    second.communicate()
    write(file, 1)
    assert verify(file).fault is None


def test_the_machine_may_be_in_the_name(tmp_path: Path) -> None:
    with opened(tmp_path / "audit-{host}.jsonl") as log:
        assert "{" not in log.file.name
    with pytest.raises(ValueError, match="jsonl"):
        Audit(file=tmp_path / "audit.log")


def test_threads_share_a_log(file: Path) -> None:
    with opened(file, max_bytes=5_000) as log:
        threads = [threading.Thread(target=lambda: [log.write(PLAIN) for _ in range(25)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    report = verify(file)
    assert (report.fault, report.requests) == (None, 200)


def test_clocks_may_jump(file: Path) -> None:
    times = iter([5.0, -1e18, math.nan, math.inf, 1e300, *[0.0] * 20])
    with opened(file, max_bytes=1_000, clock=lambda: next(times)) as log:
        for at in (1e12, -5.0, 0.0, math.nan, math.inf):
            log.write(replace(PLAIN, at=at))
    report = verify(file)
    assert (report.fault, report.requests) == (None, 5)
    ordered = [line["number"] for line in read(*sorted(file.parent.glob("audit.0*.jsonl")), file)]
    assert ordered == list(range(1, report.number + 1))


# --- faults


def test_a_full_disk_leaves_no_half_line_and_is_told_when_there_is_room(file: Path) -> None:
    with opened(file) as log:
        log.write(PLAIN)
        before = file.read_bytes()
        with room_for(len(before) + 100):
            for _ in range(3):
                with pytest.raises(AuditError, match=r"cannot be written: File too large\. Make room"):
                    log.write(PLAIN)
            assert file.read_bytes() == before
            assert not log.ready()
        assert log.ready()
        log.write(PLAIN)
    report = verify(file)
    assert (report.fault, report.requests, report.lost, report.torn) == (None, 2, 3, 0)
    assert [line["kind"] for line in read(file)] == ["header", "request", "gap", "request"]


def test_a_full_disk_at_a_rotation(file: Path) -> None:
    with opened(file, max_bytes=1_000) as log:
        log.write(PLAIN)
        log.write(PLAIN)
        with room_for(50), pytest.raises(AuditError):
            log.write(PLAIN)
        assert [path.name for path in sorted(file.parent.glob("[!.]*.jsonl*"))] == ["audit.jsonl"]
        log.write(PLAIN)
        assert file.with_name("audit.000001.jsonl").exists()
    report = verify(file)
    assert (report.fault, report.requests, report.lost) == (None, 3, 1)


@pytest.mark.parametrize("then", ["back", "away"])
def test_a_line_that_cannot_even_be_taken_back(file: Path, monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    real = os.write

    def half(descriptor: int, data: Any) -> int:
        if len(data) < 200:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: len(data) // 2])

    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    log = AuditLog(Audit(file=file, fsync="never"))
    log.write(PLAIN)
    with monkeypatch.context() as broken:
        broken.setattr(os, "write", half)
        broken.setattr(os, "ftruncate", refuse)
        with pytest.raises(AuditError, match="No space left"):
            log.write(PLAIN)
        with pytest.raises(AuditError, match="Input/output"):
            log.write(PLAIN)
        assert verify(file).torn > 0
    if then == "away":
        log.close()
        log = AuditLog(Audit(file=file, fsync="never"))
    log.write(PLAIN)
    log.close()
    report = verify(file)
    assert (report.fault, report.requests, report.torn) == (None, 2, 0)
    assert (report.lost, report.set_aside > 0) == ((2, False) if then == "back" else (0, True))


def test_fsync_always_promises_the_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with opened(file, fsync="always") as log:
        log.write(PLAIN)
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", refuse)
            with pytest.raises(AuditError, match="Input/output"):
                log.write(PLAIN)
        log.check()
    assert (verify(file).requests, verify(file).lost) == (1, 1)


def test_fsync_once_a_second_tells_its_fault_before_the_next_request(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    refused, allowed, done = threading.Event(), threading.Event(), threading.Event()

    def fsync(descriptor: int) -> None:
        if threading.current_thread().name != "audit-fsync":
            return real(descriptor)
        if not allowed.is_set():
            refused.set()
            raise OSError(errno.EIO, "Input/output error")
        done.set()
        return real(descriptor)

    monkeypatch.setattr(audit_module, "SYNC_SECONDS", 0.01)
    monkeypatch.setattr(os, "fsync", fsync)
    with opened(file, fsync="second") as log:
        log.write(PLAIN)
        assert refused.wait(30)
        wait_until(lambda: not log.ready())
        allowed.set()
        assert done.wait(30)
        wait_until(log.ready)


def wait_until(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(3_000):
        if holds():
            return
        pause.wait(0.01)
    pytest.fail("it never came to hold")


def test_check_says_beforehand_what_would_go_wrong(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(file) as log:
        log.check()
        with monkeypatch.context() as full:
            real = os.fstatvfs
            full.setattr(
                os, "fstatvfs", lambda fd: os.statvfs_result((*list(real(fd))[:3], *[100] * 2, *list(real(fd))[5:]))
            )
            with pytest.raises(AuditError, match="nearly full"):
                log.check()
        content = file.read_bytes()
        file.write_bytes(content + b"\n")
        with pytest.raises(AuditError, match="moved or changed"):
            log.check()
        file.unlink()
        assert not log.ready()
    with pytest.raises(AuditError, match="is closed"):
        log.write(PLAIN)


def test_killed_between_the_two_steps_of_a_rotation(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    with opened(file, max_bytes=500) as log, monkeypatch.context() as broken:
        broken.setattr(audit_chain.private_files, "create", die)
        log.write(PLAIN)
        with pytest.raises(Killed):
            log.write(PLAIN)
    assert not file.exists()
    assert verify(file).fault is None
    assert verify(file).files == 1
    write(file, 1)
    report = verify(file)
    assert (report.fault, report.files, report.requests) == (None, 2, 2)


def test_a_log_whose_end_was_changed_is_not_gone_on_with(file: Path) -> None:
    write(file, 2)
    changed = file.read_bytes().replace(b'"status":200', b'"status":500')
    file.write_bytes(changed)
    with pytest.raises(UserError, match="its end was changed"):
        AuditLog(Audit(file=file))
    assert file.read_bytes() == changed
    assert runner.invoke(app, ["audit", "head", str(file)]).exit_code == 2
