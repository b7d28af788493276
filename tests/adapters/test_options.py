"""Every field of every adapter has an effect on what a few updates make of the model. A new field adds to the table."""

import importlib.util
import json
from functools import cache

import pytest
import torch
from adapted import CASES, learn, load, logits, make_base

from nurture.adapters import ADAPTERS
from nurture.methods import SFT
from nurture.models.load import attach_adapter

LORA = {
    "r": 2, "lora_alpha": 32, "lora_dropout": 0.5, "target_modules": ["q_proj"], "layers_to_transform": [0],
    "use_rslora": True, "use_dora": True, "init_lora_weights": "pissa", "loraplus_lr_ratio": 16,
}  # fmt: skip
SETTINGS = {
    "freeze": {"train": "head"},
    "lora": LORA,
    "qlora": LORA | {"init_lora_weights": "gaussian"},
    "adalora": {
        "init_r": 6, "target_r": 1, "lora_alpha": 32, "lora_dropout": 0.5, "target_modules": ["q_proj"], "tinit": 0.4,
        "tfinal": 0.5, "deltaT": 5, "beta1": 0.1, "beta2": 0.1, "orth_reg_weight": 5.0,
    },
    "ia3": {"target_modules": ["k_proj"], "feedforward_modules": ["down_proj"]},
    "bottleneck": {
        "placement": "pfeiffer", "bottleneck_size": 4, "non_linearity": "tanh", "target_modules": ["o_proj"],
    },
    "prompt": {"num_virtual_tokens": 3, "prompt_tuning_init": "RANDOM", "prompt_tuning_init_text": "other words"},
    "prefix": {"num_virtual_tokens": 3, "prefix_projection": False, "encoder_hidden_size": 12},
    "ptuning": {
        "num_virtual_tokens": 3, "encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 12,
        "encoder_num_layers": 1, "encoder_dropout": 0.5,
    },
    "ptuning_v2": {"num_virtual_tokens": 3, "prefix_projection": True, "encoder_hidden_size": 12},
}  # fmt: skip
"""Another value of each field."""

TEXT = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "a number"}
BESIDE = {
    ("prompt", "prompt_tuning_init_text"): TEXT,
    ("ia3", "feedforward_modules"): {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": []},
    ("ptuning", "encoder_num_layers"): {"encoder_reparameterization_type": "LSTM"},
    ("ptuning", "encoder_dropout"): {"encoder_reparameterization_type": "LSTM"},
    ("ptuning_v2", "encoder_hidden_size"): {"prefix_projection": True},
}
"""Settings without which a field means nothing."""

FIELDS = [(name, field) for name, adapter in ADAPTERS.items() for field in adapter.model_fields if field != "name"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def plain(base):
    """`seen` of adapters that several fields are held against."""
    return cache(lambda name, beside: seen(base, ADAPTERS[name](**dict(json.loads(beside)))))


def seen(base, adapter):
    """The model after nine of ten updates."""
    loaded = attach_adapter(load(base, quantized=adapter.quantized), adapter, steps=10, seed=0)
    torch.manual_seed(0)
    loaded.model.train()
    learn(loaded, SFT(), steps=9, rate=1e-2)
    loaded.model.eval()
    return logits(loaded.model)


@pytest.mark.long
@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_another_value_makes_a_difference(base, plain, name, field):
    if name == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed (extra: quantized)")
    beside = CASES[name] | BESIDE.get((name, field), {})
    one, other = ADAPTERS[name](**beside), ADAPTERS[name](**beside | {field: SETTINGS[name][field]})
    assert getattr(one, field) != getattr(other, field)
    assert not torch.equal(plain(name, json.dumps(beside)), seen(base, other))


@pytest.mark.long
@pytest.mark.parametrize("name", ["lora", "ptuning"])
def test_the_same_values_make_none(base, plain, name):
    beside = {"lora": {"lora_dropout": 0.5}, "ptuning": CASES["ptuning-lstm"] | {"encoder_dropout": 0.5}}[name]
    assert torch.equal(plain(name, json.dumps(beside)), seen(base, ADAPTERS[name](**beside)))
