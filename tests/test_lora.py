"""The adapter rung on tiny Gemmas: it learns, is kept, goes on when it was killed, and leaves the Gemma as it is."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from test_classifiers import toy
from test_gemma_load import one_thread  # noqa: F401  (tiny models are slower on two threads)

from classifiers.features import ALONE_OVERLAP as OVERLAP
from classifiers.features import ALONE_WINDOW as WINDOW
from classifiers.lora import AdapterClassifier
from classifiers.lora_artifact import AdapterHead
from classifiers.lora_objectives import TOKEN_BUDGET, HeadObjective, encode, passes
from classifiers.lora_train import Training, calibrated_loss
from safety_kit.errors import ArtifactError, DataError, MissingExtra, UserError
from safety_kit.gemma import Capture, Gemma
from safety_kit.gemma.adapted import AdaptedGemma
from safety_kit.testing import save_tiny_gemma
from safety_kit.types import Stage


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Gemma:
    return Gemma.load(save_tiny_gemma(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def taught(tiny: Gemma) -> AdapterClassifier:
    return AdapterClassifier(tiny, category="toy", epochs=2, rank=2).fit(*toy(40))


def weights(gemma: Gemma) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in gemma.model.named_parameters()}


class TestLearning:
    @pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3_text"])
    @pytest.mark.parametrize("objective", ["head", "generative"])
    def test_learns(self, tmp_path: Path, family: str, objective: str) -> None:
        gemma = Gemma.load(save_tiny_gemma(tmp_path, family))
        rate = 5e-3 if objective == "generative" else 5e-4
        adapter = AdapterClassifier(gemma, objective=objective, epochs=2, learning_rate=rate, batch=8, rank=4)  # type: ignore[arg-type]
        adapter.fit(*toy(40))
        texts, y = toy(30, seed=1)
        p = adapter.predict_proba(texts)
        assert p.shape == (30, 2)
        np.testing.assert_allclose(p.sum(1), 1)
        assert np.mean((p[:, 1] >= 0.5) == y) > 0.8
        assert (adapter.predict(texts) == (p[:, 1] >= 0.5)).all()

    def test_training_improves_on_the_frozen_start(self, tiny: Gemma) -> None:
        adapter = AdapterClassifier(tiny, objective="generative", epochs=2, learning_rate=5e-3, batch=8)
        adapter.fit(*toy(48))
        assert adapter.best_epoch_ > 0
        assert min(adapter.losses_) < adapter.losses_[0] - 0.05

    def test_stops_early_and_keeps_the_best(self, tiny: Gemma) -> None:
        texts, y = toy(40)
        shuffled = np.random.default_rng(3).permutation(y)
        adapter = AdapterClassifier(tiny, epochs=30, learning_rate=5e-3, rank=2).fit(texts, shuffled)
        assert len(adapter.losses_) < 31
        assert adapter.losses_[adapter.best_epoch_] == min(adapter.losses_)
        held = [texts[row] for row in adapter.held_out_]
        np.testing.assert_allclose(adapter.decision_function(held), adapter.scores_, rtol=1e-4, atol=1e-4)

    def test_leaves_the_gemma_as_it_is(self, tiny: Gemma) -> None:
        before, wanted = weights(tiny), [p.requires_grad for p in tiny.model.parameters()]
        modules = [type(module) for module in tiny.model.modules()]
        digest, state = tiny.digest, torch.random.get_rng_state()
        trace = tiny.forward([tiny.encode("abc")], Capture((5,), logits="last"))[0]
        AdapterClassifier(tiny, epochs=1, rank=2).fit(*toy(24))
        del tiny.__dict__["digest"]
        assert tiny.digest == digest
        assert [type(module) for module in tiny.model.modules()] == modules
        assert [p.requires_grad for p in tiny.model.parameters()] == wanted
        assert all(torch.equal(before[name], p) for name, p in tiny.model.named_parameters())
        assert not tiny.model.training
        assert torch.equal(torch.random.get_rng_state(), state)
        again = tiny.forward([tiny.encode("abc")], Capture((5,), logits="last"))[0]
        assert again.logits is not None
        assert trace.logits is not None
        assert torch.equal(again.logits, trace.logits)

    def test_shares_the_weights(self, tiny: Gemma) -> None:
        adapted = AdaptedGemma(tiny, 4, rank=2)
        mine = tiny.trunk.decoder.embed_tokens.weight
        assert adapted.trunk.decoder.embed_tokens.weight.data_ptr() == mine.data_ptr()
        assert adapted.trunk.decoder is not tiny.trunk.decoder

    def test_an_untrained_adapter_is_the_frozen_model(self, tiny: Gemma) -> None:
        tokens = tiny.encode("the cat in the can")
        hidden = AdaptedGemma(tiny, 4, rank=2).hidden(torch.tensor([tokens.ids]))
        [trace] = tiny.forward([tokens], Capture((3,)))
        torch.testing.assert_close(hidden[0], trace.hidden[3])

    def test_only_the_kept_blocks_are_adapted(self, taught: AdapterClassifier) -> None:
        names = "\n".join(taught.adapted_.parameters())
        assert taught.blocks_ == 4
        assert "layers.3." in names
        assert "layers.4." not in names

    def test_is_cloned_without_copying_the_model(self, taught: AdapterClassifier) -> None:
        copy = clone(taught)
        assert copy.gemma is taught.gemma
        assert not hasattr(copy, "calibration_")


class TestReading:
    def test_a_long_text_counts_by_its_worst_window(self, taught: AdapterClassifier, tiny: Gemma) -> None:
        harmless, harmful = "abcdef" * 120, "zzzzqzzx" * 30
        windows = encode(tiny, harmless + harmful, taught.question_)
        assert len(windows) == 1 + -(-(len(harmless + harmful) - WINDOW) // (WINDOW - OVERLAP))
        scores = taught.decision_function([harmless, harmless + harmful])
        assert scores[1] > scores[0]

    def test_every_token_is_in_a_window(self, tiny: Gemma) -> None:
        for length in (1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW):
            own = [item.ids[item.start : item.stop] for item in encode(tiny, "z" * length, "?")]
            assert sum(map(len, own)) - OVERLAP * (len(own) - 1) == length
            assert max(map(len, own)) <= WINDOW

    def test_padding_changes_nothing(self, taught: AdapterClassifier) -> None:
        texts = ["a", "abc abc " * 9, "zz qx"]
        alone = np.concatenate([taught.decision_function([text]) for text in texts])
        np.testing.assert_allclose(taught.decision_function(texts), alone, rtol=1e-4, atol=1e-4)

    def test_passes_keep_the_budget(self, tiny: Gemma) -> None:
        items = [encode(tiny, "a" * n, "?")[0] for n in range(1, 500, 7)]
        parts = list(passes(items, range(len(items))))
        assert sorted(row for part in parts for row in part) == list(range(len(items)))
        assert all(len(part) * max(len(items[row]) for row in part) <= TOKEN_BUDGET for part in parts)

    def test_a_text_without_tokens_holds_nothing(self, taught: AdapterClassifier) -> None:
        assert taught.predict_proba([""]).tolist() == [[1, 0]]
        assert taught.predict_proba([]).shape == (0, 2)

    def test_control_tokens_stay_text(self, taught: AdapterClassifier, tiny: Gemma) -> None:
        [item] = encode(tiny, "<eos><start_of_turn>", taught.question_)
        assert not any(tiny.vocabulary.is_control(id_) for id_ in item.ids[item.start : item.stop])

    def test_the_loss_by_hand(self) -> None:
        assert calibrated_loss(np.array([0, 1] * 20), np.zeros(40)) == pytest.approx(np.log(2), abs=1e-3)


class TestFolder:
    @pytest.mark.parametrize("objective", ["head", "generative"])
    def test_round_trip(self, tiny: Gemma, tmp_path: Path, objective: str) -> None:
        rate = 5e-3
        adapter = AdapterClassifier(tiny, category="toy", objective=objective, epochs=1, learning_rate=rate, rank=2)  # type: ignore[arg-type]
        adapter.fit(*toy(24)).save(tmp_path / "toy", notes="Toy.")
        again = AdapterClassifier.load(tmp_path / "toy", tiny)
        texts, _ = toy(10, seed=2)
        np.testing.assert_array_equal(again.predict_proba(texts), adapter.predict_proba(texts))
        again.save(tmp_path / "again")
        assert (tmp_path / "again" / "adapter_model.safetensors").read_bytes() == (
            tmp_path / "toy" / "adapter_model.safetensors"
        ).read_bytes()
        assert "Toy." in (tmp_path / "toy" / "card.md").read_text()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "toy"]
        assert {path.suffix for path in (tmp_path / "toy").iterdir()} == {".json", ".safetensors", ".md"}

    @pytest.mark.filterwarnings("ignore:.*checkpointing:FutureWarning")
    def test_peft_loads_the_adapter(self, taught: AdapterClassifier, tiny: Gemma, tmp_path: Path) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        taught.save(tmp_path / "toy")
        base = AutoModelForCausalLM.from_pretrained(save_tiny_gemma(tmp_path / "base"))
        model = PeftModel.from_pretrained(base, str(tmp_path / "toy")).eval()
        ids = torch.tensor([tiny.encode("the cat in the can").ids])
        with torch.no_grad():
            theirs = model(input_ids=ids, output_hidden_states=True).hidden_states[4]
            torch.testing.assert_close(theirs, taught.adapted_.hidden(ids))

    def test_names_no_path_and_no_text(self, taught: AdapterClassifier, tmp_path: Path) -> None:
        taught.save(tmp_path / "toy")
        config = json.loads((tmp_path / "toy" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] is None
        assert toy(40)[0][0].encode() not in b"".join(path.read_bytes() for path in (tmp_path / "toy").iterdir())

    @pytest.mark.parametrize(
        "name", ["adapter_model.safetensors", "adapter_config.json", "head.safetensors", "card.md"]
    )
    def test_a_changed_file_is_refused(self, taught: AdapterClassifier, tiny: Gemma, tmp_path: Path, name: str) -> None:
        path = taught.save(tmp_path / "toy") / name
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(ArtifactError, match="checksum"):
            AdapterClassifier.load(tmp_path / "toy", tiny)

    @pytest.mark.parametrize("text", ["", "{}", "[]", "[" * 100_000, '{"kind": "lora"}', "\x00"])
    def test_a_bad_manifest_is_refused(self, taught: AdapterClassifier, tiny: Gemma, tmp_path: Path, text: str) -> None:
        taught.save(tmp_path / "toy")
        (tmp_path / "toy" / "manifest.json").write_text(text)
        with pytest.raises(ArtifactError, match="cannot be read"):
            AdapterClassifier.load(tmp_path / "toy", tiny)

    def test_a_missing_folder_and_a_probe_are_refused(self, tiny: Gemma, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="no adapter folder"):
            AdapterClassifier.load(tmp_path / "nothing", tiny)
        (tmp_path / "manifest.json").write_text('{"kind": "linear-probe"}')
        with pytest.raises(ArtifactError, match="SafetyClassifier"):
            AdapterClassifier.load(tmp_path, tiny)

    def test_another_models_is_refused(self, taught: AdapterClassifier, tmp_path: Path) -> None:
        taught.save(tmp_path / "toy")
        other = Gemma.load(save_tiny_gemma(tmp_path / "other", seed=1))
        with pytest.raises(ArtifactError, match="taught on"):
            AdapterClassifier.load(tmp_path / "toy", other)

    def test_nothing_else_is_replaced(self, taught: AdapterClassifier, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("keep")
        with pytest.raises(ArtifactError, match="no classifier folder"):
            taught.save(tmp_path)
        assert (tmp_path / "notes.txt").read_text() == "keep"


class Killed(BaseException):
    """As a Ctrl-C would come: at any step."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    plain = Training._step

    def dying(self: Training, rows: list[int]) -> None:
        if self.steps == step:
            raise Killed
        plain(self, rows)

    monkeypatch.setattr(Training, "_step", dying)


class TestResuming:
    @pytest.mark.parametrize("step", [2, 5, 10])  # in the first, the second and the third epoch of 4 steps
    def test_a_killed_run_ends_as_if_it_had_not_been(
        self, tiny: Gemma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
    ) -> None:
        def adapter(folder: str) -> AdapterClassifier:
            checkpoint = tmp_path / folder
            return AdapterClassifier(tiny, epochs=3, learning_rate=5e-3, batch=8, rank=2, checkpoint=checkpoint)

        whole = adapter("whole").fit(*toy(40))
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            with pytest.raises(Killed):
                adapter("cut").fit(*toy(40))
        kept = [path.name for path in (tmp_path / "cut").iterdir()]
        assert kept == [f"epoch-{step // 4:04d}"]
        resumed = adapter("cut").fit(*toy(40))
        assert resumed.losses_ == whole.losses_
        assert resumed.best_epoch_ == whole.best_epoch_
        texts, _ = toy(10, seed=1)
        np.testing.assert_array_equal(resumed.predict_proba(texts), whole.predict_proba(texts))

    def test_finished_training_is_not_repeated(
        self, tiny: Gemma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        adapter = AdapterClassifier(tiny, epochs=1, rank=2, checkpoint=tmp_path).fit(*toy(24))
        kill_at(monkeypatch, 0)
        again = clone(adapter).fit(*toy(24))
        np.testing.assert_array_equal(again.predict_proba(["zq"]), adapter.predict_proba(["zq"]))

    def test_another_runs_checkpoint_is_refused(self, tiny: Gemma, tmp_path: Path) -> None:
        AdapterClassifier(tiny, epochs=1, rank=2, checkpoint=tmp_path).fit(*toy(24))
        with pytest.raises(UserError, match="other examples"):
            AdapterClassifier(tiny, epochs=1, rank=2, checkpoint=tmp_path).fit(*toy(24, seed=1))
        with pytest.raises(UserError, match="other settings"):
            AdapterClassifier(tiny, epochs=1, rank=2, seed=1, checkpoint=tmp_path).fit(*toy(24))

    def test_a_damaged_checkpoint_is_refused(self, tiny: Gemma, tmp_path: Path) -> None:
        adapter = AdapterClassifier(tiny, epochs=1, rank=2, checkpoint=tmp_path).fit(*toy(24))
        state = tmp_path / "epoch-0001" / "state.safetensors"
        state.write_bytes(state.read_bytes()[:-8])
        with pytest.raises(UserError, match="delete it"):
            clone(adapter).fit(*toy(24))
        shutil.rmtree(tmp_path / "epoch-0001")
        (tmp_path / "epoch-0001").mkdir()
        with pytest.raises(UserError, match="delete it"):
            clone(adapter).fit(*toy(24))


class TestBadInput:
    @pytest.mark.parametrize(
        ("texts", "y", "message"),
        [
            (["a"] * 30, [1] * 30, "at least 10"),
            (["a", "b", "c"], [1, 0, 1], "at least 10"),
            ([], [], "at least 10"),
            (["a"] * 24, [0, 1] * 12, "different"),
            ([f"t{n}" for n in range(23)] + [float("nan")], [0, 1] * 12, "Row 23 is neither"),
            ([f"t{n}" for n in range(23)] + [None], [0, 1] * 12, "Row 23 is neither"),
            (["", *(f"t{n}" for n in range(23))], [0, 1] * 12, "Example 1 has no text"),
            ([f"t{n}" for n in range(24)], [0, 1] * 11 + [0, float("nan")], "without a label"),
            ([f"t{n}" for n in range(24)], [0, 2] * 12, "0 or 1"),
            ([f"t{n}" for n in range(24)], ["x"] * 24, "0 or 1"),
            ([f"t{n}" for n in range(24)], [0, 1], "shape"),
        ],
    )
    def test_bad_examples_are_refused(self, tiny: Gemma, texts: list[str], y: list[object], message: str) -> None:
        with pytest.raises(DataError, match=message):
            AdapterClassifier(tiny).fit(texts, y)

    @pytest.mark.parametrize(
        "options",
        [
            {"objective": "guess"},
            {"epochs": 0},
            {"rank": 0},
            {"batch": 0},
            {"folds": 1},
            {"learning_rate": 0.0},
            {"learning_rate": float("nan")},
            {"blocks": 7},
            {"objective": "generative", "blocks": 3},
        ],
    )
    def test_bad_arguments_are_refused(self, tiny: Gemma, options: dict[str, object]) -> None:
        with pytest.raises(UserError):
            AdapterClassifier(tiny, **options).fit(*toy(24))  # type: ignore[arg-type]

    def test_groups_that_cannot_be_parted_are_refused(self, tiny: Gemma) -> None:
        texts, y = toy(24)
        with pytest.raises(DataError):
            AdapterClassifier(tiny).fit(texts, y, groups=["one"] * 24)

    def test_divergence_is_an_error(self, tiny: Gemma, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(HeadObjective, "losses", lambda self, items, y: self.scores(items) * torch.nan)
        with pytest.raises(DataError, match="diverged"):
            AdapterClassifier(tiny, epochs=1, rank=2).fit(*toy(24))

    def test_without_peft_the_extra_is_named(self, tiny: Gemma, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "peft", None)
        with pytest.raises(MissingExtra, match=r"safety-kit\[train\]"):
            AdapterClassifier(tiny).fit(*toy(24))


class TestBudgets:
    def test_the_harmless_of_the_part_held_out_are_kept(
        self, taught: AdapterClassifier, tiny: Gemma, tmp_path: Path
    ) -> None:
        texts, y = toy(40)
        harmless = [texts[row] for row in taught.held_out_ if y[row] == 0]
        again = AdapterClassifier.load(taught.save(tmp_path / "toy"), tiny)
        for one in (taught, again):
            head = one.heads_["toy"]
            np.testing.assert_allclose(head.negatives[Stage.INPUT], np.sort(one.decision_function(harmless)), rtol=1e-4)
            assert sorted(head.lengths[Stage.INPUT]) == sorted(
                len(tiny.vocabulary.content(text).ids) for text in harmless
            )

    def test_a_long_harmless_text_counts_by_all_its_windows(self, tiny: Gemma) -> None:
        texts, y = toy(24)
        texts = [text * 48 if label == 0 else text for text, label in zip(texts, y, strict=True)]
        adapter = AdapterClassifier(tiny, epochs=1, rank=2).fit(texts, y)
        harmless = [texts[row] for row in adapter.held_out_ if y[row] == 0]
        [head] = adapter.heads_.values()
        assert min(head.lengths[Stage.INPUT]) > WINDOW
        np.testing.assert_allclose(head.negatives[Stage.INPUT], np.sort(adapter.decision_function(harmless)), rtol=1e-4)

    def test_budgets_are_those_of_a_head(self, taught: AdapterClassifier, tmp_path: Path) -> None:
        head = taught.heads_["toy"]
        assert [one.supported for one in head.budgets(Stage.INPUT)["all lengths"]] == [False] * 5
        with pytest.raises(ArtifactError, match="smallest budget that they support"):
            head.threshold_for(0.01, Stage.INPUT)
        score = np.linspace(-3, 3, 400)
        many = AdapterHead.of("toy", taught.calibration_, score, np.full(400, 9))
        assert many.threshold_for(0.01, Stage.INPUT) == pytest.approx(many.probability(3.0, Stage.INPUT))
        card = (taught.save(tmp_path / "toy") / "card.md").read_text()
        assert "| all lengths | 4 | 52.71% | unsupported |" in card

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("negatives", lambda scores: scores[1:].clone()),
            ("negatives", lambda scores: scores[:0].clone()),
            ("negatives", lambda scores: scores * torch.nan),
            ("negatives", lambda scores: scores.bfloat16()),
            ("lengths", lambda lengths: lengths.float()),
            ("lengths", None),
            ("weight", lambda weight: weight * torch.nan),
        ],
    )
    def test_tensors_that_do_not_fit_are_refused(
        self,
        taught: AdapterClassifier,
        tiny: Gemma,
        tmp_path: Path,
        name: str,
        change: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> None:
        def edit(tensors: dict[str, torch.Tensor]) -> None:
            tensor = tensors.pop(name)
            if change:
                tensors[name] = change(tensor)

        rewrite_head(taught.save(tmp_path / "toy"), edit)
        with pytest.raises(ArtifactError, match="cannot be read"):
            AdapterClassifier.load(tmp_path / "toy", tiny)

    def test_an_older_folder_has_none_and_loads(self, taught: AdapterClassifier, tiny: Gemma, tmp_path: Path) -> None:
        old = older(taught.save(tmp_path / "toy"))
        again = AdapterClassifier.load(old, tiny)
        texts, _ = toy(10, seed=2)
        np.testing.assert_array_equal(again.predict_proba(texts), taught.predict_proba(texts))
        assert again.heads_ == {}
        AdapterClassifier.load(again.save(tmp_path / "again"), tiny)


def rewrite_head(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the head's tensors in a folder and put its checksum right."""
    tensors = load_file(folder / "head.safetensors")
    change(tensors)
    save_file(tensors, folder / "head.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["checksums"]["head.safetensors"] = sha256((folder / "head.safetensors").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def older(folder: Path) -> Path:
    """The folder as an earlier version of the kit wrote it."""

    def strip(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["negatives"], tensors["lengths"]

    rewrite_head(folder, strip)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["golden"], manifest["model"]["attention"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
