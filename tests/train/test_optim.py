"""The optimiser against torch's own, the schedule against transformers', the clipping against torch's."""

import re

import pytest
import torch
from adapted import adapted, engine_of, make_base
from engine import demonstrations, engine, one_step
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from nurture.errors import InputError
from nurture.methods import SFT
from nurture.models.heads import add_score_head, tables_of
from nurture.train.loop import Budget, train
from nurture.train.optim import AdamW, AdamW8bit, Muon, PagedAdamW8bit, learning_rate


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


def test_pages_need_cuda():
    with pytest.raises(InputError, match=r"paged_adamw_8bit moves memory .* computes on cpu; use adamw_8bit"):
        PagedAdamW8bit(parameters().items())


@pytest.mark.gpu
def test_paged_equals_that_of_bitsandbytes():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    shapes = {"paged": (400, 300), "small": (90, 70)}

    def drawn(step):
        g = torch.Generator().manual_seed(step)
        return {n: torch.randn(s, generator=g).cuda() for n, s in shapes.items()}

    ours, theirs = ({n: torch.nn.Parameter(p) for n, p in drawn(0).items()} for _ in range(2))
    mine = PagedAdamW8bit(ours.items(), weight_decay=0.1)
    peer = bitsandbytes.optim.PagedAdamW8bit(theirs.values(), lr=1e-2, weight_decay=0.1)
    for step in range(1, 6):
        mine.step(drawn(step), 1e-2)
        for name, p in theirs.items():
            p.grad = drawn(step)[name]
        peer.step()
    again = PagedAdamW8bit((n, torch.nn.Parameter(p)) for n, p in drawn(9).items())
    again.load({name: t.clone() for name, t in mine.tensors().items()}, 5)
    assert mine.exp_avg["paged"].is_paged and not hasattr(mine.exp_avg["small"], "is_paged")
    for name, p in ours.items():
        assert torch.equal(p, theirs[name]) and torch.equal(p, again.parameters[name]), name


# --- Muon -------------------------------------------------------------------------------------------------------------

TABLES = ("table",)


def hidden(step):
    """Wide, tall and square matrices, and what is none: a table of vectors, a single column, a vector."""
    g = torch.Generator().manual_seed(step)
    shapes = {"wide": (5, 12), "tall": (12, 5), "square": (6, 6), "table": (9, 4), "column": (7, 1), "bias": (5,)}
    return {n: torch.randn(s, generator=g) for n, s in shapes.items()}


def torchs(theirs, matrices, rate, weight_decay=0.0):
    """torch's Muon for these, and its AdamW for the rest."""
    rest = [(n, p) for n, p in theirs.items() if n not in matrices]
    groups = [
        {"params": [p for _, p in rest if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for _, p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    peers: list[torch.optim.Optimizer] = []
    if rest:
        peers.append(torch.optim.AdamW([g for g in groups if g["params"]], lr=rate))
    if matrices:
        peers.append(torch.optim.Muon(
            [theirs[n] for n in matrices], lr=rate, weight_decay=weight_decay, momentum=0.95, nesterov=True,
            adjust_lr_fn="match_rms_adamw",
        ))  # fmt: skip
    return peers


def follow(theirs, both, gradients):
    for name, p in theirs.items():
        p.grad = gradients[name].clone() if name in gradients else None
    for one in both:
        one.step()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_muon_equals_torch(weight_decay, scale):
    ours, theirs = ({n: torch.nn.Parameter(p) for n, p in hidden(0).items()} for _ in range(2))
    mine = Muon(ours.items(), weight_decay=weight_decay, tables=TABLES)
    assert mine.matrices == {"wide", "tall", "square"}
    both = torchs(theirs, sorted(mine.matrices), 1e-2, weight_decay)
    for step in range(1, 6):
        mine.step(hidden(step), 1e-2, scale)
        follow(theirs, both, {n: g * scale for n, g in hidden(step).items()})
    for name, p in ours.items():
        torch.testing.assert_close(p, theirs[name], rtol=1e-6, atol=1e-7)


def test_muon_does_not_depend_on_how_many_go_together(monkeypatch):
    shapes = {f"{kind}{i}": shape for i in range(5) for kind, shape in (("wide", (8, 24)), ("tall", (24, 8)))}
    draw = torch.Generator().manual_seed(0)
    start, *gradients = [{n: torch.randn(s, generator=draw) for n, s in shapes.items()} for _ in range(4)]
    ends = []
    for together in (1, 3 * 8 * 24, 1 << 22):
        monkeypatch.setattr(Muon, "TOGETHER", together)
        mine = Muon((n, torch.nn.Parameter(p.clone())) for n, p in start.items())
        assert [len(names) for names in mine._alike(shapes)] == {1: [1] * 10, 576: [3, 3, 3, 1]}.get(together, [10])
        for gradient in gradients:
            mine.step(gradient, 1e-2)
        ends.append(mine.master)
    for name in shapes:
        for end in ends[1:]:
            torch.testing.assert_close(end[name], ends[0][name], rtol=1e-6, atol=1e-7)


def test_muon_goes_on_exactly_and_keeps_no_squares_of_matrices():
    first = Muon(((n, torch.nn.Parameter(p)) for n, p in hidden(0).items()), tables=TABLES)
    for step in range(1, 4):
        first.step(hidden(step), 1e-2, 0.5)
    saved = {name: t.clone() for name, t in first.tensors().items()}
    assert "exp_avg_sq.table" in saved and "exp_avg_sq.wide" not in saved
    again = Muon(((n, torch.nn.Parameter(p)) for n, p in hidden(9).items()), tables=TABLES)
    again.load(saved, 3)
    for one in (first, again):
        one.step(hidden(4), 1e-2)
    assert all(torch.equal(t, again.tensors()[name]) for name, t in first.tensors().items())


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "model")


def muon_on(base, case):
    return engine_of(adapted(base, case), optimizer=Muon)


def steps_of(roles, n):
    return list(train(roles, SFT(), [demonstrations()] * n, learning_rate=lambda n: 1e-2, budget=Budget(1 << 30)))


MATRICES = {
    "lora": r".*\.lora_[AB]\..*", "lora-dora": r".*\.lora_[AB]\..*", "lora-plus": r".*\.lora_[AB]\..*",
    "qlora": r".*\.lora_[AB]\..*", "adalora": r".*\.lora_[AB]\..*", "ia3": None, "ptuning_v2": None,
    "bottleneck": r".*\.bottleneck_(down|up)\.policy\.weight", "freeze": r".*_proj\.weight",
}  # fmt: skip
"""What is a matrix of each adapter: not DoRA's lengths, AdaLoRA's lambdas, factors, biases and virtual tokens."""


@pytest.mark.parametrize("case", MATRICES)
def test_muon_beside_adapters(base, case):
    """Its updates are torch's, and half-way it goes on bit for bit."""
    roles = muon_on(base, case)
    mine, taken = roles.optimizer, []
    matrices = {n for n in mine.parameters if MATRICES[case] and re.fullmatch(MATRICES[case], n)}
    assert mine.matrices == matrices
    first = {n: p.detach().clone() for n, p in mine.parameters.items()}
    plain = mine.step
    mine.step = lambda gradients, rate, scale: (
        taken.append({n: g.float() * scale for n, g in gradients.items()}), plain(gradients, rate, scale)
    )  # fmt: skip
    steps_of(roles, 2)
    state = {n: x.clone() for n, x in mine.tensors().items()}
    more = {n: x.clone() for n, x in roles.companion.tensors().items()} if roles.companion else {}
    if not mine.rates and not roles.companion:  # (one learning rate for all, and nobody else changes the masters)
        theirs = {n: torch.nn.Parameter(p) for n, p in first.items()}
        both = torchs(theirs, sorted(matrices), 1e-2)
        for gradients in taken:
            follow(theirs, both, gradients)
        for name, p in theirs.items():
            torch.testing.assert_close(mine.master[name], p.data, rtol=1e-5, atol=1e-6)

    steps_of(roles, 2)
    again = muon_on(base, case)
    again.optimizer.load(state, 2)
    if again.companion:
        again.companion.load(more, 2)
    steps_of(again, 2)
    assert all(torch.equal(x, again.optimizer.tensors()[n]) for n, x in mine.tensors().items())
    assert all(x.isfinite().all() for x in mine.master.values())
    same = [n for n, p in mine.parameters.items() if torch.equal(p, first[n])]
    assert not [n for n in same if ".lora_E." not in n], "all of it learns (but lambdas that lost their rank)"


def test_heads_and_new_tokens_are_tables(base):
    """Each of their rows is a vector of its own, so Muon leaves them to AdamW."""
    model = adapted(base, "lora").model
    add_score_head(model, 3)
    tables = {id(p) for p in tables_of(model)}
    named = {n for n, p in model.named_parameters() if id(p) in tables}
    assert named == {"model.embed_tokens.weight", "lm_head.weight", "score.weight"}
