"""The shipped classifiers, and teaching one again on the embedded Gemma."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from classifiers import SafetyClassifier
from classifiers.teach import CATEGORIES, examples_for, teach
from safety_kit import artifacts
from safety_kit.data import data_dir
from safety_kit.errors import UserError

if TYPE_CHECKING:
    from safety_kit.gemma import Gemma


class TestShipped:
    def test_all_six_are_there_and_small(self) -> None:
        folder = data_dir() / "classifiers"
        for category in CATEGORIES:
            artifact = artifacts.load(folder / category)
            assert artifact.manifest.reading == "causal"
            assert artifact.manifest.data_digest
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 1 << 20

    def test_an_unknown_category_names_the_way(self) -> None:
        with pytest.raises(UserError, match="safety-kit train"):
            examples_for("weather")

    @pytest.mark.model
    @pytest.mark.slow
    def test_teaching_again_agrees(self, embedded: Gemma, tmp_path: Path) -> None:
        category = "self_harm"
        again = teach(category, embedded, tmp_path / category, progress=False)
        shipped = artifacts.load(data_dir() / "classifiers" / category)
        assert again.manifest.data_digest == shipped.manifest.data_digest
        texts = examples_for(category, others=0).test().pairs()[:60]
        old, new = (SafetyClassifier.load(a.path, embedded).category_probabilities(texts) for a in (shipped, again))
        assert np.nanmax(np.abs(old - new)) < 0.02
