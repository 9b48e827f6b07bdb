"""What a forward pass is asked for (`Capture`) and what it saw (`Trace`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from safety_kit.gemma.readout import Readout
    from safety_kit.gemma.sublayers import AttentionInputs, Write
    from safety_kit.types import Span


@dataclass(frozen=True, slots=True)
class Capture:
    """Which activations a pass shall keep.

    Attributes:
        blocks: Indices of the blocks whose outputs are kept; `hidden[k]` is the output of block k, before any final
            norm.
        logits: ``none`` | ``last`` (next-token logits of the last position) | ``all``.
        final: Keep the final norm's output, from which `Trace.readout` makes logits a few positions at a time.
        attention: Indices of the blocks whose queries and keys are kept.
        writes: Positions at which everything that was added to the residual stream is kept.
    """

    blocks: tuple[int, ...] = ()
    logits: Literal["none", "last", "all"] = "none"
    final: bool = False
    attention: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()

    @property
    def reads_through(self) -> bool:
        """Whether every block is run."""
        return self.logits != "none" or self.final or bool(self.writes)

    def __or__(self, other: Capture) -> Capture:
        order = ("none", "last", "all")
        return Capture(
            tuple(sorted({*self.blocks, *other.blocks})),
            max(self.logits, other.logits, key=order.index),
            self.final or other.final,
            tuple(sorted({*self.attention, *other.attention})),
            tuple(sorted({*self.writes, *other.writes})),
        )


@dataclass(frozen=True, slots=True)
class Trace:
    """What one forward pass saw of one text.

    Attributes:
        ids: Token ids, length T, control tokens included.
        offsets: For each token its span in the text it was encoded from; (0, 0) for a control token.
        hidden: For each captured block a T × d tensor on the CPU, in the model's float type.
        logits: None, 1 × V (last) or T × V (all), float32.
        final: The final norm's output, T × d on the CPU in the model's float type, or None.
        readout: What makes logits of `final`; None where that is None.
        attention: For each block asked for, what its attention weights are made of.
        writes: What was added to the residual stream at the positions asked for, from the embedding up.
    """

    ids: tuple[int, ...]
    offsets: tuple[Span, ...]
    hidden: Mapping[int, torch.Tensor] = field(default_factory=dict)
    logits: torch.Tensor | None = None
    final: torch.Tensor | None = None
    readout: Readout | None = None
    attention: Mapping[int, AttentionInputs] = field(default_factory=dict)
    writes: tuple[Write, ...] = ()

    def view(self, start: int, stop: int) -> TraceView:
        """The tokens [start, stop): the own tokens of one message, say."""
        return TraceView(self, start, stop)


@dataclass(frozen=True, slots=True)
class TraceView:
    """The tokens [start, stop) of a trace: a text's own tokens, where they stand in a longer prompt."""

    trace: Trace
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def hidden(self, block: int) -> torch.Tensor:
        """n × d activations of the view's tokens after block `block`."""
        return self.trace.hidden[block][self.start : self.stop]

    @property
    def offsets(self) -> tuple[Span, ...]:
        """The view's tokens as spans of the text that they were encoded from."""
        return self.trace.offsets[self.start : self.stop]
