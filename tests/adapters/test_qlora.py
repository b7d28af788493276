"""QLoRA's base really is in four bits, and what flows through it is the dequantised weight."""

import pytest
import torch
from adapted import adapted, engine_of, learn, load, make_base, numbered_rows, save
from pydantic import ValidationError
from rich.console import Console

from nurture.adapters.qlora import QLoRA
from nurture.errors import InputError
from nurture.export import export
from nurture.methods import SFT
from nurture.models.load import parameter_count
from nurture.recipe import stage_from
from nurture.run import run_stage

bnb = pytest.importorskip("bitsandbytes")
QUIET = Console(quiet=True)

NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
"""The 16 values of the data type: Dettmers et al. 2023, appendix E."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "model", hidden_size=64, intermediate_size=128)


def test_values_are_those_of_nf4(base):
    plain = load(base).model.model.layers[0].mlp.up_proj.weight
    packed = load(base, quantized=True).model.model.layers[0].mlp.up_proj.weight
    assert packed.dtype == torch.uint8 and packed.numel() * 2 == plain.numel()
    values = bnb.functional.dequantize_4bit(packed.data, packed.quant_state).float().reshape(-1, 64)
    blocks = plain.reshape(-1, 64)
    constants = blocks.abs().amax(1, keepdim=True)
    nearest = (blocks / constants)[..., None].sub(torch.tensor(NF4)).abs().argmin(-1)
    expected = torch.tensor(NF4)[nearest] * constants
    assert (values - expected).norm() < 0.02 * expected.norm(), "up to the second quantisation, of the constants"


def test_the_input_gradient_is_that_of_the_dequantised_weight(base):
    layer = load(base, quantized=True).model.model.layers[0].mlp.down_proj
    x = torch.randn(7, 128, requires_grad=True)
    upstream = torch.randn(7, 64)
    layer(x).backward(upstream)
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    assert torch.allclose(x.grad, upstream @ weight, atol=1e-4)


def test_training_leaves_the_packed_weights_alone(base):
    loaded = adapted(base, "qlora", torch.bfloat16)
    packed = {n: p.detach().clone() for n, p in loaded.model.named_parameters() if p.dtype == torch.uint8}
    assert len(packed) == 2 * 7
    learn(loaded, SFT(), steps=3)
    for name, parameter in loaded.model.named_parameters():
        if name in packed:
            assert torch.equal(parameter, packed[name])


def test_it_counts_what_the_packed_weights_stand_for(base):
    assert parameter_count(load(base, quantized=True).model) == parameter_count(load(base).model)


@pytest.mark.parametrize("adapter", ["full", "freeze"])
def test_weights_in_four_bits_are_not_trained(base, tmp_path, adapter):
    """Neither those of a base nor, below another adapter, those that one was merged into."""
    rows = numbered_rows(tmp_path, 8)
    loaded = adapted(base, "qlora")
    folder = save(loaded, engine_of(loaded), tmp_path / "qlora")
    words = [f"data={rows}", "steps=1", "batch_size=2", "precision=fp32", "device=cpu", "samples.count=0"]
    above = run_stage(stage_from("sft", [f"model={folder}", "adapter=ia3", *words]), tmp_path / "above", QUIET)
    for model in (folder, above):
        stage = stage_from("sft", [f"model={model}", f"adapter={adapter}", *words])
        with pytest.raises(InputError, match=f"adapter: {adapter} trains weights, and those of .* in 4 bits") as told:
            run_stage(stage, tmp_path / "run", QUIET)
        assert told.value.exit_code == 2 and not (tmp_path / "run").exists()
    merged = export(str(folder), tmp_path / "merged", merged=True).folder
    run_stage(stage_from("sft", [f"model={merged}", f"adapter={adapter}", *words]), tmp_path / "fine", QUIET)


def test_a_start_that_four_bits_cannot_hold_is_refused():
    with pytest.raises(ValidationError, match="init_lora_weights: pissa takes singular vectors out of the base"):
        QLoRA(init_lora_weights="pissa")
    assert QLoRA(init_lora_weights="gaussian").init_lora_weights == "gaussian"
