"""`Gemma`: load, encode, forward. Decoding is in `steps.py`, sources in `sources.py`."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from tqdm import tqdm

from safety_kit.errors import ModelError, UserError
from safety_kit.gemma import experiments, sources
from safety_kit.gemma.chat import Prompt, render
from safety_kit.gemma.decoding import Step
from safety_kit.gemma.digest import weights_digest
from safety_kit.gemma.readout import Readout
from safety_kit.gemma.steps import Generation, Prefill, generate, prefill, steps
from safety_kit.gemma.sublayers import Inside, window_of
from safety_kit.gemma.tokens import Tokens, Vocabulary
from safety_kit.gemma.trace import Capture, Trace, TraceView
from safety_kit.gemma.trunk import Trunk, pad
from safety_kit.gemma.windows import batches, own_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from safety_kit.gemma.sampling import Sampling
    from safety_kit.types import Message, Role

T = TypeVar("T")

TOKEN_BUDGET = 1024
"""Padded tokens a batch: larger ones gain nothing on a CPU and cost memory."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Gemma:
    """A Gemma of any supported family, and the only thing that calls it.

    Attributes:
        name: What it was loaded by.
        family: Such as "Gemma 3".
        trunk: The blocks.
        vocabulary: The tokenizer.
        readout: What makes logits of the last block's output.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, name: str = "model") -> None:
        self.name = name
        self.family = sources.check_family(model.config.model_type, name)
        self.trunk = Trunk(model.eval().requires_grad_(False))
        self.readout = Readout(self.trunk)
        self.vocabulary = Vocabulary(tokenizer)
        self.model = model

    @classmethod
    def load(
        cls,
        source: str | Path = sources.EMBEDDED,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        attn: Literal["sdpa", "eager"] | None = None,
    ) -> Gemma:
        """Load a Gemma.

        Args:
            source: ``embedded`` (Gemma 3 270M, offline), a hub id such as ``google/gemma-3-1b-it``, or a folder.
            revision: Of a hub model.
            device: ``auto`` takes CUDA, then Apple's MPS, then the CPU.
            dtype: ``auto`` is float32 on a CPU and bfloat16 elsewhere; float16 overflows in Gemma and is refused.
            attn: Attention implementation; None is transformers' default (sdpa).

        Raises:
            ModelError: The model is missing, gated, changed or no supported Gemma; the message says what to do.
        """
        from transformers import AutoModelForCausalLM, PreTrainedConfig
        from transformers.utils import logging

        if dtype not in {"auto", *_DTYPES}:
            raise UserError(
                f"dtype {dtype!r} is not supported: use auto, float32 or bfloat16 (float16 overflows in Gemma)."
            )
        name = str(source)
        place = sources.resolve(source)
        device = _pick_device(device)
        kind = _DTYPES[dtype] if dtype != "auto" else (torch.float32 if device == "cpu" else torch.bfloat16)
        options: dict[str, Any] = {"attn_implementation": attn} if attn else {}
        logging.disable_progress_bar()
        with warnings.catch_warnings(), ThreadPoolExecutor(1) as pool:
            warnings.simplefilter("ignore")
            try:
                config, _ = PreTrainedConfig.get_config_dict(place, revision=revision)
                sources.check_family(str(config.get("model_type", "nameless")), name)
                tokenizer = pool.submit(sources.load_tokenizer, place, revision)
                loader: Any = AutoModelForCausalLM
                model, info = loader.from_pretrained(
                    place, revision=revision, dtype=kind, output_loading_info=True, **options
                )
                gemma = cls(model.to(device), tokenizer.result(), name=name)
            except ModelError:
                raise
            except Exception as error:  # transformers lets anything through: a bad file must not become a traceback
                raise sources.explain_load_failure(error, name) from error
        sources.check_complete(info["missing_keys"], gemma.vocabulary, name)
        return gemma

    def __deepcopy__(self, _memo: object) -> Gemma:
        """Itself: nothing in it changes, and scikit-learn's `clone` copies parameters."""
        return self

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> str:
        """``float32`` or ``bfloat16``."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def attention(self) -> str:
        """``sdpa`` or ``eager``."""
        return str(self.model.config._attn_implementation)

    @property
    def n_blocks(self) -> int:
        return len(self.trunk.blocks)

    @property
    def hidden_size(self) -> int:
        return int(self.trunk.config.hidden_size)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """For each block, how many tokens its attention sees; None is all before it."""
        return tuple(window_of(block.self_attn) for block in self.trunk.blocks)

    @property
    def context_length(self) -> int:
        """Tokens that the model was made for."""
        return int(self.trunk.config.max_position_embeddings)

    @cached_property
    def digest(self) -> str:
        """SHA-256 that names these weights, whatever float type or device they are loaded in; taken once."""
        return weights_digest(self.trunk)

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a reply."""
        own = self.model.generation_config.eos_token_id if self.model.generation_config else None
        ids = own if isinstance(own, list) else [own, self.vocabulary.tokenizer.eos_token_id]
        turn = [self.vocabulary.control.get(token) for token in ("<end_of_turn>", "<turn|>")]
        return frozenset(id_ for id_ in [*ids, *turn] if id_ is not None)

    def encode(self, text: str) -> Tokens:
        """bos and the text as content, which never becomes a control token."""
        return self.vocabulary.template("<bos>") + self.vocabulary.content(text)

    def render(self, messages: Sequence[Message]) -> Prompt:
        """A conversation as a prompt; see `safety_kit.gemma.chat` for the folding rule."""
        return render(messages, self.vocabulary)

    def forward(
        self,
        texts: Sequence[Tokens],
        capture: Capture,
        *,
        progress: str | None = None,
        token_budget: int = TOKEN_BUDGET,
    ) -> list[Trace]:
        """One pass per text, batched by length so that a batch holds at most `token_budget` padded tokens.

        It stops after the topmost block that is asked for, and multiplies the output matrix only for the logits
        asked for.

        Args:
            texts: Encoded texts; an empty one gives an empty trace.
            capture: What to keep.
            progress: Label of a progress bar on stderr (none where that is no terminal).
            token_budget: Padded tokens a batch.

        Returns:
            Traces in the order of `texts`.

        Raises:
            UserError: A block the model does not have, or a text longer than its context.
        """
        self._check(capture, [len(text) for text in texts])
        traces: list[Trace | None] = [None if len(text) else Trace((), ()) for text in texts]
        total = sum(len(text) for text in texts)
        with tqdm(total=total, desc=progress, unit="tok", disable=None if progress else True, leave=False) as bar:
            for batch in batches([len(text) for text in texts], token_budget):
                for index, trace in zip(batch, self._pass([texts[i] for i in batch], capture), strict=True):
                    traces[index] = trace
                bar.update(sum(len(texts[i]) for i in batch))
        return [trace for trace in traces if trace is not None]

    def _pass(
        self,
        texts: list[Tokens],
        capture: Capture,
        within: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Iterator[Trace]:
        ids = pad([text.ids for text in texts], self.device)
        inside = Inside(self.trunk, capture)

        @contextmanager
        def hooks() -> Iterator[None]:
            with within(), inside.hooks():
                yield

        blocks = sorted({*capture.blocks, *capture.attention})
        normed, kept = self.trunk.run(ids, blocks, through=capture.reads_through, within=hooks)
        for row, text in enumerate(texts):
            length = len(text)
            hidden = {block: kept[block][row, :length].to("cpu", copy=True) for block in capture.blocks}
            logits = final = None
            if normed is not None and capture.logits != "none":
                wanted = slice(length - 1, length) if capture.logits == "last" else slice(0, length)
                logits = self.trunk.logits(normed[row, wanted]).cpu()
            if normed is not None and capture.final:
                final = normed[row, :length].to("cpu", copy=True)
            yield Trace(
                text.ids,
                text.offsets,
                hidden,
                logits,
                final,
                self.readout if capture.final else None,
                inside.attention(row, length),
                inside.writes(row),
            )

    def gradients(
        self,
        text: Tokens,
        capture: Capture,
        objective: Callable[[Trace], torch.Tensor],
        *,
        points: Callable[[torch.Tensor], torch.Tensor] | None = None,
        token_budget: int = TOKEN_BUDGET,
        progress: Callable[[int, int], None] | None = None,
    ) -> experiments.Gradients:
        """The gradient of a number that is read from a pass, with respect to the text's token embeddings.

        Args:
            text: What is read, T tokens.
            capture: Blocks, and `final`, that the objective reads; only these are in the traces that it gets.
            objective: From a trace, whose tensors are on the model's device and carry gradients, to a scalar.
            points: From the text's T × d embeddings to the S × T × d at which the gradient is taken, for integrated
                gradients say; None is the text's own. Gemma 3n's and 4's per-layer inputs stay those of the ids.
            token_budget: Tokens of all points in one pass.
            progress: Called after each pass with points done and all points; what it raises stops the work.

        Raises:
            UserError: A block the model does not have, or an empty or too long text.
        """
        if not len(text):
            raise UserError("There is no token to take a gradient of.")
        self._check(capture, [len(text)])
        return experiments.gradients(self, text, capture, objective, points, token_budget, progress)

    def intervene(self, text: Tokens, edits: Sequence[experiments.Edit], capture: Capture) -> Trace:
        """`forward` of one text with changed activations; the model is as before afterwards, also after an error.

        Args:
            text: What is read; not empty.
            edits: Applied in their order.
            capture: What to keep, as it is after the edits.

        Raises:
            UserError: A block the model does not have, or an empty or too long text.
        """
        if not len(text):
            raise UserError("There is no token to change an activation of.")
        self._check(capture | Capture(tuple(edit.block for edit in edits)), [len(text)])
        (trace,) = self._pass([text], capture, lambda: experiments.edited(self.trunk, edits))
        return trace

    def endings(self, beginning: Tokens, texts: Sequence[Tokens], capture: Capture) -> list[Trace]:
        """`forward` of beginning + text for each text, with the beginning read once and all texts in one batch.

        Args:
            beginning: What they share; not empty.
            texts: How they go on; none is empty.
            capture: Blocks and `final`; the traces are of the whole texts.

        Raises:
            UserError: A block the model does not have, or an empty or too long text.
        """
        if not len(beginning) or not texts or not all(len(text) for text in texts):
            raise UserError("Neither a beginning nor an ending may be empty.")
        if capture != Capture(capture.blocks, final=capture.final):
            raise ValueError("endings keep blocks and `final` alone")
        self._check(capture, [len(beginning) + len(text) for text in texts])
        return experiments.endings(self, beginning, texts, capture)

    def trace_texts(
        self,
        items: Sequence[tuple[str | None, str, Role]],
        capture: Capture,
        *,
        context: Sequence[Message] = (),
        progress: str | None = None,
    ) -> list[list[TraceView]]:
        """Read texts where they would stand in a prompt, each whole: a long one in overlapping windows.

        Args:
            items: (prompt | None, text, role): a reply comes with the user's message that it answers.
            capture: What to keep.
            context: Messages that stand before.
            progress: Label of a progress bar on stderr.

        Returns:
            For each item its own tokens as one view a window, offsets pointing into the raw text; none for a text
            without tokens.
        """
        return self.read_texts(items, capture, lambda _, view: view, context=context, progress=progress)

    def read_texts(
        self,
        items: Sequence[tuple[str | None, str, Role]],
        capture: Capture,
        each: Callable[[int, TraceView], T],
        *,
        context: Sequence[Message] = (),
        progress: str | None = None,
    ) -> list[list[T]]:
        """The same, window by window: only what `each` makes of one is kept, so that a text may be of any length.

        Args:
            items: As in `trace_texts`, and so for the others.
            capture: What a view has.
            each: The item's number and a view → what to keep.
            context: Messages that stand before.
            progress: Label of a progress bar on stderr.

        Returns:
            For each item what was made of its windows, in their order.
        """
        windows = own_windows(self, items, context)
        return windows.read(lambda tokens: self.forward(tokens, capture, progress=progress), each)

    def prefill(self, prompt: Prompt, capture: Capture = Capture(), *, reuse: Prefill | None = None) -> Prefill:  # noqa: B008
        """Read a prompt once: its activations go to the probes, its KV cache on to `steps`."""
        self._check(_running(capture), [len(prompt.tokens)])
        return prefill(self.trunk, prompt, capture, reuse)

    def steps(
        self,
        prompt: Prompt | Prefill,
        sampling: Sampling,
        capture: Capture = Capture(),  # noqa: B008
    ) -> Iterator[Step]:
        """Decode with a KV cache, one `Step` a token; `capture.blocks` gives each step its own token's activations."""
        start = prompt if isinstance(prompt, Prefill) else self.prefill(prompt)
        self._check(_running(capture), [])
        return steps(self, start, sampling, capture)

    def generate(self, prompt: Prompt | Prefill, sampling: Sampling) -> Generation:
        """The drained `steps`."""
        return generate(self.steps(prompt, sampling))

    def _check(self, capture: Capture, lengths: Sequence[int]) -> None:
        wrong = [block for block in (*capture.blocks, *capture.attention) if not 0 <= block < self.n_blocks]
        if wrong:
            raise UserError(f"{self.name} has blocks 0 to {self.n_blocks - 1}; block {wrong[0]} was asked for.")
        if (longest := max(lengths, default=0)) > self.context_length:
            raise UserError(f"The text has {longest} tokens; {self.name} reads at most {self.context_length}.")
        if capture.writes and not self.readout.exact:
            raise UserError(f"{self.family} mixes several residual streams, so its logits are no sum of writes.")
        if wrong := [at for at in capture.writes if not 0 <= at < min(lengths, default=0)]:
            raise UserError(f"The text has no token {wrong[0]}; count from 0.")


def _running(capture: Capture) -> Capture:
    if capture != Capture(capture.blocks, capture.logits):
        raise ValueError("a prefill and its steps keep blocks and logits alone; give the ids to forward for the rest")
    return capture


def _pick_device(device: str) -> str:
    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"The device {device!r} is not there; use auto, cpu, cuda or mps.") from error
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
