"""Rows that call their columns otherwise, and rows of a data set on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safety_kit.errors import DataError, MissingExtra

if TYPE_CHECKING:
    import datasets

HUB = "hf:"
"""How the name of a hub data set begins."""

_NAME = re.compile(r"hf:(?P<name>\w[\w.-]*(?:/\w[\w.-]*)?)(?:@(?P<config>[^@:]+))?(?::(?P<split>[^@:]+))?")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of the rows hold what, and which of their labels mean 1.

    Attributes:
        text: The column with the text; None: the one named `text`. So for the next two.
        prompt: The column with the message that the text answers.
        label: The column with the label.
        positive: Labels that mean 1, as they are written, whatever their case; every other label then means 0.
    """

    text: str | None = None
    prompt: str | None = None
    label: str | None = None
    positive: tuple[str, ...] = ()

    def rename(self, record: Any) -> Any:
        """A record with the house's names; the named columns are moved, the others stay."""
        if not isinstance(record, Mapping):
            return record
        named = {"text": self.text, "prompt": self.prompt, "label": self.label}
        named = {own: theirs for own, theirs in named.items() if theirs is not None}
        taken = {*named, *named.values()} | ({"labels"} if self.label else set())  # the column named is what counts
        renamed = {name: value for name, value in record.items() if name not in taken}
        renamed |= {own: record[theirs] for own, theirs in named.items() if theirs in record}
        label = renamed.get("label")
        if self.positive and isinstance(label, (str, bool, int, float)) and label == label and label != "":
            renamed["label"] = int(_plain(label) in {_plain(value) for value in self.positive})
        return renamed


PLAIN = Columns()


def _plain(label: object) -> str:
    """A label as it is compared: case and spaces around it do not count, and 1.0 is 1."""
    text = str(label).strip().casefold()
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def is_hub_name(source: object) -> bool:
    """Whether rows are asked for from the hub: `hf:ORG/NAME[@CONFIG][:SPLIT]`."""
    return isinstance(source, str) and source.startswith(HUB)


def hub_stem(source: str) -> str:
    """The last part of a hub data set's name."""
    name: str = _parts(source)["name"]
    return name.rpartition("/")[2]


def load_hub(source: str) -> datasets.Dataset:
    """The split of a hub data set; from the local cache where it was loaded before.

    Args:
        source: `hf:ORG/NAME[@CONFIG][:SPLIT]`; without a split, the only one that the data set has.

    Raises:
        DataError: The name is wrong, there are several splits, or the hub cannot be reached; with the remedy.
        MissingExtra: The package `datasets` is not installed.
    """
    wanted = _parts(source)
    name, config, split = wanted["name"], wanted["config"], wanted["split"]
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "train") from None
    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except FileNotFoundError:  # the package's own DatasetNotFoundError is one
        raise DataError(
            f"The hub shows no data set {name}; check the name, and log in with `hf auth login` if it is a gated one."
        ) from None
    except ConnectionError:
        raise DataError(
            f"The hub cannot be reached for {name}; where there is a network, save its rows as .jsonl or .parquet "
            "and name that file."
        ) from None
    except OSError as error:
        raise DataError(f"{name} cannot be loaded: {error.strerror or type(error).__name__}.") from None
    except (ValueError, RuntimeError, KeyError) as error:  # an unknown configuration or split, rows of no one shape
        raise DataError(
            f"{name} cannot be loaded ({type(error).__name__}); name a configuration and a split that it has, as in "
            f"{HUB}{name}@CONFIG:SPLIT."
        ) from None
    if isinstance(loaded, datasets.DatasetDict) and len(loaded) == 1:
        return next(iter(loaded.values()))
    if isinstance(loaded, Mapping):
        splits = ", ".join(map(str, loaded))
        raise DataError(f"{name} has several splits; name one of them, as in {source}:{next(iter(loaded))}: {splits}.")
    return loaded


def class_names(source: datasets.Dataset, columns: Columns) -> datasets.Dataset:
    """The data set with the names of its labels in place of their numbers, where `positive` may name one of them."""
    label = columns.label or "label"
    names = getattr(source.features.get(label), "names", None)
    if (
        not columns.positive
        or not names
        or {_plain(p) for p in columns.positive} <= {str(i) for i in range(len(names))}
    ):
        return source
    numbers = source[label]
    values = [None if number is None or number < 0 else names[number] for number in numbers]
    return source.remove_columns(label).add_column(label, values)


def _parts(source: str) -> dict[str, Any]:
    match = _NAME.fullmatch(source)
    if match is None:
        raise DataError("A hub data set is named hf:ORG/NAME, hf:ORG/NAME:SPLIT or hf:ORG/NAME@CONFIG:SPLIT.")
    return match.groupdict()
