"""What the app was started with: `safety-kit debug` hands it on behind Streamlit's own arguments."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """The model and the policy that every session begins with."""

    model: str = "embedded"
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    policy: str = "default"


def read(arguments: list[str] | None = None) -> Options:
    """The options; those of the process by default."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=Options.model)
    parser.add_argument("--revision")
    parser.add_argument("--device", default=Options.device)
    parser.add_argument("--dtype", default=Options.dtype)
    parser.add_argument("--policy", default=Options.policy)
    known, _ = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    return Options(**vars(known))
