"""Losses, gradients and advantages of the online methods against TRL on the same tensors, and against NumPy where TRL
has no such method (PPO, REINFORCE++, actor-critic)."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine import group, one_step, online_engine, rollout
from families import tiny
from pydantic import ValidationError

from nurture.methods import GRPO, PPO, RLOO, ActorCritic, Reinforce, ReinforcePP
from nurture.rollout.record import advantages, updates
from nurture.types import Batch, Group, Response, RoleScores, Scores

DRAW = np.random.default_rng(7)
LENGTHS = [[5, 2, 9], [1, 4, 7], [3, 3, 8]]


def recorded(seed=0, lengths=LENGTHS):
    """A rollout with random records, and the scores of a policy that has moved since."""
    draw = np.random.default_rng(seed)

    def column(n, shift=0.0, scale=1.0):
        return (shift + scale * draw.normal(size=n)).astype(np.float32)

    def response(n):
        return Response(
            draw.integers(0, 99, n), np.ones(n, bool), score=float(draw.normal()), logp_old=column(n, -2, 0.3),
            logp_ref=column(n, -2, 0.3), value=column(n), kl=np.abs(column(n)), logp_sampler=column(n, -2, 0.3),
        )  # fmt: skip

    groups = tuple(Group(draw.integers(0, 99, 4), tuple(map(response, ns)), str(i)) for i, ns in enumerate(lengths))
    batch = Batch(groups)
    logp = (batch.logp_old.double() + 0.3 * torch.tensor(draw.normal(size=batch.num_own))).requires_grad_()
    value = (batch.value.double() + 0.3 * torch.tensor(draw.normal(size=batch.num_own))).requires_grad_()
    entropy = torch.tensor(draw.random(batch.num_own)).requires_grad_()
    return batch, logp, value, entropy


def rows(batch, flat):
    """`[T] -> [R, longest]`, zeros behind the end: the layout of TRL and of the NumPy references."""
    longest = max(batch.own_lengths)
    parts = [torch.nn.functional.pad(p, (0, longest - len(p))) for p in flat.split(batch.own_lengths)]
    return torch.stack(parts)


def objective(method, batch, logp, value, entropy):
    scores = Scores(policy=RoleScores(logp=logp, entropy=entropy), value=RoleScores(value=value))
    loss = method.loss(batch, scores)
    return loss.divided_by(method.counts(batch)), loss


# --- GRPO and RLOO: TRL ----------------------------------------------------------------------------------------------


class Metrics(dict):
    def __missing__(self, key):
        self[key] = []
        return self[key]


def trl_self(kind, logp, entropy, **settings):
    """Just enough of a trainer to call TRL's own `_compute_loss` on tensors."""
    same = {"gather": lambda x: x, "reduce": lambda x, reduction: x, "num_processes": 1, "sync_gradients": True}
    defaults = {
        "_get_per_token_logps_and_entropies": lambda *a, **k: (logp, entropy, None), "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None, "use_vllm": False, "_entropy_bonus_enabled": False,
        "aux_loss_enabled": False, "current_gradient_accumulation_steps": 1, "max_completion_length": 16,
        "accelerator": SimpleNamespace(**same), "model": SimpleNamespace(training=True),
        "_metrics": {"train": Metrics()},
    }  # fmt: skip
    arguments = SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1)
    return SimpleNamespace(**defaults | settings, args=arguments)


def trl_inputs(batch):
    mask = rows(batch, torch.ones(batch.num_own)).long()
    prompt = torch.ones(len(mask), 2, dtype=torch.long)
    per_response = torch.stack([a[0] for a in batch.adv.split(batch.own_lengths)])
    return {
        "prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": mask, "completion_mask": mask,
        "advantages": per_response.double(), "old_per_token_logps": rows(batch, batch.logp_old).double(),
        "ref_per_token_logps": rows(batch, batch.logp_ref).double(), "num_items_in_batch": mask.sum(),
        "old_logps": batch.sum_per_response(batch.logp_old.double()),
    }  # fmt: skip


KIN = {
    "grpo": (GRPO(loss_type="grpo"), {"loss_type": "grpo"}),
    "dapo": (GRPO(clip_high=0.28, beta=0.0), {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.0}),
    "dr_grpo": (
        GRPO(loss_type="dr_grpo", scale_rewards="none", max_completion_length=16),
        {"loss_type": "dr_grpo"},
    ),
    "gspo": (
        GRPO(loss_type="grpo", importance_sampling_level="sequence", beta=0.0),
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.0},
    ),
    "cispo": (GRPO(loss_type="cispo", clip_high=0.1), {"loss_type": "cispo", "epsilon_high": 1.1}),
}


@pytest.mark.parity
@pytest.mark.parametrize("name", KIN)
def test_grpo_equals_trl(name):
    trainer = pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer
    method, theirs = KIN[name]
    batch, logp, value, entropy = recorded()
    batch = method.advantage(batch, {})
    ours, loss = objective(method, batch, logp, value, entropy)
    (gradient,) = torch.autograd.grad(ours, logp)
    settings = {"importance_sampling_level": "token", "beta": 0.04, "epsilon_low": 0.2, "epsilon_high": 0.2} | theirs
    self = trl_self(trainer, rows(batch, logp), rows(batch, entropy), **settings)
    expected = trainer._compute_loss(self, None, trl_inputs(batch))
    (expected_gradient,) = torch.autograd.grad(expected, logp)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-6, rtol=1e-6)
    clipped, n = loss.stats["clip_fraction"]
    assert 0 < float(clipped) < n, "some are clipped and some are not"
    if settings["beta"]:
        assert float(loss.stats["kl"][0]) / n == pytest.approx(self._metrics["train"]["kl"][0], rel=1e-6)


@pytest.mark.parity
def test_rloo_equals_trl():
    trainer = pytest.importorskip("trl.trainer.rloo_trainer").RLOOTrainer
    method = RLOO()
    batch, logp, value, entropy = recorded()
    batch = method.advantage(batch, {})
    ours, _ = objective(method, batch, logp, value, entropy)
    (gradient,) = torch.autograd.grad(ours, logp)
    self = trl_self(trainer, rows(batch, logp), rows(batch, entropy), epsilon_low=0.2, epsilon_high=0.2)
    expected = trainer._compute_loss(self, None, trl_inputs(batch))
    (expected_gradient,) = torch.autograd.grad(expected, logp)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-6, rtol=1e-6)


def per_response(batch):
    return np.array([float(a[0]) for a in batch.adv.split(batch.own_lengths)]).reshape(3, 3)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_grpo_advantages(scale):
    batch, *_ = recorded()
    scores = np.array([r.score for r in batch.responses]).reshape(3, 3)
    std = {"group": scores.std(1, ddof=1, keepdims=True) + 1e-4, "batch": scores.std(ddof=1) + 1e-4, "none": 1.0}
    expected = (scores - scores.mean(1, keepdims=True)) / std[scale]
    np.testing.assert_allclose(per_response(GRPO(scale_rewards=scale).advantage(batch, {})), expected, atol=1e-5)


def test_a_group_without_signal_moves_nothing():
    batch, logp, value, entropy = recorded()
    groups = tuple(replace(g, responses=tuple(replace(r, score=1.0) for r in g.responses)) for g in batch.groups)
    for method in (GRPO(beta=0.0), RLOO(beta=0.0)):
        ours, _ = objective(method, method.advantage(Batch(groups), {}), logp, value, entropy)
        assert torch.autograd.grad(ours, logp)[0].abs().max() == 0


def test_overlong_responses():
    """DAPO's eq. 13 with L_max 10 and a buffer of 4: untouched up to 6 tokens, then down to -1 at 10."""
    lengths = [[6, 8, 10]]
    batch, *_ = recorded(lengths=lengths)
    plain = GRPO(scale_rewards="none", max_completion_length=10, overlong_buffer=4).advantage(batch, {})
    scores = np.array([r.score for r in batch.responses]) - [0.0, 0.5, 1.0]
    ours = [float(a[0]) for a in plain.adv.split(plain.own_lengths)]
    np.testing.assert_allclose(ours, scores - scores.mean(), atol=1e-6)


def test_truncated_responses_leave_the_loss_but_not_the_baseline():
    batch, *_ = recorded()
    first, *others = batch.groups[0].responses
    cut = Group(batch.groups[0].prompt, (replace(first, truncated=True), *others))
    batch = Batch((cut, *batch.groups[1:]))
    masked = GRPO(mask_truncated_completions=True).advantage(batch, {})
    assert masked.num_responses == batch.num_responses - 1
    whole = GRPO().advantage(batch, {})
    torch.testing.assert_close(masked.adv, whole.adv[len(first.ids) :])


def test_rloo_advantages():
    batch, *_ = recorded()
    kl = batch.sum_per_response(batch.logp_old - batch.logp_ref).numpy()
    scores = (np.array([r.score for r in batch.responses]) - 0.05 * kl).reshape(3, 3)
    expected = scores - (scores.sum(1, keepdims=True) - scores) / 2
    np.testing.assert_allclose(per_response(RLOO().advantage(batch, {})), expected, atol=1e-5)
    expected = (expected - expected.mean()) / (expected.std(ddof=1) + 1e-4)
    ours = RLOO(normalize_advantages=True).advantage(batch, {})
    np.testing.assert_allclose(per_response(ours), expected, atol=1e-5)


# --- PPO: NumPy ------------------------------------------------------------------------------------------------------


def numpy_advantages(batch, reward, gamma, lam):
    out, value = [], batch.value.numpy().astype(np.float64)
    for r, v in zip(*(np.split(x, np.cumsum(batch.own_lengths)[:-1]) for x in (reward, value)), strict=True):
        adv = np.zeros(len(r) + 1)
        for t in reversed(range(len(r))):
            following = v[t + 1] if t + 1 < len(r) else 0.0
            adv[t] = r[t] + gamma * following - v[t] + gamma * lam * adv[t + 1]
        out.append(adv[:-1])
    return np.concatenate(out)


ESTIMATES = {
    "k1": lambda p, q: p - q,
    "k2": lambda p, q: (p - q) ** 2 / 2,
    "k3": lambda p, q: np.exp(q - p) - 1 - (q - p),
}


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "full"])
def test_ppo_advantages_with_the_penalty_in_the_reward(estimator):
    batch, *_ = recorded()
    method = PPO(kl_estimator=estimator, gamma=0.9, lam=0.8, kl_coef=0.3, whiten_advantages=False)
    p, q = batch.logp_old.numpy().astype(np.float64), batch.logp_ref.numpy().astype(np.float64)
    reward = -0.3 * (batch.kl.numpy() if estimator == "full" else ESTIMATES[estimator](p, q))
    reward[np.cumsum(batch.own_lengths) - 1] += [r.score for r in batch.responses]
    expected = numpy_advantages(batch, reward, 0.9, 0.8)
    ours = method.advantage(batch, {})
    np.testing.assert_allclose(ours.adv, expected, atol=1e-5)
    np.testing.assert_allclose(ours.ret, expected + batch.value.numpy(), atol=1e-5)
    white = method.model_copy(update={"whiten_advantages": True}).advantage(batch, {})
    np.testing.assert_allclose(white.adv, (expected - expected.mean()) / expected.std(ddof=1), atol=1e-5)
    np.testing.assert_allclose(white.ret, ours.ret)


def numpy_ppo(method, batch, logp, value, entropy):
    """The loss and its gradients, by hand."""
    adv, ret, old, old_value = (
        x.numpy().astype(np.float64) for x in (batch.adv, batch.ret, batch.logp_old, batch.value)
    )
    n, ratio = len(adv), np.exp(logp - old)
    free, held = ratio * adv, np.clip(ratio, 1 - method.clip_low, 1 + method.clip_high) * adv
    inside = (ratio >= 1 - method.clip_low) & (ratio <= 1 + method.clip_high)
    loss, d_logp = -np.minimum(free, held), -np.where((free < held) | inside, free, 0.0)
    near = old_value + np.clip(value - old_value, -method.clip_value, method.clip_value)
    errors = (value - ret) ** 2, (near - ret) ** 2
    loss = loss + method.vf_coef * np.maximum(*errors) / 2 - method.entropy_coef * entropy
    moves = np.abs(value - old_value) <= method.clip_value
    d_value = method.vf_coef * np.where((errors[0] > errors[1]) | moves, value - ret, 0.0)
    if method.kl_in == "loss":
        q = batch.logp_ref.numpy().astype(np.float64)
        loss = loss + method.kl_coef * ESTIMATES[method.kl_estimator](logp, q)
        d_logp = d_logp + method.kl_coef * {"k2": logp - q, "k3": 1 - np.exp(q - logp)}[method.kl_estimator]
    return loss.mean(), d_logp / n, d_value / n, np.full(n, -method.entropy_coef / n)


@pytest.mark.parametrize(
    "method",
    [PPO(entropy_coef=0.1), PPO(kl_in="loss", kl_estimator="k2"), PPO(kl_in="loss", kl_estimator="k3", clip_high=0.4)],
    ids=["reward", "k2", "k3"],
)
def test_ppo_equals_numpy(method):
    batch, *leaves = recorded()
    batch = method.advantage(batch, {})
    ours, loss = objective(method, batch, *leaves)
    expected, *gradients = numpy_ppo(method, batch, *(x.detach().numpy() for x in leaves))
    assert ours.item() == pytest.approx(expected, rel=1e-6)
    for gradient, theirs in zip(torch.autograd.grad(ours, leaves, allow_unused=True), gradients, strict=True):
        np.testing.assert_allclose(0.0 if gradient is None else gradient, theirs, atol=1e-7, rtol=1e-6)
    clipped, n = loss.stats["clip_fraction"]
    assert 0 < float(clipped) < n


def test_exact_kl_in_the_loss_through_the_engine():
    """The full-vocabulary KL and its gradient equal those of the two models' softmaxes."""
    method = PPO(kl_in="loss", kl_estimator="full", kl_coef=2.0)
    without = PPO(kl_coef=0.0)
    batch = rollout(without)
    metrics, with_kl = one_step(online_engine(), method, batch, tokens=60)
    _, plain = one_step(online_engine(), without, batch)
    models = {"policy": tiny("llama", 0), "ref": tiny("llama", 1)}
    total = count = 0
    for g in batch.groups:
        for r in g.responses:
            ids = torch.as_tensor(np.concatenate([g.prompt, r.ids]))[None]
            at = torch.as_tensor(np.flatnonzero(r.mask) + len(g.prompt) - 1)
            p, q = (models[m](ids).logits[0].log_softmax(-1)[at] for m in ("policy", "ref"))
            total, count = total + (p.exp() * (p - q.detach())).sum(), count + len(at)
    kl = total / count
    assert metrics["kl"] == pytest.approx(kl.item(), rel=1e-5)
    (2.0 * kl).backward()
    for name, p in models["policy"].named_parameters():
        torch.testing.assert_close(with_kl[name] - plain[name], p.grad, rtol=1e-4, atol=1e-5)


def test_ptx_is_a_second_mean():
    """Demonstrations mixed in carry no advantage: they add their own mean negative log-probability and touch nothing
    else."""
    method = PPO(ptx_coef=3.0)
    batch, logp, value, entropy = recorded()
    batch = method.advantage(batch, {})
    demonstration = group(np.random.default_rng(5), 3, (6,))
    mixed = Batch((*batch.groups, demonstration))
    n = mixed.num_own - batch.num_own
    extra = torch.linspace(-3, -1, n, dtype=torch.float64, requires_grad=True)
    longer = [torch.cat([x, extra]) for x in (logp, value, entropy)]
    alone, _ = objective(method, batch, logp, value, entropy)
    both, loss = objective(method, mixed, *longer)
    assert method.counts(mixed) == {"tokens": batch.num_own, "ptx_tokens": n}
    torch.testing.assert_close(both, alone - 3.0 * extra.mean())
    torch.testing.assert_close(torch.autograd.grad(both, extra)[0], torch.full((n,), -3.0 / n, dtype=torch.float64))
    only, _ = objective(method, Batch((demonstration,)), *(extra,) * 3)
    torch.testing.assert_close(only, -3.0 * extra.mean())
    assert loss.stats["ptx_loss"][1] == n and loss.stats["kl"][1] == batch.num_own


def test_adaptive_kl_moves_towards_its_target():
    method = PPO(kl_target=0.02, kl_coef=0.1)
    state = {}
    for _ in range(3):
        state = method.after_step(state, {"kl": 0.5})
    assert state["kl_coef"] == pytest.approx(0.1 * 1.02**3), "at most 2% an update"
    assert method.after_step(state, {"kl": 0.018})["kl_coef"] == pytest.approx(0.1 * 1.02**3 * 0.99)
    batch, *_ = recorded()
    raised = method.advantage(batch, {"kl_coef": 0.4, "updates": 1})
    assert torch.equal(raised.adv, PPO(kl_coef=0.4).advantage(batch, {}).adv)


def test_only_the_critic_learns_during_its_warm_up():
    method = PPO(critic_warmup=2)
    batch, logp, value, entropy = recorded()
    cold = method.advantage(batch, {})
    ours, _ = objective(method, cold, logp, value, entropy)
    d_logp, d_value = torch.autograd.grad(ours, [logp, value])
    assert d_logp.abs().max() == 0 and d_value.abs().max() > 0
    warm = method.advantage(batch, {"updates": 2})
    assert torch.equal(warm.ret, cold.ret) and torch.equal(warm.adv, PPO().advantage(batch, {}).adv)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kl_in": "loss"}, "k1 has a gradient of mean 0"),
        ({"kl_in": "loss", "kl_estimator": "k3", "kl_target": 0.1}, "kl_target adapts a penalty in the reward"),
        ({"kl_coef": 0.0, "kl_target": 0.1}, "kl_coef, which is 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, sentence):
    with pytest.raises(ValidationError, match=sentence):
        PPO(**settings)


@pytest.mark.parametrize(
    ("method", "settings", "sentence"),
    [
        (ReinforcePP, {"group_baseline": True}, "set num_generations above 1"),
        (GRPO, {"overlong_buffer": 1000, "max_completion_length": 96}, "every answer would be punished"),
        (Reinforce, {"num_iterations": 8}, "set 1, or take ppo"),
        (ActorCritic, {"num_iterations": 2}, "set 1, or take ppo"),
    ],
)
def test_settings_of_the_others_that_mean_nothing_are_refused(method, settings, sentence):
    with pytest.raises(ValidationError, match=sentence):
        method(**settings)


def test_without_a_reference_the_distance_is_not_known():
    batch, logp, value, entropy = recorded()
    for coef, known in ((0.0, False), (0.05, True)):
        method = PPO(kl_coef=coef)
        _, told = objective(method, method.advantage(batch, {}), logp, value, entropy)
        assert bool(told.stats["kl"][1]) is known


# --- the others, and what all share ----------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["none", "mean", "whiten"])
def test_reinforce(baseline):
    method = Reinforce(gamma=0.9, baseline=baseline, entropy_coef=0.2)
    batch, logp, value, entropy = recorded()
    returns = np.concatenate([r.score * 0.9 ** np.arange(len(r.ids))[::-1] for r in batch.responses])
    adv = {
        "none": returns,
        "mean": returns - returns.mean(),
        "whiten": (returns - returns.mean()) / returns.std(ddof=1),
    }
    ours, _ = objective(method, method.advantage(batch, {}), logp, value, entropy)
    d_logp, d_entropy = torch.autograd.grad(ours, [logp, entropy])
    np.testing.assert_allclose(d_logp, -adv[baseline] / len(returns), atol=1e-6)
    np.testing.assert_allclose(d_entropy, np.full(len(returns), -0.2 / len(returns)), atol=1e-9)


@pytest.mark.parametrize("group_baseline", [False, True])
def test_reinforce_pp_advantages(group_baseline):
    batch, *_ = recorded()
    scores = np.array([r.score for r in batch.responses]).reshape(3, 3)
    scores = (scores - scores.mean(1, keepdims=True) if group_baseline else scores).ravel()
    priced = -0.01 * (batch.logp_old - batch.logp_ref).numpy()
    ends = np.cumsum(batch.own_lengths)
    expected = [
        priced[t:end].sum() + s
        for s, start, end in zip(scores, np.append(0, ends[:-1]), ends, strict=True)
        for t in range(start, end)
    ]
    expected = (expected - np.mean(expected)) / np.std(expected, ddof=1)
    method = ReinforcePP(group_baseline=group_baseline, num_generations=3)
    np.testing.assert_allclose(method.advantage(batch, {}).adv, expected, atol=1e-5)


def test_importance_weights_multiply_the_surrogate():
    batch, logp, value, entropy = recorded()
    plain, capped = GRPO(beta=0.0), GRPO(beta=0.0, importance_cap=1.2)
    weighted = advantages(batch, capped, {})
    weight = (batch.logp_old - batch.logp_sampler).exp().clamp(max=1.2).double()
    assert (weight > 1.19).any() and (weight < 1.19).any()
    unweighted = plain.advantage(batch, {})
    ratio = (logp - batch.logp_old).exp()
    surrogate = torch.minimum(ratio * unweighted.adv, ratio.clamp(0.8, 1.2) * unweighted.adv)
    ours, _ = objective(capped, weighted, logp, value, entropy)
    torch.testing.assert_close(ours, -(weight * surrogate).mean(), atol=1e-6, rtol=1e-6)


def test_updates_go_through_the_rollout_in_parts():
    batch, *_ = recorded(lengths=LENGTHS * 3)
    method = PPO(num_iterations=2, num_mini_batches=4)
    mixed = [Group(np.arange(3), batch.groups[0].responses, f"mixed {i}") for i in range(4)]
    parts = list(updates(batch, method, 1, 0, mixed))
    assert len(parts) == method.updates_per_rollout == 8
    for iteration in (parts[:4], parts[4:]):
        assert sorted(g.key for p in iteration for g in p.groups) == sorted([*"012345678", *(g.key for g in mixed)])
        assert max(p.num_groups for p in iteration) - min(p.num_groups for p in iteration) <= 1
    again = list(updates(batch, method, 1, 0, mixed))
    assert [[g.key for g in p.groups] for p in again] == [[g.key for g in p.groups] for p in parts]
    assert [[g.key for g in p.groups] for p in updates(batch, method, 1, 1, mixed)] != [
        [g.key for g in p.groups] for p in parts
    ]


# --- REINFORCE++ and actor-critic: NumPy -----------------------------------------------------------------------------


def as_numpy(*tensors):
    return [x.detach().numpy().astype(np.float64) for x in tensors]


@pytest.mark.parametrize("settings", [{}, {"clip_low": 0.1, "clip_high": 0.4}], ids=["even", "uneven"])
def test_reinforce_pp_equals_numpy(settings):
    """The surrogate case by case instead of as a minimum: beyond the clip on the profitable side it is constant."""
    method = ReinforcePP(gamma=0.9, **settings)
    batch, *leaves = recorded()
    batch = method.advantage(batch, {})
    ours, loss = objective(method, batch, *leaves)
    adv, old, ref, logp = as_numpy(batch.adv, batch.logp_old, batch.logp_ref, leaves[0])
    ratio, most, least = np.exp(logp - old), 1 + method.clip_high, 1 - method.clip_low
    ended = np.where(adv > 0, ratio > most, ratio < least)
    edge = np.where(adv > 0, most, least)
    assert ours.item() == pytest.approx(-np.mean(np.where(ended, edge, ratio) * adv), rel=1e-9)
    d_logp, *others = torch.autograd.grad(ours, leaves, allow_unused=True)
    np.testing.assert_allclose(d_logp, np.where(ended, 0.0, -ratio * adv) / len(adv), atol=1e-12, rtol=1e-9)
    assert others == [None, None], "the critic and the entropy are in no term"
    told = {name: float(total) / count for name, (total, count) in loss.stats.items()}
    assert told["kl"] == pytest.approx(np.mean(logp - ref), rel=1e-9)
    assert told["clip_fraction"] == pytest.approx(ended.mean()) and 0 < ended.mean() < 1
    spared = ((ratio > most) | (ratio < least)) & ~ended
    assert spared.any(), "some left the interval to the wrong side and keep their gradient"


@pytest.mark.parametrize("white", [False, True])
def test_actor_critic_equals_numpy(white):
    method = ActorCritic(gamma=0.9, lam=0.8, vf_coef=0.7, entropy_coef=0.2, whiten_advantages=white)
    batch, *leaves = recorded()
    reward = np.zeros(batch.num_own)
    reward[np.cumsum(batch.own_lengths) - 1] = [r.score for r in batch.responses]
    adv = numpy_advantages(batch, reward, 0.9, 0.8)
    ret = adv + batch.value.numpy()
    if white:
        adv = (adv - adv.mean()) / adv.std(ddof=1)
    batch = method.advantage(batch, {})
    np.testing.assert_allclose(batch.adv, adv, atol=1e-5)
    np.testing.assert_allclose(batch.ret, ret, atol=1e-5)
    ours, loss = objective(method, batch, *leaves)
    adv, ret, logp, value, entropy = as_numpy(batch.adv, batch.ret, *leaves)
    n = len(adv)
    expected = (-adv @ logp + 0.7 * np.sum((value - ret) ** 2) / 2 - 0.2 * entropy.sum()) / n
    assert ours.item() == pytest.approx(expected, rel=1e-9)
    gradients = -adv / n, 0.7 * (value - ret) / n, np.full(n, -0.2 / n)
    for gradient, theirs in zip(torch.autograd.grad(ours, leaves), gradients, strict=True):
        np.testing.assert_allclose(gradient, theirs, atol=1e-12, rtol=1e-9)
    assert float(loss.stats["value_error"][0]) / n == pytest.approx(np.mean((value - ret) ** 2), rel=1e-9)
