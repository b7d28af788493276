"""The optimiser against torch's own, the schedule against transformers', the clipping against torch's."""

import pytest
import torch
from engine import demonstrations, engine, one_step
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from nurture.methods import SFT
from nurture.train.loop import Budget, train
from nurture.train.optim import AdamW, AdamW8bit, learning_rate


def parameters(dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    shapes = {"matrix": (7, 5), "bias": (5,), "other": (3, 4)}
    return {n: torch.nn.Parameter(torch.randn(s, generator=g).to(dtype)) for n, s in shapes.items()}


def gradients(step, dtype=torch.float32):
    g = torch.Generator().manual_seed(100 + step)
    return {n: torch.randn(p.shape, generator=g).to(dtype) for n, p in parameters().items()}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_equals_torch(weight_decay, scale):
    ours, theirs = parameters(), parameters()
    mine = AdamW(ours.items(), beta1=0.8, beta2=0.95, weight_decay=weight_decay)
    matrices = [p for p in theirs.values() if p.ndim >= 2]
    vectors = [p for p in theirs.values() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    torchs = torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.95))
    for step in range(5):
        mine.step(gradients(step), 1e-2, scale)
        for name, p in theirs.items():
            p.grad = gradients(step)[name] * scale
        torchs.step()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-7)


def test_bf16_weights_follow_fp32_masters():
    """A hundred updates too small for bf16 to see one by one move the masters, and in the end the weights."""
    weights = {"w": torch.nn.Parameter(torch.full((64, 64), 1.0, dtype=torch.bfloat16))}
    optimizer = AdamW(weights.items())
    for _ in range(100):
        optimizer.step({"w": torch.ones(64, 64, dtype=torch.bfloat16)}, 1e-4)
    assert optimizer.master["w"].dtype == torch.float32
    torch.testing.assert_close(optimizer.master["w"], torch.full((64, 64), 0.99), rtol=1e-4, atol=0)
    assert torch.equal(weights["w"], optimizer.master["w"].bfloat16())
    assert weights["w"][0, 0] != 1.0


def test_state_round_trip():
    first, second = AdamW(parameters().items()), AdamW(parameters(torch.bfloat16).items())
    for step in range(3):
        first.step(gradients(step), 1e-2)
    second.load({n: t.clone() for n, t in first.tensors().items()}, first.updates)
    first.step(gradients(3), 1e-2)
    second.step(gradients(3), 1e-2)
    for name, master in first.master.items():
        assert torch.equal(master, second.master[name])
        assert torch.equal(second.parameters[name], master.bfloat16())


@pytest.mark.parametrize("warmup", [0, 0.1, 7])
def test_warmup_and_cosine(warmup):
    """Transformers' rate for step n is ours for step n + 1 after the warm-up, at whose end ours is at its peak."""
    steps, warm = 50, round(warmup * 50) if warmup < 1 else warmup
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, warm, steps)
    rates = []
    for _ in range(steps):
        rates.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    ours = [learning_rate(n, steps, 1.0, "cosine", warmup) for n in range(1, steps + 1)]
    assert ours[:warm] == pytest.approx([(n + 1) / warm for n in range(warm)])
    assert ours[warm:] == pytest.approx(rates[warm:])


def test_linear_and_constant():
    steps = 20
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    theirs = get_linear_schedule_with_warmup(optimizer, 0, steps)
    for n in range(1, steps + 1):
        assert learning_rate(n, steps, 2.0, "linear", 0) == pytest.approx(theirs.get_last_lr()[0])
        assert learning_rate(n, steps, 2.0, "constant", 0) == 2.0
        optimizer.step()
        theirs.step()


def test_clipping_equals_torch():
    batch = demonstrations()
    _, gradients = one_step(engine(), SFT(), batch)
    plain = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients.values()]
    for p, g in zip(plain, gradients.values(), strict=True):
        p.grad = g.clone()
    norm = torch.nn.utils.clip_grad_norm_(plain, 0.5)
    assert norm > 0.5
    taken = {}
    roles = engine(max_grad_norm=0.5)
    roles.optimizer.step = lambda grads, rate, scale: taken.update({n: g * scale for n, g in grads.items()})
    step = next(train(roles, SFT(), [batch], learning_rate=lambda n: 0.0, budget=Budget(1 << 30)))
    assert step.metrics["grad_norm"] == pytest.approx(norm.item(), rel=1e-6)
    for name, p in zip(gradients, plain, strict=True):
        torch.testing.assert_close(taken[name], p.grad, rtol=1e-5, atol=1e-8)


def test_gradients_of_narrow_formats_add_up_in_fp32():
    """bf16 gradients of many micro-batches, summed in fp32, come nearer the fp32 gradient than summed in bf16."""
    batch = demonstrations(n=30)
    _, exact = one_step(engine(), SFT(), batch)
    half = engine(model=engine().models["policy"].bfloat16())
    _, ours = one_step(half, SFT(), batch, tokens=20)
    assert all(g.dtype == torch.float32 for g in ours.values())
    errors = [((ours[n] - exact[n]).norm() / exact[n].norm()).item() for n in exact]
    assert max(errors) < 0.1


def wide(step):
    g = torch.Generator().manual_seed(step)
    return {n: torch.randn(s, generator=g) for n, s in {"matrix": (96, 70), "odd": (7, 601), "small": (9, 4)}.items()}


def test_eight_bits_equal_those_of_bitsandbytes():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    ours, theirs = ({n: torch.nn.Parameter(p) for n, p in wide(0).items()} for _ in range(2))
    mine = AdamW8bit(ours.items(), beta1=0.8, beta2=0.95, weight_decay=0.1)
    peer = bitsandbytes.optim.AdamW8bit(theirs.values(), lr=1e-2, betas=(0.8, 0.95), weight_decay=0.1)
    for step in range(1, 6):
        mine.step(wide(step), 1e-2)
        for name, p in theirs.items():
            p.grad = wide(step)[name]
        peer.step()
    for name in ("matrix", "odd"):
        assert torch.equal(ours[name], theirs[name]), name
        assert mine.exp_avg[name].dtype == torch.uint8
    torch.testing.assert_close(ours["small"], theirs["small"], rtol=1e-5, atol=1e-6)  # in 32 bits, by torch's kernel


def test_eight_bits_go_on_exactly():
    pytest.importorskip("bitsandbytes")
    first = AdamW8bit((n, torch.nn.Parameter(p)) for n, p in wide(0).items())
    for step in range(1, 4):
        first.step(wide(step), 1e-2, 0.5)
    saved = {name: t.clone() for name, t in first.tensors().items()}
    again = AdamW8bit((n, torch.nn.Parameter(p)) for n, p in wide(9).items())
    again.load(saved, 3)
    for one in (first, again):
        one.step(wide(4), 1e-2)
    assert all(torch.equal(t, again.tensors()[name]) for name, t in first.tensors().items())
