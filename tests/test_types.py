"""Batches: what a split, a regrouping and the flat views must keep."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from nurture.types import Batch, Group, Loss, Response, Stats, first_fit, tally


@st.composite
def batches(draw):
    def ids(n):
        return np.arange(n) + draw(st.integers(0, 1000))

    groups = []
    for g in range(draw(st.integers(1, 6))):
        lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
        masks = [draw(st.lists(st.booleans(), min_size=n, max_size=n)) for n in lengths]
        responses = tuple(Response(ids(n), np.array(m)) for n, m in zip(lengths, masks, strict=True))
        groups.append(Group(ids(draw(st.integers(0, 8))), responses, str(g)))
    return Batch(tuple(groups))


def own_tokens(batch):
    """The oracle: every own token as (target, what stands before it on its path), in order."""
    out = []
    for g in batch.groups:
        for r in g.responses:
            path = [*g.prompt.tolist(), *r.ids.tolist()]
            out += [
                (path[len(g.prompt) + i], tuple(path[: len(g.prompt) + i]))
                for i in range(len(r.ids))
                if r.mask[i] and len(g.prompt) + i > 0
            ]
    return out


@given(batches())
def test_flat_views_are_the_own_tokens_in_order(batch):
    assert batch.target.tolist() == [target for target, _ in own_tokens(batch)]
    assert batch.num_own == len(own_tokens(batch))
    per_response = batch.sum_per_response(torch.ones(batch.num_own))
    assert per_response.tolist() == [len(own) for own in batch.owned]
    assert torch.equal(batch.per_token(torch.arange(batch.num_responses)), batch.response)


@given(batches(), st.integers(1, 60), st.sampled_from(["response", "group", "batch"]))
def test_pieces_hold_every_own_token_once_with_its_context(batch, tokens, scope):
    pieces = batch.pieces(tokens, scope)
    places = torch.cat([own for _, own, _ in pieces])
    assert sorted(places.tolist()) == list(range(batch.num_own))
    whole = own_tokens(batch)
    for piece, own, _ in pieces:
        assert own_tokens(piece) == [whole[i] for i in own.tolist()]
        if piece.num_tokens > tokens:
            units = piece.num_responses if scope == "response" else piece.num_groups
            assert units == 1 or scope == "batch"


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 40))
def test_first_fit(sizes, capacity):
    bins = first_fit(sizes, capacity)
    assert sorted(i for b in bins for i in b) == list(range(len(sizes)))
    assert all(len(b) == 1 or sum(sizes[i] for i in b) <= capacity for b in bins)
    assert bins == first_fit(sizes, capacity)
    full = [sum(sizes[i] for i in b) for b in bins]
    assert sum(f <= capacity / 2 for f in full) <= 1, "no two bins could have been one"


def test_losses_divide_each_unit_by_its_global_count():
    loss = Loss({"tokens": torch.tensor(6.0), "pairs": torch.tensor(2.0)})
    assert loss.divided_by({"tokens": 3, "pairs": 4}).item() == 2.5
    assert loss.divided_by({"tokens": 3, "pairs": 0}).item() == 2.0


def test_statistics_add_up_over_micro_batches():
    values = torch.arange(10.0)
    stats = Stats()
    for part in values.split([3, 3, 4]):
        stats.add({"x": tally(part)})
    assert stats.means() == {"x": values.mean().item()}
    assert stats.summed(lambda v: {k: 2 * x for k, x in v.items()}).means() == {"x": values.mean().item()}
