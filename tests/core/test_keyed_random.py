from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym import keyed_random

WORDS = st.integers(0, 2**64 - 1)


def test_mixing_is_splitmix64() -> None:
    # the first outputs of the reference generator seeded with 0: mix(0), mix(golden), mix(2 golden)
    golden = 0x9E3779B97F4A7C15
    assert [keyed_random._mix(n * golden % 2**64) for n in range(3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


def test_a_key_is_the_mixed_chain_of_its_parts() -> None:
    assert keyed_random.key() == 0
    assert keyed_random.key(5) == keyed_random._mix(keyed_random._mix(5))
    assert keyed_random.key(5, 7) == keyed_random._mix(keyed_random.key(5) ^ keyed_random._mix(7))


def test_keys_depend_on_every_part_and_on_order() -> None:
    keys = [
        keyed_random.key(*parts)
        for parts in [(), (0,), (1,), (0, 0), (0, 1), (1, 0), ("0",), ("a", 1), (1, "a"), ("a1",)]
    ]
    assert len(set(keys)) == len(keys)
    assert keyed_random.key(-1) == keyed_random.key(2**64 - 1)  # whole words


def test_texts_make_the_same_key_in_every_process() -> None:
    code = "from agentgym import keyed_random; print(keyed_random.key('group 1', 2, 'branch'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(printed) == keyed_random.key("group 1", 2, "branch")


@given(st.lists(WORDS | st.text(max_size=5), max_size=4))
def test_uniform_is_in_range_and_has_53_bits(parts: list[int | str]) -> None:
    value = keyed_random.uniform(*parts)
    assert 0.0 <= value < 1.0
    assert value * 2**53 == int(value * 2**53)


@given(st.lists(WORDS, min_size=1, max_size=5), st.integers(0, 2**31))
def test_arrays_draw_what_single_keys_draw(keys: list[int], position: int) -> None:
    found = keyed_random.uniforms(np.array(keys, dtype=np.uint64), position)
    assert found.tolist() == [_single(k, position) for k in keys]
    each = keyed_random.uniforms(np.array(keys, dtype=np.uint64), np.full(len(keys), position))
    assert each.tolist() == found.tolist()


def _single(key: int, position: int) -> float:
    """One round on from a finished key, as ``keyed_random.key`` does for a further part."""
    return (keyed_random._mix(key ^ keyed_random._mix(position)) >> 11) * 2.0**-53


def test_arrays_go_on_from_a_key() -> None:
    start = keyed_random.key("run", 3)
    assert keyed_random.uniforms(np.array([start], dtype=np.uint64), 9)[0] == keyed_random.uniform("run", 3, 9)


def test_draws_are_uniform_and_neighbours_independent() -> None:
    values = keyed_random.uniforms(np.full(200_000, keyed_random.key(1), dtype=np.uint64), np.arange(200_000))
    counts = np.histogram(values, bins=100, range=(0, 1))[0]
    # chi-squared with 99 degrees of freedom: mean 99, standard deviation 14; 160 is beyond four of them
    assert ((counts - 2000) ** 2 / 2000).sum() < 160
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.01  # 1/sqrt(200000) = 0.002


def test_choice_takes_every_item_as_often() -> None:
    taken = [keyed_random.choice("abc", 7, n) for n in range(3000)]
    assert all(900 < taken.count(item) < 1100 for item in "abc")
    with pytest.raises(IndexError):
        keyed_random.choice([], 1)
