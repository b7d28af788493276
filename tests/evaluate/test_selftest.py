"""`nurture selftest`: it passes where all is well, and fails loudly where something is not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapted import STEPS, declared, learn, load, make_base, save
from families import TREE, tiny

from nurture.evaluate import selftest
from nurture.evaluate.selftest import run_checks
from nurture.methods import SFT
from nurture.models.layouts import Choice, TreePlan
from nurture.models.load import attach_adapter, train_tokenizer
from nurture.models.save import save_model


def folder_of(name, path):
    tokenizer = train_tokenizer(["a few words for a small tokenizer"] * 9, 290)
    model = tiny(name)
    model.resize_token_embeddings(300)
    save_model(model, tokenizer, path, state=None, dtype=torch.float32, card="", original_dropout=None)
    return str(path)


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "qwen3"])
def test_passes_on_a_sound_model(family, tmp_path):
    assert family in TREE
    checks = run_checks(folder_of(family, tmp_path / "model"))
    assert len(checks) >= 12
    assert not [check for check in checks if not check.ok]


def test_passes_on_a_model_that_ends_early_and_repeats_itself(tmp_path):
    """What its generation config says of stop tokens and penalties is no part of what is compared."""
    folder = Path(folder_of("qwen3", tmp_path / "model"))
    settings = {"eos_token_id": list(range(290)), "repetition_penalty": 1.7}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    assert not [check for check in run_checks(str(folder)) if not check.ok]


FOLDER = "folder: plain peft gives the same log-probs"


def lora_on(base, folder, case="lora"):
    adapter = declared(case)
    loaded = attach_adapter(load(base, quantized=adapter.quantized, merged=True), adapter, steps=STEPS, seed=0)
    roles, _ = learn(loaded, SFT(), steps=3, rate=3e-2)
    return save(loaded, roles, folder)


@pytest.mark.parametrize("case", ["lora", "prefix", "prompt", "qlora"])
def test_passes_on_an_adapter(case, tmp_path):
    folder = lora_on(make_base(tmp_path / "base"), tmp_path / "adapter", case)
    if case == "lora":
        settings = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(settings | {"lora_dropout": 0.5}))
    checks = {check.name: check for check in run_checks(str(folder))}
    assert not [check for check in checks.values() if not check.ok]
    assert FOLDER in checks


def test_passes_on_an_adapter_on_an_adapter_and_sees_one_that_peft_reads_otherwise(tmp_path, monkeypatch):
    lower = lora_on(make_base(tmp_path / "base"), tmp_path / "lower")
    upper = lora_on(lower, tmp_path / "upper")
    assert not [check for check in run_checks(str(upper)) if not check.ok]
    inner = selftest.load_model
    monkeypatch.setattr(selftest, "load_model", lambda source, **more: inner(
        tmp_path / "base" if Path(source) == lower else source, **more))  # fmt: skip
    assert [check.name for check in run_checks(str(upper)) if not check.ok] == [FOLDER]


def test_a_leak_between_responses_is_found(monkeypatch):
    attend = TreePlan.attend

    def leaky(self, layer, query, key, value, scaling, softcap):
        return attend(self, layer, query, key, value.roll(1, 2), scaling, softcap)

    monkeypatch.setattr(selftest, "choose_layout", lambda model, length: Choice("tree", "forced"))
    monkeypatch.setattr(TreePlan, "attend", leaky)
    failed = {check.name for check in run_checks() if not check.ok}
    assert "log-probs: ours = the model's own logits" in failed
    assert "gradients: tree layout = padded rows" in failed


def test_a_wrong_temperature_in_the_sampler_is_found(monkeypatch):
    inner = selftest.LocalSampler.sample

    def cold(self, requests, sampling):
        return inner(self, requests, replace(sampling, temperature=sampling.temperature * 0.9))

    monkeypatch.setattr(selftest.LocalSampler, "sample", cold)
    failed = [check.name for check in run_checks() if not check.ok]
    assert failed == ["sampler: log-probs = the trainer's"]
