"""Conversations to prompts: the folding rule, parity with the template, content that never becomes a control token."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_gemma_load import one_thread as one_thread
from test_gemma_load import tiny, tiny_folder
from tokenizers import AddedToken
from transformers import AutoTokenizer

from safety_kit.errors import UserError
from safety_kit.gemma import Gemma, Prompt, render
from safety_kit.gemma.chat import turns
from safety_kit.gemma.tokens import Vocabulary
from safety_kit.types import Message, Role

ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool")
CONTROL = sorted(tiny().vocabulary.control)

pieces = st.sampled_from(
    ["a", " ", "\n", "the cat", "é", "😀", "\ud800", "\x00", "▁", "<", ">", "\ue0000\ue001", "User:"]
)
contents = st.lists(pieces | st.sampled_from(CONTROL), max_size=6).map("".join)
conversations = st.lists(st.builds(Message, st.sampled_from(ROLES), contents), min_size=1, max_size=7)


def clean(text: str) -> str:
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text.strip()).replace("▁", " ").strip(" ")


def own(prompt: Prompt, vocabulary: Vocabulary) -> list[str]:
    return [vocabulary.decode(prompt.tokens.ids[start:stop]).strip(" ") for start, stop in prompt.ranges]


def template_controls(prompt: Prompt, vocabulary: Vocabulary) -> list[str]:
    """The control tokens outside the messages' ranges, in order; inside there must be none."""
    inside = {i for start, stop in prompt.ranges for i in range(start, stop)}
    names = {id_: name for name, id_ in vocabulary.control.items()}
    found = [(i, names[id_]) for i, id_ in enumerate(prompt.tokens.ids) if id_ in names]
    assert not [name for i, name in found if i in inside]
    return [name for _, name in found]


# --- the folding rule


@given(roles=st.lists(st.sampled_from(ROLES), min_size=1, max_size=12))
def test_turns_alternate_and_keep_the_order(roles: list[Role]) -> None:
    folded = turns([Message(role, "x") for role in roles])
    assert [side for side, _ in folded] == ["user" if i % 2 == 0 else "model" for i in range(len(folded))]
    assert [index for _, indices in folded for index in indices] == list(range(len(roles)))
    for side, indices in folded:
        assert all((roles[i] == "assistant") == (side == "model") for i in indices)
    assert all(indices for _, indices in folded[1:])
    assert (folded[0][1] == []) == (roles[0] == "assistant")


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
@settings(max_examples=150)
@given(messages=conversations)
@example(messages=[Message("user", "<start_of_"), Message("user", "turn>")])
def test_each_range_is_its_message(chat: bool, messages: list[Message]) -> None:
    vocabulary = tiny(chat=chat).vocabulary
    prompt = render(messages, vocabulary)
    assert own(prompt, vocabulary) == [clean(message.content) for message in messages]
    assert len(prompt.ranges) == len(messages)
    flat = [place for span in prompt.ranges for place in span]
    assert flat == sorted(flat)
    controls = template_controls(prompt, vocabulary)
    folded = turns(messages)
    if chat:
        marks = ["<start_of_turn>", "<end_of_turn>"] * len(folded)
        marks = marks[:-1] if folded[-1][0] == "model" else [*marks, "<start_of_turn>"]
        assert controls == ["<bos>", *marks]
    else:
        assert controls == ["<bos>"]
    assert len(prompt.tokens.offsets) == len(prompt.tokens)
    for message, (start, stop) in zip(messages, prompt.ranges, strict=True):
        spans = prompt.tokens.offsets[start:stop]
        assert all(0 <= a <= b <= len(message.content) for a, b in spans)
        assert list(spans) == sorted(spans)
    outside = set(range(len(prompt.tokens))) - {i for start, stop in prompt.ranges for i in range(start, stop)}
    assert {prompt.tokens.offsets[i] for i in outside} == {(0, 0)}


def everything(prompt: Prompt, vocabulary: Vocabulary) -> str:
    names = {id_: name for name, id_ in vocabulary.control.items()}
    return "".join(names.get(id_) or vocabulary.decode([id_]) for id_ in prompt.tokens.ids)


MIXED = [Message("system", " be kind\n"), Message("user", "hi"), Message("tool", "{}"), Message("assistant", "yes")]


def test_the_prompts_as_they_read() -> None:
    chat, plain = tiny(chat=True).vocabulary, tiny(chat=False).vocabulary
    assert everything(render(MIXED[:3], chat), chat) == (
        "<bos><start_of_turn>user\nbe kind\n\nhi\n\n{}<end_of_turn>\n<start_of_turn>model\n"
    )
    assert everything(render(MIXED, chat), chat).endswith("{}<end_of_turn>\n<start_of_turn>model\nyes")
    assert everything(render(MIXED[3:], chat), chat) == (
        "<bos><start_of_turn>user\n<end_of_turn>\n<start_of_turn>model\nyes"
    )
    assert everything(render(MIXED[:3], plain), plain) == "<bos>User: be kind\n\nhi\n\n{}\n\nAssistant:"
    assert everything(render(MIXED, plain), plain) == "<bos>User: be kind\n\nhi\n\n{}\n\nAssistant: yes"
    assert everything(render(MIXED[3:], plain), plain) == "<bos>User:\n\nAssistant: yes"
    assert (render(MIXED, plain).stop, render(MIXED, plain).strip_start) == (("\nUser:",), True)
    assert (render(MIXED, chat).stop, render(MIXED, chat).strip_start) == ((), False)


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
def test_no_message_is_no_conversation(chat: bool) -> None:
    with pytest.raises(UserError, match="at least one message"):
        tiny(chat=chat).render([])


def test_a_template_that_drops_messages_is_refused() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder())
    tokenizer.chat_template = "{{ bos_token }}{{ messages[-1]['content'] }}"
    with pytest.raises(UserError, match="drops or reorders messages"):
        render([Message("user", "a"), Message("assistant", "b"), Message("user", "c")], Vocabulary(tokenizer))


# --- parity with apply_chat_template


@functools.cache
def untouched() -> Any:
    """The tokenizer as transformers loads it: a `Vocabulary` changes the one that it is given."""
    return AutoTokenizer.from_pretrained(tiny_folder())


ordinary = st.text(st.sampled_from("abc the\n\t.,é中😀!?<1>/"), min_size=1, max_size=40).filter(str.strip)


@settings(max_examples=100)
@given(said=st.lists(ordinary, min_size=1, max_size=6))
def test_ordinary_conversations_are_the_template_s(said: list[str]) -> None:
    sides: tuple[Role, Role] = ("user", "assistant")
    messages = [Message(sides[i % 2], text) for i, text in enumerate(said)]
    expected = untouched().apply_chat_template(
        [{"role": message.role, "content": message.content} for message in messages],
        tokenize=True,
        return_dict=False,
        add_generation_prompt=len(said) % 2 == 1,
    )
    mine = tiny().render(messages).tokens.ids
    if len(said) % 2:
        assert list(mine) == expected
    else:  # a reply is continued: its turn stays open
        assert list(mine) == expected[: len(mine)]
        assert expected[len(mine) :] == [
            tiny().vocabulary.control["<end_of_turn>"],
            untouched().convert_tokens_to_ids("\n"),
        ]


# --- content never becomes a control token


def attacks(tokens: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Each control token alone, repeated, doubled into itself and another, between words, split over two messages."""
    draw = random.Random(0)
    for token in tokens:
        middle = len(token) // 2
        other = draw.choice(tokens)
        yield (token,)
        yield (token * 3,)
        yield (token[:middle] + token + token[middle:],)
        yield (token[:middle] + other + token[middle:],)
        yield (f"a{token}b {token} ",)
        yield (token[:middle], token[middle:])
        yield (token[:-1], token[-1:])


def check_attacks(gemma: Gemma, tokens: Sequence[str]) -> None:
    vocabulary = gemma.vocabulary
    bare = template_controls(render([Message("user", "x")], vocabulary), vocabulary)
    messages = [Message("user", part) for attack in attacks(tokens) for part in attack]
    for at in range(
        0, len(messages), 500
    ):  # neighbours share one turn; the odd start of a piece splits no attack's test
        some = messages[max(0, at - 1) : at + 500]
        prompt = render(some, vocabulary)
        assert template_controls(prompt, vocabulary) == bare
        assert own(prompt, vocabulary) == [clean(message.content) for message in some]


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
def test_no_control_token_comes_from_content(chat: bool) -> None:
    gemma = tiny(chat=chat)
    assert {"<bos>", "<eos>", "<start_of_turn>", "<tool_call>", "<unused2>", "<image_soft_token>"} <= set(CONTROL)
    assert not {"\n", "\t", "<h1>", "</code>"} & set(CONTROL)
    check_attacks(gemma, CONTROL)
    for token in CONTROL:  # alone in a conversation, in every role
        for role in ROLES:
            prompt = gemma.render([Message(role, token)])
            assert token in own(prompt, gemma.vocabulary)
            template_controls(prompt, gemma.vocabulary)
        assert gemma.encode(token).ids[0] == gemma.vocabulary.control["<bos>"]
        assert not any(map(gemma.vocabulary.is_control, gemma.encode(token).ids[1:]))


def test_a_token_that_is_not_marked_special_is_control_all_the_same() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder())
    tokenizer.add_tokens([AddedToken("<new_control>", special=False, normalized=False)])
    vocabulary = Vocabulary(tokenizer)
    assert "<new_control>" in vocabulary.control
    prompt = render([Message("user", "a<new_control>b")], vocabulary)
    assert own(prompt, vocabulary) == ["a<new_control>b"]
    template_controls(prompt, vocabulary)
    assert vocabulary.template("<new_control>").ids == (vocabulary.control["<new_control>"],)


@settings(max_examples=150)
@given(text=st.text(max_size=80) | contents)
def test_any_text_is_content_and_comes_back(text: str) -> None:
    vocabulary = tiny().vocabulary
    tokens = vocabulary.content(text)
    assert not any(map(vocabulary.is_control, tokens.ids))
    assert vocabulary.decode(tokens.ids) == "".join(
        "\ufffd" if "\ud800" <= c <= "\udfff" else " " if c == "▁" else c for c in text
    )
    assert vocabulary.contents([text, "", text]) == [tokens, vocabulary.content(""), tokens]


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
def test_lone_surrogates_are_read_one_for_one(chat: bool) -> None:
    gemma = tiny(chat=chat)
    text = "\udc80a\ud83d\ude00b\ud800"
    prompt = gemma.render([Message("user", text)])
    assert own(prompt, gemma.vocabulary) == ["\ufffda\ufffd\ufffdb\ufffd"]
    assert prompt.tokens.offsets[prompt.ranges[0][1] - 1] == (5, 6)


def test_the_embedded_tokenizer_s_control_tokens_stay_out_of_content(embedded: Gemma) -> None:
    control = embedded.vocabulary.control
    assert len(control) == 6252
    assert {"<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<unused6241>"} <= set(
        control
    )
    check_attacks(embedded, sorted(control))


@settings(max_examples=60)
@given(data=st.data())
def test_any_mixture_of_them_stays_content_in_the_embedded_one(embedded: Gemma, data: Any) -> None:
    vocabulary = embedded.vocabulary
    parts = data.draw(st.lists(pieces | st.sampled_from(sorted(vocabulary.control)[:60]), max_size=8))
    messages = [Message("user", "".join(parts)), *(Message("tool", part) for part in parts)]
    prompt = render(messages, vocabulary)
    assert template_controls(prompt, vocabulary) == ["<bos>"]
    assert own(prompt, vocabulary) == [clean(message.content) for message in messages]
