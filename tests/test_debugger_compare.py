"""What the Compare page stands on: tokens aligned by their ids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from debugger_app.align import align, is_noise

ids = st.lists(st.integers(0, 5), max_size=30)


@given(ids, ids)
def test_every_token_of_either_stands_in_one_pair_in_order(a: list[int], b: list[int]) -> None:
    pairs = align(a, b)
    assert [pair.a for pair in pairs if pair.a is not None] == list(range(len(a)))
    assert [pair.b for pair in pairs if pair.b is not None] == list(range(len(b)))
    for pair in pairs:
        equal = pair.a is not None and pair.b is not None and a[pair.a] == b[pair.b]
        assert not pair.same or equal


@given(ids)
def test_a_run_beside_itself_is_the_same_throughout(a: list[int]) -> None:
    assert all(pair.same for pair in align(a, a))


def test_a_replaced_token_stands_beside_what_replaced_it() -> None:
    pairs = align([1, 2, 3], [1, 9, 3])
    assert [(pair.a, pair.b, pair.same) for pair in pairs] == [(0, 0, True), (1, 1, False), (2, 2, True)]


def test_only_rounding_of_one_model_is_noise() -> None:
    assert is_noise(2.0, 2.0001, same_model=True)
    assert not is_noise(2.0, 2.0001, same_model=False)
    assert not is_noise(2.0, 2.01, same_model=True)
    assert not is_noise(2.0, None, same_model=True)
