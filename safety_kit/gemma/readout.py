"""From the residual stream to logits: the final norm, the output matrix, the softcap, as the model has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from safety_kit.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safety_kit.gemma.trunk import Trunk


class Readout:
    """A handle on what a Gemma does after its last block; activations may come from any device.

    Attributes:
        softcap: c in logit = c · tanh(z / c) of the output matrix's z, or None.
        exact: Whether the last block's output alone gives the logits. Gemma 3n joins several streams before the norm,
            of which a trace keeps the one that is predicted from.
        vocabulary: Tokens that have a logit.
    """

    def __init__(self, trunk: Trunk) -> None:
        self._trunk = trunk
        self.softcap = trunk.softcap
        self.exact = trunk.stream is None
        self.vocabulary = int(self._matrix.shape[0])

    @property
    def _matrix(self) -> torch.Tensor:
        embeddings: Any = self._trunk.model.get_output_embeddings()
        weight: torch.Tensor = embeddings.weight
        return weight

    def norm(self, hidden: torch.Tensor) -> torch.Tensor:
        """The final norm: … × d → … × d."""
        normed: torch.Tensor = self._trunk.decoder.norm(hidden.to(self._trunk.model.device))
        return normed

    def logits(self, normed: torch.Tensor) -> torch.Tensor:
        """Final-norm output … × d → float32 logits … × V, on the model's device; ask for a few positions at a time."""
        return self._trunk.output(normed.to(self._trunk.model.device))

    def gain(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the final norm multiplies each dimension of `hidden` by: … × d → … × d float32 (`frozen_gain`)."""
        return frozen_gain(self._trunk.decoder.norm, hidden.to(self._trunk.model.device))

    def directions(self, ids: Sequence[int]) -> torch.Tensor:
        """Rows of the output matrix: n × d float32, so that the uncapped logit of ids[i] is normed · row i."""
        return self._matrix[torch.tensor(list(ids), device=self._matrix.device)].float()


def frozen_gain(norm: Any, inputs: torch.Tensor) -> torch.Tensor:
    """g such that norm(x) = g ⊙ x, with the root mean square of x taken as a constant.

    g = w / sqrt(mean(x²) + eps). Whether a family multiplies by `weight` or by 1 + `weight` is read from the module: it
    is asked for the norm of a vector of ones, which is w / sqrt(1 + eps).

    Args:
        norm: An RMS norm (Zhang and Sennrich 2019, arXiv:1910.07467).
        inputs: … × d.

    Returns:
        … × d float32.

    Raises:
        ModelError: The module does something else than such a norm.
    """
    x = inputs.float()
    scale = norm(torch.ones_like(x[..., :1, :])).float() * (1.0 + norm.eps) ** 0.5
    gain: torch.Tensor = scale * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.eps)
    expected = norm(inputs).float()
    loose = 1e-4 if inputs.dtype == torch.float32 else 2e-2
    if not torch.allclose(gain * x, expected, rtol=loose, atol=loose * float(expected.abs().max())):
        raise ModelError("A norm of this model is no RMS norm, so its scale cannot be frozen for an attribution.")
    return gain
