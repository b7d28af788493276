"""Every kernel against its formula in fp64, with the CPU's matrix tiles and without, on one thread and on two."""

import os
import re

import pytest
import torch
import torch.nn.functional as F
from models.test_segments import SHAPES, run, whole_row

from nurture import kernels
from nurture.adapters import low_rank
from nurture.core.products import weight_gradient
from nurture.core.reduce import global_norm
from nurture.models import tiled
from nurture.models.fused import _Gate, _RMSNorm
from nurture.train.optim import AdamW

needs_kernels = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")
BF16 = 1e-2
"""Of the norm: a few roundings to 8 bits."""


def off(found, want):
    return float((found.double() - want.double()).norm() / want.double().norm())


def random(*shape, dtype=torch.bfloat16, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(params=[True, False], ids=["tiles", "no tiles"])
def tiles(request):
    """Whether the matrix tiles of the CPU are used, where it has any."""
    library = kernels.library()
    had = kernels.has_tiles()
    if request.param and not had:
        pytest.skip("this CPU has no matrix tiles")
    library.use_tiles(request.param)
    yield
    library.use_tiles(had)


@needs_kernels
@pytest.mark.parametrize("heads", [(1, 1, 32), (4, 4, 64), (6, 2, 64), (8, 1, 128)], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, "long"])
def test_attention_equals_one_masked_product_over_the_whole_row(shape, heads, tiles):
    lengths, parent = SHAPES.get(shape, ([150, 40, 257], [-1, 0, -1]))
    queries, keys, width = heads
    shapes = [(queries, 0), (keys, 1), (keys, 2), (queries, 3)]
    *inputs, gradient = (random(1, sum(lengths), h, width, seed=s).transpose(1, 2) for h, s in shapes)
    want = run(lambda *x: whole_row(*x, 0.2, lengths, parent), [x.double() for x in inputs], gradient.double())
    table = tiled.lay_table(lengths, parent)
    for given in (inputs, [x.contiguous() for x in inputs]):  # heads within tokens, or tokens within heads
        assert tiled.serves(*given, parent)
        ours = run(lambda *x: tiled.attend(*x, 0.2, table), given, gradient)
        assert max(map(off, ours, want)) < BF16


@needs_kernels
def test_attention_does_not_depend_on_the_threads():
    lengths, parent = SHAPES["trees and chains"]
    inputs = [random(1, sum(lengths), h, 64, seed=h).transpose(1, 2) for h in (6, 2, 2)]
    table, gradient = tiled.lay_table(lengths, parent), random(1, sum(lengths), 6, 64).transpose(1, 2)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(run(lambda *x: tiled.attend(*x, 0.2, table), inputs, gradient))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@needs_kernels
@pytest.mark.parametrize("changed", ["fp32", "width", "widths", "nested"])
def test_attention_that_is_not_served(changed):
    """In fp32, of heads of another width, or behind two prefixes in a row."""
    width, other = {"width": (24, 24), "widths": (32, 64)}.get(changed, (32, 32))
    dtype = torch.float32 if changed == "fp32" else torch.bfloat16
    query, value = random(1, 2, 9, width, dtype=dtype), random(1, 2, 9, other, dtype=dtype)
    assert not tiled.serves(query, query, value, [-1, 0, 1] if changed == "nested" else [-1, 0, 0])


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", [(1, 7), (3, 48), (2, 5, 576), (700, 70)], ids=str)
def test_norm(shape, dtype):
    x, weight, gradient = (
        random(*shape, dtype=dtype),
        random(shape[-1], dtype=dtype, seed=1),
        random(*shape, dtype=dtype),
    )

    def exact(x, weight):
        return weight * x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()

    ours = run(lambda *p: _RMSNorm.apply(*p, 1e-5), [x, weight], gradient)
    want = run(exact, [x.double(), weight.double()], gradient.double())
    assert max(map(off, ours, want)) < (BF16 if dtype == torch.bfloat16 else 1e-6)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", [(1, 7), (3, 48), (700, 70)], ids=str)
def test_gate(shape, dtype):
    gate, up, gradient = (random(*shape, dtype=dtype, seed=s) for s in range(3))
    gate = 8 * gate  # far into both ends of the sigmoid
    ours = run(_Gate.apply, [gate, up], gradient)
    want = run(lambda g, u: F.silu(g) * u, [gate.double(), up.double()], gradient.double())
    assert max(map(off, ours, want)) < (BF16 if dtype == torch.bfloat16 else 1e-6)


@needs_kernels
def test_gate_of_the_largest_numbers():
    extreme, ones = torch.tensor([-3e38, -200.0, -90.0, 0.0, 90.0, 200.0, 3e38]).bfloat16(), torch.ones(7).bfloat16()
    ours = run(_Gate.apply, [extreme, ones], ones)
    want = run(lambda g, u: F.silu(g) * u, [extreme.float(), ones.float()], ones.float())
    torch.testing.assert_close(ours, [w.bfloat16() for w in want], rtol=1e-2, atol=1e-30)


@needs_kernels
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_hidden(bad):
    x, ones = torch.ones(40).bfloat16(), torch.ones(40).bfloat16()
    x[7] = bad
    assert not _RMSNorm.apply(x[None], ones, 1e-5).isfinite().all()
    assert not _Gate.apply(x, ones).isfinite().all()
    assert global_norm([x]) == pytest.approx(bad, nan_ok=True)
    told = torch.zeros(2, 1)
    kernels.call("softmax_bf16", x.clone(), torch.tensor([3]), *told, None, None, 1, 40, 0, 1.0)
    assert not told.isfinite().any()
    inputs = [random(1, 1, 40, 32) for _ in range(3)]
    inputs[1][0, 0, 7] = bad
    out = tiled.attend(*inputs, 0.2, tiled.lay_table([40], [-1]))
    assert out[0, 0, :7].isfinite().all() and not out[0, 0, 7:].isfinite().any()


@needs_kernels
@pytest.mark.parametrize("shape", [(1, 5), (33, 70), (64, 64), (100, 5000)], ids=str)
def test_gradient_of_a_weight(shape):
    wide, x = random(shape[0], shape[1] + 3), random(shape[0], 24, seed=1)
    g = wide[:, : shape[1]]  # its rows do not follow one another
    turned = g.new_empty(shape[::-1])
    kernels.call("turn_bf16", turned, g, g.stride(0), *shape)
    assert torch.equal(turned, g.T)
    assert off(weight_gradient(g, x), g.double().T @ x.double()) < BF16


@needs_kernels
@pytest.mark.parametrize("rank", [2, 6, 8, 24, 64])
@pytest.mark.parametrize("tokens", [1, 33, 200])
def test_the_thin_products_of_a_lora(rank, tokens, tiles):
    """Beside numbers before and behind that belong to someone else."""
    outs, ins = 64, 96
    weight, whole = random(outs, ins), random(tokens + 2, ins, seed=1)
    whole[0] = whole[-1] = torch.nan
    inputs = [whole[1:-1], random(rank, ins, seed=2), random(outs, rank, seed=3)]
    gradient = random(tokens, outs, seed=4)
    assert low_rank._has_kernel(weight, gradient, *inputs)

    bias = random(outs, seed=5) if rank == 8 else None

    def both(x, a, b):
        return low_rank.updated(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), a, b, 0.5)

    want = run(both, [x.double() for x in inputs], gradient.double())
    assert max(map(off, run(both, inputs, gradient), want)) < BF16
    frozen = [inputs[0], inputs[1], inputs[2].clone().requires_grad_()]  # nothing is computed that no one asked for
    (d_b,) = torch.autograd.grad(both(*frozen), frozen[2], gradient)
    assert off(d_b, want[-1]) < BF16


@needs_kernels
def test_the_thin_products_do_not_depend_on_the_threads():
    inputs, gradient = [random(300, 96), random(8, 96, seed=1), random(64, 8, seed=2)], random(300, 64, seed=3)
    y, before, found = random(300, 64, seed=4), torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        own, thin = y.clone(), random(300, 8)
        x, a, b = inputs
        d_x, d_a, d_b = (t.clone() for t in inputs)
        kernels.call("low_rank_bf16", own, thin, x, a, b, None, 300, 96, 64, 8, 0.5)
        kernels.call("low_rank_backward_bf16", d_x, d_a, d_b, gradient, x, thin, a, b, 300, 96, 64, 8, 0.5)
        found.append((own, thin, d_x, d_a, d_b))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@needs_kernels
def test_norm_of_all_gradients():
    tensors = [random(100_003, seed=1), random(7, 3), random(50, dtype=torch.float32)]
    want = torch.cat([t.double().flatten() for t in tensors]).norm()
    assert global_norm(tensors) == pytest.approx(float(want), rel=1e-6)


@needs_kernels
@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("factor", [1.0, 0.7])
def test_softmax_of_the_output_head(factor, learn):
    rows, vocabulary = 5, 1003
    logits, target = 6 * random(rows, vocabulary), torch.tensor([0, 1002, 17, 500, 16])
    logits[2, 17] = 40.0  # one that is certain
    exact = logits.double() * factor
    log_p, left = exact.log_softmax(-1), logits.clone()
    lse, logp, entropy, hit = torch.empty(4, rows)
    kernels.call("softmax_bf16", left, target, lse, logp, entropy, hit, rows, vocabulary, int(learn), factor)
    torch.testing.assert_close(lse, exact.logsumexp(-1).float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logp, log_p.gather(1, target[:, None])[:, 0].float(), rtol=1e-6, atol=2e-5)
    torch.testing.assert_close(entropy, -(log_p.exp() * log_p).sum(-1).float(), rtol=1e-5, atol=1e-5)
    assert torch.equal(hit, (exact.argmax(-1) == target).float())
    slope = (log_p.exp() - F.one_hot(target, vocabulary)) * factor
    assert off(left, slope) < BF16 if learn else torch.equal(left, logits)


@needs_kernels
def test_adamw_equals_torch_s_in_fp64():
    weight = random(37, 11)
    ours = AdamW([("w", torch.nn.Parameter(weight.clone()))], weight_decay=0.1, beta2=0.95)
    exact = torch.nn.Parameter(weight.double())
    theirs = torch.optim.AdamW([exact], lr=1e-2, weight_decay=0.1, betas=(0.9, 0.95))
    for step in range(5):
        gradient = random(37, 11, seed=step)
        assert ours._has_kernel(ours.parameters["w"], gradient)
        ours.step({"w": gradient}, 1e-2, scale=0.5)
        exact.grad = 0.5 * gradient.double()
        theirs.step()
    torch.testing.assert_close(ours.master["w"].double(), exact.detach(), rtol=1e-6, atol=1e-7)
    assert torch.equal(ours.parameters["w"].data, ours.master["w"].bfloat16())


# --- where there are none ------------------------------------------------------------------------------------------


def found_with(monkeypatch, tmp_path, **environment):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("NURTURE_KERNELS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return kernels._found.__wrapped__()


def test_off_by_the_environment(monkeypatch, tmp_path):
    library, why = found_with(monkeypatch, tmp_path, NURTURE_KERNELS="off")
    assert library is None and "NURTURE_KERNELS" in why


@needs_kernels
def test_a_compiler_that_fails(monkeypatch, tmp_path):
    compiler = tmp_path / "bad"
    compiler.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    compiler.chmod(0o755)
    library, why = found_with(monkeypatch, tmp_path, CXX=str(compiler))
    assert library is None and "did not compile them: no such luck" in why
    assert not list(tmp_path.rglob("*.so"))


@needs_kernels
def test_no_compiler(monkeypatch, tmp_path):
    library, why = found_with(monkeypatch, tmp_path, PATH=str(tmp_path), CXX="")
    assert library is None and "g++" in why


@needs_kernels
def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "nurture").write_text("a file where a folder should be")
    library, why = found_with(monkeypatch, tmp_path)
    assert library is None and why


@pytest.mark.long
@needs_kernels
def test_compiled_once_for_all_processes(monkeypatch, tmp_path):
    assert found_with(monkeypatch, tmp_path)[0] is not None
    (built,) = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert re.fullmatch(r"[0-9a-f]{16}\.so", built.name)
    before = os.stat(built).st_mtime_ns
    assert found_with(monkeypatch, tmp_path, CXX="g++")[0] is not None
    assert os.stat(built).st_mtime_ns == before
