"""scikit-learn's contract for the estimators, as far as it makes sense for texts.

scikit-learn's own checks fit on arrays of numbers, so it offers only one of them for an estimator whose input is text.
Run here are those of its checks that fit nothing, and, written anew on texts, those that do: idempotent fits,
parameters and input left alone, no dependence on order or company, refusal before `fit`, pipelines, grids. Left out:
sparse, complex and NaN arrays, feature counts and names (texts have none), one-class and regression targets (refused by
name, tested in `test_classifiers`), pickling (an artifact folder is the only saved form, and the model is not copied).
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from test_classifiers import toy
from test_gemma_load import one_thread, tiny  # noqa: F401

from classifiers import AdapterClassifier, GemmaFeatures, SafetyClassifier
from safety_kit.gemma import Gemma

NAMES = [
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
]
ESTIMATORS = [SafetyClassifier, GemmaFeatures, AdapterClassifier]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", NAMES)
def test_checks_that_fit_nothing(name: str, estimator: type) -> None:
    check = getattr(estimator_checks, name)
    check(estimator.__name__, estimator())


def made(kind: str) -> Any:
    if kind == "features":
        return GemmaFeatures(tiny())
    return SafetyClassifier(tiny(), reading=kind, known=None)  # type: ignore[arg-type]


def output(estimator: Any, texts: list[Any]) -> np.ndarray:
    found = estimator.transform(texts) if hasattr(estimator, "transform") else estimator.predict_proba(texts)
    return np.asarray(found)


KINDS = pytest.mark.parametrize("kind", ["features", "causal", "alone"])


@KINDS
def test_fit_is_idempotent_and_leaves_all_alone(kind: str) -> None:
    texts, y = toy()
    estimator = made(kind)
    before = copy.copy(estimator.get_params()), list(texts), y.copy()
    first = output(estimator.fit(texts, y), texts)
    again = output(estimator.fit(texts, y), texts)
    np.testing.assert_allclose(first, again, atol=1e-5)
    assert estimator.get_params() == before[0]
    assert texts == before[1]
    np.testing.assert_array_equal(y, before[2])


@KINDS
def test_order_and_company_do_not_matter(kind: str) -> None:
    texts, y = toy()
    estimator = made(kind).fit(texts, y)
    whole = output(estimator, texts)
    order = np.random.default_rng(0).permutation(len(texts))
    np.testing.assert_allclose(output(estimator, [texts[i] for i in order]), whole[order], atol=1e-4)
    np.testing.assert_allclose(output(estimator, texts[:3]), whole[:3], atol=1e-4)


@pytest.mark.parametrize("kind", ["features", "causal"])
def test_nothing_before_fit(kind: str) -> None:
    with pytest.raises(NotFittedError):
        output(made(kind), ["abc"])


def test_arrays_and_series_of_texts_are_taken() -> None:
    texts, y = toy()
    estimator = made("causal").fit(np.array(texts, dtype=object), y.tolist())
    np.testing.assert_allclose(output(estimator, texts), output(made("causal").fit(texts, y), texts), atol=1e-5)


def test_pipelines_grids_and_clones() -> None:
    texts, y = toy(60)
    pipeline = make_pipeline(GemmaFeatures(tiny()), LogisticRegression(C=1e-3, max_iter=500))
    assert cross_val_score(pipeline, texts, y, cv=3, scoring="roc_auc").mean() > 0.8
    grid = GridSearchCV(made("causal"), {"reading": ["causal", "alone"]}, cv=2, scoring="roc_auc").fit(texts, y)
    assert grid.best_score_ > 0.8
    assert clone(grid.best_estimator_).get_params()["reading"] == grid.best_params_["reading"]
    names = GemmaFeatures(tiny(), reading="alone").fit(texts).get_feature_names_out()
    assert names.shape == (GemmaFeatures(tiny(), reading="alone").fit_transform(texts[:1]).shape[1],)


def test_a_named_model_is_loaded_and_the_parameter_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(Gemma, "load", lambda name: loaded.append(name) or tiny())
    estimator = SafetyClassifier("some/gemma", known=None).fit(*toy())
    estimator.predict_proba(["abc"])
    assert estimator.gemma == "some/gemma"
    assert loaded == ["some/gemma"]
