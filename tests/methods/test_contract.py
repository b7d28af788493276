"""What every method must keep, whatever it computes: one suite over the union. A new method adds to `BATCHES`."""

import inspect
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from engine import (
    BATCHES,
    VOCABULARY,
    engine,
    one_step,
    online_engine,
    rollout,
)
from families import tiny

from nurture.core.reduce import global_norm
from nurture.methods import METHODS, Online
from nurture.recipe import stage_from, to_yaml
from nurture.train.loop import Budget, train
from nurture.types import Batch, Loss, RoleScores, Scores


def batch_for(method, **how):
    return rollout(method, **how) if isinstance(method, Online) else BATCHES[method.name]()


def with_p_old(method):
    """With a single update per rollout p_old is p itself, held fixed: the ratio is then 1 whatever happens to p."""
    return method.model_copy(update={"num_iterations": 2}) if isinstance(method, Online) else method


def engine_for(method, **how):
    return online_engine(**how) if isinstance(method, Online) else engine(**how)


def critic_error_at_first(batch):
    """Of a critic that says 0: half the mean squared return, with weight 1/2. The advantages have mean 0."""
    returns = np.concatenate([0.95 ** np.arange(n)[::-1] * r.score for r, n in scored(batch)])
    return 0.25 * (returns**2).mean()


def group_relative_at_first(batch):
    """Minus the mean advantage over tokens: 0 only where all responses are equally long."""
    total = 0.0
    for g in batch.groups:
        scores = np.array([r.score for r in g.responses])
        adv = (scores - scores.mean()) / (scores.std(ddof=1) + 1e-4)
        total -= sum(a * r.mask.sum() for a, r in zip(adv, g.responses, strict=True))
    return total / batch.num_own


def scored(batch):
    return zip(batch.responses, batch.own_lengths, strict=True)


AT_FIRST = {
    "lm": lambda batch: math.log(VOCABULARY),
    "sft": lambda batch: math.log(VOCABULARY),
    "distill": lambda batch: 0.0,
    "reward": lambda batch: math.log(2),
    "process": lambda batch: math.log(2),
    "dpo": lambda batch: math.log(2),
    "kto": lambda batch: 0.5,
    "orpo": lambda batch: math.log(2),
    "simpo": lambda batch: math.log(1 + math.e),
    "stable": None,  # depends on the ratings: tests/methods/test_judged_methods.py
    "ppo": critic_error_at_first,
    "grpo": group_relative_at_first,
    "rloo": lambda batch: 0.0,
    "reinforce": lambda batch: 0.0,
    "reinforce++": lambda batch: 0.0,
    "actor-critic": critic_error_at_first,
}
"""The loss of a model whose output head is zero (and whose critic says 0): log V where it imitates tokens, 0 where it
imitates as uniform a teacher; where it learns from a rollout of its own, what the advantages leave over."""
ONLY_WITH_A_FIELD = {"reward": {"nll"}, "ppo": {"kl_coef"}}
NEEDS = {"distill": ["teacher=lab"]}
"""What its stage must say besides."""


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]()


@pytest.fixture
def batch(method):
    return batch_for(method)


def assert_same(ours, theirs, tolerance=1e-5):
    (metrics, gradients), (other_metrics, other_gradients) = ours, theirs
    for name in other_metrics.keys() - {"tokens"}:
        assert metrics[name] == pytest.approx(other_metrics[name], rel=tolerance, abs=1e-6, nan_ok=True), name
    difference = global_norm([gradients[n] - other_gradients[n] for n in other_gradients])
    assert difference <= tolerance * global_norm(other_gradients.values())


def test_value_at_the_start(method):
    if AT_FIRST[method.name] is None:
        pytest.skip("the value depends on what people said; the method's own tests have it")

    def uniform(seed):
        model = tiny("llama", seed)
        model.lm_head.weight.data.zero_()
        return model

    if isinstance(method, Online):
        roles = online_engine(model=uniform(0), ref=uniform(1), value_scale=0.0)
        batch = rollout(method, roles=roles, noise=0.0)
    else:
        roles, batch = engine(model=uniform(0), ref=uniform(0), head=0), batch_for(method)
    metrics, _ = one_step(roles, method, batch)
    assert metrics["loss"] == pytest.approx(AT_FIRST[method.name](batch), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("tokens", [1, 40, 90], ids=lambda n: f"micro{n}")
def test_micro_batches_do_not_change_it(method, batch, tokens):
    assert len(batch.split(tokens, method.scope)) > 1 or method.scope == "batch"
    assert_same(one_step(engine_for(method), method, batch, tokens), one_step(engine_for(method), method, batch))


def test_padding_and_prompt_sharing_do_not_change_it(method, batch):
    assert_same(
        one_step(engine_for(method, layout="tree"), method, batch),
        one_step(engine_for(method, layout="rows"), method, batch),
    )


def test_the_order_of_groups_does_not_change_it(method, batch):
    assert_same(
        one_step(engine_for(method), method, Batch(batch.groups[::-1])), one_step(engine_for(method), method, batch)
    )


def test_the_order_of_responses_does_not_change_it(method, batch):
    turned = Batch(tuple(replace(g, responses=g.responses[::-1]) for g in batch.groups))
    assert_same(one_step(engine_for(method), method, turned), one_step(engine_for(method), method, batch))


def test_a_batch_too_large_for_one_pass_is_scored_again_exactly(method, batch):
    """Scores without gradient, the loss on them as leaves, the forward passes again in pieces."""
    assert_same(
        one_step(engine_for(method, tokens_per_pass=40), method, batch), one_step(engine_for(method), method, batch)
    )


def random_scores(method, batch, seed=0):
    """Any numbers; where the batch records what the policy said before, numbers near that."""
    draw = torch.Generator().manual_seed(seed)

    def about(name):
        shape = (len(batch.scored), 1) if name == "score" else (batch.num_own,)
        x = torch.rand(shape, generator=draw, dtype=torch.float64)
        return batch.logp_old + x - 0.5 if name == "logp" and batch.logp_old is not None else -x

    return Scores({role: RoleScores({str(q): about(str(q)) for q in asked}) for role, asked in method.asks.items()})


def test_gradient_of_the_loss_by_finite_differences(method):
    method = with_p_old(method)
    batch = batch_for(method)
    scores = random_scores(method, batch)
    leaves = [(role, q) for role in scores for q in scores[role] if q != "hit"]

    def total(*values):
        replaced = Scores({role: RoleScores(scores[role]) for role in scores})
        for (role, q), value in zip(leaves, values, strict=True):
            replaced[role][q] = value
        return method.loss(batch, replaced).divided_by(method.counts(batch))

    assert torch.autograd.gradcheck(total, [scores[r][q].requires_grad_() for r, q in leaves])


def test_sums_over_announced_units_and_explained_statistics(method, batch):
    loss = method.loss(batch, random_scores(method, batch))
    assert isinstance(loss, Loss)
    assert set(loss.sums) <= set(method.counts(batch))
    assert all(value.ndim == 0 for value in loss.sums.values())
    assert set(loss.stats) == set(method.metrics) - ONLY_WITH_A_FIELD.get(method.name, set()), (
        "every statistic is explained, and nothing else"
    )


def test_overfits_one_batch(method):
    """Imitation ends near 0. What learns from a rollout makes its better responses likelier than its worse ones."""
    method = with_p_old(method)
    roles, batch = engine_for(method), batch_for(method)
    before = {k: v.clone() for k, v in roles.score(batch, {"policy": ("logp",)}).policy.items()}["logp"]
    losses = [
        step.metrics["loss"]
        for step in train(roles, method, [batch] * 60, learning_rate=lambda n: 3e-3, budget=Budget(1 << 30))
    ]
    if isinstance(method, Online):
        gain = roles.score(batch, {"policy": ("logp",)}).policy.logp - before
        assert losses[-1] < losses[0]
        assert gain[batch.adv > 0].mean() > gain[batch.adv < 0].mean()
    else:
        assert losses[-1] < 0.2 * losses[0]


def test_configuration_round_trip(method):
    assert type(method).model_validate(method.model_dump()) == method
    needed = ["data=x.jsonl", *NEEDS.get(method.name, ["reward=number"] if isinstance(method, Online) else [])]
    stage = stage_from(method.name, needed)
    assert stage.method == method
    words = [
        f"{k}={json.dumps(v)}"
        for k, v in yaml.safe_load(to_yaml(stage)).items()
        if k in type(method).model_fields and k != "method"
    ]
    assert stage_from(method.name, [*needed, *words]).method == method


def test_the_page_cites_its_source(method):
    page = inspect.getdoc(type(method)) or ""
    assert re.search(r"(arXiv:\d{4}\.\d{4,5}|\b(19|20)\d\d\b)", page), "paper and year"
    assert "L = " in page, "the equation"
    undocumented = [n for n, f in type(method).model_fields.items() if n != "name" and not f.description]
    assert not undocumented
