"""The feature cache: what comes out went in, whatever else happens to the folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from test_gemma_load import one_thread  # noqa: F401

from classifiers import cache as module
from classifiers.cache import FeatureCache
from classifiers.features import Reading, alone_readings, causal_readings
from safety_kit.gemma import Gemma
from safety_kit.testing import save_tiny_gemma

KEYS = [f"{i:064x}" for i in range(100)]


def entry(seed: int, n: int = 100) -> dict[str, np.ndarray]:
    return {"whole": np.random.default_rng(seed).random(n, dtype=np.float32)}


@given(arrays.arrays(np.float32, st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    cache = FeatureCache(tmp_path_factory.mktemp("cache"))
    assert cache.get(KEYS[0]) is None
    cache.put(KEYS[0], {"a": array})
    found = cache.get(KEYS[0])
    assert found is not None
    assert found["a"].shape == array.shape
    np.testing.assert_array_equal(found["a"], array)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:10], lambda _: b"", lambda b: b[:50] + b"x" + b[51:]]
)
def test_a_damaged_entry_is_dropped(tmp_path: Path, damage: object) -> None:
    cache = FeatureCache(tmp_path)
    cache.put(KEYS[3], entry(0))
    [path] = tmp_path.glob("??/*")
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert cache.get(KEYS[3]) is None
    assert not path.exists()


def test_it_stays_within_its_size_and_keeps_what_was_used_last(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit=20_000)
    for i, key in enumerate(KEYS):
        cache.put(key, entry(i))
        assert cache.get(KEYS[0]) is not None  # in use all the time
        assert sum(path.stat().st_size for path in tmp_path.glob("??/*")) <= 20_000
    assert cache.get(KEYS[-1]) is not None
    assert cache.get(KEYS[1]) is None


def test_a_full_disk_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    cache = FeatureCache(tmp_path)
    monkeypatch.setattr(module.os, "replace", full)
    cache.put(KEYS[0], entry(0))
    assert cache.get(KEYS[0]) is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_two_processes_at_once(tmp_path: Path) -> None:
    work = (
        "import sys; from pathlib import Path; import numpy as np; from classifiers.cache import FeatureCache\n"
        "cache = FeatureCache(Path(sys.argv[1]), limit=8000)\n"
        "for i in range(200):\n"
        "    key = f'{i % 20:064x}'\n"
        "    cache.put(key, {'a': np.full(100, i % 20, np.float32)})\n"
        "    found = cache.get(key)\n"
        "    assert found is None or (found['a'] == i % 20).all()\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", work, str(tmp_path)]) for _ in range(2)]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert not list(tmp_path.glob("??/.new-*"))


class TestReadings:
    @pytest.fixture(scope="class")
    def tiny(self, tmp_path_factory: pytest.TempPathFactory) -> Gemma:
        return Gemma.load(save_tiny_gemma(tmp_path_factory.mktemp("tiny")))

    def test_no_text_in_the_folder(self, tiny: Gemma, tmp_path: Path) -> None:
        secret = "the quick brown fox"
        causal_readings(tiny, [secret, ("prompt words", secret)], (2,), varied=True, cache=FeatureCache(tmp_path))
        for path in tmp_path.rglob("*"):
            assert "quick" not in path.name
            assert not path.is_file() or (b"quick" not in path.read_bytes() and b"prompt" not in path.read_bytes())

    def test_what_was_read_is_not_read_again(
        self, tiny: Gemma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache, texts = FeatureCache(tmp_path), ["abc", "the cat sat", ("why", "because")]

        def read() -> list[Reading]:
            alone = alone_readings(tiny, texts, (1, 2), "Q?", cache=cache)
            return alone + causal_readings(tiny, texts, (1, 2), varied=True, cache=cache)

        first = read()
        monkeypatch.setattr(Gemma, "forward", None)
        for one, other in zip(first, read(), strict=True):
            assert (one.row, one.stage) == (other.row, other.stage)
            np.testing.assert_array_equal(one.windows, other.windows)
        monkeypatch.undo()
        other = alone_readings(tiny, texts, (1, 2), "Another question?", cache=cache)
        assert not np.allclose(other[0].whole, first[0].whole)

    def test_a_stopped_run_keeps_what_it_read(
        self, tiny: Gemma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("classifiers.features.BATCH", 4)
        cache, texts, calls = FeatureCache(tmp_path), [f"text {i}" for i in range(12)], []
        forward = Gemma.forward

        def stops(self: Gemma, pieces: object, *rest: object, **more: object) -> object:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return forward(self, pieces, *rest, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(Gemma, "forward", stops)
        with pytest.raises(KeyboardInterrupt):
            alone_readings(tiny, texts, (1,), "Q?", cache=cache)
        assert len(list(tmp_path.glob("??/*"))) == 8
        alone_readings(tiny, texts, (1,), "Q?", cache=cache)
        assert len(calls) == 4
