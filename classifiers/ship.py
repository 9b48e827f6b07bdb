"""`make classifiers`: teach the shipped heads for the embedded Gemma again."""

from __future__ import annotations

import sys

from classifiers.teach import CATEGORIES, teach
from safety_kit.data import data_dir
from safety_kit.gemma import Gemma


def main(categories: list[str]) -> None:
    """Teach the categories named, or all."""
    gemma = Gemma.load("embedded")
    for category in categories or CATEGORIES:
        artifact = teach(category, gemma, data_dir() / "classifiers" / category)
        record = artifact.manifest.categories[category]
        print(f"{category}: blocks {artifact.manifest.blocks}, C {record.regularisation:g}, {record.metrics}")


if __name__ == "__main__":
    main(sys.argv[1:])
