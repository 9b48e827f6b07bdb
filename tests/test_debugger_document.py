"""A run as a file: what was exported opens again, and what was crafted is refused without being repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from debugger_helpers import HOSTILE, inert, workplace
from test_gemma_load import tiny

from debugger_app import example, handoff, preflight
from debugger_app.document import MOST_BYTES, Document, opened
from debugger_app.frame import Opened
from debugger_app.panels.safety import decisions
from debugger_app.panels.tokens import drawn, marks, measured
from debugger_app.panels.trust import checked
from debugger_app.resources import Model
from debugger_app.study import Study, look, study
from debugger_app.visible import plain, short, visible
from safety_kit.commands.inspect_page import page
from safety_kit.errors import UserError
from safety_kit.gemma import Sampling
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.types import Message, Sample, Stage

pytestmark = pytest.mark.app


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    _, policy = workplace(tmp_path_factory.mktemp("work"))
    return Guard(Policy.load(str(policy)), tiny(chat=False))


@pytest.fixture(scope="module")
def seen(guard: Guard) -> Study:
    made = study(tiny(chat=False), guard, [Message("user", HOSTILE)], Sampling(max_tokens=12))
    made.document = checked(made.document, tiny(chat=False))
    return made


def test_a_run_opens_as_it_was_exported(seen: Study) -> None:
    assert opened(seen.document.model_dump_json().encode()) == seen.document


def test_a_character_of_several_tokens_stands_once_in_the_text(seen: Study) -> None:
    assert sum(token.text == "😀" for token in seen.document.tokens) == 4
    assert seen.document.text.count("😀") == 1


def test_a_reply_that_is_given_is_read_as_the_guard_reads_it(guard: Guard) -> None:
    gemma, asked, reply = tiny(chat=False), "the cat in the hat", "a dog under the table"
    seen = study(gemma, guard, [Message("user", asked), Message("assistant", reply)], Sampling(max_tokens=12))
    assert [part.role for part in seen.document.messages] == ["user", "assistant"]
    assert seen.document.reply == reply
    assert guard.probes is not None
    ((found,),) = guard.probes.run([Sample.at(reply, Stage.OUTPUT, asked)])
    assert seen.document.messages[1].strips[0].probabilities[-1] == pytest.approx(found.score, abs=1e-5)
    assert seen.live is not None
    other = seen.live.tree.branch(0, 2, "the")
    assert (
        seen.live.tree.runs[other].tokens.ids[: seen.live.run.start + 2] == seen.tokens.ids[: seen.live.run.start + 2]
    )


def test_what_another_page_sends_to_inspect_is_measured_first(guard: Guard) -> None:
    here = Opened(Model(tiny(chat=False)), guard)
    with pytest.raises(UserError, match="100,001 characters"):
        handoff.inspect(here, [Message("user", "a" * 100_001)])


def test_the_example_opens_and_is_not_older_than_the_document() -> None:
    shown = example.document()
    assert shown.categories
    assert shown.model.family == "Gemma 3"
    assert shown.trust is not None
    assert shown.trust.failed == []
    assert any("acts" in found for found in marks(shown))


def edit(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda said: said.update(changes)


CRAFTED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no digest": lambda said: said["model"].update(digest="<b>evil</b>"),
    "another field": edit(evil="<script>"),
    "a strip of another length": lambda said: said["messages"][0]["strips"][0]["probabilities"].append(0.5),
    "a probability of 7": lambda said: said["messages"][0]["strips"][0]["probabilities"].__setitem__(0, 7),
    "a crossing that is not there": lambda said: said["messages"][0]["strips"][0]["acts"].update(block=9_999),
    "messages over each other": lambda said: said["messages"][1].update(start=0),
    "a message past the end": lambda said: said["messages"][1].update(stop=15_000),
    "too many tokens": lambda said: said.update(tokens=[{**said["tokens"][1], "top": [], "sampled": None}] * 20_001),
    "no tokens": edit(tokens=[]),
    "a check that passes by its word": lambda said: said["trust"]["checks"][3].update(value=1e9),
    "a check of theirs": lambda said: said["trust"]["checks"][3].update(evil="<script>"),
    "a token below zero": lambda said: said["tokens"][1].update(id=-1),
    "a number as text": lambda said: said["tokens"][1].update(entropy="<img onerror>"),
    "a probability without a surprisal": lambda said: said["tokens"][1].update(surprisal=None),
    "a probability above 1": lambda said: said["tokens"][1].update(logprob=1e6),
    "a key of theirs": lambda said: said["messages"][0]["strips"][0]["thresholds"].update({"<img onerror>": 9}),
}


@pytest.mark.parametrize("how", CRAFTED)
def test_a_crafted_run_is_refused_with_a_sentence_that_does_not_repeat_it(seen: Study, how: str) -> None:
    said = json.loads(seen.document.model_dump_json())
    CRAFTED[how](said)
    with pytest.raises(UserError, match="no run that can be shown") as refused:
        opened(json.dumps(said).encode())
    assert not any(word in str(refused.value) for word in ("<", "evil", "onerror"))
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"[]", b"null", b"[" * 100_000, b'{"model": NaN}'])
def test_what_is_no_document_is_refused(raw: bytes) -> None:
    with pytest.raises(UserError, match="no run that can be shown"):
        opened(raw)


def test_a_huge_file_is_refused_unread() -> None:
    with pytest.raises(UserError, match="33 MB"):
        opened(b" " * (MOST_BYTES + 2**20))


def test_what_the_guard_acts_on_is_told_apart_from_what_a_shorter_text_would_meet() -> None:
    said = json.loads(example.document().model_dump_json())
    strip = next(s for s in said["messages"][0]["strips"] if s["category"] == "prompt_injection")
    count = len(strip["probabilities"])
    strip |= {"probabilities": [0.99, *[0.01] * (count - 1)], "ends": [count - 1]}
    strip |= {"crossings": {"block": 0}, "acts": {"block": None}}
    document = Document.model_validate(said)
    start = document.messages[0].start
    found = marks(document, "prompt_injection")
    assert found[start] == ("above",)
    assert found[start + count - 1] == ("ends",)
    assert not any("acts" in mark for mark in found)
    lines = [line for line in decisions(document) if "injection" in line]
    assert len(lines) == 1
    assert "only if it ended at" in lines[0]


def test_no_text_acts_in_the_strip_or_on_the_page(seen: Study) -> None:
    values, scale = measured(seen.document, "surprisal")
    for shown in drawn(seen.document, values, scale):
        assert inert(shown.text + shown.hint)
    html = page(seen.document.model_dump(mode="json"))
    assert inert(html)
    assert "<img" not in html
    assert "<script" not in html
    assert "http" not in html.replace('http-equiv="', "")


def test_visible_text_is_inert_and_says_what_it_hides() -> None:
    assert visible("a\u202eb\n") == "a\\u{202e}b⏎"
    assert plain("**a** <b> [c](d)") == r"\*\*a\*\* \<b\> \[c\]\(d\)"
    assert short("x" * 100, 10) == "x" * 9 + "…"


def test_a_branch_keeps_the_prefix_and_the_original_token_gives_the_original_reply(seen: Study, guard: Guard) -> None:
    assert seen.live is not None
    tree, gemma = seen.live.tree, tiny(chat=False)
    again = tree.branch(0, 3, tree.runs[0].reply[3])
    assert tree.runs[again].reply == tree.runs[0].reply
    other = next(id_ for id_ in range(200, 300) if id_ != tree.runs[0].reply[3])
    branched = look(gemma, guard, seen.live.messages, tree, tree.branch(0, 3, other))
    start = tree.runs[0].start
    ids = [token.id for token in branched.document.tokens]
    assert ids[: start + 3] == [token.id for token in seen.document.tokens][: start + 3]
    assert ids[start + 3] == other


@pytest.mark.parametrize(
    ("text", "reason"),
    [("  ", "is empty"), ("a" * 100_001, "100,001 characters"), ("ab" * 4000, "the model reads 4,096")],
)
def test_what_cannot_be_read_is_refused_before_it_is_tried(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        preflight.estimate(tiny(chat=False), [Message("user", text)], 10)


def test_too_little_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "available", lambda: 1_000)
    with pytest.raises(UserError, match="0 MB are free"):
        preflight.estimate(tiny(chat=False), [Message("user", "the cat")], 10)


def test_a_long_text_is_read_without_what_lens_and_attention_need() -> None:
    short_, long = (preflight.estimate(tiny(chat=False), [Message("user", "the cat " * n)], 10) for n in (2, 300))
    assert (short_.whole, long.whole) == (True, False)
    assert "a block at a time" in str(long)


def test_a_document_of_the_command_opens(tmp_path: Path) -> None:
    from safety_kit.analysis.inspection import examine

    made = examine(tiny(chat=False), [Message("user", "the cat")], sampling=Sampling(max_tokens=3))
    assert opened(json.dumps(made.to_json()).encode()).policy_digest is None
