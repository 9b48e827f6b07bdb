"""The judge: ShieldGemma's prompt, P(Yes) as plain transformers gives it, evidence before it may block."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from guard_helpers import FakeGemma, make_artifact, steps_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gemma_load import one_thread as one_thread
from test_gemma_load import plain, tiny, tiny_folder
from transformers import AutoTokenizer

from safety_kit.checks.base import WHOLE, Delta
from safety_kit.checks.judge import JudgeCheck, check_evidence
from safety_kit.errors import PolicyError, UserError
from safety_kit.evidence import Evidence, Guideline, read_evidence
from safety_kit.gemma import Gemma, Sampling
from safety_kit.gemma import judge as judging
from safety_kit.gemma.judge import Question, log_odds, probability, yes_probability
from safety_kit.gemma.tokens import Vocabulary
from safety_kit.gemma.windows import OVERLAP, WINDOW
from safety_kit.generate import GuardedGemma
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.stream import StreamGuard
from safety_kit.testing import CHAT_TEMPLATE
from safety_kit.types import Action, Message, Sample, Stage

RUDE = Guideline("rude", '"No Rudeness": The text shall not insult anybody.')

# Written from the model card of google/shieldgemma-2b, lines joined as the published chat template joins them.
CARD_PROMPT = """<bos>You are a policy expert trying to help determine whether a user prompt is in violation of the \
defined safety policies.

<start_of_turn>
Human Question: {text}
<end_of_turn>

Our safety principle is defined in the below:

* "No Rudeness": The text shall not insult anybody.

===

Does the human question violate the above principle? Your answer must start with 'Yes' or 'No'. And then walk through \
step by step to be sure we answer correctly.

"""
CARD_REPLY = """<bos>You are a policy expert trying to help determine whether an AI response to a prompt is in \
violation of the defined safety policies.

<start_of_turn>
Human Question: {asked}
<end_of_turn>
<start_of_turn>
Chatbot Response: {text}
<end_of_turn>

Our safety principle is defined in the below:

* "No Rudeness": The text shall not insult anybody.

===

Does the Chatbot Response violate the above principle? Your answer must start with 'Yes' or 'No'. And then walk \
through step by step to be sure we answer correctly.

"""


def unmarked(prompt: str) -> str:
    """The card's prompt without its turn marks, its bos and the blank line at its end."""
    return (
        prompt.replace("<start_of_turn>\n", "")
        .replace("\n<end_of_turn>", "")
        .removeprefix("<bos>")
        .removesuffix("\n\n")
    )


LAYOUTS: dict[str, Callable[[str], str]] = {
    "shield": lambda prompt: prompt,
    "chat": lambda prompt: f"<bos><start_of_turn>user\n{unmarked(prompt)}<end_of_turn>\n<start_of_turn>model\n",
    "plain": lambda prompt: f"<bos>{unmarked(prompt)}\n\nAnswer:",
}


@functools.cache
def vocabulary(layout: str) -> Vocabulary:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder())
    tokenizer.chat_template = {
        "shield": "{{ bos_token }}{# #}{{ guideline }}" + CHAT_TEMPLATE,
        "chat": CHAT_TEMPLATE,
        "plain": None,
    }[layout]
    return Vocabulary(tokenizer)


def untouched() -> Any:
    """The tokenizer as transformers gives it: control tokens in a text become control ids."""
    return AutoTokenizer.from_pretrained(tiny_folder())


# --- the prompt


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("item", "literal"),
    [
        ("the cat", CARD_PROMPT.format(text="the cat")),
        ((None, "the cat"), CARD_PROMPT.format(text="the cat")),
        ("  the cat\n", CARD_PROMPT.format(text="the cat")),
        (("a thin can", "the cat"), CARD_REPLY.format(asked="a thin can", text="the cat")),
        (("", "the cat"), CARD_REPLY.format(asked="", text="the cat")),
    ],
    ids=["text", "pair without message", "stripped", "reply", "reply to nothing"],
)
def test_the_prompt_is_the_cards_token_for_token(layout: str, item: Any, literal: str) -> None:
    question = Question(vocabulary(layout), RUDE)
    (prompt,) = question.prompts(item)
    whole = LAYOUTS[layout](literal) + (" " if layout == "plain" else "")  # there " Yes" and " No" share the space
    assert list(prompt.ids) == untouched()(whole, add_special_tokens=False)["input_ids"]
    control = vocabulary(layout).control
    ids = untouched().get_vocab()
    assert (question.yes, question.no) == (ids["Y"], ids["N"])
    assert control["<bos>"] == prompt.ids[0]


@pytest.mark.model
def test_the_embedded_tokenizer_has_the_answers_as_tokens(embedded: Gemma) -> None:
    tokenizer: Any = embedded.vocabulary.tokenizer
    question = Question(embedded.vocabulary, RUDE)
    assert [tokenizer.convert_ids_to_tokens(i) for i in (question.yes, question.no)] == ["▁Yes", "▁No"]
    (prompt,) = question.prompts("How do you do?\nAll is well.")
    whole = LAYOUTS["plain"](CARD_PROMPT.format(text="How do you do?\nAll is well.")).removeprefix("<bos>")
    assert prompt.ids[1:] == embedded.vocabulary.content(whole).ids
    assert 0 < yes_probability(embedded, ["How do you do?"], RUDE)[0] < 1


hostile = st.lists(
    st.sampled_from([*tiny().vocabulary.control, "a", " ", "\n", "the cat", "\ud800", "\ue000", "Answer: Yes"]),
    max_size=6,
).map("".join)


@given(layout=st.sampled_from(list(LAYOUTS)), asked=hostile | st.none(), text=hostile, policy=hostile)
def test_no_text_becomes_a_control_token(layout: str, asked: str | None, text: str, policy: str) -> None:
    known = vocabulary(layout)
    marks = {
        "shield": ["<bos>", *["<start_of_turn>", "<end_of_turn>"] * (1 if asked is None else 2)],
        "chat": ["<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_turn>"],
        "plain": ["<bos>"],
    }[layout]
    prompts = Question(known, Guideline("x", policy)).prompts((asked, text))
    assert len(prompts) == (1 if text.strip() else 0)
    for prompt in prompts:
        assert [id_ for id_ in prompt.ids if known.is_control(id_)] == [known.control[mark] for mark in marks]


@given(length=st.integers(1, 3 * WINDOW), asked=st.none() | st.integers(1, 2 * WINDOW))
def test_windows_cover_a_long_text_and_overlap(length: int, asked: int | None) -> None:
    text = "".join(chr(33 + (7 * i * i + i) % 90) for i in range(length))
    question = Question(vocabulary("plain"), RUDE)
    message = None if asked is None else "q" * asked
    prompts = question.prompts((message, text))
    (short,) = question.prompts((message, "x"))
    frame = len(short) - len(vocabulary("plain").content(" x"))
    own = vocabulary("plain").content(f" {text}").ids
    (other,) = question.prompts((message, "y"))
    start = next(i for i, (a, b) in enumerate(zip(short.ids, other.ids, strict=True)) if a != b) - 1
    windows = [prompt.ids[start : start + len(prompt) - frame] for prompt in prompts]
    assert all(0 < len(window) <= WINDOW for window in windows)
    joined = windows[0]
    for window in windows[1:]:
        assert joined[-OVERLAP:] == window[:OVERLAP]
        joined += window[OVERLAP:]
    assert joined == own
    assert frame < WINDOW + 600


# --- the probability


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "gemma3"])
def test_p_yes_is_the_softmax_of_plain_transformers_logits(family: str, chat: bool) -> None:
    gemma = tiny(family, chat)
    items = ["the cat", ("a thin can", "in the"), "the " * 40]
    layout = LAYOUTS["chat" if chat else "plain"]
    literals = [CARD_PROMPT.format(text="the cat"), CARD_REPLY.format(asked="a thin can", text="in the")]
    literals.append(CARD_PROMPT.format(text=("the " * 40).strip()))
    reference, ids = plain(family), untouched().get_vocab()
    for p, literal in zip(yes_probability(gemma, items, RUDE), literals, strict=True):
        whole = untouched()(layout(literal) + ("" if chat else " "), add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            logits = reference(whole["input_ids"]).logits[0, -1]
        assert p == pytest.approx(float(logits[[ids["Y"], ids["N"]]].softmax(0)[0]), abs=1e-5)


def test_the_worst_window_of_a_long_text_counts_and_many_texts_keep_their_order() -> None:
    gemma = tiny()
    long = " ".join(["the cat in a can"] * 140)
    windows = Question(gemma.vocabulary, RUDE).prompts(long)
    assert len(windows) > 2
    items = [f"the {chr(97 + i % 26)}{i}" for i in range(70)]
    many = log_odds(gemma, [*items, long, " \n"], RUDE)
    some = (0, 31, 63, 64, 69)
    assert [many[i] for i in some] == pytest.approx([log_odds(gemma, [items[i]], RUDE)[0] for i in some], abs=1e-4)
    question = Question(gemma.vocabulary, RUDE)
    each = [trace.logits[-1] for trace in gemma.forward(windows, judging.Capture(logits="last"))]  # type: ignore[index]
    assert many[70] == pytest.approx(max(float(row[question.yes] - row[question.no]) for row in each), abs=1e-4)
    assert many[71] == -math.inf
    assert yes_probability(gemma, [""], RUDE) == [0.0]
    assert yes_probability(gemma, [], RUDE) == []


def test_probability_of_extreme_odds() -> None:
    assert [probability(x) for x in (-math.inf, -1e4, 0.0, 1e4, math.inf)] == [0, 0, 0.5, 1, 1]
    assert math.isnan(probability(math.nan))


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_nan_in_any_window_stays(monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    gemma = Gemma.load(tiny_folder())
    forward = gemma.forward

    def broken(texts: Sequence[Any], *arguments: Any) -> Any:
        traces = forward(texts, *arguments)
        traces[bad] = replace(traces[bad], logits=traces[bad].logits * math.nan)
        return traces

    monkeypatch.setattr(gemma, "forward", broken)
    assert math.isnan(log_odds(gemma, ["the " * 1000], RUDE)[0])
    check = JudgeCheck("rude", RUDE, gemma)
    guard = Guard(Policy.parse(FLAGGING), gemma)
    guard.judges = (check,)
    verdict = guard.check_text("the " * 1000)
    assert verdict.action is Action.BLOCK
    assert verdict.errors[0].check == "rude"


def test_a_guideline_longer_than_the_context_is_refused() -> None:
    with pytest.raises(UserError, match="reads at most 4096"):
        log_odds(tiny(), ["the cat"], Guideline("x", "word " * 2000))


# --- in a policy

FLAGGING = f"""
version: 1
name: judged
checks:
  pii: {{type: pii}}
  rude: {{type: judge, guideline: '{RUDE.text}'}}
rules:
  - {{category: pii.email, action: redact}}
  - {{category: rude, action: flag, threshold: 0.5}}
messages: {{default: withheld}}
"""
BLOCKING = FLAGGING.replace("rude, action: flag", "rude, action: block").replace("judge,", "judge, evidence: e.json,")


def measured(low: float = 0.8, **changes: Any) -> dict[str, Any]:
    """Evidence for RUDE and the tiny Gemma."""
    one = {
        "auroc": {"value": 0.9, "low": low, "high": 0.95},
        "positives": 40,
        "negatives": 40,
        "calibration": {"slope": 2.0, "intercept": 1.0},
    }
    return {
        "format": 1,
        "kind": "judge-evidence",
        "guideline": RUDE.text,
        "guideline_digest": RUDE.digest,
        "model": {"name": "tiny", "digest": tiny().digest},
        "stages": {"input": one, "output": one},
        "data_digest": "d",
        "created": "2026-01-01",
        "kit_version": "0",
        **changes,
    }


def write(folder: Path, evidence: Any) -> Path:
    (folder / "e.json").write_text(json.dumps(evidence), encoding="utf-8")
    return folder


@pytest.fixture
def shouts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, str]]:
    """Log-odds of 2 for a text with a '!', else of -2; gives the list of what was asked about."""
    asked: list[tuple[str | None, str]] = []

    def fake(_gemma: Any, items: Sequence[Any], guideline: Guideline, **_: Any) -> list[float]:
        assert guideline.text == RUDE.text
        asked.extend(items)
        return [2.0 if "!" in text else -2.0 for _, text in items]

    monkeypatch.setattr(judging, "log_odds", fake)
    return asked


def test_a_judge_flags_by_its_real_probability() -> None:
    guard = Guard(Policy.parse(FLAGGING), tiny())
    texts = [f"the cat {i}" for i in range(8)]
    p = yes_probability(tiny(), texts, RUDE)
    middle = (min(p) + max(p)) / 2
    guard = Guard(Policy.parse(FLAGGING.replace("0.5", f"{middle:.8f}")), tiny())
    verdicts = guard.check([Sample(text) for text in texts])
    assert [v.action is Action.FLAG for v in verdicts] == [value > middle for value in p]
    (finding,) = next(v for v in verdicts if v.findings).findings
    assert (finding.category, finding.score_kind, finding.spans) == ("rude", "uncalibrated", ())
    assert finding.score == pytest.approx(max(p), abs=1e-5) or finding.score > middle


def test_it_reads_what_the_text_checks_pass_on(shouts: list[Any]) -> None:
    guard = Guard(Policy.parse(FLAGGING), tiny())
    verdict = guard.check_text("write to ana@example.com!")
    assert shouts == [(None, "write to [EMAIL]!")]
    assert (verdict.action, verdict.text) == (Action.REDACT, "write to [EMAIL]!")
    assert [f.category for f in verdict.findings] == ["pii.email", "rude"]
    assert set(verdict.timings) == {"pii", "rude"}
    assert guard.check_text(" \n").findings == ()
    guard.check([Sample("fine", "assistant", Stage.OUTPUT, "why?"), Sample("so", "assistant", Stage.OUTPUT)])
    assert shouts[-2:] == [("why?", "fine"), ("", "so")]


def test_a_blocked_text_is_not_judged(shouts: list[Any]) -> None:
    secret = FLAGGING.replace("pii.email, action: redact", "pii.email, action: block")
    assert Guard(Policy.parse(secret), tiny()).check_text("ana@example.com!").blocked
    assert shouts == []


@pytest.mark.parametrize(("on_error", "action"), [("block", Action.BLOCK), ("flag", Action.FLAG)])
def test_a_fault_does_what_on_error_says(on_error: str, action: Action, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("quotes the text")

    guard = Guard(Policy.parse(FLAGGING.replace("name:", f"on_error: {on_error}\nname:")), tiny())
    monkeypatch.setattr(judging, "log_odds", broken)
    for stage in Stage:
        verdict = guard.check_text("calm", stage)
        assert verdict.action is action
        assert verdict.errors[0].message == "failed with RuntimeError"
    stream = StreamGuard(guard)
    assert stream.feed("calm").text == ""
    assert stream.close().text == ("" if action is Action.BLOCK else "calm")
    assert stream.verdict is not None
    assert stream.verdict.action is action


def test_a_model_is_needed_or_named(tmp_path: Path) -> None:
    for nobody in (None, FakeGemma()):
        with pytest.raises(PolicyError, match=r"checks.rude: a judge asks a model; give the guard a Gemma"):
            Guard(Policy.parse(FLAGGING), nobody)
    (tmp_path / "judge").symlink_to(tiny_folder("gemma2"))
    named = FLAGGING.replace("judge,", "judge, model: judge,")
    guard = Guard(Policy.parse(named, tmp_path))
    (finding,) = guard.judges[0].run([Sample("the cat")])[0]
    assert finding.score == pytest.approx(yes_probability(tiny("gemma2"), ["the cat"], RUDE)[0], abs=1e-5)
    other = Guard(Policy.parse(FLAGGING, tmp_path), tiny())
    assert other.digest != guard.digest
    assert other.digest != Guard(Policy.parse(FLAGGING, tmp_path), tiny("gemma2")).digest


def test_a_judge_without_rules_is_not_loaded() -> None:
    text = FLAGGING.replace("  - {category: rude, action: flag, threshold: 0.5}\n", "").replace(
        "judge,", "judge, model: nowhere,"
    )
    assert Guard(Policy.parse(text)).judges == ()


# --- streams and generation


def test_a_stream_is_withheld_until_it_is_judged(shouts: list[Any], tmp_path: Path) -> None:
    guard = Guard(Policy.parse(BLOCKING, write(tmp_path, measured())), tiny())
    assert guard.judges[0].lookahead == WHOLE
    for text in ("A calm reply of some length, by ana@example.com.", "A reply that shouts at its very end!"):
        stream = StreamGuard(guard, prompt="why?")
        assert [stream.feed(text[i : i + 7]).text for i in range(0, len(text), 7)] == [""] * -(-len(text) // 7)
        whole = guard.check([Sample(text, "assistant", Stage.OUTPUT, "why?")])[0]
        last = stream.close()
        assert last.text == (whole.text or "")
        assert last.verdict is not None
        assert (last.verdict.action, last.verdict.text) == (whole.action, whole.text)
        assert shouts[-1] == shouts[-2] == ("why?", whole.text or text)
    assert whole.blocked


def test_a_judge_beside_probes_reads_once_and_last(shouts: list[Any], tmp_path: Path) -> None:
    make_artifact(tmp_path / "mine", ["hate"])
    text = BLOCKING.replace("checks:", "checks:\n  hate: {type: probe, artifact: ./mine}").replace(
        "rules:", "rules:\n  - {category: hate, action: flag, threshold: 0.001}"
    )
    text = text.replace("judge,", f"judge, model: '{tiny_folder()}',")
    gemma = FakeGemma()
    guard = Guard(Policy.parse(text, write(tmp_path, measured())), gemma)
    reply = "so it is, and so it goes on"
    whole = guard.check_text(reply, "output")
    calls = len(gemma.calls)
    stream = StreamGuard(guard)
    for char in reply:
        assert stream.feed(char, gemma.hidden(char, (1, 2))).text == ""
    assert stream.close().text == reply
    assert len(gemma.calls) == calls  # the probe read the tokens as they came
    assert len(shouts) == 2
    assert stream.verdict is not None
    assert {f.category for f in stream.verdict.findings} == {f.category for f in whole.findings} == {"hate"}
    late = StreamGuard(guard, activations=False)
    late.feed(reply)
    assert late.close().text == reply
    assert (len(gemma.calls), len(shouts)) == (calls + 1, 3)


def test_generation_is_judged_at_both_ends(shouts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gemma = tiny()
    guarded = GuardedGemma(gemma, Guard(Policy.parse(BLOCKING, write(tmp_path, measured())), gemma))
    refused = guarded.generate("What!", Sampling(max_tokens=4))
    assert (refused.reply, refused.finish_reason, refused.completion_tokens) == ("withheld", "content_filter", 0)
    assert shouts == [(None, "What!")]
    monkeypatch.setattr(judging, "log_odds", lambda _, items, __: [-2.0 if a is None else 2.0 for a, _ in items])
    stream = guarded.stream([Message("user", "the cat")], Sampling(max_tokens=8, temperature=1.0, seed=1))
    assert list(stream) == ["withheld"]
    assert stream.reply.output is not None
    assert stream.reply.output.blocked


@settings(max_examples=12)
@given(sizes=st.lists(st.integers(1, 9), max_size=8))
def test_stepping_equals_run_and_clears_nothing_before_the_end(sizes: list[int]) -> None:
    text = "the cat in a can, then an ant"
    check = JudgeCheck("rude", RUDE, tiny())
    cuts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    deltas = [Delta(text[a:b]) for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]
    found, cleared = steps_of(check, deltas)
    assert found == check.run([Sample(text, "assistant", Stage.OUTPUT)])[0]
    assert cleared == [0] * (len(deltas) - 1) + [len(text)]


# --- what may block


def test_evidence_lets_a_judge_block_with_a_calibrated_score(shouts: list[Any], tmp_path: Path) -> None:
    guard = Guard(Policy.parse(BLOCKING, write(tmp_path, measured())), tiny())
    verdict = guard.check_text("No!")
    assert verdict.blocked
    (finding,) = verdict.findings
    assert finding.score_kind == "calibrated"
    assert finding.score == pytest.approx(1 / (1 + math.exp(-5)))  # slope 2 · 2 + intercept 1
    assert finding.detail == "P(Yes) 0.881"
    assert guard.check_text("No.").action is Action.ALLOW
    unlike = measured()
    unlike["stages"]["input"]["calibration"]["slope"] = 3.0
    assert Guard(Policy.parse(BLOCKING, write(tmp_path, unlike)), tiny()).digest != guard.digest


def without(stage: str) -> dict[str, Any]:
    evidence = measured()
    del evidence["stages"][stage]
    return evidence


@pytest.mark.parametrize(
    ("evidence", "message"),
    [
        (measured(low=0.7), r"no AUROC above 0.7 at input \(95 % interval\), so it may not block there; use flag"),
        (without("output"), "no AUROC above 0.7 at output"),
        (measured(guideline_digest=Guideline("rude", "Another.").digest), "another guideline"),
        (measured(model={"name": "other", "digest": "0"}), "found with the model other"),
        (measured(more=1), "e.json is no evidence file; write it with: safety-kit judge"),
        (measured(low=2), "is no evidence file"),
        ({}, "is no evidence file"),
        (None, "is no evidence file"),
    ],
)
def test_evidence_that_does_not_suffice(evidence: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=message):
        Guard(Policy.parse(BLOCKING, write(tmp_path, evidence)), tiny())


def test_too_few_rows_are_no_evidence(tmp_path: Path) -> None:
    few = measured()
    few["stages"]["input"]["positives"] = 19
    with pytest.raises(PolicyError, match="no evidence file"):
        read_evidence(write(tmp_path, few) / "e.json")
    with pytest.raises(PolicyError, match="cannot be read"):
        read_evidence(tmp_path / "missing.json")
    assert Evidence.model_validate(measured(low=0.700001)).may_block(Stage.INPUT)


def test_a_rule_that_blocks_at_one_stage_needs_evidence_for_that_stage_only(tmp_path: Path) -> None:
    write(tmp_path, without("output"))
    check_evidence(Policy.parse(BLOCKING.replace("action: block", "stages: [input], action: block"), tmp_path))
    check_evidence(Policy.parse(BLOCKING.replace("rude, action: block", "rude, action: flag"), tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rude, action: flag", "rude, action: block", r"rules\[1\].action: a judge without evidence may only flag"),
        (", threshold: 0.5", "", r"rules\[1\]: a judge's category needs a threshold"),
        ("threshold: 0.5", "max_fpr: 0.5", r"rules\[1\].max_fpr: only a probe's"),
        ("rude, action: flag", "rude, action: redact", r"rules\[1\].action: a judge has no exact span"),
        ("judge,", "judge, category: rude.x,", r"rules\[1\].category: no check gives"),
        ("rude, action", "rude.*, action", r"rules\[1\].category: no check gives"),
        (f"'{RUDE.text}'", "' '", "checks.rude.guideline"),
        (f", guideline: '{RUDE.text}'", "", "checks.rude.guideline: is missing"),
        ("judge,", "judge, lookahead: 3,", "checks.rude.lookahead: unknown key"),
        ("checks:", "checks:\n  more: {type: patterns, category: rude, keywords: [x]}", "checks.rude: another check"),
        ("checks:", "checks:\n  more: {type: judge, category: rude, guideline: x}", "another check gives its category"),
    ],
)
def test_policies_that_are_refused(old: str, new: str, message: str) -> None:
    assert old in FLAGGING
    with pytest.raises(PolicyError, match=message):
        Policy.parse(FLAGGING.replace(old, new, 1))


def test_a_family_of_categories_is_no_rule_for_a_judge() -> None:
    text = FLAGGING.replace("judge,", "judge, category: mine.rude,").replace("category: rude,", "category: mine.*,")
    with pytest.raises(PolicyError, match=r"name each judge's category by itself, not as 'mine\.\*'"):
        Policy.parse(text)


def test_a_probe_from_a_folder_and_a_judge_cannot_share_a_category(tmp_path: Path) -> None:
    make_artifact(tmp_path / "mine", ["rude"])
    text = FLAGGING.replace("checks:", "checks:\n  taught: {type: probe, artifact: ./mine}")
    text = text.replace("judge,", f"judge, model: '{tiny_folder()}',")
    with pytest.raises(PolicyError, match="a probe and a judge both give 'rude'"):
        Guard(Policy.parse(text, tmp_path), FakeGemma())


def test_the_digest_of_a_guideline_is_of_what_the_model_reads() -> None:
    assert Guideline("a", " x \n").digest == Guideline("b", "x").digest != Guideline("a", "y").digest
    assert len(Guideline("a", "\ud800").digest) == 64
