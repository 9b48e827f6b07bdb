"""The guard beside `model.generate`, on tiny random Gemmas whose next tokens are dictated: batches, streams, blocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from guard_helpers import FakeGemma, texts
from hypothesis import given, settings
from integration_helpers import MAIL, MESSAGE, SECRET, make_guard
from test_guard import folder as folder
from test_guard import probe_guard
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor

from safety_kit.errors import UserError
from safety_kit.guard import Guard
from safety_kit.integrations.transformers import GuardedStop, GuardedStreamer
from safety_kit.policy import Policy
from safety_kit.testing import save_tiny_gemma, tiny_tokenizer
from safety_kit.types import Sample, Stage

GUARD = make_guard()
WORDS = Guard(
    Policy.parse("""
version: 1
name: holds little back
checks: {words: {type: patterns, category: words, keywords: [bluebird, magpie]}}
rules: [{category: words, action: redact, form: {replace: "<bird>"}}]
""")
)


class Dictate(LogitsProcessor):
    """Row i says the i-th list of tokens, then ends."""

    def __init__(self, rows: Sequence[Sequence[int]], end: int) -> None:
        self.rows, self.end, self.at = rows, end, 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores = torch.full_like(scores, -1e9)
        for i, row in enumerate(self.rows):
            scores[i, row[self.at] if self.at < len(row) else self.end] = 0
        self.at += 1
        return scores


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    path = save_tiny_gemma(tmp_path_factory.mktemp("tiny"))
    return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)


def generate(tiny: tuple[Any, Any], said: Sequence[str], stop: GuardedStop, **options: Any) -> Any:
    model, tokenizer = tiny
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in said]
    inputs = tokenizer(["the cat"] * options.pop("prompts", len(said)), return_tensors="pt")
    return model.generate(
        **inputs,
        max_new_tokens=options.pop("max_new_tokens", 2000),
        do_sample=False,
        stopping_criteria=[stop],
        logits_processor=[Dictate(rows, tokenizer.eos_token_id)],
        **options,
    )


def prompt_tokens(tiny: tuple[Any, Any]) -> int:
    return len(tiny[1]("the cat")["input_ids"])


def test_each_row_of_a_batch_stands_alone(tiny: tuple[Any, Any]) -> None:
    stop = GuardedStop(GUARD, tiny[1], prompt_tokens(tiny))
    long = f"about {SECRET}: " + "more words. " * 20
    ids = generate(tiny, [f"mail {MAIL} now", long, "fine, 中文 é 😀"], stop)
    first, second, third = stop.replies()
    assert first.text == "mail <mail> now"
    assert second.text.endswith(MESSAGE)
    assert "bluebird" not in second.text
    assert third.text == "fine, 中文 é 😀"
    assert [reply.verdict.blocked for reply in (first, second, third)] == [False, True, False]
    assert ids.shape[1] < len(tiny[1](long)["input_ids"]) / 2  # nobody needed the rest
    assert stop.replies() == [first, second, third]


def test_a_reply_cut_at_its_length_is_closed(tiny: tuple[Any, Any]) -> None:
    stop = GuardedStop(GUARD, tiny[1], prompt_tokens(tiny))
    generate(tiny, [f"mail {MAIL} and then more"], stop, max_new_tokens=18)
    (reply,) = stop.replies()
    assert "ana@" not in reply.text or reply.verdict.action == 0
    assert tiny[1].decode(tiny[1]("mail")["input_ids"], skip_special_tokens=True) in reply.text


@pytest.mark.parametrize("said", ["a bluebird. " + "all is well. " * 6, "fine"])
def test_a_stream_gives_what_replies_gives(tiny: tuple[Any, Any], said: str) -> None:
    stop = GuardedStop(WORDS, tiny[1], prompt_tokens(tiny))
    streamer = GuardedStreamer(stop, timeout=60)
    thread = Thread(target=generate, args=(tiny, [said], stop), kwargs={"streamer": streamer})
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces) == stop.replies()[0].text == said.replace("bluebird", "<bird>")
    assert (len(pieces) > 1) == (said != "fine")


def test_a_stream_ends_at_a_block(tiny: tuple[Any, Any]) -> None:
    stop = GuardedStop(GUARD, tiny[1], prompt_tokens(tiny))
    streamer = GuardedStreamer(stop, timeout=60)
    generate(tiny, ["all is well. " * 12 + SECRET + ": " + "more words. " * 12], stop, streamer=streamer)
    text = "".join(streamer)
    assert text.endswith(MESSAGE)
    assert "bluebird" not in text


def test_probes_read_the_reply_at_its_end(tiny: tuple[Any, Any], folder: Path) -> None:
    gemma = FakeGemma()
    guard = probe_guard(folder, gemma)
    for said, blocked in (("fine", False), ("!" * 40, True)):
        stop = GuardedStop(guard, tiny[1], prompt_tokens(tiny))
        generate(tiny, [said], stop)
        assert gemma.calls == []
        (reply,) = stop.replies()
        assert gemma.calls != []
        assert reply.verdict.blocked == blocked
        assert ("!" in reply.text) is False
        gemma.calls.clear()


def test_what_it_cannot_follow_is_refused(tiny: tuple[Any, Any]) -> None:
    stop = GuardedStop(GUARD, tiny[1], 2)
    assert stop(torch.tensor([[2, 348, 345], [2, 348, 352]]), None).tolist() == [False, False]
    with pytest.raises(UserError, match="num_beams"):
        stop(torch.tensor([[2, 348, 352, 352], [2, 348, 345, 345]]), None)
    several = GuardedStop(GUARD, tiny[1], 2)
    streamer = GuardedStreamer(several)
    with pytest.raises(UserError, match="one row"):
        several(torch.tensor([[2, 348, 345], [2, 348, 352]]), None)
    with pytest.raises(UserError, match="stopping_criteria"):
        streamer.end()
    assert list(streamer) == []


def test_the_tokenizer_stays_as_it_is() -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer("<start_of_turn>the cat")["input_ids"]
    stop = GuardedStop(GUARD, tokenizer, 0)
    stop(torch.tensor([before]), None)
    assert tokenizer("<start_of_turn>the cat")["input_ids"] == before
    assert stop.replies()[0].text == "the cat"


@settings(max_examples=25)
@given(text=texts.map(lambda text: text[:150]))
def test_token_by_token_is_the_guard_on_the_decoded_text(text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text.replace("\ud800", "?"), add_special_tokens=False)["input_ids"]
    decoded = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    stop = GuardedStop(GUARD, tokenizer, 0)
    for upto in range(1, len(ids) + 1):
        if stop(torch.tensor([ids[:upto]]), None).item():
            break
    else:
        stop(torch.tensor([[*ids, tokenizer.eos_token_id]]), None)
    whole = GUARD.check([Sample(decoded, "assistant", Stage.OUTPUT)])[0]
    (reply,) = stop.replies()
    assert reply.verdict.action == whole.action
    assert reply.text == whole.text if whole.text is not None else reply.text.endswith(MESSAGE)
