"""Tiny random Gemmas of the real architectures, for tests: yours and ours. They say nothing sensible, but fast.

from safety_kit.testing import save_tiny_gemma
gemma = Gemma.load(save_tiny_gemma(tmp_path, "gemma2"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

FAMILIES = ("gemma", "gemma2", "gemma3_text", "gemma3", "gemma3n_text", "gemma4_text")
"""transformers' `model_type`s that a tiny checkpoint can be made of."""

_CONTROL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "[multimodal]", "<unused0>", "<unused1>", "<unused2>")
_TURNS = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<image_soft_token>", "<tool_call>")
_CONTENT = ("\n", "\n\n", "\t", "<h1>", "</h1>", "<code>", "</code>")

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else 'user' }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""The turns of an instruction-tuned Gemma, written for the tests."""


def tiny_tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer built like Gemma's (byte fallback, ▁ for a space, the control tokens) over a few hundred entries.

    Args:
        chat: With a chat template, as an instruction-tuned Gemma has one.
    """
    letters = [chr(code) for code in range(33, 127)] + ["▁", "é", "ü", "ñ", "中", "文"]
    words = ["th", "the", "▁the", "in", "er", "▁a", "▁c", "an"]
    entries = dict.fromkeys(
        [*_CONTROL, *_TURNS, *_CONTENT, *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *words]
    )
    vocabulary = {token: id_ for id_, token in enumerate(entries)}
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("e", "r"), ("▁", "a"), ("▁", "c"), ("a", "n"), ("▁", "the")]
    fast = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    fast.normalizer = normalizers.Replace(" ", "▁")
    fast.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    fast.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (*_CONTROL, *_TURNS)])
    fast.add_tokens([AddedToken(token, normalized=False) for token in _CONTENT])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    return tokenizer


def tiny_config(family: str) -> Any:
    """The family's own configuration, tiny: 6 blocks of width 32, a sliding window of 16 where the family has one.

    Raises:
        KeyError: No such family.
    """
    from transformers import CONFIG_MAPPING

    mapping: Any = CONFIG_MAPPING
    text: dict[str, Any] = {
        "vocab_size": 512,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "sliding_window": 16,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    if family == "gemma":
        del text["sliding_window"]
    if family == "gemma3":
        vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        return mapping[family](text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14})
    if family == "gemma3n_text":
        text |= {
            "vocab_size_per_layer_input": 512,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "num_kv_shared_layers": 0,
            "intermediate_size": [64] * 6,
            "activation_sparsity_pattern": [0.0] * 6,
        }
    if family == "gemma4_text":
        text |= {
            "vocab_size_per_layer_input": 512,
            "hidden_size_per_layer_input": 8,
            "global_head_dim": 8,
            "num_kv_shared_layers": 0,
        }
    return mapping[family](**text)


def save_tiny_gemma(folder: Path, family: str = "gemma3_text", *, chat: bool = True, seed: int = 0) -> Path:
    """Write a tiny random checkpoint, as `save_pretrained` writes a real one.

    Args:
        folder: Where to; made if need be.
        family: One of `FAMILIES`.
        chat: Give its tokenizer a chat template.
        seed: Of the weights.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family))
    with torch.no_grad():
        for parameter in model.parameters():  # the default scale is so small that every text looks the same
            parameter.normal_(0, 0.3 if parameter.ndim > 1 else 0.1)
    model.save_pretrained(folder)
    tiny_tokenizer(chat).save_pretrained(folder)
    return folder
