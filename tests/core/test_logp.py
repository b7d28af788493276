"""`selected_logp` against the plain computation with full logits, and against finite differences."""

import pytest
import torch

from nurture.core import logp as module
from nurture.core.logp import Against, Head, selected_logp

HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"scale": 0.3},
    "softcap": {"softcap": 5.0},
    "temperature": {"temperature": 0.7},
    "all": {"bias": True, "scale": 0.5, "softcap": 4.0, "temperature": 1.3},
}
DIVERGENCES = [(1.0, 1.0), (0.0, 1.0), (0.5, 1.0), (0.1, 1.0), (1.0, 2.0), (0.0, 2.0), (0.7, 0.5)]
"""(beta, temperature)"""


def make(options, dtype, rows=13, hidden=6, vocabulary=11, seed=0):
    g = torch.Generator().manual_seed(seed)
    options = dict(options)
    weight = torch.randn(vocabulary, hidden, generator=g, dtype=dtype).requires_grad_()
    bias = torch.randn(vocabulary, generator=g, dtype=dtype).requires_grad_() if options.pop("bias", False) else None
    h = torch.randn(rows, hidden, generator=g, dtype=dtype).requires_grad_()
    return h, Head(weight, bias, **options), torch.randint(vocabulary, (rows,), generator=g)


def plain(h, head, target, other, beta=1.0, temperature=1.0):
    """From full logits, with the gradients that autograd finds. Of the divergence: by its definition."""
    log_p = torch.log_softmax(head.logits(h), 1)
    chosen = log_p.gather(1, target[:, None]).squeeze(1)
    entropy = torch.distributions.Categorical(logits=log_p).entropy()
    p = torch.softmax(head.logits(h) / temperature, 1)
    q = torch.softmax(other[1].logits(other[0]).detach() / temperature, 1)
    m = p if beta == 0 else q if beta == 1 else beta * q + (1 - beta) * p
    parts = {0: (1, 0), 1: (0, 1)}.get(beta, (beta, 1 - beta))
    divergence = parts[0] * (q * (q / m).log()).sum(1) + parts[1] * (p * (p / m).log()).sum(1)
    return chosen, entropy, divergence, log_p.argmax(1) == target


@pytest.fixture(params=[(1, 1), (5, 3), (100, 4), (100, 100)], ids=lambda rows: f"chunks of {rows}")
def chunk(request, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", request.param[0] * 11 * 8)
    monkeypatch.setattr(module, "BLOCK_BYTES", request.param[1] * 11 * 8)


@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("beta", "temperature"), DIVERGENCES)
def test_equals_full_logits(options, dtype, beta, temperature, chunk):
    h, head, target = make(options, dtype)
    other = make(options, dtype, seed=1)[:2]
    got = selected_logp(h, head, target, entropy=True, hit=True, against=Against(*other, beta, temperature))
    want = plain(h, head, target, other, beta, temperature)
    tolerance = {"atol": 2e-6, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-12, "rtol": 1e-12}
    for x, y in zip((got.logp, got.entropy, got.divergence, got.hit), want, strict=True):
        torch.testing.assert_close(x, y.to(dtype), **tolerance)
    g = torch.randn(3, len(target), generator=torch.Generator().manual_seed(2), dtype=dtype)
    inputs = [x for x in (h, head.weight, head.bias) if x is not None]
    ours = torch.autograd.grad((g[0] * got.logp + g[1] * got.entropy + g[2] * got.divergence).sum(), inputs)
    theirs = torch.autograd.grad((g[0] * want[0] + g[1] * want[1] + g[2] * want[2]).sum(), inputs)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, **{k: v * 10 for k, v in tolerance.items()})


@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize(("beta", "temperature"), [(1.0, 1.0), (0.7, 0.5)])
def test_gradcheck(options, beta, temperature, chunk):
    h, head, target = make(options, torch.float64, rows=4)
    other = make(options, torch.float64, rows=4, seed=1)[:2]
    inputs = [x for x in (h, head.weight, head.bias) if x is not None]

    def f(hidden, weight, bias=None):
        own = Head(weight, bias, head.scale, head.softcap, head.temperature)
        out = selected_logp(hidden, own, target, entropy=True, against=Against(*other, beta, temperature))
        return out.logp, out.entropy, out.divergence

    assert torch.autograd.gradcheck(f, inputs)


LEARNS = {
    "everything": ("hidden", "weight", "bias"),
    "frozen head": ("hidden",),
    "head alone": ("weight", "bias"),
    "bias and hidden": ("hidden", "bias"),
}


@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("learns", LEARNS.values(), ids=LEARNS)
@pytest.mark.parametrize("kept", [0, 7, 100], ids=lambda rows: f"{rows} rows kept")
@pytest.mark.parametrize("entropy", ["not asked", "only looked at", "times zero", "learnt from"])
@pytest.mark.parametrize("chunk", [(5, 3)], indirect=True, ids=["chunks of 5"])
def test_gradients_from_what_the_forward_pass_kept(options, learns, kept, entropy, chunk, monkeypatch):
    monkeypatch.setattr(module, "KEPT_BYTES", kept * 11 * 8)
    h, head, target = make(options, torch.float64)
    leaves = {"hidden": h, "weight": head.weight, "bias": head.bias}
    for name, leaf in leaves.items():
        if leaf is not None:
            leaf.requires_grad_(name in learns)
    leaves = [leaf for name, leaf in leaves.items() if leaf is not None and name in learns]
    if not leaves:
        pytest.skip("this head has no bias")
    g = torch.randn(2, len(target), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    factor = {"times zero": 0.0, "learnt from": 1.0}.get(entropy)

    def total(logp, its_entropy):
        return (logp * g[0]).sum() + (0 if factor is None else factor * (its_entropy * g[1]).sum())

    found = selected_logp(h, head, target, entropy=entropy != "not asked")
    other = h.detach(), head
    want = torch.autograd.grad(total(*plain(h, head, target, other)[:2]), leaves)
    for x, y in zip(torch.autograd.grad(total(found.logp, found.entropy), leaves), want, strict=True):
        torch.testing.assert_close(x, y, atol=1e-12, rtol=1e-12)


def test_nothing_is_kept_where_nothing_is_learnt():
    h, head, target = make({}, torch.float32)
    with torch.no_grad():
        assert selected_logp(h, head, target).logp.grad_fn is None
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        selected_logp(h, Head(head.weight.detach()), target)
    assert not [x for x in kept if x.shape == (len(target), len(head.weight))], "logits are kept for a frozen head"


def test_frozen_head_gets_no_gradient():
    h, head, target = make({}, torch.float32)
    frozen = Head(head.weight.detach())
    selected_logp(h, frozen, target).logp.sum().backward()
    assert h.grad is not None and frozen.weight.grad is None


def test_what_was_not_asked_for_is_absent():
    h, head, target = make({}, torch.float32)
    out = selected_logp(h, head, target)
    assert out.entropy is None and out.divergence is None and out.hit is None


def test_zero_head_is_uniform():
    h, head, target = make({}, torch.float32)
    uniform = selected_logp(h, Head(torch.zeros_like(head.weight)), target).logp
    torch.testing.assert_close(uniform, torch.full_like(uniform, -torch.log(torch.tensor(11.0)).item()))


def test_bf16_gradients_are_summed_in_fp32(monkeypatch):
    """Over many chunks, a bf16 weight's gradient stays as near the fp32 one as a single bf16 rounding allows."""
    h, head, target = make({}, torch.float32, rows=512)
    exact = torch.autograd.grad(selected_logp(h, head, target).logp.sum(), head.weight)[0]
    monkeypatch.setattr(module, "CHUNK_BYTES", 11 * 4)
    half = Head(head.weight.detach().bfloat16().requires_grad_())
    rough = torch.autograd.grad(selected_logp(h.bfloat16(), half, target).logp.sum(), half.weight)[0].float()
    assert ((rough - exact).norm() / exact.norm()).item() < 0.02


def test_a_table_that_is_filled_up_further_says_the_same():
    """Rows behind the last token of a smaller table are no part of the other model's distribution."""
    h, head, target = make({}, torch.float64)
    theirs, other, _ = make({"bias": True}, torch.float64, vocabulary=19, seed=1)
    cut = Head(other.weight[:11], other.bias[:11])
    got = selected_logp(h, head, target, against=Against(theirs, other.first(11), 0.5)).divergence
    torch.testing.assert_close(got, plain(h, head, target, (theirs, cut), 0.5)[2])
