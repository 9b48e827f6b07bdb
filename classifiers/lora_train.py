"""The training loop of an adapter: averaged weights, early stopping on a held-out part, a checkpoint an epoch."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from tqdm import tqdm

from classifiers.calibrate import platt
from classifiers.lora_objectives import all_scores, passes, set_tensors
from safety_kit.artifacts import write_folder
from safety_kit.errors import DataError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifiers.lora_objectives import Encoded, Objective
    from safety_kit.gemma.adapted import AdaptedGemma

    Tensors = dict[str, torch.Tensor]

PATIENCE = 2
"""Epochs without a better held-out loss before training stops."""

NEIGHBOURS = 8
"""Texts are drawn in groups of so many batches and sorted by length inside: little padding, still random."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train.

    Attributes:
        epochs: At most so many.
        learning_rate: After a rise over the first tenth of the steps.
        batch: Texts a step.
        seed: Of the order and of dropout.
        digest: Of everything that decides the outcome: a checkpoint of another digest is refused.
    """

    epochs: int
    learning_rate: float
    batch: int
    seed: int
    digest: str


@dataclass
class Progress:
    """Where training stands after an epoch.

    Attributes:
        epoch: Epochs done.
        best: The epoch whose averaged weights had the lowest held-out loss; 0 is the start.
        losses: Held-out loss after each epoch, the start's first.
        digest: The plan's.
    """

    digest: str
    epoch: int = 0
    best: int = 0
    losses: list[float] = field(default_factory=list)


class Training:
    """One run, from its start or from its last checkpoint.

    Args:
        adapted: The model with its adapter.
        objective: What it is trained for.
        items: All texts.
        y: Their labels.
        held: Rows held out.
        plan: How.
        checkpoint: A folder for the state after each epoch, or None.
        progress: Show bars on stderr.
    """

    def __init__(
        self,
        adapted: AdaptedGemma,
        objective: Objective,
        items: Sequence[Encoded],
        y: NDArray[np.int64],
        held: NDArray[np.int64],
        plan: Plan,
        checkpoint: Path | None,
        progress: bool,
    ) -> None:
        self.adapted, self.objective, self.items, self.y = adapted, objective, items, y
        self.plan, self.checkpoint, self.progress = plan, checkpoint, progress
        self.held = np.sort(held)
        self.rows = np.setdiff1d(np.arange(len(items)), held)
        self.trained = {f"adapter.{name}": p for name, p in adapted.parameters().items()}
        self.trained |= {f"head.{name}": p for name, p in objective.parameters().items()}
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=plan.learning_rate, weight_decay=0.01)
        self.steps_an_epoch = math.ceil(len(self.rows) / plan.batch)
        self.steps = 0
        self.state = Progress(plan.digest)
        self.average: Tensors = {}
        self.best: Tensors = {}
        self.scores = np.zeros(0)
        share = np.bincount(y[self.rows], minlength=2)
        self._class_weight = torch.tensor(len(self.rows) / (2 * share), dtype=torch.float32, device=adapted.device)

    def run(self) -> None:
        """Train; afterwards the model holds the best averaged weights, and `scores` their held-out scores."""
        if not self._resume():
            self.objective.start(
                [self.items[row] for row in self.rows], self.y[self.rows], "frozen head" if self.progress else None
            )
            self.average = self._copy()
            self._judge()
            self._save()
        while self.state.epoch < self.plan.epochs and self.state.epoch - self.state.best < PATIENCE:
            self._epoch()
            self._judge()
            self._save()
        set_tensors(self.trained, self.best)

    def _epoch(self) -> None:
        self.state.epoch += 1
        self.adapted.train(True)
        label = f"epoch {self.state.epoch}/{self.plan.epochs}" if self.progress else None
        tokens = sum(len(self.items[row]) for row in self.rows)
        devices = [self.adapted.device] if self.adapted.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices=devices),
            tqdm(total=tokens, desc=label, unit="tok", disable=None if label else True, leave=False) as bar,
        ):
            torch.manual_seed(self.plan.seed * 1000 + self.state.epoch)
            for rows in self._batches():
                self._step(rows)
                bar.update(sum(len(self.items[row]) for row in rows))
        self.adapted.train(False)

    def _batches(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.plan.seed, self.state.epoch])
        order, size = rng.permutation(self.rows), self.plan.batch
        batches: list[list[int]] = []
        for start in range(0, len(order), size * NEIGHBOURS):
            near = sorted(order[start : start + size * NEIGHBOURS].tolist(), key=lambda row: len(self.items[row]))
            batches += [near[at : at + size] for at in range(0, len(near), size)]
        for index in rng.permutation(len(batches)):
            yield batches[index]

    def _step(self, rows: list[int]) -> None:
        rise = max(1, self.steps_an_epoch * self.plan.epochs // 10)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * min(1.0, (self.steps + 1) / rise)
        self.optimizer.zero_grad()
        for part in passes(self.items, rows):
            y = torch.tensor(self.y[part], device=self.adapted.device)
            loss = (self.objective.losses([self.items[row] for row in part], y) * self._class_weight[y]).sum()
            (loss / len(rows)).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        if not torch.isfinite(norm):
            raise DataError("Training diverged: a gradient is not finite. Lower the learning rate.")
        self.optimizer.step()
        self.steps += 1
        # A plain mean at first, then one that forgets over about an epoch: less noise than the last step's weights.
        keep = min(self.steps / (self.steps + 1), 1 - 1 / max(2, self.steps_an_epoch))
        with torch.no_grad():
            for name, p in self.trained.items():
                self.average[name].lerp_(p, 1 - keep)

    def _judge(self) -> None:
        """Measure the averaged weights on the held-out part, and keep them if they are the best so far."""
        now = self._copy()
        set_tensors(self.trained, self.average)
        scores = all_scores(self.objective, self.items, self.held.tolist())
        set_tensors(self.trained, now)
        if not np.isfinite(scores).all():
            raise DataError("Training diverged: a score is not finite. Lower the learning rate.")
        loss = calibrated_loss(self.y[self.held], scores)
        if not self.state.losses or loss < min(self.state.losses):
            self.state.best, self.scores = self.state.epoch, scores
            self.best = {name: tensor.clone() for name, tensor in self.average.items()}
        self.state.losses.append(loss)

    def _copy(self) -> Tensors:
        return {name: p.detach().clone() for name, p in self.trained.items()}

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        tensors = {f"now.{name}": p.detach() for name, p in self.trained.items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"fixed.{name}": tensor for name, tensor in self.objective.fixed.items()}
        tensors["scores"] = torch.from_numpy(self.scores)
        for name, p in self.trained.items():
            for moment in ("exp_avg", "exp_avg_sq"):
                if p in self.optimizer.state:
                    tensors[f"{moment}.{name}"] = self.optimizer.state[p][moment]
        data = save_tensors({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
        record = asdict(self.state) | {"steps": self.steps, "sha256": hashlib.sha256(data).hexdigest()}
        files = {"state.safetensors": data, "state.json": json.dumps(record).encode()}
        write_folder(self.checkpoint / f"epoch-{self.state.epoch:04d}", files)
        for old in [*self._saved()[:-1], *self.checkpoint.glob(".epoch-*")]:
            shutil.rmtree(old, ignore_errors=True)

    def _saved(self) -> list[Path]:
        return sorted(self.checkpoint.glob("epoch-*")) if self.checkpoint else []

    def _resume(self) -> bool:
        if not self._saved():
            return False
        last = self._saved()[-1]
        try:
            record: dict[str, Any] = json.loads((last / "state.json").read_text(encoding="utf-8"))
            data = (last / "state.safetensors").read_bytes()
            whole = hashlib.sha256(data).hexdigest() == record.pop("sha256")
            steps, state, tensors = record.pop("steps"), Progress(**record), load_tensors(data)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError):
            whole = False
        if not whole:
            raise UserError(f"The checkpoint {last} was changed or cut; delete it to train from the start.")
        if state.digest != self.plan.digest:
            raise UserError(
                f"The checkpoint {last} belongs to other examples, another model or other settings; "
                "name another folder or delete it."
            )
        for name, p in self.trained.items():
            if f"exp_avg.{name}" in tensors:
                moments = {moment: tensors[f"{moment}.{name}"].to(p.device) for moment in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[p] = {"step": torch.tensor(float(steps)), **moments}
        set_tensors(self.trained, _part(tensors, "now."))
        set_tensors(self.objective.fixed, _part(tensors, "fixed."))
        device = self.adapted.device
        self.average = {name: tensor.to(device) for name, tensor in _part(tensors, "average.").items()}
        self.best = {name: tensor.to(device) for name, tensor in _part(tensors, "best.").items()}
        self.scores, self.steps, self.state = tensors["scores"].numpy(), steps, state
        return True


def calibrated_loss(y: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """Cross-entropy of Platt-scaled scores, the classes counting equally: what users of the probabilities pay."""
    scale = platt(y, scores)
    signed = np.where(y == 1, 1, -1) * (scale.slope * scores + scale.intercept)
    losses = np.logaddexp(0, -signed)
    return float((losses[y == 1].mean() + losses[y == 0].mean()) / 2)


def _part(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
