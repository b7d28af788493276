"""Mixing shares against the closed form; every row equally often; a pure function of seed, epoch and place."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nurture.data.mix import Mixture, Part, balanced, mix
from nurture.errors import InputError

PARTS = st.lists(
    st.tuples(st.integers(1, 50), st.sampled_from([0.5, 1.0, 2.0]), st.none() | st.integers(1, 20)),
    min_size=1,
    max_size=4,
).map(lambda some: tuple(Part(f"s{i}", n, w, cap) for i, (n, w, cap) in enumerate(some)))


@given(PARTS, st.sampled_from([0.5, 1.0, 2.0]), st.integers(1, 200), st.integers(0, 3))
def test_shares_are_those_of_the_formula(parts, temperature, size, epoch):
    mixture = Mixture(parts, temperature, size)
    rates = [p.weight * min(p.rows, p.cap or p.rows) ** (1 / temperature) for p in parts]
    places = mixture.epoch(epoch)
    counts = Counter(places[:, 0].tolist())
    assert len(places) == size
    for i, rate in enumerate(rates):
        assert abs(counts[i] - size * rate / sum(rates)) < 1 + 1e-6
        assert counts[i] == mixture.counts[f"s{i}"]
    for i, part in enumerate(parts):
        assert all(0 <= row < part.rows for source, row in places.tolist() if source == i)


@given(PARTS, st.integers(1, 5))
def test_no_row_comes_again_before_all_others_came(parts, epochs):
    mixture = Mixture(parts)
    for i, part in enumerate(parts):
        seen = Counter(row for e in range(epochs) for source, row in mixture.epoch(e).tolist() if source == i)
        times = [seen[row] for row in range(part.rows)]
        assert max(times) - min(times) <= 1


def test_examples_proportional_mixing_with_a_cap():
    mixture = Mixture((Part("big", 100_000, cap=3000), Part("mid", 3000), Part("small", 1000)))
    assert mixture.counts == {"big": 3000, "mid": 3000, "small": 1000}
    assert mixture.shares == pytest.approx({"big": 3 / 7, "mid": 3 / 7, "small": 1 / 7})


def test_temperature_levels():
    parts = (Part("a", 400), Part("b", 100))
    assert Mixture(parts, 2.0).shares == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    assert Mixture(parts, 1e9).shares == pytest.approx({"a": 0.5, "b": 0.5})


def test_plain_sources_are_taken_whole():
    sources = {"a": list("abc"), "b": list("xy")}
    mixture = Mixture((Part("a", 3), Part("b", 2)))
    for epoch in range(3):
        assert sorted(mix(sources, mixture, epoch)) == list("abcxy")
    assert mix(sources, mixture, 0) == mix(sources, mixture, 0)
    assert ["abcxy"[place] for place in mixture.order(1)] == mix(sources, mixture, 1)
    orders = {tuple(mix(sources, Mixture(mixture.parts, seed=seed))) for seed in range(20)}
    assert len(orders) > 5


def test_tasks_are_balanced():
    tasks = ["sum"] * 90 + ["sort"] * 10
    assert Counter(tasks[i] for i in balanced(tasks, cap=10)) == {"sum": 10, "sort": 10}
    assert Counter(tasks[i] for i in balanced(tasks)) == {"sum": 90, "sort": 10}
    assert len(set(balanced(tasks, cap=10))) == 20


@pytest.mark.parametrize(
    "parts, more",
    [
        ((), {}),
        ((Part("a", 0),), {}),
        ((Part("a", 1), Part("a", 2)), {}),
        ((Part("a", 1, weight=0),), {}),
        ((Part("a", 1, cap=0),), {}),
        ((Part("a", 1),), {"temperature": 0}),
        ((Part("a", 1),), {"size": 0}),
    ],
)
def test_what_cannot_be_mixed(parts, more):
    with pytest.raises(InputError):
        Mixture(parts, **more)


def test_realised_shares_are_told():
    assert Mixture((Part("a", 2, weight=3), Part("b", 2)), size=8).lines() == [
        "a: 75.0% of an epoch, 6 of its 2 rows (3.00 times each)",
        "b: 25.0% of an epoch, 2 of its 2 rows",
    ]
