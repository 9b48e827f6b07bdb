"""`safety-kit explain`: the table adds up, hostile text is shown as text, faults have their codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import app, kit, runner
from test_classifiers import toy
from test_explain import planted, taught
from test_gemma_load import one_thread, tiny  # noqa: F401  (tiny models are slower on two threads)

from classifiers import SafetyClassifier
from safety_kit import artifacts
from safety_kit.commands import models

LONG = "abc def the cab fed qqqq bad dab ace the fab cad bed"


@pytest.fixture(autouse=True)
def _one_gemma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda *_: tiny())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A classifier of each reading."""
    place = tmp_path_factory.mktemp("explain")
    for reading in ("causal", "alone"):
        taught(reading).save(place / reading)
    return {reading: place / reading for reading in ("causal", "alone")}


def test_the_table_adds_up(folders: dict[str, Path]) -> None:
    done = runner.invoke(app, ["explain", str(folders["alone"]), "--no-deletions", "--prompt", "hello", "zzz abc qqq"])
    assert done.exit_code == 0, done.stderr
    shown = {
        line.rsplit(maxsplit=1)[0].strip(): float(line.rsplit(maxsplit=1)[1])
        for line in done.stdout.splitlines()
        if line.rstrip()[-1:].isdigit() and ("+" in line or "-" in line)
    }
    total = shown.pop("sum: the logit")
    assert {"zzz", "abc", "qqq", "(question suffix)", "(context: read, not pooled)", "(bias)"} == set(shown)
    assert sum(shown.values()) == pytest.approx(total, abs=0.004)
    assert "where the score was read out, not why" in done.stdout
    assert "probability" in done.stdout
    assert "No deletion was tried" in done.stdout


def test_the_cause_is_a_sentence(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SafetyClassifier, "load", lambda *_, **__: planted("causal"))
    done = runner.invoke(app, ["explain", str(folders["causal"]), LONG])
    assert done.exit_code == 0, done.stderr
    assert "qqqq” the logit falls by" in " ".join(done.stdout.split())


def test_json_is_one_document_that_adds_up(folders: dict[str, Path]) -> None:
    done = runner.invoke(app, ["explain", str(folders["causal"]), "--json", LONG])
    said = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert said["label"] == "where the score was read out, not why"
    assert sum(token["share"] for token in said["tokens"]) + said["bias"] == pytest.approx(said["score"], abs=1e-9)
    assert said["text"] == LONG
    assert said["candidates"] is not None


def test_a_hostile_text_is_shown_as_text(folders: dict[str, Path]) -> None:
    text = "abc \x1b[31m[bold]red[/bold] \u202eabc\ud800 cab\x07 def the fed bad"
    done = runner.invoke(app, ["explain", str(folders["causal"]), "-"], input=text.encode(errors="surrogatepass"))
    assert done.exit_code == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert "\\x1b" in done.stdout
    assert "[bold]" in done.stdout


def test_an_empty_text_and_an_unknown_category_are_2(folders: dict[str, Path]) -> None:
    for arguments, words in ((["  "], "empty"), (["--category", "spam", "abc"], "'spam'; it has toy")):
        done = runner.invoke(app, ["explain", str(folders["causal"]), *arguments])
        assert (done.exit_code, done.stdout) == (2, "")
        assert words in done.stderr


def test_a_wrong_folder_is_told_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("loaded"))
    done = runner.invoke(app, ["explain", str(tmp_path), "abc"])
    assert done.exit_code == 2
    assert "no classifier folder" in done.stderr


def test_its_help_loads_nothing_heavy() -> None:
    done = kit("explain", "--help")
    assert done.returncode == 0
    assert "where it was read out" in " ".join(done.stdout.split())


def test_what_is_explained_is_what_was_saved(folders: dict[str, Path]) -> None:
    texts, _ = toy(4, seed=9)
    bias = artifacts.load(folders["causal"]).heads["toy"].bias
    for text in texts:
        done = runner.invoke(app, ["explain", str(folders["causal"]), "--no-deletions", "--json", text])
        said = json.loads(done.stdout)
        assert said["bias"] == bias
        [[probability]] = taught("causal").category_probabilities([text])
        assert said["probability"] == pytest.approx(probability, abs=1e-5)
