"""Whether the numbers of a run can be believed: each held against plain transformers on the same weights.

A tool that leaves out one of Gemma's own ways (a softcap, a norm after a sub-layer, the 1 + weight of a norm, the scale
of the embeddings, the window of a local block) draws charts that look as good as right ones. What is compared is
bounded: the first `SPAN` tokens of a run, or as many as it takes to pass the window of its local blocks; and of these
the last `ROWS`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from safety_kit.analysis import attention, attribution, lens, objectives, salience
from safety_kit.analysis.probabilities import final_of
from safety_kit.analysis.trust_report import EVERY, TOLERANCES, Chart, Check, Record, Trust
from safety_kit.errors import UserError
from safety_kit.gemma.digest import weights_digest
from safety_kit.gemma.reference import Reference
from safety_kit.gemma.tokens import Tokens
from safety_kit.gemma.trace import Capture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from safety_kit.gemma.model import Gemma
    from safety_kit.gemma.reference import Plain
    from safety_kit.gemma.trace import Trace

SPAN = 128
"""Tokens of a run that are compared, where no local block's window ends within it."""

MOST = 1_088
"""The same, where more must be read to pass a window: that of Gemma 3 is 512 or 1,024 tokens."""

ROWS = 16
"""Of these, the last ones, at which logits, activations and attention are compared."""

SHORT = 8
"""Tokens of the text of which integrated gradients are taken."""

STEPS = (32, 64, 128, 256)
"""Of the integrated gradients: the first that suffice."""


def span(gemma: Gemma, tokens: int) -> int:
    """How many of a run's first tokens are compared: `SPAN`, or enough to pass the window of its local blocks."""
    windows = [window for window in gemma.windows if window is not None and window < tokens]
    wanted = max([SPAN, *(window + 2 * ROWS for window in windows if window + 2 * ROWS <= MOST)])
    return min(tokens, wanted)


def cost(gemma: Gemma, tokens: int) -> int:
    """Tokens that `trust` reads in all, one that is read forward and back counted as three."""
    return 3 * span(gemma, tokens) + 3 * (STEPS[0] + 2) * min(SHORT, tokens)


def trust(gemma: Gemma, record: Record, *, progress: Callable[[int, int], None] | None = None) -> Trust:
    """Hold a run's numbers against plain transformers.

    Three readings of the first `span` tokens: our own, plain transformers' under the same attention implementation and
    float type, the same with eager attention; and short ones, forward and back, for attribution and gradients.

    Args:
        gemma: The model.
        record: The run.
        progress: Called with readings done and all readings; what it raises stops the work.

    Raises:
        UserError: The run has no token, or one that the model does not have.
    """
    if not record.ids or not all(0 <= id_ < gemma.readout.vocabulary for id_ in record.ids):
        raise UserError("The run has no token, or one that this model does not have; inspect the prompt anew.")
    return _Comparison(gemma, record, progress).made()


class _Comparison:
    """The readings of one run, and the checks that they give."""

    def __init__(self, gemma: Gemma, record: Record, progress: Callable[[int, int], None] | None) -> None:
        self.gemma = gemma
        self.record = record
        self.count = span(gemma, len(record.ids))
        self.ids = record.ids[: self.count]
        self.rows = range(max(0, self.count - ROWS), self.count)
        self.within = TOLERANCES.get(gemma.dtype, TOLERANCES["float32"])
        self._progress = progress or (lambda _done, _of: None)
        self._where = f"after the last {len(self.rows)} of the first {self.count} tokens"

    def made(self) -> Trust:
        checks = [self._weights(), self._floats()]
        try:
            reference = Reference(self.gemma, self.record.revision)
        except (RuntimeError, ValueError) as error:
            if "memory" in str(error).lower():
                raise
            checks.append(self._check("parameters", "the model's with those of the plain class", math.nan, 0, EVERY))
            return Trust(tuple(checks), self.count, len(self.record.ids), self._notes(None))
        checks.append(self._parameters(reference))
        self._progress(0, 4)
        trace = self._own_reading()
        self._progress(1, 4)
        plain = reference.read(self.ids, self.rows)
        self._progress(2, 4)
        eager = reference.read(self.ids, self.rows, eager=True)
        self._progress(3, 4)
        logprobs = plain.logits.double().log_softmax(-1)
        checks += [self._logits(trace, plain), self._activations(trace, plain)]
        if (shown := self._shown(logprobs)) is not None:
            checks.append(shown)
        checks.append(self._eager(logprobs, eager))
        checks += self._attention(trace, eager)
        if self.gemma.readout.exact:
            checks += [self._lens(trace, logprobs), self._attribution(reference)]
        checks.append(self._gap(reference))
        self._progress(4, 4)
        return Trust(tuple(checks), self.count, len(self.record.ids), self._notes(reference))

    def _own_reading(self) -> Trace:
        blocks = tuple(range(self.gemma.n_blocks))
        return self.gemma.forward([_tokens(self.ids)], Capture(blocks, final=True, attention=blocks))[0]

    def _weights(self) -> Check:
        now, said = weights_digest(self.gemma.trunk), self.record.digest
        at = f", revision {self.record.revision}" if self.record.revision else ", no revision named"
        compared = f"the weights as they are now, {now[:12]}, with the run's model, {said[:12]}{at}"
        return self._check("model digest", compared, float(not now.startswith(said)), 0, EVERY)

    def _floats(self) -> Check:
        gemma, record = self.gemma, self.record
        kinds = [str(p.dtype).removeprefix("torch.") for p in gemma.trunk.decoder.parameters()]
        other = sum(kind != record.dtype for kind in kinds) + (gemma.attention != record.attention)
        known = gemma.dtype in TOLERANCES  # float16 overflows in Gemma
        compared = (
            f"parameters and attention, {gemma.dtype} and {gemma.attention}, with the run's, {record.dtype} and "
            f"{record.attention}: how many differ"
        )
        return self._check("float type", compared, float(other) if known else math.nan, 0, EVERY)

    def _parameters(self, reference: Reference) -> Check:
        read = "the checkpoint's configuration" if reference.reread else "the loaded model's configuration"
        compared = f"the model's with those of {type(reference.model).__name__}, made from {read}: how many are missing"
        differ = len(reference.lacking) + len(reference.surplus)
        return self._check("parameters", compared, float(differ), 0, EVERY)

    def _logits(self, trace: Trace, plain: Plain) -> Check:
        assert trace.final is not None
        with torch.inference_mode():
            own = self.gemma.readout.logits(trace.final[list(self.rows)]).cpu()
        tolerance = self.within.forward * max(1.0, float(plain.logits.abs().max()))
        compared = f"ours with plain transformers', {self._where}"
        return self._check("logits", compared, _largest(own - plain.logits), tolerance, EVERY)

    def _activations(self, trace: Trace, plain: Plain) -> Check:
        rows = list(self.rows)
        shares = [
            _largest(trace.hidden[block][rows].float() - states) / max(1.0, float(states.abs().max()))
            for block, states in plain.hidden.items()
        ]
        compared = f"every block's output with plain transformers', {self._where}, as a share of the largest"
        charts: tuple[Chart, ...] = ("classifiers", "lens", "salience", "cause")
        return self._check("activations", compared, _most(shares), self.within.forward, charts)

    def _shown(self, logprobs: torch.Tensor) -> Check | None:
        """The probabilities on the screen, which came of another pass than the one that is made here."""
        pairs = [
            (self.record.logprobs[row + 1], float(logprobs[at, self.record.ids[row + 1]]))
            for at, row in enumerate(self.rows)
            if row + 1 < len(self.record.logprobs)
        ]
        differences = [abs(shown - plain) for shown, plain in pairs if shown is not None]
        if not differences:
            return None
        whole = self.count == len(self.record.ids)
        compared = f"those shown with a float64 log-softmax of plain transformers' logits, {self._where}, in nats"
        tolerance = self.within.logprob if whole else self.within.again
        return self._check("log-probabilities", compared, _most(differences), tolerance, ("probabilities",))

    def _eager(self, logprobs: torch.Tensor, eager: Plain) -> Check:
        other = eager.logits.double().log_softmax(-1).gather(1, likeliest := logprobs.argmax(-1, keepdim=True))
        value = _largest(other - logprobs.gather(1, likeliest))
        compared = (
            f"log-probability of the likeliest token under eager attention with {self.gemma.attention}, {self._where}, "
            "in nats"
        )
        return self._check("eager attention", compared, value, self.within.again, ("attention",))

    def _attention(self, trace: Trace, eager: Plain) -> Iterator[Check]:
        apart, sums, outside = [], [], []
        for block, expected in eager.attention.items():
            inputs = trace.attention[block]
            own = attention.weights(inputs, range(inputs.heads), self.rows.start, self.rows.stop)
            apart.append(_largest(own - expected))
            sums.append(_largest(own.double().sum(-1) - 1))
            outside.append(_largest(own.masked_fill(expected > 0, 0)))
        which = f"every head of {len(apart)} blocks, the last {len(self.rows)} of the first {self.count} tokens"
        charts: tuple[Chart, ...] = ("attention",)
        yield self._check("attention rows", f"sum of a row with 1: {which}", _most(sums), 1e-5, charts)
        compared = f"ours with those of plain transformers' eager attention: {which}"
        yield self._check("attention weights", compared, _most(apart), self.within.attention, charts)
        compared = f"our largest where plain transformers' is 0, after a token or out of its window: {which}"
        yield self._check("attention window", compared, _most(outside), 1e-6, charts)

    def _lens(self, trace: Trace, logprobs: torch.Tensor) -> Check:
        def value() -> float:
            top = self.gemma.n_blocks - 1
            made = lens.lens(replace(trace, hidden={top: trace.hidden[top]}), self.rows)
            plain = logprobs.gather(1, torch.from_numpy(made.top_ids[:, 0])).numpy()
            return float(np.abs(made.top_logprobs[:, 0] - plain).max())

        compared = f"the last block's five likeliest tokens with plain transformers' output, {self._where}, in nats"
        return self._tried("lens", compared, value, self.within.again, "lens")

    def _attribution(self, reference: Reference) -> Check:
        ids = self.ids[:ROWS]
        best, at = reference.read(ids, [len(ids) - 1]).logits[0].max(-1)
        logit, target = float(best), int(at)

        def value() -> float:
            (trace,) = self.gemma.forward([_tokens(ids)], attribution.capture(len(ids) - 1))
            made = attribution.attribute(trace, len(ids) - 1, target)
            cap = made.softcap
            summed = made.total if cap is None else cap * math.tanh(made.total / cap)
            return max(abs(summed - logit), abs(made.total - made.uncapped))

        compared = f"sum of all shares with plain transformers' logit of the likeliest token after token {len(ids) - 1}"
        tolerance = self.within.attribution * max(1.0, abs(logit))
        return self._tried("attribution", compared, value, tolerance, "attribution")

    def _gap(self, reference: Reference) -> Check:
        """Completeness (Sundararajan et al. 2017), with both ends taken from plain transformers.

        The steps are doubled until the gap is within tolerance or `STEPS` are used up: a path that is hard to follow
        is no error, a wrong gradient stays wrong.
        """
        ids = self.ids[:SHORT]
        text, vocabulary = _tokens(ids), self.gemma.vocabulary
        padded = [id_ if vocabulary.is_control(id_) else vocabulary.control.get("<pad>", 0) for id_ in ids]
        end, start = (reference.read(given, [len(ids) - 1]).logits[0] for given in (ids, padded))
        target = int(end.argmax())
        explained = float(end[target] - start[target])
        tolerance = self.within.gap * max(1.0, abs(explained))
        layered = getattr(self.gemma.trunk.config, "hidden_size_per_layer_input", None)

        def value() -> float:
            gap = math.nan
            for steps in STEPS:
                made = salience.integrated_gradients(self.gemma, text, _logit(len(ids) - 1, target), steps=steps)
                gap = abs(float(made.scores.sum()) - explained)
                if layered and made.gap is not None:  # per-layer inputs stay the text's own, so the ends are others
                    gap = made.gap
                if gap <= tolerance:
                    break
            return gap

        compared = (
            f"sum of the scores of the first {len(ids)} tokens, {STEPS[0]} steps or as many as it takes up to "
            f"{STEPS[-1]}, with what they explain, a logit's {explained:+.3f} from plain transformers"
        )
        return self._tried("integrated gradients", compared, value, tolerance, "salience")

    def _notes(self, reference: Reference | None) -> tuple[str, ...]:
        notes = []
        beyond = {w for w in self.gemma.windows if w is not None and self.count <= w < len(self.record.ids)}
        if beyond:
            notes.append(
                f"The window of {max(beyond):,} tokens is not reached by the first {self.count:,}: it is not compared."
            )
        if not self.gemma.readout.exact:
            notes.append(f"{self.gemma.family} joins several streams, so neither lens nor attribution is compared.")
        if reference is not None and not reference.reread:
            notes.append("The checkpoint's configuration could not be read again; the loaded model's was taken.")
        return tuple(notes)

    def _tried(self, name: str, compared: str, value: Callable[[], float], tolerance: float, chart: Chart) -> Check:
        """A check that our own code may not come to the end of, where the model is not what it takes it for."""
        try:
            return self._check(name, compared, value(), tolerance, (chart,))
        except Exception as error:
            if isinstance(error, MemoryError) or "memory" in str(error).lower():
                raise
            return self._check(name, f"{compared}: {type(error).__name__}", math.nan, tolerance, (chart,))

    def _check(self, name: str, compared: str, value: float, tolerance: float, charts: Sequence[Chart]) -> Check:
        return Check(name, compared, value, tolerance, value <= tolerance, tuple(charts))  # nan does not pass


def _logit(position: int, target: int) -> objectives.Objective:
    """One token's logit, for the price of one row of the output matrix."""

    def value(trace: Trace, _gone: objectives.Gone) -> torch.Tensor:
        final, readout = final_of(trace)
        logit = final[position].float() @ readout.directions([target])[0]
        return logit if not readout.softcap else torch.tanh(logit / readout.softcap) * readout.softcap

    return objectives.Objective("logit", "logits", Capture(final=True), value)


def _tokens(ids: Sequence[int]) -> Tokens:
    return Tokens(tuple(ids), ((0, 0),) * len(ids))


def _largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())


def _most(values: Sequence[float]) -> float:
    """The largest; nan where one is nan, or there is none."""
    return float(np.max(values)) if len(values) else math.nan
