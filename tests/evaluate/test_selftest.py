"""`nurture selftest`: it passes where all is well, and fails loudly where something is not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapted import adapted, learn, make_base, save
from families import TREE, tiny

from nurture.evaluate import selftest
from nurture.evaluate.selftest import run_checks
from nurture.methods import SFT
from nurture.models.layouts import Choice, TreePlan
from nurture.models.load import train_tokenizer
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


@pytest.mark.parametrize("case", ["lora", "prefix", "prompt"])
def test_passes_on_an_adapter(case, tmp_path):
    loaded = adapted(make_base(tmp_path / "base"), case)
    roles, _ = learn(loaded, SFT(), steps=3)
    checks = {check.name: check for check in run_checks(str(save(loaded, roles, tmp_path / "adapter")))}
    assert not [check for check in checks.values() if not check.ok]
    assert "folder: plain peft gives the same log-probs" in checks


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
