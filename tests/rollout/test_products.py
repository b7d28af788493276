"""Products of a few rows against the textbook `x @ weight.T + bias`, packed and not."""

import pytest
import torch
from torch import nn

from nurture.rollout.products import PACK_STEPS, joined, pays_to_pack


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 16, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_side_by_side(dtype, rows, pack):
    torch.manual_seed(0)
    layers = [nn.Linear(24, 48), nn.Linear(24, 10, bias=False), nn.Linear(24, 7)]
    layers = [layer.to(dtype) for layer in layers]
    x = torch.randn(rows, 24).to(dtype)
    with torch.no_grad():
        want = torch.cat([x.double() @ m.weight.double().T + (0 if m.bias is None else m.bias) for m in layers], -1)
        for some, columns in ((layers, slice(None)), (layers[1:2], slice(48, 58))):
            ours = joined(some, pack)(x)
            assert ours.dtype == dtype
            tolerance = 1e-5 if dtype == torch.float32 else 2e-2
            torch.testing.assert_close(ours.double(), want[:, columns], rtol=tolerance, atol=tolerance)


def test_packed_weights_are_a_copy_and_unpacked_ones_are_read_anew():
    layer, x = nn.Linear(24, 8), torch.randn(2, 24)
    with torch.no_grad():
        before, packed, unpacked = layer(x), joined([layer], True), joined([layer], False)
        layer.weight.mul_(2)
        torch.testing.assert_close(packed(x), before)
        torch.testing.assert_close(unpacked(x), layer(x))


def test_anything_but_a_plain_linear_layer_is_called():
    class Adapted(nn.Linear):
        def forward(self, input):
            return super().forward(input) + 1

    plain, adapted, x = nn.Linear(24, 8), Adapted(24, 8), torch.randn(2, 24)
    with torch.no_grad():
        torch.testing.assert_close(joined([plain, adapted], True)(x), torch.cat([plain(x), adapted(x)], -1))


def test_packing_is_for_many_steps_of_one_format():
    weights = [torch.zeros(3, 3), torch.zeros(2, 3)]
    assert pays_to_pack(weights, PACK_STEPS) and not pays_to_pack(weights, PACK_STEPS - 1)
    assert not pays_to_pack([weights[0], weights[1].bfloat16()], PACK_STEPS)
    assert not pays_to_pack([weights[0].double()], PACK_STEPS)
