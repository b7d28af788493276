"""MTLD by hand and against a slow reference; cosines against all pairs."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nurture.data.quality.diversity import TfIdf, evenness, mean_cosine, mean_cosine_of, mtld, sampled


def slow_mtld(text):
    """From the definition: cut the text greedily into the shortest stretches with a type-token ratio below 0.72."""

    def one_way(text):
        factors, start = 0.0, 0
        while start < len(text):
            ends = (e for e in range(start + 1, len(text) + 1) if len(set(text[start:e])) / (e - start) < 0.72)
            end = next(ends, None)
            if end is None:
                rest = text[start:]
                return factors + (1 - len(set(rest)) / len(rest)) / 0.28
            factors, start = factors + 1, end
        return factors

    there, back = one_way(text), one_way(text[::-1])
    return (len(text) / there + len(text) / back) / 2 if there and back else None


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60))
def test_mtld_against_the_definition(text):
    got, want = mtld(text), slow_mtld(text)
    assert (got is None) == (want is None)
    assert got is None or got == pytest.approx(want, rel=1e-12)


def test_mtld_by_hand():
    # "a a": ratio 1/2 at the second word ends a factor: one factor, two words a factor, both ways.
    assert mtld(["a", "a"]) == 2.0
    # "a b a": ratios 1, 1, 2/3 < 0.72: one factor in three words, both ways.
    assert mtld(["a", "b", "a"]) == 3.0
    # "a b c a": 1, 1, 1, 3/4 >= 0.72: no factor but (1 - 3/4) / 0.28 of one, both ways.
    assert mtld(["a", "b", "c", "a"]) == pytest.approx(4 / (0.25 / 0.28))
    # Forwards "a a" ends a factor and "b" adds nothing: 3 words a factor. Backwards b, a, a: 2/3 ends one: 3 as well.
    assert mtld(["a", "a", "b"]) == 3.0
    # A ratio of exactly 0.72 (18 different of 25) does not end a factor.
    assert mtld([*map(str, range(18)), *map(str, range(7))]) == pytest.approx(25 / 1.0)
    assert mtld([]) is None and mtld(["a", "b", "c"]) is None


TEXTS = st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=8), min_size=2, max_size=8)


@given(TEXTS)
def test_the_mean_cosine_is_that_of_all_pairs(texts):
    vectors = TfIdf(texts).dense().astype(np.float64)
    want = np.mean([a @ b for a, b in combinations(vectors, 2)])
    assert mean_cosine(texts) == pytest.approx(want, abs=1e-6)
    assert mean_cosine_of(3 * vectors) == pytest.approx(want, abs=1e-6)


def test_tf_idf_by_hand():
    # "b" is in one of two texts: idf 1 + log(3/2); "a" in both: 1. Twice in a text counts 1 + log 2.
    first, second = TfIdf([["a", "b"], ["a", "a"]]).dense()
    b = 1 + math.log(3 / 2)
    assert first == pytest.approx(np.array([1, b]) / math.hypot(1, b), abs=1e-6)
    assert second == pytest.approx([1, 0])


def test_cosine_of_few_texts():
    assert mean_cosine([["a"]]) is None
    assert mean_cosine([["a"], ["b"]]) == pytest.approx(0)
    assert mean_cosine([["a"], ["a"], []]) == pytest.approx(1)


def test_evenness():
    assert evenness({"a": 5, "b": 5}) == pytest.approx(1)
    assert evenness({"a": 3, "b": 1}) == pytest.approx(2 - 0.75 * math.log2(3))
    assert evenness({"a": 3}) is None


def test_a_sample_is_part_of_the_whole():
    assert sampled(5, 10, 0) == [0, 1, 2, 3, 4]
    some = sampled(1000, 10, 0)
    assert len(set(some)) == 10 and some == sorted(some) == sampled(1000, 10, 0)
