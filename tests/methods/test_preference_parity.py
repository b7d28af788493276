"""The methods that learn from pairs against TRL's own code on the same numbers, or NumPy where TRL has none."""

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine import pairs, thumbs

from nurture.methods import DPO, KTO, ORPO, Reward, SimPO
from nurture.types import Batch, RoleScores, Scores

trl = pytest.importorskip("trl", reason="compares with TRL (extra: parity)")
pytestmark = pytest.mark.parity


def scores(batch, seed=0, roles=("policy", "ref")):
    draw = torch.Generator().manual_seed(seed)
    logp = {r: -3 * torch.rand(batch.num_own, generator=draw, dtype=torch.float64) for r in roles}
    return Scores({r: RoleScores(logp=v.requires_grad_(r == "policy")) for r, v in logp.items()})


def ours(method, batch, said):
    loss = method.loss(batch, said).divided_by(method.counts(batch))
    return loss, torch.autograd.grad(loss, said.policy.logp)[0]


def rows(batch, per_token, responses):
    """`[n, width]` padded log-probs and their mask: what a model of TRL's returns for these responses."""
    parts = [per_token[batch.response == r] for r in responses]
    width = max(map(len, parts))
    padded = torch.stack([torch.nn.functional.pad(p, (0, width - len(p))) for p in parts])
    mask = torch.stack([torch.arange(width) < len(p) for p in parts])
    return padded, mask


class Bare:
    """An instance of a TRL trainer without its construction: only the method under test runs, as TRL wrote it."""

    def __new__(cls, trainer, **fields):
        made = object.__new__(trainer)
        identity = SimpleNamespace(
            device=torch.device("cpu"), gather_for_metrics=lambda x: x, gather=lambda x: x,
            unwrap_model=lambda model: model,
        )  # fmt: skip
        made.__dict__.update(
            accelerator=identity, model=SimpleNamespace(training=True), precompute_ref_logps=True,
            _metrics={"train": defaultdict(list), "eval": defaultdict(list)}, aux_loss_enabled=False,
            _total_train_tokens=0, _tp_size=1, **fields,
        )  # fmt: skip
        return made


class Says(torch.nn.Module):
    """A model that answers with given log-probs, one position behind a prompt of one token."""

    def __init__(self, logp):
        super().__init__()
        self.logp = logp

    def forward(self, input_ids, **_):
        nothing = torch.zeros_like(self.logp)  # what is only logged
        return SimpleNamespace(log_probs=self.logp, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())


DPO_VARIANTS = [
    (DPO(), "sigmoid", {}),
    (DPO(beta=0.5, loss_type="ipo"), "ipo", {}),
    (DPO(beta=0.3, loss_type="hinge"), "hinge", {}),
    (DPO(beta=0.3, loss_type="robust", label_smoothing=0.2), "robust", {"label_smoothing": 0.2}),
    (DPO(beta=0.7, length_normalization=True), "sigmoid_norm", {}),
]


@pytest.mark.parametrize(("method", "kind", "extra"), DPO_VARIANTS, ids=lambda x: x if isinstance(x, str) else "")
def test_dpo_is_trls(method, kind, extra):
    from trl import DPOTrainer

    batch = pairs(n=6)
    said = scores(batch)
    loss, gradient = ours(method, batch, said)

    order = [*batch.better.tolist(), *batch.worse.tolist()]
    logp, mask = rows(batch, said.policy.logp, order)
    ref = batch.sum_per_response(said.ref.logp)
    trainer = Bare(
        DPOTrainer, loss_types=[kind], loss_weights=[1.0], beta=method.beta, f_divergence_type="reverse_kl",
        ld_alpha=None, use_weighting=False, label_smoothing=extra.get("label_smoothing", 0.0), args=SimpleNamespace(),
    )  # fmt: skip
    completion = torch.cat([torch.zeros(len(order), 1, dtype=torch.long), mask.long()], 1)
    inputs = {
        "input_ids": torch.ones_like(completion), "completion_mask": completion,
        "attention_mask": torch.ones_like(completion),
        "ref_chosen_logps": ref[batch.better], "ref_rejected_logps": ref[batch.worse],
    }  # fmt: skip
    theirs = trainer._compute_loss(Says(logp).train(), inputs, return_outputs=False)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, said.policy.logp)[0], rtol=1e-5, atol=1e-9)


def test_conservative_dpo_by_numpy():
    batch = pairs(n=6)
    said = scores(batch)
    ratio = batch.sum_per_response(said.policy.logp - said.ref.logp).detach().numpy()
    m = 0.1 * (ratio[batch.better] - ratio[batch.worse])
    want = np.mean(0.8 * np.log1p(np.exp(-m)) + 0.2 * np.log1p(np.exp(m)))
    assert ours(DPO(label_smoothing=0.2), batch, said)[0].item() == pytest.approx(want, rel=1e-10)


def test_the_nll_term_is_the_mean_over_the_tokens_of_the_better_answers():
    batch = pairs(n=6)
    said = scores(batch)
    chosen = np.isin(batch.response.numpy(), batch.better.numpy())
    nll = -said.policy.logp.detach().numpy()[chosen].mean()
    with_term, without = ours(DPO(nll_coef=0.5), batch, said)[0], ours(DPO(), batch, said)[0]
    assert (with_term - without).item() == pytest.approx(0.5 * nll, rel=1e-10)


@pytest.mark.parametrize(("desirable", "undesirable"), [(1.0, 1.0), (1.5, 0.5)])
def test_kto_is_trls(desirable, undesirable):
    from trl import KTOTrainer

    batch = thumbs(n=5)
    said = scores(batch)
    method = KTO(beta=0.4, desirable_weight=desirable, undesirable_weight=undesirable)
    loss, gradient = ours(method, batch, said)

    labelled = torch.where(~batch.labels.isnan())[0].tolist()
    unrelated = torch.where(batch.labels.isnan())[0].tolist()
    logp, mask = rows(batch, said.policy.logp, labelled)
    kl = batch.sum_per_response(said.policy.logp)[unrelated]
    ref = batch.sum_per_response(said.ref.logp)
    trainer = Bare(
        KTOTrainer, loss_type="kto", calculate_KL=True, beta=0.4, desirable_weight=desirable,
        undesirable_weight=undesirable, args=SimpleNamespace(),
    )  # fmt: skip
    trainer._compute_kl_logps = lambda model, inputs: kl.detach()
    completion = torch.cat([torch.zeros(len(labelled), 1, dtype=torch.long), mask.long()], 1)
    inputs = {
        "input_ids": torch.ones_like(completion), "completion_mask": completion,
        "attention_mask": torch.ones_like(completion), "label": batch.labels[labelled] > 0.5,
        "ref_logps": ref[labelled], "ref_KL_logps": ref[unrelated],
    }  # fmt: skip
    theirs = trainer._compute_loss(Says(logp).train(), inputs, return_outputs=False)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    assert loss.item() == pytest.approx(theirs.mean().item(), rel=1e-5)
    theirs_gradient = torch.autograd.grad(theirs.mean(), said.policy.logp)[0]
    torch.testing.assert_close(gradient, theirs_gradient, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("margin", [0.0, 0.7])
@pytest.mark.parametrize("centring", [0.0, 0.01])
def test_reward_is_trls(margin, centring):
    from trl import RewardTrainer

    plain = pairs(n=6)
    batch = Batch(tuple(replace(g, margin=margin) for g in plain.groups))
    score = torch.randn(len(batch.scored), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    score.requires_grad_()
    method = Reward(center_rewards_coefficient=centring)
    loss = method.loss(batch, Scores(reward=RoleScores(score=score))).divided_by(method.counts(batch))

    class Scorer(torch.nn.Module):
        def forward(self, **_):
            return SimpleNamespace(logits=torch.cat([score[batch.better], score[batch.worse]]))

    trainer = Bare(RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=centring or None))
    inputs = {"attention_mask": torch.ones(12, 3)} | ({"margin": batch.margin.double()} if margin else {})
    trainer_loss = trainer.compute_loss(Scorer().train(), inputs)
    assert loss.item() == pytest.approx(trainer_loss.item(), rel=1e-5)
    gradients = [torch.autograd.grad(x, score)[0] for x in (loss, trainer_loss)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-9)


def test_orpos_odds_ratio_is_trls():
    from trl.experimental.orpo import ORPOTrainer

    batch = pairs(n=6)
    said = scores(batch, roles=("policy",))
    mean = batch.sum_per_response(said.policy.logp) / batch.own_tokens
    trainer = Bare(ORPOTrainer, beta=0.25)
    theirs = -trainer.odds_ratio_loss(mean[batch.better].detach(), mean[batch.worse].detach())[0].mean()
    method = ORPO(beta=0.25)
    sums = method.loss(batch, said).sums
    assert sums["pairs"].item() / batch.num_pairs == pytest.approx(theirs.item(), rel=1e-5)
    chosen = np.isin(batch.response.numpy(), batch.better.numpy())
    assert sums["chosen_tokens"].item() == pytest.approx(-said.policy.logp.detach().numpy()[chosen].sum())


def test_simpo_is_trls():
    from trl.experimental.cpo import CPOTrainer

    batch = pairs(n=6)
    said = scores(batch, roles=("policy",))
    mean = batch.sum_per_response(said.policy.logp) / batch.own_tokens
    trainer = Bare(CPOTrainer, beta=2.0, simpo_gamma=1.4, loss_type="simpo", label_smoothing=0.0, alpha=0.0)
    theirs = trainer.cpo_loss(mean[batch.better], mean[batch.worse])[0].mean()
    loss, gradient = ours(SimPO(gamma=1.4), batch, said)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, said.policy.logp)[0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("loss", ["ipo", "hinge"])
def test_smoothing_that_would_do_nothing_is_refused(loss):
    with pytest.raises(ValueError, match=f"{loss} has no place for it"):
        DPO(loss_type=loss, label_smoothing=0.1)
