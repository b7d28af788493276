"""Fused norms and gates against the code of transformers, and against finite differences."""

import copy

import pytest
import torch
from families import TREE, tiny

from nurture.models.fused import fuse

NORMS = {"llama", "qwen2", "qwen3", "mistral", "phi3", "olmo2", "smollm3"}
GATES = {"llama", "qwen2", "qwen3", "mistral", "olmo2", "smollm3"}


def fused(model):
    ours = copy.deepcopy(model)
    fuse(ours)
    return ours


def changed(model):
    """What kinds of module have a `forward` of ours."""
    modules = [m for m in model.modules() if type(m).__module__ == "nurture.models.fused"]
    return {"gate" if hasattr(m, "gate_proj") else "norm" for m in modules}


def gradients(model, ids):
    logits = model(ids).logits
    logits.square().mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("family", TREE)
def test_values_and_gradients_are_those_of_the_family(family):
    model = tiny(family)
    draw = torch.Generator().manual_seed(1)
    for module in model.modules():
        if "Norm" in type(module).__name__:
            module.weight.data.add_(0.3 * torch.randn(module.weight.shape, generator=draw))
    ours = fused(model)
    assert changed(ours) == {kind for kind, known in (("norm", NORMS), ("gate", GATES)) if family in known}
    ids = torch.randint(199, (2, 17), generator=draw)
    (logits, found), (expected, wanted) = gradients(ours, ids), gradients(model, ids)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 2e-5 * gradient.norm(), name


def test_norm_and_gate_by_finite_differences():
    layer = fused(tiny("llama").double()).model.layers[0]
    assert changed(layer) == {"norm", "gate"}
    for module in (layer.input_layernorm, layer.mlp):
        parameters = list(module.parameters())
        x = torch.randn(2, 3, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, *_, m=module: m(x), (x, *parameters), fast_mode=True)


def test_less_is_kept_for_the_backward_pass():
    """Counted by autograd's own hooks, each storage once."""

    def kept(model):
        seen = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.arange(128)[None])
        return sum(size for size, _ in seen.values()) - sum(p.nbytes for p in model.parameters())

    model = tiny("llama").bfloat16()
    assert kept(fused(model)) < 0.75 * kept(model)


def test_a_family_with_another_gate_keeps_its_own():
    """Of the same class as one that was fused before."""
    assert changed(fused(tiny("llama"))) == {"norm", "gate"}
    model = tiny("llama")
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.GELU()
    assert changed(fused(model)) == {"norm"}


def test_a_class_keeps_its_name():
    """transformers initialises and finds modules by it."""
    model = tiny("llama")
    names = [type(module).__name__ for module in model.modules()]
    assert [type(module).__name__ for module in fused(model).modules()] == names
