"""`evaluate`, `compare`, `next` and `curve` on the command line, with a tiny Gemma."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import app, runner
from test_classifiers import toy
from test_gemma_load import one_thread, tiny  # noqa: F401  (tiny models are slower on two threads)

from safety_kit.commands import models


@pytest.fixture(autouse=True)
def _one_gemma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda *_: tiny())


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, and two classifiers: one of them taught on half of the examples."""
    made = tmp_path_factory.mktemp("study")
    texts, y = toy(96)
    rows = [
        {"text": text, "label": int(label), "lang": "en" if i % 3 else "de\x1b[2J"}
        | ({"split": "test"} if i >= 48 else {})
        for i, (text, label) in enumerate(zip(texts, y, strict=True))
    ]
    write(made / "toy.jsonl", rows)
    write(made / "half.jsonl", rows[:24])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load", lambda *_: tiny())
        for name in ("toy", "half"):
            options = ["--category", "toy", "--out", str(made / name)]
            done = runner.invoke(app, ["train", str(made / f"{name}.jsonl"), *options])
            assert done.exit_code == 0, done.stderr
    return made


def kit(*arguments: object, code: int = 0) -> Any:
    done = runner.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.stderr
    return done


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """No file may grow past `size` bytes: what a full disk does, without filling one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- a full disk ---


@pytest.mark.parametrize("command", ["train", "next", "curve"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(command: str, folder: Path, tmp_path: Path) -> None:
    pool, out = write(tmp_path / "pool.jsonl", [{"text": "abcabc"}, {"text": "zzzqqx"}]), tmp_path / "made.jsonl"
    arguments = {
        "train": ["train", folder / "half.jsonl", "--out", out],
        "next": ["next", folder / "toy", pool, "--out", out],
        "curve": ["curve", folder / "toy.jsonl", "--draws", "2", "--out", out / "deeper"],
    }[command]
    with full_after(64):
        done = kit(*arguments, code=3)
    said = done.stderr.splitlines()[-1]
    assert str(out) in said
    assert "make room" in said
    assert "inside the kit" not in said
    assert {path.name for path in tmp_path.rglob("*")} == {"pool.jsonl"}


# --- evaluate ---


def test_evaluate_tells_all_as_json(folder: Path) -> None:
    done = kit("evaluate", folder / "toy", folder / "toy.jsonl", "--json")
    said = json.loads(done.stdout)
    assert (said["rows"], said["held_out"]) == (48, True)
    toy = said["categories"]["toy"]
    assert (toy["n"], toy["positives"]) == (48, 24)
    assert set(toy["floors"]) == {"constant_positive", "tfidf_logistic_regression"}
    assert set(toy["slices"]["lang"]["values"]) == {"en"}
    assert "fewer than 30 rows" in done.stderr


def test_evaluate_for_people_shows_floors_slices_and_the_prevalence(folder: Path) -> None:
    page = kit("evaluate", folder / "toy", folder / "toy.jsonl").stdout
    for words in ("48 held-out rows, 24 positive", "always positive", "TF-IDF + LR", "macro-F1", "By lang"):
        assert words in page
    assert "prevalence of 50%; 50.0% of these rows" in page
    assert "too few rows for figures (below 10 of a label): de\\x1b[2J (16)" in page
    assert "\x1b" not in page


# --- compare ---


def test_compare_says_noise_of_a_classifier_and_itself(folder: Path) -> None:
    both = [folder / "toy", folder / "toy", folder / "toy.jsonl"]
    said = json.loads(kit("compare", *both, "--json").stdout)
    metrics = said["categories"]["toy"]["metrics"]
    assert {one["verdict"] for one in metrics.values()} == {"noise"}
    page = kit("compare", *both).stdout
    assert "Every difference is noise on these rows" in page
    assert page.count("noise on these rows") == len(metrics) + 1


def test_compare_names_the_better_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from classifiers import compare

    asked = compare.paired_differences

    def turned(y: Any, p_a: Any, p_b: Any, *rest: Any, **options: Any) -> Any:
        return asked(y, 1 - p_a, p_b, *rest, **options)

    monkeypatch.setattr(compare, "paired_differences", turned)
    page = kit("compare", folder / "half", folder / "toy", folder / "toy.jsonl").stdout
    assert "B is better in AUROC, AU-PRC, F1 at .5" in " ".join(page.split())


def test_compare_refuses_another_models_classifier(folder: Path, tmp_path: Path) -> None:
    manifest = json.loads((folder / "toy" / "manifest.json").read_text(encoding="utf-8"))
    manifest["model"] |= {"digest": "0" * 64, "blocks": 60}
    (tmp_path / "other").mkdir()
    for file in (folder / "toy").iterdir():
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    done = kit("compare", folder / "toy", tmp_path / "other", folder / "toy.jsonl", code=2)
    assert "was taught on" in done.stderr
    assert done.stdout == ""


# --- next ---


def test_next_writes_rows_to_fill_in(folder: Path, tmp_path: Path) -> None:
    texts, _ = toy(40, seed=3)
    pool = write(tmp_path / "pool.jsonl", [{"text": text} for text in [*texts, *texts[:5], "a\x1b[2Jb"]])
    out = tmp_path / "next.jsonl"
    done = kit("next", folder / "toy", pool, "-n", "6", "--out", out, "--labelled", folder / "toy.jsonl", "--json")
    said = json.loads(done.stdout)
    assert (said["rows"], said["out"]) == (6, str(out))
    assert said["pool"] + said["left_out"]["known"] == 46
    assert said["left_out"]["known"] >= 5
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [set(row) for row in rows] == [{"text", "label", "score"}] * 6
    assert {row["label"] for row in rows} == {None}
    assert len({row["text"] for row in rows}) == 6
    refused = kit("train", out, "--out", tmp_path / "x", code=2)
    assert all(f"line {line}: no label" in refused.stderr for line in range(1, 7))


def test_next_shows_people_no_control_characters_and_never_overwrites(folder: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool.txt"
    pool.write_text("a\x1b[31mb\nsecond text\n", encoding="utf-8")
    page = kit("next", folder / "toy", pool, "--out", tmp_path / "next.jsonl").stdout
    assert "\x1b" not in page
    assert "2 of 2 unlabelled texts" in page
    before = (tmp_path / "next.jsonl").read_bytes()
    again = kit("next", folder / "toy", pool, "--out", tmp_path / "next.jsonl", code=2)
    assert "may hold labels" in again.stderr
    assert (tmp_path / "next.jsonl").read_bytes() == before


def test_next_refuses_before_a_model_is_loaded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("loaded"))
    pool = write(tmp_path / "pool.jsonl", [{"body": "x"}])
    out = ["--out", tmp_path / "next.jsonl"]
    assert "no column for the text but body" in kit("next", folder / "toy", pool, *out, code=2).stderr
    assert "it knows toy" in kit("next", folder / "toy", pool, *out, "--category", "hate", code=2).stderr
    assert kit("next", folder, pool, *out, code=2).stdout == ""
    assert not (tmp_path / "next.jsonl").exists()


def test_next_takes_an_adapter_too(folder: Path, tmp_path: Path) -> None:
    kit("train", folder / "half.jsonl", "--category", "toy", "--rung", "adapter", "--out", tmp_path / "adapter")
    pool = write(tmp_path / "pool.jsonl", [{"text": text} for text in toy(10, seed=5)[0]])
    kit("next", tmp_path / "adapter", pool, "-n", "3", "--out", tmp_path / "next.jsonl")
    assert len((tmp_path / "next.jsonl").read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize("command", [["calibrate"], ["explain", "abc"]])
def test_what_wants_a_frozen_classifier_says_so_of_an_adapter(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"kind": "lora"}', encoding="utf-8")
    name, *rest = command
    assert "holds an adapter" in kit(name, tmp_path, *rest, code=2).stderr


# --- curve ---


def test_curve_writes_its_figures_and_plots(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "curve"
    done = kit("curve", folder / "toy.jsonl", "--draws", "2", "--out", out, "--json")
    said = json.loads(done.stdout)
    assert [size["positives"] for size in said["sizes"]] == [8, 16]
    assert (said["held_out"], said["marked"]) == (48, True)
    assert said["answer"] in ("yes", "hardly", "unclear")
    assert "last doublings brought" in said["sentence"]
    assert sorted(path.name for path in out.iterdir()) == ["curve.json", "curve.png", "curve.svg"]
    assert said.pop("files") == [str(out / f"curve.{form}") for form in ("json", "svg", "png")]
    assert json.loads((out / "curve.json").read_text(encoding="utf-8")) == said


def test_curve_for_people_is_a_table_and_a_sentence(folder: Path, tmp_path: Path) -> None:
    page = kit("curve", folder / "toy.jsonl", "--draws", "2", "--metric", "f1").stdout
    assert "of each label" in page
    assert "F1 at .5" in page
    assert "more examples" in page


def test_an_interrupted_curve_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from classifiers import plots

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plots, "draw_curve", stop)
    out = tmp_path / "curve"
    kit("curve", folder / "toy.jsonl", "--draws", "2", "--out", out, code=130)
    assert not out.exists()


def test_too_few_rows_and_a_missing_package_are_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from classifiers import plots

    assert "at least 16" in kit("curve", folder / "half.jsonl", code=2).stderr
    monkeypatch.setattr(plots, "find_spec", lambda _: None)
    done = kit("curve", folder / "toy.jsonl", "--out", tmp_path / "curve", code=3)
    assert "safety-kit[train]" in done.stderr
