"""Fused norms, gates and rotations against the code of transformers, and against finite differences."""

import copy

import pytest
import torch
from families import TREE, tiny

from nurture import kernels
from nurture.models.fused import fuse

NORMS = {"llama", "qwen2", "qwen3", "mistral", "phi3", "olmo2", "smollm3"}
GATES = {"llama", "qwen2", "qwen3", "mistral", "olmo2", "smollm3"}
ROTATIONS = set(TREE) - {"gpt2"}


def fused(model):
    ours = copy.deepcopy(model)
    fuse(ours)
    return ours


def changed(model):
    """What kinds of module have a `forward` of ours."""
    modules = [m for m in model.modules() if type(m).__module__ == "nurture.models.fused"]
    kinds = {"gate_proj": "gate", "num_key_value_groups": "rotation", "query_key_value": "rotation"}
    return {next((kind for name, kind in kinds.items() if hasattr(m, name)), "norm") for m in modules}


def rotation_of(model):
    attention = next(m for m in model.modules() if hasattr(m, "num_key_value_groups"))
    return type(attention).forward.__globals__["apply_rotary_pos_emb"]


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
    known = (("norm", NORMS), ("gate", GATES), ("rotation", ROTATIONS))
    assert changed(ours) == {kind for kind, families in known if family in families}
    ids = torch.randint(199, (2, 17), generator=draw)
    (logits, found), (expected, wanted) = gradients(ours, ids), gradients(model, ids)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 2e-5 * gradient.norm(), name


def test_norm_and_gate_by_finite_differences():
    layer = fused(tiny("llama").double()).model.layers[0]
    assert changed(layer) == {"norm", "gate", "rotation"}
    for module in (layer.input_layernorm, layer.mlp):
        parameters = list(module.parameters())
        x = torch.randn(2, 3, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, *_, m=module: m(x), (x, *parameters), fast_mode=True)


@pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_rotation_in_bf16_is_transformers_to_the_last_bit(family, monkeypatch):
    """Also back, and from queries whose heads lie in another order."""
    model = tiny(family)
    theirs, ours = map(rotation_of, (model, fused(model)))
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 9, heads, 64, generator=draw).bfloat16().transpose(1, 2) for heads in (4, 2))
    angle = torch.randn(1, 9, 32, generator=draw).repeat(1, 1, 2)
    called = []
    monkeypatch.setattr(kernels, "call", lambda *a, call=kernels.call: called.append(a[0]) or call(*a))

    def run(rotate, q, k):
        q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
        turned = rotate(q, k, angle.cos().bfloat16(), angle.sin().bfloat16())
        return [*turned, *torch.autograd.grad([x.float().square().sum() for x in turned], (q, k))]

    for given in ((q, k), (q.contiguous(), k.contiguous())):
        assert all(torch.equal(a, b) for a, b in zip(run(ours, *given), run(theirs, *given), strict=True))
    assert called == ["rotate_bf16"] * 8


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
    assert changed(fused(tiny("llama"))) == {"norm", "gate", "rotation"}
    model = tiny("llama")
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.GELU()
    assert changed(fused(model)) == {"norm", "rotation"}


def test_a_class_keeps_its_name():
    """transformers initialises and finds modules by it."""
    model = tiny("llama")
    names = [type(module).__name__ for module in model.modules()]
    assert [type(module).__name__ for module in fused(model).modules()] == names
