"""The step as one kernel against the same step in torch's operations, and its thin product against float64."""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import transformers as t
from families import COMMON, tiny
from torch import Tensor
from torch.nn.functional import linear

from nurture import kernels
from nurture.models.layouts import layout_of, scale_up
from nurture.protocols import Request, Sample, Sampling
from nurture.rollout.cache import DecodePlan, KeyValueCache
from nurture.rollout.fused import FusedDecoder, is_llama_shaped, probe
from nurture.rollout.native import NativeDecoder, has_product, native, product
from nurture.rollout.sampler import LocalSampler

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels here: {kernels.why_not()}")

ODD = COMMON | {"hidden_size": 76, "intermediate_size": 114}
CONFIGS: dict[str, Callable[[], t.PretrainedConfig]] = {
    "llama": lambda: t.LlamaConfig(**COMMON),
    "llama, odd sizes": lambda: t.LlamaConfig(**ODD, head_dim=18, attention_bias=True, mlp_bias=True),
    "llama, one key head": lambda: t.LlamaConfig(**COMMON | {"num_key_value_heads": 1}, head_dim=80),
    "llama, a key head each": lambda: t.LlamaConfig(**COMMON | {"num_key_value_heads": 4}, head_dim=32),
    "llama, nine heads": lambda: t.LlamaConfig(
        **COMMON | {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 200}),
    "qwen2": lambda: t.Qwen2Config(**COMMON),
    "qwen3": lambda: t.Qwen3Config(**COMMON | {"num_attention_heads": 12}, head_dim=64),
    "smollm3": lambda: t.SmolLM3Config(**COMMON | {"num_hidden_layers": 4}),
}  # fmt: skip


@pytest.fixture(params=["tiles", "no tiles"])
def tiles(request: pytest.FixtureRequest) -> Iterator[None]:
    library = kernels.library()
    assert library is not None
    if request.param == "tiles":
        yield
        return
    library.use_tiles(False)
    yield
    library.start()


def model_of(config: t.PretrainedConfig, dtype: torch.dtype) -> t.PreTrainedModel:
    torch.manual_seed(0)
    model = t.AutoModelForCausalLM.from_config(config).to(dtype).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
    scale_up(model, 4.0)
    return model


def cache_of(model: t.PreTrainedModel, rows: int, capacity: int) -> KeyValueCache:
    config = model.config
    draw = torch.Generator().manual_seed(1)
    cache, width = KeyValueCache(rows, capacity, capacity), model.model.layers[0].self_attn.head_dim
    for kept in (cache.keys, cache.values):
        for _ in range(config.num_hidden_layers):
            shape = (rows, config.num_key_value_heads, capacity, width)
            kept.append(torch.randn(shape, generator=draw).bfloat16().to(model.dtype))
    return cache


def step(model: t.PreTrainedModel, decoder: NativeDecoder | FusedDecoder, rows: int) -> tuple[Tensor, KeyValueCache]:
    cache = cache_of(model, rows, 60)
    lengths = [(7 * i) % 41 for i in range(rows)]
    ids = torch.arange(rows) * 7919 % model.config.vocab_size
    return decoder(ids, DecodePlan(cache, lengths, model.dtype, model.device)), cache


def off(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_a_step_is_that_of_torch(name: str, dtype: torch.dtype, tiles: None):
    """In bf16: as near to the step in fp32 on the same weights as torch's own bf16 is."""
    model = model_of(CONFIGS[name](), dtype)
    exact = copy.deepcopy(model).float()
    ours, theirs = native(model.model), FusedDecoder(model.model)
    assert ours is not None
    for rows in (1, 3, 16, 33, 70):
        found, torchs, wanted = (
            [out, *cache.keys, *cache.values]
            for out, cache in (
                step(model, ours, rows),
                step(model, theirs, rows),
                step(exact, FusedDecoder(exact.model), rows),
            )
        )
        for x, y, z in zip(found, torchs, wanted, strict=True):
            assert x.dtype == dtype
            assert off(x, z) <= 2e-5 if dtype == torch.float32 else off(x, z) <= 1.3 * off(y, z) + 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@torch.no_grad()
def test_a_row_is_computed_alike_beside_any_others(dtype: torch.dtype, tiles: None):
    model = model_of(CONFIGS["qwen3"](), dtype)
    decoder = native(model.model)
    assert decoder is not None
    many, cache = step(model, decoder, 40)
    assert torch.equal(many, step(model, decoder, 40)[0])
    few = cache_of(model, 40, 60)
    plan = DecodePlan(few, [0, 7, 14], model.dtype, model.device)
    assert torch.equal(decoder(torch.arange(3) * 7919 % model.config.vocab_size, plan), many[:3])
    assert torch.equal(few.keys[-1][:3], cache.keys[-1][:3])


@pytest.mark.parametrize("outs", [1, 7, 16, 33, 200])
@pytest.mark.parametrize("ins", [2, 24, 64, 98, 576])
def test_thin_product(ins: int, outs: int, tiles: None):
    torch.manual_seed(0)
    for rows in (1, 2, 15, 16, 17, 48, 70, 256):
        for dtype in (torch.float32, torch.bfloat16):
            x, weight, bias = (torch.randn(*s).to(dtype) for s in ((rows, ins), (outs, ins), (outs,)))
            assert has_product(weight, bias)
            for b in (None, bias):
                y = product(x, weight, b)
                assert y.dtype == torch.float32
                assert off(y, linear(x.double(), weight.double(), None if b is None else b.double())) <= 1e-6


def test_what_has_no_product():
    assert not has_product(torch.zeros(4, 7), None)
    assert not has_product(torch.zeros(8, 4).T, None)
    assert not has_product(torch.zeros(4, 8, dtype=torch.float64), None)
    assert not has_product(torch.zeros(4, 8), torch.zeros(4, dtype=torch.bfloat16))


@torch.no_grad()
def test_threads_change_nothing():
    model = model_of(CONFIGS["llama, nine heads"](), torch.bfloat16)
    decoder, own = native(model.model), torch.get_num_threads()
    assert decoder is not None
    found: list[tuple[Tensor, Tensor]] = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            hidden = step(model, decoder, 19)[0]
            found.append((hidden, product(hidden, model.lm_head.weight, None)))
    finally:
        torch.set_num_threads(own)
    for hidden, logits in found[1:]:
        assert torch.equal(hidden, found[0][0]) and torch.equal(logits, found[0][1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@torch.no_grad()
def test_lora_takes_part(dtype: torch.dtype, tiles: None):
    from peft import LoraConfig, get_peft_model

    model = model_of(CONFIGS["llama, odd sizes"](), dtype)
    config = LoraConfig(r=20, lora_alpha=30, lora_dropout=0.1, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(model, config, autocast_adapter_dtype=False).eval()
    exact = copy.deepcopy(model).float()
    ours, theirs, wanted = native(model.model), FusedDecoder(model.model), FusedDecoder(exact.model)
    assert ours is not None
    for rows in (1, 18, 40):
        found, torchs, truth = (step(m, d, rows)[0] for m, d in ((model, ours), (model, theirs), (exact, wanted)))
        limit = 2e-5 if dtype == torch.float32 else 1.3 * off(torchs, truth) + 1e-3
        assert off(found, truth) <= limit
        with adapted.disable_adapter():
            plain = native(model.model)
            assert plain is not None
            assert off(step(model, plain, rows)[0], found) > 0.1, "a table made now has no adapter"
    adapted.train()
    assert native(model.model) is None, "dropout"
    adapted.eval()
    adapted.add_adapter("other", config)
    adapted.base_model.set_adapter(["default", "other"])
    assert native(model.model) is None, "two at once"


@torch.no_grad()
def test_adapters_of_another_kind_or_format_stay_with_torch():
    from peft import LoraConfig, get_peft_model

    for config, dtype in (
        (LoraConfig(r=4, target_modules="all-linear", use_dora=True), torch.float32),
        (LoraConfig(r=3, target_modules="all-linear"), torch.float32),  # (an odd rank)
        (LoraConfig(r=4, target_modules="all-linear"), torch.bfloat16),  # (peft makes the adapter fp32)
    ):
        model = model_of(CONFIGS["llama"](), dtype)
        get_peft_model(model, config)
        assert native(model.model) is None


@torch.no_grad()
def test_weights_are_read_anew():
    model = model_of(CONFIGS["llama"](), torch.float32)
    decoder = native(model.model)
    assert decoder is not None
    before = step(model, decoder, 2)[0]
    model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    after = step(model, decoder, 2)[0]
    assert off(after, before) > 1e-3 and off(after, step(model, FusedDecoder(model.model), 2)[0]) < 2e-5


@torch.no_grad()
def test_lookalikes_and_other_activations_are_not_served():
    sizes = COMMON | {"head_dim": 16, "pad_token_id": 0}
    gemma = model_of(t.GemmaConfig(**sizes, hidden_act="silu"), torch.float32)  # norms multiply by 1 + w
    with layout_of(gemma, "tree"):
        decoder = native(gemma.model)
        assert is_llama_shaped(gemma.model) and decoder is not None
        assert not probe(gemma.model, decoder)
        assert LocalSampler(gemma)._fused(False) is None
    assert native(model_of(t.LlamaConfig(**COMMON, hidden_act="gelu"), torch.float32).model) is None
    assert native(model_of(CONFIGS["llama"](), torch.float32).double().model) is None
    mixed = model_of(CONFIGS["llama"](), torch.bfloat16)
    mixed.model.norm.float()
    assert native(mixed.model) is None


@torch.no_grad()
def test_a_wrong_scale_shows_in_the_probe():
    model = model_of(CONFIGS["llama"](), torch.float32)
    with layout_of(model, "tree"):
        decoder = native(model.model)
        assert decoder is not None and probe(model.model, decoder)
        decoder._layers[1].rotates = 0
        assert not probe(model.model, decoder)
        decoder._layers[1].rotates = 1
        decoder._layers[1].scaling *= 1.1
        assert not probe(model.model, decoder)


def test_samples_with_and_without_kernels(monkeypatch: pytest.MonkeyPatch):
    model = tiny("qwen3")
    wanted = [Request(np.arange(3, 3 + n), 4, key=str(n)) for n in (1, 5, 17)]
    sampling = Sampling(max_tokens=40, temperature=0.9)

    def sample() -> tuple[type, list[Sample]]:
        sampler = LocalSampler(model, max_batch=7)
        with torch.no_grad(), layout_of(model, "tree"):
            kind = type(sampler._fused(False))
        return kind, sampler.sample(wanted, sampling)

    kind, ours = sample()
    monkeypatch.setattr(kernels, "library", lambda: None)
    kind_without, theirs = sample()
    assert kind is NativeDecoder and kind_without is FusedDecoder
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_allclose(a.logp, b.logp, atol=1e-4)
