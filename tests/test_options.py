"""Every setting of a stage that is about its training changes the run: its model, its metrics, or what is kept of it.
(Where data comes from, roles, rewards and machines have tests of their own.)"""

from functools import cache

import pytest
from rich.console import Console
from shorter import shorter

from nurture import api
from nurture.recipe import Stage

TINY = (
    "model={config: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, "
    "num_attention_heads: 2, max_position_embeddings: 256}, tokenizer: lab}"
)
USUAL = ("data=lab/demonstrations", "steps=8", "batch_size=4", "precision=fp32", "learning_rate=1e-2",
         "samples.count=1", "eval.share=0.1")  # fmt: skip
CHANGED = {
    "data": "lab/reasoning",
    "steps": "6",
    "epochs": ("0.2", "steps=null"),
    "batch_size": "3",
    "learning_rate": "2e-2",
    "schedule": "linear",
    "warmup": "4",
    "optimizer": "muon",
    "weight_decay": "0.5",
    "beta1": "0.5",
    "beta2": "0.5",
    "max_grad_norm": "0.01",
    "dropout": "0.5",
    "max_length": "40",
    "on_long": ("cut", "max_length=40"),
    "precision": "bf16",
    "seed": "7",
    "adapter": ("freeze", "model=lab"),
    "checkpoint.every": "2",
    "checkpoint.keep": ("3", "checkpoint.every=2"),
    "eval.share": "0.3",
    "eval.data": ("lab/reasoning", "eval.share=0"),
    "eval.every": "2",
    "eval.keep_best": ("false", "eval.every=2", "learning_rate=0.5"),
    "samples.count": "2",
    "samples.every": "4",
    "samples.max_tokens": "3",
    "samples.prompts": "[Hello]",
}
"""Another value of each, and what has to stand beside both."""

OTHERS = {
    "model", "method", "mix_temperature", "layout", "tokens_per_micro", "gradient_checkpointing", "processes",
    "nonfinite", "device", "on_bad_row", "track", "checkpoint.on_save_error", "ref",
    "precompute_ref_log_probs", "reward", "oracle", "deadline", "stop_limit", "env", "alarms", "ptx_data",
    "critic", "teacher",
}  # fmt: skip
"""Settings about more than the numbers of one such run: data, machines, other models, faults."""


def settings():
    for name, field in Stage.model_fields.items():
        inner = getattr(field.annotation, "model_fields", {}) if name in ("checkpoint", "eval", "samples") else {}
        yield from (f"{name}.{key}" for key in inner) if inner else (name,)


@pytest.fixture(autouse=True)
def few_rows():
    with shorter({"lab/demonstrations": 70, "lab/reasoning": 70}):
        yield


def outcome(out, *words):
    """Everything of a run that a user sees, but times and paths."""
    api.train("sft", [TINY, *USUAL, *words, f"out={out}"], console=Console(quiet=True))
    model = next((out / "model").glob("*model.safetensors")).read_bytes()
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    return model, kept, (out / "metrics.jsonl").read_text(), (out / "samples.jsonl").read_text()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The outcomes that several settings are held against."""
    return cache(lambda *beside: outcome(tmp_path_factory.mktemp("plain"), *beside))


@pytest.mark.long
@pytest.mark.parametrize("name", CHANGED)
def test_another_value_makes_a_difference(name, plain, tmp_path):
    value, *beside = CHANGED[name] if isinstance(CHANGED[name], tuple) else (CHANGED[name],)
    assert plain(*beside) != outcome(tmp_path / "other", *beside, f"{name}={value}")


@pytest.mark.long
def test_the_same_values_make_none(plain, tmp_path):
    assert plain() == outcome(tmp_path / "same")
    assert plain("dropout=0.5") == outcome(tmp_path / "dropout", "dropout=0.5")


def test_every_setting_is_in_one_of_the_tables():
    assert sorted(settings()) == sorted([*CHANGED, *OTHERS])
