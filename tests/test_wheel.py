"""The wheel alone is enough: built, installed outside the checkout, and used there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CATEGORIES = ["dangerous_content", "harassment", "hate", "prompt_injection", "self_harm", "sexual_content"]
PROJECT_VARIABLES = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (path,) = out.glob("safety_kit-*.whl")
    return path


class Kit:
    """An environment outside the checkout that holds the wheel."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "venv" / "bin"
        self.cwd = folder / "elsewhere"
        self.cwd.mkdir()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name not in PROJECT_VARIABLES}
        program, *arguments = command
        return subprocess.run(
            [str(self.bin / program), *arguments], cwd=self.cwd, env=kept, capture_output=True, text=True, timeout=500
        )


@pytest.fixture(scope="module")
def kit(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    kit = Kit(folder)
    python = str(kit.bin / "python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*install, str(wheel)], check=True)
    # The dependencies come from this environment's folder. As a plain line of a .pth file it is only a folder: the
    # .pth files inside it, the checkout's own editable install among them, are not read.
    (purelib,) = (folder / "venv").glob("lib/python*/site-packages")
    (purelib / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return kit


def test_it_holds_the_packages_and_their_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    assert {
        "safety_kit/__init__.py",
        "safety_kit/py.typed",
        "safety_kit/_data/policies/default.yaml",
        "safety_kit/_data/examples/benign.jsonl",
        "safety_kit/_data/demo/prompts.jsonl",
        "classifiers/__init__.py",
        "debugger_app/__init__.py",
    } <= set(sizes)
    for category in CATEGORIES:
        assert f"safety_kit/_data/examples/{category}.jsonl" in sizes
        assert any(re.fullmatch(rf"safety_kit/_data/examples/{category}\b.*\.md", name) for name in sizes)
        for name in ("manifest.json", "weights.safetensors", "card.md"):
            assert f"safety_kit/_data/classifiers/{category}/{name}" in sizes
    assert {name.split("/")[0].split("-")[0] for name in sizes} == {"safety_kit", "classifiers", "debugger_app"}
    data = {name.split("/")[2] for name in sizes if name.startswith("safety_kit/_data/")}
    assert data == {"policies", "classifiers", "examples", "demo"}
    kinds = {Path(name).suffix for name in sizes if ".dist-info/" not in name}
    assert kinds <= {".py", ".typed", ".yaml", ".jsonl", ".json", ".safetensors", ".md", ".css", ".js", ".svg"}
    assert {name: size for name, size in sizes.items() if size > 2**20} == {}
    assert sum(size for name, size in sizes.items() if "/_data/classifiers/" in name) < 2**20
    licences = {name.rsplit("/", 1)[1] for name in sizes if "/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}


def test_what_is_imported_there_is_the_wheel(kit: Kit) -> None:
    code = "import safety_kit, classifiers; print(safety_kit.__file__); print(classifiers.__file__)"
    done = kit.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert Path(line).is_relative_to(kit.bin.parent)


@pytest.mark.parametrize("command", [["safety-kit"], ["python", "-m", "safety_kit"]])
def test_help(kit: Kit, command: list[str]) -> None:
    done = kit.run(*command, "--help")
    assert done.returncode == 0, done.stderr
    for name in ("demo", "train", "prepare", "classify", "evaluate", "check", "generate", "policy"):
        assert name in done.stdout


@pytest.mark.model
def test_check_finds_the_default_policy(kit: Kit) -> None:
    done = kit.run("safety-kit", "check", "--json", "What is a good recipe for bread?")
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    parts = {"stage", "action", "code", "message", "request_id", "text", "findings", "errors", "timings"}
    assert set(verdict) == parts | {"policy_digest"}
    assert (verdict["stage"], verdict["action"], verdict["errors"]) == ("input", "allow", [])
    assert verdict["text"] == "What is a good recipe for bread?"


@pytest.mark.model
def test_train_makes_a_classifier_that_classify_reads(kit: Kit) -> None:
    things = ["the pump", "my invoice", "this lamp", "the gate", "a parcel", "the bridge", "our menu", "a tent"]
    rows = [{"text": f"Please tell me about {thing}.", "label": 0} for thing in things]
    rows += [{"text": f"I hate you and {thing}, you worthless fool!", "label": 1} for thing in things]
    (kit.cwd / "rude.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = kit.run("safety-kit", "train", "rude.jsonl", "--out", "rude", "--json")
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)
    assert (kit.cwd / "rude" / "manifest.json").is_file()

    texts = ["Tell me about a tent.", "You worthless fool, I hate you!"]
    done = kit.run("safety-kit", "classify", "rude", "--json", *texts)
    assert done.returncode == 0, done.stderr
    calm, rude = (row["scores"]["rude"] for row in json.loads(done.stdout)["results"])
    assert 0 <= calm < rude <= 1
