"""`lm` and `sft` against transformers' own loss on the same tokens."""

import numpy as np
import pytest
import torch
from engine import demonstrations, engine, one_step
from families import tiny

from nurture.methods import LM, SFT
from nurture.types import Batch


@pytest.mark.parametrize("method", [LM(), SFT()], ids=lambda m: m.name)
def test_equals_transformers_loss(method):
    batch = demonstrations()
    model = tiny("qwen2")
    total = count = 0
    for group in batch.groups:
        for r in group.responses:
            ids = torch.as_tensor(np.concatenate([group.prompt, r.ids]))[None]
            labels = torch.cat(
                [torch.full((len(group.prompt),), -100), torch.as_tensor(np.where(r.mask, r.ids, -100))]
            )[None]
            trained = int((labels[:, 1:] != -100).sum())
            loss = model(ids, labels=labels).loss
            (loss * trained).backward()
            total, count = total + loss.item() * trained, count + trained
    theirs = {n: p.grad / count for n, p in model.named_parameters() if p.grad is not None}
    metrics, ours = one_step(engine("qwen2"), method, batch, tokens=60)
    assert metrics["loss"] == pytest.approx(total / count, rel=1e-5)
    for name in theirs:
        torch.testing.assert_close(
            ours[name], theirs[name], rtol=1e-4, atol=1e-6 + 1e-5 * theirs[name].abs().max().item()
        )


def test_accuracy_counts_first_choices():
    batch = demonstrations()
    metrics, _ = one_step(engine(), SFT(), batch)
    model, right = tiny("llama"), 0
    for group in batch.groups:
        for r in group.responses:
            ids = np.concatenate([group.prompt, r.ids])
            with torch.no_grad():
                first = model(torch.as_tensor(ids)[None]).logits[0].argmax(-1).numpy()
            places = np.flatnonzero(r.mask) + len(group.prompt)
            right += sum(first[p - 1] == ids[p] for p in places if p > 0)
    assert metrics["token_accuracy"] == pytest.approx(right / batch.num_own)


def test_the_first_token_of_a_text_is_not_predicted():
    group = demonstrations().groups[-2]
    assert len(group.prompt) == 0
    assert Batch((group,)).num_own == group.responses[0].mask[1:].sum()
