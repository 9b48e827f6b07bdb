"""`make classifiers`: teach the shipped heads for the embedded Gemma again."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from classifiers.golden import record_golden
from classifiers.teach import CATEGORIES, teach
from safety_kit import artifacts
from safety_kit.artifacts import Manifest
from safety_kit.data import data_dir
from safety_kit.errors import ArtifactError
from safety_kit.gemma import Gemma

if TYPE_CHECKING:
    from classifiers.features import Memo
    from safety_kit.artifacts import Artifact


def main(categories: list[str]) -> None:
    """Teach the categories named, or all."""
    gemma = Gemma.load("embedded")
    memo: Memo = {}
    for category in categories or CATEGORIES:
        artifact = teach(category, gemma, data_dir() / "classifiers" / category, memo=memo)
        record = artifact.manifest.categories[category]
        print(f"{category}: blocks {artifact.manifest.blocks}, C {record.regularisation:g}, {record.metrics}")


def add_golden(folder: Path, gemma: Gemma) -> Artifact:
    """Record golden texts in an artifact that was taught without; only its manifest is written.

    Args:
        folder: The artifact.
        gemma: The model that it was taught on, in the same float type.

    Raises:
        ArtifactError: It is another model.
    """
    artifact = artifacts.load(folder)
    manifest = artifact.manifest
    artifact.check_model(gemma.name, gemma.digest)
    if gemma.dtype != manifest.model.dtype:
        raise ArtifactError(f"{folder} was taught in {manifest.model.dtype}; load {gemma.name} so, not {gemma.dtype}.")
    fields = manifest.model_dump()
    fields["model"]["attention"] = gemma.attention
    fields["golden"] = record_golden(gemma, artifact.heads, manifest.reading, manifest.question)
    scratch = folder / ".manifest.json"
    scratch.write_text(Manifest.model_validate(fields).model_dump_json(indent=1) + "\n", encoding="utf-8")
    os.replace(scratch, folder / "manifest.json")
    return artifacts.load(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
