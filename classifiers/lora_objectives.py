"""What an adapter is trained for: a linear head on pooled activations, or the word that answers the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch.nn import functional

from classifiers.features import alone_pieces
from classifiers.heads import fit_path
from safety_kit.errors import UserError
from safety_kit.gemma.trunk import pad

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from classifiers.features import Text
    from safety_kit.gemma import Gemma
    from safety_kit.gemma.adapted import AdaptedGemma

TOKEN_BUDGET = 1024
"""Padded tokens of one pass with gradients: about 1 GB of activations for 12 blocks of the embedded model."""

REGULARISATION = 1e-3
"""C of the head that training starts from."""

WORDS = (" No", " Yes")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text in its question: ids, the text's own tokens [start, stop), the question after them."""

    ids: tuple[int, ...]
    start: int
    stop: int

    def __len__(self) -> int:
        return len(self.ids)


def encode(gemma: Gemma, item: Text, question: str) -> list[Encoded]:
    """A text, after the prompt that it answers, in its question: one a window; none for a text without tokens."""
    return [Encoded(tokens.ids, start, stop) for tokens, start, stop in alone_pieces(gemma, item, question)]


class Objective(Protocol):
    """How scores come out of an adapted model, and what they are trained towards.

    Attributes:
        fixed: Tensors that training does not change, to be kept with the weights.
    """

    fixed: dict[str, torch.Tensor]

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained besides the adapter."""
        ...

    def start(self, items: Sequence[Encoded], y: NDArray[np.int64], progress: str | None) -> None:
        """Set what is not random from the training part, before the first step."""
        ...

    def scores(self, items: Sequence[Encoded]) -> torch.Tensor:
        """B decision scores, the higher the likelier label 1."""
        ...

    def losses(self, items: Sequence[Encoded], y: torch.Tensor) -> torch.Tensor:
        """B losses."""
        ...


class HeadObjective:
    """A linear head on the mean over the text and the mean over the question, both of the top kept block.

    It starts as the logistic regression on the frozen model and is trained with the adapter from there on, so that
    the first steps do not spoil what the model knows (Kumar et al. 2022, linear probing then fine-tuning).
    """

    def __init__(self, adapted: AdaptedGemma, width: int) -> None:
        self.adapted = adapted
        device = adapted.device
        self.fixed = {"mean": torch.zeros(2 * width, device=device), "scale": torch.ones(2 * width, device=device)}
        self.weight = torch.nn.Parameter(torch.zeros(2 * width, device=device))
        self.bias = torch.nn.Parameter(torch.zeros(1, device=device))

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {"weight": self.weight, "bias": self.bias}

    @torch.no_grad()
    def start(self, items: Sequence[Encoded], y: NDArray[np.int64], progress: str | None) -> None:
        from tqdm import tqdm

        pooled = torch.zeros(len(items), len(self.weight))
        with tqdm(total=len(items), desc=progress, unit="text", disable=None if progress else True, leave=False) as bar:
            for rows in passes(items, range(len(items))):
                pooled[rows] = self._pooled([items[row] for row in rows]).cpu()
                bar.update(len(rows))
        features = pooled.numpy()
        mean, scale = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64) + 1e-6
        [head] = fit_path(features, y, np.ones(len(y)), [REGULARISATION])
        for target, value in (
            (self.fixed["mean"], mean),
            (self.fixed["scale"], scale),
            (self.weight, head.weight * scale),
            (self.bias, head.bias + head.weight @ mean),
        ):
            target.copy_(torch.as_tensor(value, dtype=torch.float32))

    def scores(self, items: Sequence[Encoded]) -> torch.Tensor:
        standard = (self._pooled(items) - self.fixed["mean"]) / self.fixed["scale"]
        return standard @ self.weight + self.bias

    def losses(self, items: Sequence[Encoded], y: torch.Tensor) -> torch.Tensor:
        return functional.binary_cross_entropy_with_logits(self.scores(items), y.float(), reduction="none")

    def _pooled(self, items: Sequence[Encoded]) -> torch.Tensor:
        hidden = self.adapted.hidden(pad([item.ids for item in items], self.adapted.device))
        return torch.stack(
            [
                torch.cat([states[item.start : item.stop].mean(0), states[item.stop : len(item)].mean(0)]).float()
                for states, item in zip(hidden, items, strict=True)
            ]
        )


class WordObjective:
    """Google's recipe: learn to write the word that answers, and score by its logit (Mozes et al. 2023).

    The loss is the cross-entropy over the whole vocabulary; the score is the logit of yes minus that of no.
    """

    def __init__(self, adapted: AdaptedGemma, gemma: Gemma) -> None:
        self.adapted = adapted
        self.fixed: dict[str, torch.Tensor] = {}
        no, yes = (gemma.vocabulary.content(word).ids for word in WORDS)
        same = next((i for i, (a, b) in enumerate(zip(no, yes, strict=False)) if a != b), None)
        if same is None:
            raise UserError(f"{gemma.name} has no two words for yes and no; use the objective 'head'.")
        self._lead = no[:same]
        self._words = torch.tensor([no[same], yes[same]], device=adapted.device)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {}

    def start(self, items: Sequence[Encoded], y: NDArray[np.int64], progress: str | None) -> None:
        return

    def scores(self, items: Sequence[Encoded]) -> torch.Tensor:
        found = self._logits(items)[:, self._words]
        return found[:, 1] - found[:, 0]

    def losses(self, items: Sequence[Encoded], y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(self._logits(items), self._words[y], reduction="none")

    def _logits(self, items: Sequence[Encoded]) -> torch.Tensor:
        ids = [item.ids + self._lead for item in items]
        ends = torch.tensor([len(row) - 1 for row in ids], device=self.adapted.device)
        return self.adapted.next_logits(pad(ids, self.adapted.device), ends)


def passes(items: Sequence[Encoded], rows: Sequence[int]) -> Iterator[list[int]]:
    """The rows, longest first, in passes of at most `TOKEN_BUDGET` padded tokens (or one text)."""
    order = sorted(rows, key=lambda row: len(items[row]), reverse=True)
    while order:
        size = max(1, TOKEN_BUDGET // len(items[order[0]]))
        yield order[:size]
        order = order[size:]


@torch.no_grad()
def all_scores(
    objective: Objective, items: Sequence[Encoded], rows: Sequence[int], progress: str | None = None
) -> NDArray[np.float64]:
    """Scores of some rows, in their order."""
    from tqdm import tqdm

    found: dict[int, float] = {}
    with tqdm(total=len(rows), desc=progress, unit="text", disable=None if progress else True, leave=False) as bar:
        for part in passes(items, rows):
            found |= zip(part, objective.scores([items[row] for row in part]).tolist(), strict=True)
            bar.update(len(part))
    return np.array([found[row] for row in rows], dtype=np.float64)


def set_tensors(targets: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    """Copy values into tensors of the same names."""
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(values[name])
