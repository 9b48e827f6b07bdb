"""What the Guard page stands on: thresholds decided again without a pass, a reply's stream, versions of policies."""

from __future__ import annotations

from pathlib import Path

import pytest
from guard_helpers import CARD, MAIL, FakeGemma, make_artifact
from hypothesis import given
from hypothesis import strategies as st

from debugger_app.flow import flow
from debugger_app.marks import segments
from debugger_app.redecide import Remembering, judge
from debugger_app.versions import next_folder, put_into_policy, save_policy, with_artifact, with_thresholds
from safety_kit.errors import PolicyError
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.types import Action, Finding, Message, Stage

POLICY = """\
version: 1
name: mine
checks:
  shout: {type: probe, artifact: ./shout}  # how loud
  pii: {type: pii, countries: [us]}
rules:
  - {category: pii.email, action: redact, form: mask}
  # Loud is rude.
  - {category: shout, action: block, max_fpr: 0.05}
  - category: shout
    stages: [output]
    action: flag
    threshold: 0.2
messages: {default: No.}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("policy")
    make_artifact(home / "shout", ["shout"])
    (home / "mine.yaml").write_text(POLICY, encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def gemma() -> FakeGemma:
    return FakeGemma()


@pytest.fixture(scope="module")
def guard(home: Path, gemma: FakeGemma) -> Guard:
    return Guard(Policy.load(home / "mine.yaml"), gemma)


# --- deciding again

said = st.text(st.sampled_from("ab !.@"), max_size=40) | st.sampled_from([f"to {MAIL}!!!!", f"{CARD}", "!" * 30])
probability = st.integers(1, 999).map(lambda n: n / 1000)
thresholds = st.fixed_dictionaries({}, optional={1: probability, 2: probability}).filter(
    lambda tried: tried.get(1) != tried.get(2, 0.2)  # block and flag above one probability: no policy may say that
)


@given(user=said, reply=said, tried=thresholds)
def test_other_thresholds_decide_as_a_guard_that_has_them_and_no_model_reads_anything(
    home: Path, gemma: FakeGemma, guard: Guard, user: str, reply: str, tried: dict[int, float]
) -> None:
    file = Policy.load(home / "mine.yaml")
    messages = [Message("user", user), Message("assistant", reply)]
    kept = Remembering.of(guard)
    judge(kept, messages)
    judge(kept.with_thresholds(file, {1: 0.999, 2: 0.999}), messages)  # a reply is read that a block kept unread
    calls = len(gemma.calls)
    again = judge(kept.with_thresholds(file, tried), messages)
    assert len(gemma.calls) == calls

    fresh = Guard(Policy.parse(with_thresholds(POLICY, tried), home), gemma)
    expected = judge(fresh, messages)
    assert [(p.message, p.kind, p.verdict.action, p.verdict.findings) for p in again.places] == [
        (p.message, p.kind, p.verdict.action, p.verdict.findings) for p in expected.places
    ]
    assert (again.action, again.reply) == (expected.action, expected.reply)


def test_a_rule_with_a_rate_keeps_its_number_though_it_became_a_rule_a_stage(home: Path, guard: Guard) -> None:
    limits = Remembering.of(guard).limits(Policy.load(home / "mine.yaml"))
    assert [(limit.number, str(limit.action), sorted(limit.thresholds)) for limit in limits] == [
        (1, "block", [Stage.INPUT, Stage.OUTPUT]),
        (2, "flag", [Stage.OUTPUT]),
    ]


def test_two_memories_of_one_guard_share_nothing(guard: Guard) -> None:
    mine, yours = Remembering.of(guard), Remembering.of(guard)
    judge(mine, [Message("user", "my secret")])
    assert mine.heard
    assert not yours.heard


# --- a reply as it streams


@given(reply=said)
def test_a_stream_lets_out_what_the_guard_would_and_counts_what_stands_back(
    gemma: FakeGemma, guard: Guard, reply: str
) -> None:
    seen = flow(guard, gemma, reply, "hello")  # type: ignore[arg-type]
    assert "".join(one.text for one in seen.fed) == reply[: seen.fed[-1].read]
    assert all(one.held >= 0 for one in seen.fed)
    whole = guard.check_text(reply, Stage.OUTPUT, "hello")
    if not whole.blocked and not seen.verdict.blocked:
        assert (seen.released, seen.verdict.action) == (whole.text, whole.action)
        assert seen.fed[-1].held == 0


def test_an_address_stands_back_until_it_is_whole(gemma: FakeGemma, guard: Guard) -> None:
    seen = flow(guard, gemma, f"Write to {MAIL} now.")  # type: ignore[arg-type]
    assert seen.released == "Write to [EMAIL] now."
    assert seen.most_held >= len(MAIL)
    assert seen.activations


# --- marks


@given(st.text(max_size=30), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=5))
def test_marked_pieces_are_the_text(text: str, places: list[tuple[int, int]]) -> None:
    spans = tuple((min(a, b), max(a, b)) for a, b in places if max(a, b) <= len(text))
    pieces = segments(text, [Finding("pii", "pii.email", 1.0, "rule", spans)])
    assert "".join(piece for piece, _ in pieces) == text
    marked = sum(len(piece) for piece, label in pieces if label)
    assert marked == len({at for start, end in spans for at in range(start, end)})


# --- versions


def test_thresholds_are_written_where_the_rates_stood_and_nothing_else_changes() -> None:
    text = with_thresholds(POLICY, {1: 0.75, 2: 0.5})
    assert text == POLICY.replace("max_fpr: 0.05", "threshold: 0.75").replace("threshold: 0.2\n", "threshold: 0.5\n")


def test_a_rule_without_a_number_of_its_own_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"rules\[0\] has no rate"):
        with_thresholds(POLICY, {0: 0.5})


def test_versions_count_on_and_overwrite_nothing(home: Path) -> None:
    old = home / "mine.yaml"
    made = [save_policy(POLICY, old), save_policy(POLICY, old), save_policy(POLICY, home / "mine-v2.yaml")]
    assert [path.name for path in made] == ["mine-v2.yaml", "mine-v3.yaml", "mine-v4.yaml"]
    assert old.read_text(encoding="utf-8") == POLICY
    for path in made:
        path.unlink()


def test_what_is_no_policy_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(PolicyError):
        save_policy("version: 2", tmp_path / "mine.yaml")
    assert not list(tmp_path.iterdir())


def test_a_classifier_taught_again_is_read_by_the_next_version_with_a_calibration_of_its_own(tmp_path: Path) -> None:
    make_artifact(tmp_path / "shout", ["shout"])
    make_artifact(tmp_path / "shout-v2", ["shout"])
    (tmp_path / "mine.yaml").write_text(POLICY + "calibration: calibration.json\n", encoding="utf-8")
    made = put_into_policy(
        str(tmp_path / "mine.yaml"), tmp_path / "shout-v2", "shout", [Stage.INPUT], "block", check="shout"
    )
    policy = Policy.load(made)
    assert (made.name, policy.calibration) == ("mine-v2.yaml", tmp_path / "calibration-v2.json")
    assert '"./shout-v2"}  # how loud' in made.read_text(encoding="utf-8")


def test_a_calibration_in_another_folder_has_its_next_version_there(tmp_path: Path) -> None:
    home = tmp_path / "policies"
    for name in ("shout", "shout-v2"):
        make_artifact(home / name, ["shout"])
    (home / "mine.yaml").write_text(POLICY + "calibration: ../logs/calibration.json\n", encoding="utf-8")
    made = put_into_policy(str(home / "mine.yaml"), home / "shout-v2", "shout", [], "block", check="shout")
    calibration = Policy.load(made).calibration
    assert calibration is not None
    assert calibration.resolve() == tmp_path / "logs" / "calibration-v2.json"


def test_a_new_category_gets_a_check_and_a_rule_and_a_bad_one_leaves_no_file(tmp_path: Path) -> None:
    make_artifact(tmp_path / "shout", ["shout"])
    make_artifact(tmp_path / "haste", ["haste"])
    (tmp_path / "mine.yaml").write_text(POLICY, encoding="utf-8")
    source = str(tmp_path / "mine.yaml")
    made = put_into_policy(source, tmp_path / "haste", "haste", [Stage.INPUT], "block", threshold=0.5)
    guard = Guard(Policy.load(made), FakeGemma())
    assert guard.check_text("!!!!!!!!").action is Action.BLOCK
    with pytest.raises(PolicyError):
        put_into_policy(source, tmp_path / "haste", "shout", [Stage.INPUT], "block", threshold=0.5)
    assert sorted(path.name for path in tmp_path.glob("*.yaml")) == ["mine-v2.yaml", "mine.yaml"]


def test_no_check_no_artifact() -> None:
    with pytest.raises(PolicyError, match=r"checks\.pii reads no classifier"):
        with_artifact(POLICY, "pii", Path("x"), Path())


def test_a_folder_that_is_there_is_never_taken(tmp_path: Path) -> None:
    assert next_folder(tmp_path / "dosing") == tmp_path / "dosing"
    (tmp_path / "dosing").mkdir()
    (tmp_path / "dosing-v2").mkdir()
    assert next_folder(tmp_path / "dosing") == tmp_path / "dosing-v3"
