"""What is kept of a reference: the numbers it gives live, found again only for the same model and data."""

import numpy as np
import pytest
import torch
from engine import demonstrations, engine, one_step, pairs
from families import tiny

from nurture.methods import DPO
from nurture.models.layouts import set_layout
from nurture.models.roles import LocalRoles
from nurture.train.optim import AdamW
from nurture.train.processes import Processes
from nurture.train.reference import ask, attach, cache, cached, content_key, keep, kept
from nurture.types import Batch


def test_a_reference_asked_once_is_a_live_one():
    batch = pairs(n=6)
    live_metrics, live = one_step(engine(), DPO(), batch)
    model, ref = tiny("llama"), tiny("llama", 1)
    set_layout(ref, "tree")
    logp = ask(ref, "tree", batch.groups, 40, batch.device)
    set_layout(model, "tree")
    optimizer = AdamW(list(model.named_parameters()))
    roles = LocalRoles({"policy": model}, {"policy": "tree"}, optimizer, Processes())
    metrics, gradients = one_step(roles, DPO(), Batch(tuple(attach(batch.groups, logp))))
    assert metrics["loss"] == pytest.approx(live_metrics["loss"], rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, live[name], rtol=1e-4, atol=1e-6)


def test_every_response_gets_its_own_share():
    batch = demonstrations()
    attached = Batch(tuple(attach(batch.groups, np.arange(batch.num_own, dtype=np.float32))))
    assert attached.logp_ref.tolist() == list(range(batch.num_own))
    turned = Batch(attached.groups[::-1])
    order = np.concatenate([np.arange(batch.num_own)[batch.group[batch.response].numpy() == g]
                            for g in reversed(range(batch.num_groups))])  # fmt: skip
    assert turned.logp_ref.tolist() == order.tolist()


def test_it_is_found_again_for_the_same_model_and_data_alone(tmp_path):
    path, groups = tmp_path / "ref_logp.safetensors", pairs().groups
    logp = np.random.default_rng(0).random(7).astype(np.float32)
    key = content_key("model", "fp32 tree", groups)
    assert kept(path, key) is None
    keep(path, key, logp)
    assert np.array_equal(kept(path, key), logp)
    for other in (
        content_key("other", "fp32 tree", groups),
        content_key("model", "bf16 tree", groups),
        content_key("model", "fp32 tree", groups[::-1]),
        content_key("model", "fp32 tree", pairs(seed=1).groups),
    ):
        assert kept(path, other) is None
    path.write_bytes(path.read_bytes()[:-3])
    assert kept(path, key) is None, "a damaged file is asked for again"


def test_a_later_run_finds_it_in_the_users_cache(tmp_path, monkeypatch):
    key, logp = content_key("model", "fp32 tree", pairs().groups), np.arange(7, dtype=np.float32)
    monkeypatch.setenv("NURTURE_CACHE", "")
    cache(key, logp)
    assert cached(key) is None
    monkeypatch.setenv("NURTURE_CACHE", str(tmp_path / "full"))
    (tmp_path / "full").write_text("no folder")
    cache(key, logp)
    assert cached(key) is None
    monkeypatch.setenv("NURTURE_CACHE", str(tmp_path / "kept"))
    cache(key, logp)
    assert np.array_equal(cached(key), logp) and cached(key[::-1]) is None
