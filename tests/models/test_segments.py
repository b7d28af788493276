"""Attention within segments against an explicit mask over the whole row, in values and gradients."""

import pytest
import torch

from nurture.models import segments

SHAPES = {
    "one": ([5], [-1]),
    "alike": ([7, 8, 6, 7], [-1] * 4),
    "longer than a piece": ([segments.QUERIES * 2 + 3, 4, segments.QUERIES], [-1] * 3),
    "tree": ([9, 6, 5, 1], [-1, 0, 0, 0]),
    "trees and chains": ([9, 6, 5, 12, 4, 70, 3, 66], [-1, 0, 0, -1, -1, 4, 4, -1]),
}


def whole_row(query, key, value, scaling, lengths, parent):
    """The textbook: every score, then a mask that says who may see whom."""
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    causal = torch.ones(len(segment), len(segment), dtype=torch.bool).tril()
    seen = (segment[:, None] == segment) & causal | (torch.tensor(parent)[segment][:, None] == segment)
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    return (query @ key.mT * scaling).masked_fill(~seen, -torch.inf).softmax(-1) @ value


def tensors(tokens, heads, kv_heads):
    """Query, key, value and a gradient, as views of `[1, tokens, heads, D]`; values of another width than keys."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(heads, 8), (kv_heads, 8), (kv_heads, 6), (heads, 6)]
    return [torch.randn(1, tokens, h, d, generator=draw).double().transpose(1, 2) for h, d in shapes]


def run(attend, inputs, gradient):
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attend(*leaves)
    out.backward(gradient)
    return [out.detach(), *(x.grad for x in leaves)]


@pytest.mark.parametrize("kept", [0, 1 << 20], ids=["computed again", "kept"])
@pytest.mark.parametrize("waste", [0, segments.WASTE], ids=["exact lengths", "padded"])
@pytest.mark.parametrize("heads", [(1, 1), (4, 4), (6, 2)], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_one_masked_product_over_the_whole_row(monkeypatch, shape, heads, waste, kept):
    monkeypatch.setattr(segments, "WASTE", waste)
    monkeypatch.setattr(segments, "KEPT", kept)
    lengths, parent = SHAPES[shape]
    *tokens_first, gradient = tensors(sum(lengths), *heads)
    heads_first = [x.contiguous() for x in tokens_first]
    work = segments.lay_work(lengths, parent, *heads, torch.float64, torch.device("cpu"))
    want = run(lambda *x: whole_row(*x, 0.3, lengths, parent), heads_first, gradient)
    for inputs in (tokens_first, heads_first):
        ours = run(lambda *x: segments.attend(*x, 0.3, work), inputs, gradient)
        torch.testing.assert_close(ours, want, rtol=1e-10, atol=1e-10)


def test_a_block_holds_segments_of_like_length_and_one_prefix():
    lengths, parent = [300, 8, 7, 299, 40, 7], [-1, 0, 0, -1, -1, 4]
    members = segments._alike(lengths, parent, heads=9)
    assert sorted(i for _, block in members for i in block) == list(range(6))
    for prefix, block in members:
        assert all(parent[i] == prefix for i in block)
    assert [1, 2] in [block for _, block in members]
    assert all(4 not in block or block == [4] for _, block in members), "40 tokens padded to 299 would be wasteful"


def test_pieces_stay_small():
    lengths = [60] * 200
    work = segments.lay_work(lengths, [-1] * 200, 8, 2, torch.float32, torch.device("cpu"))
    assert len(work.blocks) > 1
    for block in work.blocks:
        assert all(block.batch * piece.mask.numel() <= segments.SCORES for piece in block.pieces)
