"""Passes that ask "what if": gradients with respect to the embeddings, and passes with changed activations."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from transformers import DynamicCache

from safety_kit.gemma.trace import Capture, Trace
from safety_kit.gemma.trunk import pad

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from safety_kit.gemma.model import Gemma
    from safety_kit.gemma.tokens import Tokens
    from safety_kit.gemma.trunk import Trunk

Site: TypeAlias = Literal["heads", "attention", "mlp", "block"]


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of one activation while a text is read.

    Attributes:
        block: Where.
        site: ``heads`` (what the output matrix mixes, T × H × d_head), ``attention`` or ``mlp`` (a sub-layer's output
            before any post-norm, T × d), ``block`` (the residual stream after the block, T × d).
        change: Takes the activation and returns one of the same shape; it must not write into what it is given.
    """

    block: int
    site: Site
    change: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Gradients:
    """An objective and its gradient at some points in the space of embeddings.

    Attributes:
        points: S × T × d float32 on the CPU: the embeddings as the first block gets them.
        values: S float32: the objective there.
        gradients: S × T × d float32.
    """

    points: torch.Tensor
    values: torch.Tensor
    gradients: torch.Tensor


@contextmanager
def edited(trunk: Trunk, edits: Sequence[Edit]) -> Iterator[None]:
    """The edits, on while the context is; gone after it, however it ends."""
    with ExitStack() as stack:
        for edit in edits:
            stack.callback(_register(trunk, edit).remove)
        yield


def _register(trunk: Trunk, edit: Edit) -> Any:
    block: Any = trunk.blocks[edit.block]
    if edit.site == "heads":
        head_dim = block.self_attn.head_dim

        def before(_module: Any, args: Any) -> Any:
            split = args[0][0].unflatten(-1, (-1, head_dim))
            return (_changed(edit, split).flatten(-2).unsqueeze(0), *args[1:])

        return block.self_attn.o_proj.register_forward_pre_hook(before)

    def after(_module: Any, _args: Any, output: Any) -> Any:
        if trunk.stream is not None and output.ndim == 4:
            streams = output.clone()
            streams[trunk.stream, 0] = _changed(edit, output[trunk.stream, 0])
            return streams
        return _changed(edit, output[0]).unsqueeze(0)

    module = {"attention": block.self_attn.o_proj, "mlp": block.mlp, "block": block}[edit.site]
    return module.register_forward_hook(after)


def _changed(edit: Edit, given: torch.Tensor) -> torch.Tensor:
    made = edit.change(given)
    if made.shape != given.shape:
        raise ValueError(f"an edit of {edit.site} returned the shape {tuple(made.shape)}, not {tuple(given.shape)}")
    return made.to(given.dtype)


@contextmanager
def _embedded_as(trunk: Trunk, points: torch.Tensor) -> Iterator[None]:
    """The embedding's output is these B × T × d points; what else a family looks up by id stays the text's own."""
    handle = trunk.decoder.embed_tokens.register_forward_hook(lambda _module, _args, _output: points)
    try:
        yield
    finally:
        handle.remove()


def gradients(
    gemma: Gemma,
    text: Tokens,
    capture: Capture,
    objective: Callable[[Trace], torch.Tensor],
    points: Callable[[torch.Tensor], torch.Tensor] | None,
    token_budget: int,
    progress: Callable[[int, int], None] | None = None,
) -> Gradients:
    """See `Gemma.gradients`."""
    trunk = gemma.trunk
    own = torch.tensor([text.ids], device=gemma.device)
    with torch.no_grad():
        embeddings = trunk.decoder.embed_tokens(own)[0]
    wanted = embeddings.unsqueeze(0) if points is None else points(embeddings)
    at_once = max(1, token_budget // max(1, len(text)))
    values, found, done = [], [], 0
    for part in wanted.split(at_once):
        leaf = part.detach().clone().requires_grad_()
        with torch.enable_grad():
            normed, kept = trunk.run(
                own.expand(len(part), -1),
                capture.blocks,
                through=capture.reads_through,
                within=lambda leaf=leaf: _embedded_as(trunk, leaf),  # type: ignore[misc]
                gradients=True,
            )
            traces = [
                Trace(
                    text.ids,
                    text.offsets,
                    {block: states[row] for block, states in kept.items()},
                    final=None if normed is None else normed[row],
                    readout=gemma.readout,
                )
                for row in range(len(part))
            ]
            each = torch.stack([objective(trace).float() for trace in traces])
            (gradient,) = torch.autograd.grad(each.sum(), leaf)
        values.append(each.detach().cpu())
        found.append(gradient.float().cpu())
        done += len(part)
        if progress is not None:
            progress(done, len(wanted))
    return Gradients(wanted.detach().float().cpu(), torch.cat(values), torch.cat(found))


@torch.inference_mode()
def endings(gemma: Gemma, beginning: Tokens, texts: Sequence[Tokens], capture: Capture) -> list[Trace]:
    """See `Gemma.endings`; `beginning` and every text are not empty."""
    trunk, device = gemma.trunk, gemma.device
    blocks, through = capture.blocks, capture.reads_through
    cache = DynamicCache(config=trunk.config)
    normed, kept = trunk.run(torch.tensor([beginning.ids], device=device), blocks, cache=cache, through=through)
    cache.batch_repeat_interleave(len(texts))
    ids = pad([text.ids for text in texts], device)
    ended, after = trunk.run(ids, blocks, cache=cache, through=through)

    def whole(first: torch.Tensor, rest: torch.Tensor, row: int) -> torch.Tensor:
        return torch.cat([first[0], rest[row, : len(texts[row])]]).cpu()

    made = []
    for row, text in enumerate(texts):
        tokens = beginning + text
        hidden = {block: whole(kept[block], after[block], row) for block in blocks}
        final = None if normed is None or ended is None else whole(normed, ended, row)
        made.append(Trace(tokens.ids, tokens.offsets, hidden, final=final, readout=gemma.readout))
    return made
