"""A tiny base in a folder, and adapters on it behind the real engine."""

import importlib.util
import json

import pytest
import torch
from engine import demonstrations

from nurture.adapters import ADAPTERS
from nurture.models.heads import output_head, tables_of
from nurture.models.layouts import LAY, hidden_states, layout_of, set_layout
from nurture.models.load import attach_adapter, load_model
from nurture.models.roles import LocalRoles
from nurture.models.save import model_card, save_adapter, save_model
from nurture.train.loop import Budget, train
from nurture.train.optim import AdamW
from nurture.train.processes import Processes

CPU = torch.device("cpu")
TEXTS = [f"The number {i * i} follows {i}; it's a square, naïve but true.\n\tNext:  {i + 1}" for i in range(200)]
SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": False,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "tie_word_embeddings": True}
CARD = model_card("tiny", base_model=None, method="lm")
STEPS = 10

CASES = {
    "full": {},
    "freeze": {},
    "freeze-range": {"train": "0-1"},
    "freeze-head": {"train": "head"},
    "freeze-bias": {"train": "bias"},
    "freeze-pattern": {"train": ["*.self_attn.q_proj.*", "mlp"]},
    "lora": {"r": 4},
    "lora-rslora": {"r": 4, "use_rslora": True},
    "lora-dora": {"r": 4, "use_dora": True},
    "lora-pissa": {"r": 4, "init_lora_weights": "pissa"},
    "lora-plus": {"r": 4, "loraplus_lr_ratio": 16},
    "lora-some": {"r": 4, "target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
    "adalora": {"init_r": 4, "target_r": 2},
    "qlora": {"r": 4},
    "ia3": {},
    "bottleneck": {"bottleneck_size": 8},
    "bottleneck-pfeiffer": {"bottleneck_size": 8, "placement": "pfeiffer"},
    "prompt": {"num_virtual_tokens": 5},
    "prompt-text": {"num_virtual_tokens": 5, "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "a number"},
    "prefix": {"num_virtual_tokens": 5},
    "ptuning": {"num_virtual_tokens": 5},
    "ptuning-lstm": {"num_virtual_tokens": 5, "encoder_reparameterization_type": "LSTM"},
    "ptuning_v2": {"num_virtual_tokens": 5},
    "ptuning_v2-encoded": {"num_virtual_tokens": 5, "prefix_projection": True},
}  # fmt: skip


def numbered_rows(folder, n, prompt="What follows {}?", completion=" {}."):
    """A file of demonstrations: each number and the next."""
    path = folder / "rows.jsonl"
    pairs = [{"prompt": prompt.format(i), "completion": completion.format(i + 1)} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return path


def declared(case):
    name = case.partition("-")[0]
    if name == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed (extra: quantized)")
    return ADAPTERS[name](**CASES[case])


def make_base(folder, model_type="qwen2", scale=4.0, texts=TEXTS, **shape):
    """A random model whose attention matters, saved in a folder."""
    from families import scale_up

    config = {"model_type": model_type, **(GPT2 if model_type == "gpt2" else SHAPE), **shape}
    fresh = load_model(
        {"config": config, "tokenizer": {"vocab_size": 300}}, dtype=torch.float32, device=CPU, seed=0, texts=texts
    )
    scale_up(fresh.model, scale)
    save_model(fresh.model, fresh.tokenizer, folder, state=None, dtype=torch.float32, card=CARD, original_dropout=None)
    return folder


def load(folder, dtype=torch.float32, **changes):
    return load_model(folder, dtype=dtype, device=CPU, seed=0, **changes)


def adapted(base, case, dtype=torch.float32, steps=STEPS):
    adapter = declared(case)
    loaded = load(base, dtype, quantized=adapter.quantized)
    loaded = attach_adapter(loaded, adapter, steps=steps, seed=0)
    loaded.model.eval()
    return loaded


def engine_of(loaded, layout="tree", steps=STEPS, optimizer=AdamW):
    model, adapter = loaded.model, loaded.adapter
    set_layout(model, layout)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    tables = {id(table) for table in tables_of(model)}
    names = {name for name, p in trained.items() if id(p) in tables}
    optimizer = optimizer(trained.items(), rates=adapter.rates(trained), tables=names)
    companion = adapter.companion(model, optimizer, steps)
    return LocalRoles({"policy": model}, {"policy": layout}, optimizer, Processes(), companion=companion)


def learn(loaded, method, steps=4, rate=3e-3, layout="tree", batch=None, of=STEPS):
    roles = engine_of(loaded, layout, of)
    batches = [demonstrations() if batch is None else batch] * steps
    taken = list(train(roles, method, batches, learning_rate=lambda n: rate, budget=Budget(1 << 30)))
    return roles, taken


def logits(model, layout="tree", batch=None):
    """What the model says of every own token of a batch, through our layouts and head."""
    laid = LAY[layout](demonstrations() if batch is None else batch)
    with torch.no_grad(), layout_of(model, layout):
        return output_head(model).logits(hidden_states(model, laid).index_select(0, laid.at))


def save(loaded, roles, folder):
    save_adapter(loaded, folder, state=dict(roles.optimizer.master), card=CARD)
    return folder


def gap(a, b):
    return float((a - b).norm() / b.norm())
