import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nurture.core.random import stream_key, uniform
from nurture.lab.draw import Draw


@given(st.integers(0, 2**40), st.text(max_size=8))
def test_the_stream_is_the_one_core_random_counts_off(seed: int, name: str):
    draw = Draw(seed, name)
    mine = [(draw.bits() >> 11) * 2.0**-53 for _ in range(8)]
    key = np.full(8, stream_key(seed, name), dtype=np.uint64)
    assert mine == uniform(key, np.arange(8, dtype=np.uint64)).tolist()


@given(st.integers(), st.integers(1, 30), st.data())
def test_samples_and_shuffles_are_permutations(seed: int, size: int, data: st.DataObject):
    items = list(range(size))
    k = data.draw(st.integers(0, size))
    draw = Draw(seed)
    sample = draw.sample(items, k)
    assert len(sample) == len(set(sample)) == k and set(sample) <= set(items)
    assert sorted(draw.shuffled(items)) == items
    assert all(-3 <= draw.between(-3, 4) <= 4 for _ in range(20))


def test_choices_are_even_and_weights_are_kept():
    draw = Draw("even")
    counts = np.bincount([draw.below(7) for _ in range(14_000)], minlength=7)
    assert (((counts - 2000) ** 2) / 2000).sum() < 22.5  # chi-square, 6 degrees of freedom, p = 0.001
    heavy = sum(draw.weighted(("heavy", "light", "never"), (9, 1, 0)) == "heavy" for _ in range(10_000))
    assert abs(heavy - 9000) < 4 * 30
    assert "never" not in {draw.weighted(("heavy", "light", "never"), (9, 1, 0)) for _ in range(1000)}


def test_a_sample_larger_than_its_source_is_refused():
    with pytest.raises(AssertionError, match="cannot take 4 of 3"):
        Draw(0).sample("abc", 4)
