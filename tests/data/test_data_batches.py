"""Batch number k is a pure function of (seed, k), and a batch is dealt to processes without loss."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nurture.data.batches import batches, rank_share, sample_order, steps_in
from nurture.data.mix import Mixture, Part
from nurture.types import Batch, Group, Response


def make_groups(lengths):
    return [
        Group(np.zeros(2, np.int64), (Response(np.zeros(n, np.int64), np.ones(n, bool)),), str(i))
        for i, n in enumerate(lengths)
    ]


def keys(batch):
    return [g.key for g in batch.groups]


def test_an_order_is_a_permutation_of_its_own_for_each_epoch_and_seed():
    orders = [tuple(sample_order(seed, epoch, 50)) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(orders)) == 4
    assert tuple(sample_order(0, 1, 50)) == orders[1]


@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 30))
def test_a_resume_starts_anywhere(n, batch_size, start):
    groups = make_groups([1] * n)
    whole = [keys(b) for b in batches(groups, batch_size=batch_size, seed=3, steps=start + 4)]
    resumed = [keys(b) for b in batches(groups, batch_size=batch_size, seed=3, start_step=start, steps=start + 4)]
    assert resumed == whole[start:] and len(resumed) == 4
    assert all(len(k) == batch_size for k in whole)


@given(st.integers(1, 20), st.integers(1, 9), st.integers(1, 3))
def test_every_epoch_shows_every_sample_once(n, batch_size, epochs):
    groups = make_groups([1] * n)
    made = list(batches(groups, batch_size=batch_size, seed=0, epochs=epochs))
    assert len(made) == steps_in(n, batch_size, epochs)
    flat = [key for batch in made for key in keys(batch)]
    for epoch in range(epochs):
        assert flat[epoch * n : (epoch + 1) * n] == [str(i) for i in sample_order(0, epoch, n)]
    assert 0 <= len(flat) - n * epochs < batch_size


def test_a_mixture_takes_its_share_in_every_epoch_and_other_rows_in_each():
    """Seven epochs of 3 of 21 rows and 4 of 4: every row of the first source once, of the second seven times. A resume
    in the middle of an epoch goes on as the whole run did."""
    groups = make_groups([1] * 25)
    mixture = Mixture((Part("a", 21, cap=3), Part("b", 4)), seed=5)
    whole = [keys(b) for b in batches(groups, batch_size=7, seed=5, epochs=7, mixture=mixture)]
    assert len(whole) == 7 and all(len({k for k in some if int(k) >= 21}) == 4 for some in whole)
    assert Counter(k for some in whole for k in some) == {str(i): 1 if i < 21 else 7 for i in range(25)}
    for size in (2, 5):
        flat = [k for b in batches(groups, batch_size=size, seed=5, steps=9, mixture=mixture) for k in keys(b)]
        assert flat == [k for some in whole for k in some][: 9 * size]
        late = batches(groups, batch_size=size, seed=5, start_step=4, steps=9, mixture=mixture)
        assert [k for b in late for k in keys(b)] == flat[4 * size :]


def test_batches_are_made_as_they_are_asked_for():
    endless = batches(make_groups([1] * 3), batch_size=2, seed=0, steps=10**12)
    assert len(list(islice(endless, 3))) == 3


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 5))
def test_every_group_goes_to_exactly_one_process(lengths, world_size):
    batch = Batch(tuple(make_groups(lengths)))
    shares = [rank_share(batch, rank, world_size) for rank in range(world_size)]
    assert Counter(k for share in shares for k in keys(share)) == Counter(keys(batch))
    loads = [share.num_tokens for share in shares]
    assert max(loads) - min(loads) <= max([g.num_tokens for g in batch.groups], default=0)
    order = {key: i for i, key in enumerate(keys(batch))}
    assert all([order[k] for k in keys(s)] == sorted(order[k] for k in keys(s)) for s in shares)


def test_fewer_groups_than_processes_leave_some_without():
    batch = Batch(tuple(make_groups([3])))
    assert [rank_share(batch, rank, 3).num_groups for rank in range(3)] == [1, 0, 0]


@pytest.mark.parametrize("arguments", [{}, {"steps": 1, "epochs": 1}])
def test_either_steps_or_epochs(arguments):
    with pytest.raises(AssertionError):
        next(batches(make_groups([1]), batch_size=1, seed=0, **arguments))
