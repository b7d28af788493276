"""What every method must keep, whatever it computes: one suite over the union. A new method adds to `BATCHES`."""

import inspect
import json
import math
import re
from dataclasses import replace

import pytest
import torch
import yaml
from engine import VOCABULARY, chains, demonstrations, engine, one_step, pairs, rankings, ratings, thumbs
from families import tiny

from nurture.core.reduce import global_norm
from nurture.methods import METHODS
from nurture.recipe import stage_from, to_yaml
from nurture.train.loop import Budget, train
from nurture.types import Batch, Loss, RoleScores, Scores

BATCHES = {
    "lm": demonstrations,
    "sft": demonstrations,
    "reward": rankings,
    "process": chains,
    "dpo": pairs,
    "kto": thumbs,
    "orpo": pairs,
    "simpo": pairs,
    "stable": ratings,
}
AT_FIRST = {
    "lm": math.log(VOCABULARY),
    "sft": math.log(VOCABULARY),
    "reward": None,  # not every pair of a ranking with ties counts: tests/methods/test_reward.py
    "process": math.log(2),
    "dpo": math.log(2),
    "kto": 0.5,
    "orpo": math.log(2),
    "simpo": math.log(1 + math.e),
    "stable": None,  # depends on the ratings: tests/methods/test_stable.py
}
"""The loss of a model whose heads are zero, and of its equal as a reference."""
ONLY_WITH_A_FIELD = {"reward": {"nll"}}


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]()


@pytest.fixture
def batch(method):
    return BATCHES[method.name]()


def assert_same(ours, theirs, tolerance=1e-5):
    (metrics, gradients), (other_metrics, other_gradients) = ours, theirs
    for name in other_metrics.keys() - {"tokens"}:
        assert metrics[name] == pytest.approx(other_metrics[name], rel=tolerance, abs=1e-7), name
    difference = global_norm([gradients[n] - other_gradients[n] for n in other_gradients])
    assert difference <= tolerance * global_norm(other_gradients.values())


def test_value_at_the_start(method, batch):
    if AT_FIRST[method.name] is None:
        pytest.skip("the value depends on what people said; the method's own tests have it")
    model, ref = tiny("llama"), tiny("llama")
    model.lm_head.weight.data.zero_()
    ref.lm_head.weight.data.zero_()
    metrics, _ = one_step(engine(model=model, ref=ref, head=0), method, batch)
    assert metrics["loss"] == pytest.approx(AT_FIRST[method.name], rel=1e-6)


@pytest.mark.parametrize("tokens", [1, 40, 90], ids=lambda n: f"micro{n}")
def test_micro_batches_do_not_change_it(method, batch, tokens):
    assert len(batch.split(tokens, method.scope)) > 1 or method.scope == "batch"
    assert_same(one_step(engine(), method, batch, tokens), one_step(engine(), method, batch))


def test_padding_and_prompt_sharing_do_not_change_it(method, batch):
    assert_same(one_step(engine(layout="tree"), method, batch), one_step(engine(layout="rows"), method, batch))


def test_the_order_of_groups_does_not_change_it(method, batch):
    assert_same(one_step(engine(), method, Batch(batch.groups[::-1])), one_step(engine(), method, batch))


def test_the_order_of_responses_does_not_change_it(method, batch):
    turned = Batch(tuple(replace(g, responses=g.responses[::-1]) for g in batch.groups))
    assert_same(one_step(engine(), method, turned), one_step(engine(), method, batch))


def test_a_batch_too_large_for_one_pass_is_scored_again_exactly(method, batch):
    """Scores without gradient, the loss on them as leaves, the forward passes again in pieces."""
    assert_same(one_step(engine(tokens_per_pass=40), method, batch), one_step(engine(), method, batch))


def random_scores(method, batch, seed=0):
    draw = torch.Generator().manual_seed(seed)

    def values(quantity):
        shape = (len(batch.scored), 1) if quantity == "score" else (batch.num_own,)
        return -torch.rand(shape, generator=draw, dtype=torch.float64)

    return Scores({name: RoleScores({q: values(q) for q in asked}) for name, asked in method.asks.items()})


def test_gradient_of_the_loss_by_finite_differences(method, batch):
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


def test_overfits_one_batch(method, batch):
    roles = engine()
    losses = [
        step.metrics["loss"]
        for step in train(roles, method, [batch] * 60, learning_rate=lambda n: 3e-3, budget=Budget(1 << 30))
    ]
    assert losses[-1] < 0.2 * losses[0]


def test_configuration_round_trip(method):
    assert type(method).model_validate(method.model_dump()) == method
    stage = stage_from(method.name, ["data=x.jsonl"])
    assert stage.method == method
    words = [
        f"{k}={json.dumps(v)}"
        for k, v in yaml.safe_load(to_yaml(stage)).items()
        if k in type(method).model_fields and k != "method"
    ]
    assert stage_from(method.name, ["data=x.jsonl", *words]).method == method


def test_the_page_cites_its_source(method):
    page = inspect.getdoc(type(method)) or ""
    assert re.search(r"(arXiv:\d{4}\.\d{4,5}|\b(19|20)\d\d\b)", page), "paper and year"
    assert "L = " in page, "the equation"
    undocumented = [n for n, f in type(method).model_fields.items() if n != "name" and not f.description]
    assert not undocumented
