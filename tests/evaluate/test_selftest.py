"""`nurture selftest`: it passes where all is well, and fails loudly where something is not."""

from dataclasses import replace

import pytest
import torch
from families import TREE, tiny

from nurture.evaluate import selftest
from nurture.evaluate.selftest import run_checks
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
