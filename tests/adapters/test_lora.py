"""LoRA against the equations of its papers, written out in a few lines."""

import pytest
import torch
from adapted import adapted, engine_of, learn, logits, make_base
from engine import demonstrations, one_step
from torch import nn

from nurture.adapters.low_rank import updated
from nurture.adapters.peft_compat import FusedLora
from nurture.methods import SFT


class Reference(nn.Module):
    """h = W x + b + (alpha / r) B A x."""

    def __init__(self, linear, a, b, scale):
        super().__init__()
        self.linear, self.scale = linear, scale
        self.a, self.b = nn.Parameter(a.detach().clone()), nn.Parameter(b.detach().clone())

    def forward(self, x):
        return self.linear(x) + self.scale * (x @ self.a.T @ self.b.T)


def referenced(model, scale):
    """The same model with the reference in place of peft's layers."""
    from peft.tuners.lora import Linear

    for name, module in list(model.named_modules()):
        if isinstance(module, Linear):
            parent, _, last = name.rpartition(".")
            a, b = module.lora_A["policy"].weight, module.lora_B["policy"].weight
            setattr(model.get_submodule(parent), last, Reference(module.base_layer, a, b, scale))
    del model._attached
    return model


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "model")


@pytest.mark.parametrize(("case", "scale"), [("lora", 16 / 4), ("lora-rslora", 16 / 4**0.5)])
def test_values_and_gradients_are_the_equations(base, case, scale):
    ours, theirs = adapted(base, case), adapted(base, case)
    assert isinstance(ours.model.model.layers[0].mlp.up_proj, FusedLora)
    learn(ours, SFT(), steps=3)
    theirs.model.load_state_dict(ours.model.state_dict())
    _, gradients = one_step(engine_of(ours), SFT(), demonstrations())
    expected_logits = logits(ours.model)
    model = referenced(theirs.model, scale)
    assert torch.allclose(logits(model), expected_logits, atol=1e-4)
    _, found = one_step(engine_of(theirs), SFT(), demonstrations())
    for name, gradient in gradients.items():
        stem = name.replace(".lora_A.policy.weight", ".a").replace(".lora_B.policy.weight", ".b")
        assert torch.allclose(found[stem], gradient, atol=1e-5), name


def test_the_fused_update_by_finite_differences():
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 6), (5, 6), (5,), (2, 6), (5, 2)]  # x, W, bias, A, B
    x, weight, bias, a, b = (torch.randn(*s, dtype=torch.float64, generator=draw) for s in shapes)
    learnt = [t.requires_grad_() for t in (x, a, b)]
    assert torch.autograd.gradcheck(lambda x, a, b: updated(x, weight, bias, a, b, 0.7), learnt)
    assert torch.autograd.gradcheck(lambda a, b: updated(x.detach(), weight, None, a, b, 0.7), learnt[1:])


def test_dora_is_magnitude_times_direction(base):
    loaded = adapted(base, "lora-dora")
    learn(loaded, SFT(), steps=3)
    layer = loaded.model.model.layers[0].self_attn.o_proj
    w, a, b = layer.base_layer.weight, layer.lora_A["policy"].weight, layer.lora_B["policy"].weight
    changed = w + 4 * b @ a
    expected = layer.lora_magnitude_vector["policy"].weight[:, None] * changed / changed.norm(dim=1, keepdim=True)
    x = torch.randn(5, w.shape[1])
    assert torch.allclose(layer(x), x @ expected.T, atol=1e-5)


def test_pissa_takes_the_largest_singular_vectors(base):
    plain = adapted(base, "lora").model.model.layers[0].mlp.up_proj.base_layer.weight
    layer = adapted(base, "lora-pissa").model.model.layers[0].mlp.up_proj
    u, s, v = torch.linalg.svd(plain)
    best = u[:, :4] @ torch.diag(s[:4]) @ v[:4]
    assert torch.allclose(4 * layer.lora_B["policy"].weight @ layer.lora_A["policy"].weight, best, atol=1e-4)
    assert torch.allclose(layer.base_layer.weight, plain - best, atol=1e-4)


def test_lora_plus_moves_b_faster(base):
    """One step of Adam from zero moments moves a parameter by its learning rate."""
    loaded = adapted(base, "lora-plus")
    before = {n: p.detach().clone() for n, p in loaded.model.named_parameters() if p.requires_grad}
    learn(loaded, SFT(), steps=1, rate=1e-3)
    moved = {n: float((p - before[n]).abs().max()) for n, p in loaded.model.named_parameters() if n in before}
    for name, distance in moved.items():
        if ".lora_B." in name:
            assert distance == pytest.approx(16e-3, rel=1e-2), name
