"""The guard: samples in, verdicts out. A fault never becomes an allow."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from safety_kit.chat.verdict_cache import VerdictCache, batches
from safety_kit.check_options import DEFAULT_TIMEOUT_MS, JudgeOptions, ProbeOptions
from safety_kit.checks.base import Check, Delta, TextCheck, build, started
from safety_kit.checks.disguise import with_views, worst
from safety_kit.outcome import Outcome, fault, vet
from safety_kit.policy import DEFAULT_MESSAGE, Policy
from safety_kit.policy_schema import given_by
from safety_kit.redact import Cut, Redactor, cuts_of, merge, writer
from safety_kit.timeouts import Timeouts
from safety_kit.types import Action, CheckError, Finding, Role, Sample, Stage, Verdict

if TYPE_CHECKING:
    from safety_kit.chat.exchange import RequestVerdict, ResponseVerdict
    from safety_kit.checks.probe import ProbeCheck
    from safety_kit.followed_stream import Follow
    from safety_kit.gemma.trace import Capture
    from safety_kit.golden import Tracer
    from safety_kit.vault import Vault

T = TypeVar("T")
Which = Literal["all", "text", "model", "probe", "judge"]

_PHASES: Final[dict[Which, tuple[Literal["text", "probe", "judge"], ...]]] = {
    "all": ("text", "probe", "judge"),
    "text": ("text",),
    "model": ("probe", "judge"),
    "probe": ("probe",),
    "judge": ("judge",),
}
"""What is done one after the other: a phase reads what the one before would pass on."""

_PIECE: Final = 16_384
"""Characters that a text check reads at once: the dearest are read in about a second."""


class Guard:
    """Holds texts against a policy. Checks are built once; one guard may serve many threads.

    Attributes:
        policy: The policy with all thresholds resolved.
        digest: What the verdicts carry.
        text_checks: Checks of the text alone.
        probes: The check that reads activations, or None.
        judges: Checks that ask a model, a forward pass a text.
        cache: Verdicts of the texts of conversations.
    """

    def __init__(
        self, policy: Policy, gemma: Tracer | None = None, artifacts: Mapping[str, Path] | None = None
    ) -> None:
        """Build the checks, load the classifiers and resolve the thresholds.

        Args:
            policy: What to enforce.
            gemma: The model whose activations the probes read, and that judges ask which name none.
            artifacts: Classifier folders by the policy's artifact names, before the kit's own.

        Raises:
            PolicyError: A rule has nothing to hold against, there are probes and no `gemma`, or a judge shall block
                without evidence that it may.
            MissingArtifact: A classifier was not taught for this model.
            ArtifactError: A classifier folder was changed, or taught on another model.
        """
        self.probes: ProbeCheck | None = None
        digests: dict[str, str] = {}
        if any(isinstance(options, ProbeOptions) for options in policy.checks.values()):
            from safety_kit.checks.probe import ProbeCheck, load_probes
            from safety_kit.thresholds import Thresholds

            probes, loaded = load_probes(policy, gemma, artifacts or {})
            digests = {name: artifact.digest for name, artifact in loaded.items()}
            heads = {probe.head.category: probe.head for probe in probes}
            policy.check_categories(frozenset(heads))
            policy = policy.resolved(Thresholds(policy, heads, digests), heads)
            if probes and gemma is not None:
                self.probes = ProbeCheck(probes, gemma)
        self.judges: tuple[Check, ...] = ()
        if any(isinstance(options, JudgeOptions) for options in policy.checks.values()):
            from safety_kit.checks.judge import load_judges

            judges, models = load_judges(policy, gemma)
            self.judges = tuple(judges)
            digests |= models
        self.policy = policy
        self.digest = policy.digest_with(digests)
        self.text_checks: tuple[Check, ...] = tuple(
            build(name, options, wanted)
            for name, options in policy.checks.items()
            if (wanted := frozenset(c for c in given_by(name, options) or () if policy.stages_of(c)))
            and not isinstance(options, ProbeOptions | JudgeOptions)
        )
        for text_check in self.text_checks:
            if isinstance(text_check, TextCheck):
                text_check.views = policy.views
        self._stages: dict[frozenset[str], frozenset[Stage]] = {}
        self.cache = VerdictCache()
        self._key = secrets.token_bytes(16)
        self._timeouts = Timeouts()
        self._limits = {name: options.timeout_ms for name, options in policy.checks.items()}
        probed = [options.timeout_ms for options in policy.checks.values() if isinstance(options, ProbeOptions)]
        self._probe_limit = max(probed, default=DEFAULT_TIMEOUT_MS)  # all probes are one check: one pass is read by all
        self._order = {name: number for number, name in enumerate(policy.checks)}

    @property
    def capture(self) -> Capture | None:
        """All activations that the checks read; None without probes."""
        return self.probes.capture if self.probes else None

    def checks_at(self, stage: Stage, which: Which = "all") -> tuple[Check, ...]:
        """The checks that have a rule at this stage."""
        made: dict[str, Sequence[Check]] = {
            "text": self.text_checks,
            "probe": [self.probes] if self.probes else [],
            "judge": self.judges,
        }
        checks = [check for phase in _PHASES[which] for check in made[phase]]
        return tuple(check for check in checks if stage in self._stages_of(check.categories))

    def _stages_of(self, categories: frozenset[str]) -> frozenset[Stage]:
        """Stages at which any rule asks for any of them; asked for with every text, so worked out once."""
        if categories not in self._stages:
            found = (self.policy.stages_of(category) for category in categories)
            self._stages[categories] = frozenset[Stage]().union(*found)
        return self._stages[categories]

    def check(
        self,
        samples: Sequence[Sample],
        checks: Which = "all",
        *,
        vault: Vault | None = None,
        request_id: str | None = None,
    ) -> list[Verdict]:
        """A verdict for each sample, in order.

        The text checks come first; the probes read what these would pass on (or the sample's own trace), and nothing
        when they block; the judges come last. Calling this with ``text`` and then, on the verdicts' texts, with
        ``model`` and joining the two verdicts by `merge` is the same as ``all``.

        Args:
            samples: Any texts: empty, long, with lone surrogates.
            checks: ``all``, ``text`` (they need no model), ``model`` (``probe``, then ``judge``) or one of these two.
            vault: Of the conversation that the samples belong to: pseudonyms are its placeholders, which it can
                restore. Without one they are numbered in each text, and nothing can be restored.
            request_id: Stands on every verdict. Without one each verdict gets one of its own.
        """
        if vault is not None:
            for sample in samples:
                vault.note(sample.text)
        first, *phases = _PHASES[checks]
        verdicts = self._check(samples, first, vault)
        for phase in phases:
            if not (self.judges if phase == "judge" else self.probes):
                continue
            passed = [i for i, verdict in enumerate(verdicts) if not verdict.blocked]
            rest = [replace(samples[i], text=verdicts[i].text or "") for i in passed]
            for i, verdict in zip(passed, self._check(rest, phase), strict=True):
                verdicts[i] = self.merge(verdicts[i], verdict)
        return [replace(verdict, request_id=request_id or new_request_id()) for verdict in verdicts]

    def check_text(
        self,
        text: str,
        stage: Stage | str = Stage.INPUT,
        prompt: str | None = None,
        *,
        vault: Vault | None = None,
        request_id: str | None = None,
    ) -> Verdict:
        """The verdict for one text, written by the user (input) or by the model (output)."""
        return self.check([Sample.at(text, Stage(stage), prompt)], vault=vault, request_id=request_id)[0]

    def check_many(
        self, texts: Iterable[str], stage: Stage | str = Stage.INPUT, prompts: Iterable[str | None] | None = None
    ) -> list[Verdict]:
        """A verdict for each text, in order; a batch shares its forward passes, and memory holds one batch.

        Args:
            texts: Any number of texts.
            stage: Where they all stand.
            prompts: For replies, the message that each one answers.

        Raises:
            ValueError: There are more or fewer prompts than texts.
        """
        texts = list(texts)
        asked = list(prompts) if prompts is not None else [None] * len(texts)
        samples = [Sample.at(text, Stage(stage), prompt) for text, prompt in zip(texts, asked, strict=True)]
        return [verdict for batch in batches(samples) for verdict in self.check(batch)]

    async def acheck(self, samples: Sequence[Sample], checks: Which = "all") -> list[Verdict]:
        """`check`, in a worker thread; a cancelled call's result is dropped, and the guard stays as it was."""
        import asyncio  # not on the way of a command that checks one text

        return await asyncio.to_thread(self.check, samples, checks)

    def check_request(
        self, request: Mapping[str, Any], *, vault: Vault | None = None, request_id: str | None = None
    ) -> RequestVerdict:
        """Check every text of a chat completion's request; docs/guides/positions.md lists the places.

        Args:
            request: The body, as `json.loads` gives it.
            vault: Of the conversation: pseudonyms are its placeholders.
            request_id: Stands on every verdict; one is made without it.

        Returns:
            The verdicts by place, and the request that may be passed on.

        Raises:
            ConversationError: It is no chat completion request: where, and what belongs there.
        """
        from safety_kit.chat import exchange

        return exchange.check_request(self, request, request_id or new_request_id(), vault)

    def check_response(
        self,
        response: Mapping[str, Any],
        request: Mapping[str, Any] | None = None,
        *,
        vault: Vault | None = None,
        request_id: str | None = None,
        follow: Follow | None = None,
    ) -> ResponseVerdict:
        """Check every text of a chat completion; `ResponseStream` does it for a streamed one.

        Args:
            response: The body, as `json.loads` gives it.
            request: What it answers.
            vault: Of the conversation; what is passed on is not restored yet, which is the vault's `restore`'s part.
            request_id: Stands on every verdict; one is made without it.
            follow: Makes what reads the texts for the probes, as they came; with it they are read as a stream's are, so
                that both decide alike. Without it a text is read as the text checks have redacted it.

        Returns:
            The verdicts by place, and the response that may be passed on.

        Raises:
            ConversationError: It is no chat completion: where, and what belongs there.
        """
        from safety_kit.chat import exchange

        return exchange.check_response(self, response, request, request_id or new_request_id(), vault, follow)

    def probed(self, samples: Sequence[Sample]) -> list[Outcome]:
        """What the probes say of each text, below their thresholds too; a fault is in the outcome."""
        return self._run(self.probes, samples) if self.probes else [Outcome() for _ in samples]

    @staticmethod
    def merge(first: Verdict, then: Verdict) -> Verdict:
        """One verdict of two, the second of which was made on the first's text."""
        action = max(first.action, then.action)
        return Verdict(
            then.stage,
            action,
            None if action is Action.BLOCK else then.text,
            first.findings + then.findings,
            first.errors + then.errors,
            {**first.timings, **then.timings},
            then.policy_digest,
            first.code or then.code,
            first.message or then.message,
            first.request_id or then.request_id,
        )

    def message(self, verdict: Verdict) -> str:
        """What is shown instead of a blocked text.

        The message of the blocking category with the highest score; a category that has one of its own goes before
        those that share the default.
        """
        reason = self._reason(verdict)
        own = self.policy.message_for(reason.category) if reason else None
        return self.policy.messages.get("default", DEFAULT_MESSAGE) if own is None else own

    def _reason(self, verdict: Verdict) -> Finding | None:
        """The finding that a block is explained by; None where a fault alone blocks."""
        blocking = [
            finding
            for finding in verdict.findings
            if (rule := self.policy.rule_for(finding, verdict.stage)) and rule.action is Action.BLOCK
        ]
        own = [finding for finding in blocking if self.policy.message_for(finding.category) is not None]
        return max(own or blocking, key=lambda finding: finding.score, default=None)

    def explained(self, verdict: Verdict) -> Verdict:
        """A blocked verdict with its code and message; any other without."""
        if not verdict.blocked:
            return replace(verdict, code=None, message=None)
        if (reason := self._reason(verdict)) is not None:
            code = reason.category
        else:  # a check that failed is told before a part that no check reads
            failed = any(error.kind != "uncheckable" for error in verdict.errors)
            code = "error" if failed else "uncheckable"
        return replace(verdict, code=f"blocked.{code}", message=self.message(verdict))

    def redactor(self, vault: Vault | None = None, role: Role | None = None) -> Redactor:
        """A redactor for one text, which `role` wrote; None: the reply that is being checked."""
        return Redactor(self._key, vault, role)

    def decide(
        self, stage: Stage, findings: Iterable[Finding], errors: Iterable[CheckError], timings: Mapping[str, float]
    ) -> Verdict:
        """The verdict on a text of which all is known, but for the text that may be passed on.

        Findings come in the order of the policy's checks, then of their place in the text.
        """
        errors = tuple(errors)
        ordered = sorted(findings, key=lambda f: (self._order.get(f.check, 0), f.spans, f.category, f.detail))
        action, fired, _ = self.policy.decide(ordered, stage)
        if errors:
            action = max(action, self.policy.on_error)
        return self.explained(Verdict(stage, action, None, fired, errors, dict(timings), self.digest))

    def cuts(self, finding: Finding, stage: Stage) -> list[Cut]:
        """The spans that a finding's rule redacts."""
        rule = self.policy.rule_for(finding, stage)
        return cuts_of(finding, rule.form) if rule and rule.action is Action.REDACT else []

    def passed(self, verdict: Verdict, sample: Sample, vault: Vault | None) -> Verdict:
        """A verdict with the text that may be passed on, redacted as its findings ask; a blocked one as it is."""
        if verdict.blocked:
            return verdict
        cuts = merge(cut for finding in verdict.findings for cut in self.cuts(finding, verdict.stage))
        return replace(verdict, text=self.redactor(vault, writer(sample)).apply(sample.text, cuts))

    def _check(self, samples: Sequence[Sample], which: Which, vault: Vault | None = None) -> list[Verdict]:
        outcomes: list[list[Outcome]] = [[] for _ in samples]
        timings: list[dict[str, float]] = [{} for _ in samples]
        for stage in {sample.stage for sample in samples}:
            indices = [i for i, sample in enumerate(samples) if sample.stage is stage]
            for check in self.checks_at(stage, which):
                begin = time.perf_counter()
                for i, outcome in zip(indices, self._run(check, [samples[i] for i in indices]), strict=True):
                    outcomes[i].append(outcome)
                spent = (time.perf_counter() - begin) * 1000 / len(indices)
                for i in indices:
                    timings[i][check.name] = spent
        return [
            self.passed(
                self.decide(
                    sample.stage,
                    [finding for outcome in outcomes[i] for finding in outcome.findings],
                    [error for outcome in outcomes[i] for error in outcome.errors],
                    timings[i],
                ),
                sample,
                vault,
            )
            for i, sample in enumerate(samples)
        ]

    def _run(self, check: Check, samples: Sequence[Sample]) -> list[Outcome]:
        try:
            answers = self.call(check, lambda: self._answers(check, samples), texts=len(samples))
            if not isinstance(answers, list | tuple):
                raise TypeError("no list of answers")
            return [
                vet(self.policy, check, found, sample.stage, len(sample.text))
                for found, sample in zip(answers, samples, strict=True)
            ]
        except Exception as error:
            if len(samples) > 1:  # one bad text must not condemn the others of its batch
                return [self._run(check, [sample])[0] for sample in samples]
            return [Outcome(errors=(fault(check, error),))]

    def _answers(self, check: Check, samples: Sequence[Sample]) -> Sequence[Sequence[Finding]]:
        """What a check finds; a probe also reads the views of what comes in, and the worst of them counts."""
        if isinstance(check, TextCheck) and _is_own(check) and any(len(sample.text) > _PIECE for sample in samples):
            return [self._in_pieces(check, sample) for sample in samples]
        if check is not self.probes or not self.policy.views:
            return check.run(samples)
        texts, owners = with_views(samples)
        found = check.run(texts)
        return found if len(texts) == len(samples) else worst(found, owners, len(samples))

    def _in_pieces(self, check: TextCheck, sample: Sample) -> list[Finding]:
        """What `run` finds in a long text, which is given up between two pieces when the check's time is over."""
        text, state, found = sample.text, started(check, sample), list[Finding]()
        begin = time.perf_counter()
        for at in range(0, len(text), _PIECE):
            self._timeouts.in_time(begin, self._limits.get(check.name, DEFAULT_TIMEOUT_MS))
            state, more, _ = check.step(state, Delta(text[at : at + _PIECE]), at + _PIECE >= len(text))
            found += more
        return found

    def call(self, check: Check, function: Callable[[], T], texts: int = 0) -> T:
        """Call one of a check's functions inside its time.

        What may hang runs in a thread of its own, which is left behind when the time is up: a model that reads texts,
        and every check that is not the kit's own. The kit's own text checks do bounded work a character and wait for
        nothing, so they are spared the thread; they are given up between two pieces of a long text, and fail if they
        come back late.

        Args:
            check: The check.
            function: What to call.
            texts: How many texts it reads whole; 0: a piece of one.

        Raises:
            CheckTimeout: It took longer.
        """
        asks_model = texts > 0 and (check is self.probes or check in self.judges)
        limit = self._probe_limit if check is self.probes else self._limits.get(check.name, DEFAULT_TIMEOUT_MS)
        ms = limit * max(1, texts)
        if _is_own(check) and not asks_model:
            return self._timeouts.inline(function, ms)
        return self._timeouts.threaded(check.name, function, ms)


def _is_own(check: Check) -> bool:
    return type(check).__module__.startswith("safety_kit.checks.")


def new_request_id() -> str:
    """An id for a request that came without one."""
    return secrets.token_hex(8)
