"""Rollouts of a tiny real model through the real sampler and the real roles."""

import math

import numpy as np
import pytest
import torch
from engine import online_engine

from nurture.core.reduce import global_norm
from nurture.data.mix import Mixture, Part
from nurture.errors import InputError, RewardLost
from nurture.methods import GRPO, PPO
from nurture.protocols import Failed, Scored, Unscorable
from nurture.records import Message, Task
from nurture.rollout.loop import Prompt, Rollouts, single_turn
from nurture.rollout.sampler import LocalSampler
from nurture.train.loop import Budget, train
from nurture.types import Group

STOP = 7


def prompts(n=5):
    draw = np.random.default_rng(0)
    return [
        Prompt(Task((Message("user", str(i)),), answer=i), draw.integers(8, 199, 4 + i), f"row {i}") for i in range(n)
    ]


def decode(ids):
    return " ".join(map(str, ids))


def evens(answers):
    """A score that differs within a group: the share of even tokens."""
    return [
        Scored(np.mean([int(w) % 2 == 0 for w in a.text.split() or ["1"]]), "share of even tokens") for a in answers
    ]


def rollouts(method, roles=None, judge=evens, **settings):
    roles = roles or online_engine()
    draw = single_turn(LocalSampler(roles.models["policy"]))
    return Rollouts(prompts(), draw, judge, roles, method, decode, batch_size=3, seed=4, stop_ids=(STOP,), **settings)


GRPO4 = GRPO(num_generations=4, max_completion_length=6, num_iterations=2)


@pytest.mark.parametrize("method", [GRPO4, PPO(num_generations=2, max_completion_length=6)], ids=lambda m: m.name)
def test_a_rollout_records_what_a_loss_needs(method):
    made = rollouts(method)
    batch = made.rollout(0, {})
    assert batch.num_groups == 3 and batch.num_responses == 3 * method.num_generations
    assert (batch.logp_old - batch.logp_sampler).abs().max() < 5e-5, "the sampler's log-probs are the trainer's"
    for response in batch.responses:
        assert response.truncated == (response.ids[-1] != STOP)
        words = [int(i) % 2 == 0 for i in response.ids if i != STOP]
        assert response.score == pytest.approx(np.mean(words or [False]))
    row = made.samples[0]
    assert {"rollout", "prompt", "response", "score", "reason", "tokens", "kl"} == set(row)
    first = batch.responses[0]
    assert row["kl"] == pytest.approx(float((first.logp_old - first.logp_ref).sum()), abs=1e-5)
    assert made.metrics["rollout/score"] == pytest.approx(np.mean([r.score for r in batch.responses]))
    assert STOP not in map(int, row["response"].split())


def test_how_answers_are_drawn_is_as_the_method_says():
    hot = rollouts(GRPO(num_generations=3, max_completion_length=5)).rollout(0, {})
    cold = rollouts(GRPO(num_generations=3, max_completion_length=5, temperature=1e-4)).rollout(0, {})
    for batch in (hot, cold):
        assert {len(g.responses) for g in batch.groups} == {3}, "num_generations"
        assert max(len(r.ids) for r in batch.responses) == 5, "max_completion_length"
    varied, same = ([len({r.ids.tobytes() for r in g.responses}) for g in batch.groups] for batch in (hot, cold))
    assert max(varied) == 3 and set(same) == {1}, "temperature"


@pytest.mark.parametrize("flat", [{1, 3}, {0, 1, 2, 3}], ids=["some teach", "few teach"])
@pytest.mark.parametrize("refills", [0, 2])
def test_more_prompts_are_asked_at_once_and_those_that_teach_are_kept(flat, refills):
    """Three places: of the prompts in turn and those asked besides, in this order, the first three that teach; then
    those set aside. Refills are for what is missing after that."""

    def judge(answers):
        return [Scored(1.0 if a.task.answer in flat else float(i)) for i, a in enumerate(answers)]

    method = GRPO4.model_copy(update={"oversample": 2.5, "refills": refills})
    made, short = rollouts(method, judge=judge), 0
    for number in range(6):
        rounds = [[p.task.answer for p in some] for some in made._choices(number)]
        assert [len(some) for some in rounds] == [8] * (1 + refills)
        assert rounds[0][:3] == [p.task.answer for p in next(iter(rollouts(GRPO4)._choices(number)))]
        teach, aside, drawn = [], [], 0
        for some in rounds:
            asked = some[: max(0, math.ceil(2.5 * (3 - len(teach))))]
            teach += [a for a in asked if a not in flat]
            aside += [a for a in asked if a in flat]
            drawn += len(asked)
        expected = (teach + aside)[:3]
        batch = made.rollout(number, {})
        assert [int(g.key.split()[1]) for g in batch.groups] == expected
        short += len(teach) < 3
        counts = {name: made.metrics[f"rollout/{name}"] for name in ("responses", "surplus", "refilled")}
        surplus, spare = max(0, len(teach) - 3), max(0, 3 - len(teach))
        assert counts == {"responses": 4 * drawn, "surplus": surplus, "refilled": len(aside) - spare}
    if not refills:
        assert short == (6 if len(flat) == 4 else 0)


def test_every_epoch_shows_every_prompt_once():
    made = rollouts(GRPO4)
    keys = [key for k in range(5) for key in [g.key for g in made.rollout(k, {}).groups]]
    for epoch in (keys[:5], keys[5:10], keys[10:]):
        assert sorted(epoch) == [f"row {i}" for i in range(5)]


def test_every_epoch_of_a_mixture_asks_its_share_and_refills_from_it():
    """One of the first three prompts an epoch, and both of the other two: after three epochs each of the three was
    asked once. (A rollout is an epoch here.)"""
    mixture = Mixture((Part("a", 3, cap=1), Part("b", 2)), seed=4)
    made = rollouts(GRPO4.model_copy(update={"refills": 2}), mixture=mixture)
    asked = [[[p.task.answer for p in some] for some in made._choices(k)] for k in range(3)]
    assert all(sorted(some)[1:] == [3, 4] for epoch in asked for some in epoch)
    assert sorted(epoch[0][i] for epoch in asked for i in range(3)) == [0, 1, 2, 3, 3, 3, 4, 4, 4]
    assert all({*epoch[0]} == {*epoch[1]} == {*epoch[2]} for epoch in asked)


def learn(roles, made, first, last):
    state = {}
    batches = made.batches(lambda: dict(state), first, last)
    for step in train(roles, made.method, batches, learning_rate=lambda n: 1e-3, budget=Budget(1 << 30)):
        state.update(made.method.after_step(state, step.metrics))
    return state


def test_going_on_from_a_border_is_exact():
    """Weights and optimiser after two rollouts, put into a fresh engine, end where an uninterrupted run ends."""
    whole = online_engine()
    learn(whole, rollouts(GRPO4, whole), 0, 4)
    half = online_engine()
    learn(half, rollouts(GRPO4, half), 0, 2)
    fresh = online_engine()
    fresh.optimizer.load({n: t.clone() for n, t in half.optimizer.tensors().items()}, half.optimizer.updates)
    learn(fresh, rollouts(GRPO4, fresh), 2, 4)
    for name, tensor in whole.optimizer.tensors().items():
        assert torch.equal(tensor, fresh.optimizer.tensors()[name]), name


def test_the_score_rises():
    roles = online_engine()
    made = rollouts(GRPO(num_generations=16, max_completion_length=6, beta=0.0), roles)
    before = np.mean([made.rollout(100 + k, {}).score.mean() for k in range(3)])
    learn(roles, made, 0, 12)
    after = np.mean([made.rollout(100 + k, {}).score.mean() for k in range(3)])
    assert after > before + 0.1


def test_what_cannot_be_scored_is_left_out_and_counted():
    def judge(answers):
        kinds = {0: Unscorable("no gold"), 1: Failed("dead endpoint")}
        broken = Unscorable("broken tests")
        return [broken if a.task.answer == 2 else kinds.get(i % 4, Scored(float(i))) for i, a in enumerate(answers)]

    made = rollouts(GRPO4, judge=judge)
    number = next(k for k in range(5) if any(p.task.answer == 2 for p in next(iter(made._choices(k)))))
    batch = made.rollout(number, {})
    assert [len(g.responses) for g in batch.groups] == [2, 2]
    assert made.metrics["rollout/unscored"] == 8 and made.metrics["rollout/empty_groups"] == 1
    assert [row.get("unscored") for row in made.samples[:4]] in (
        ["unscorable", "failed", None, None], ["unscorable"] * 4)  # fmt: skip
    nothing = rollouts(GRPO4, judge=lambda answers: [Unscorable("no gold")] * len(answers))
    with pytest.raises(RewardLost, match=r"no response of rollout 0 could be scored, most often because .* no gold"):
        nothing.rollout(0, {})


def test_groups_without_signal_are_drawn_again():
    def judge(answers):
        return [Scored(1.0) if a.task.answer in (1, 3) else Scored(float(i)) for i, a in enumerate(answers)]

    for refills, expected in ((0, 0.0), (6, None)):
        made = rollouts(GRPO4.model_copy(update={"refills": refills}), judge=judge)
        number = next(k for k in range(5) if {1, 3} & {p.task.answer for p in next(iter(made._choices(k)))})
        batch = made.rollout(number, {})
        assert batch.num_groups == 3
        if refills:
            assert made.metrics["rollout/no_signal"] == 0.0 and made.metrics["rollout/refilled"] >= 1
            assert made.metrics["rollout/responses"] > 12
        else:
            assert made.metrics["rollout/no_signal"] > 0 and made.metrics["rollout/refilled"] == expected
    flat = rollouts(GRPO4.model_copy(update={"refills": 2}), judge=lambda answers: [Scored(1.0)] * len(answers))
    assert flat.rollout(0, {}).num_groups == 3, "what is missing is filled up with those set aside"
    assert flat.metrics["rollout/no_signal"] == 1.0 and flat.metrics["rollout/responses"] == 36


def test_a_prompt_drawn_again_is_answered_anew():
    """The same one eight times, in one round and in refills, under eight names for the random streams."""
    flat = rollouts(GRPO4.model_copy(update={"refills": 3}), judge=lambda answers: [Scored(1.0)] * len(answers))
    flat.prompts, flat.batch_size, seen = prompts(1), 2, []
    draw, flat.draw = (
        flat.draw,
        lambda requests, sampling: seen.extend(r.key for r in requests) or draw(requests, sampling),
    )
    flat.rollout(0, {})
    assert len(seen) == len(set(seen)) == 8


@pytest.mark.parametrize("flat", [(1, 3), range(5)], ids=["some", "all"])
def test_groups_without_an_advantage_are_not_computed(flat):
    """They have no gradient, and still count in what the sum is divided by."""

    class Whole(GRPO):
        def taught(self, batch):
            return batch

    def judge(answers):
        return [Scored(1.0 if a.task.answer in flat else float(i)) for i, a in enumerate(answers)]

    method = GRPO4.model_copy(update={"beta": 0.0})
    whole = Whole(**{name: getattr(method, name) for name in type(method).model_fields})
    number = next(k for k in range(5) if {1, 3} & {p.task.answer for p in next(iter(rollouts(method)._choices(k)))})
    ends = {}
    for how in (method, whole):
        roles = online_engine()
        batches = [*rollouts(how, online_engine(), judge).batches(dict, number, number + 1)]
        steps = [*train(roles, how, batches, learning_rate=lambda n: 1e-3, budget=Budget(1 << 30))]
        ends[how] = {n: t.clone() for n, t in roles.optimizer.master.items()}, steps
    (part, steps), (all_, all_steps) = ends.values()
    torch.testing.assert_close(part, all_, rtol=0, atol=1e-6)
    for step, other in zip(steps, all_steps, strict=True):
        assert step.metrics["tokens"] < other.metrics["tokens"]
        assert step.metrics["grad_norm"] == pytest.approx(other.metrics["grad_norm"], rel=1e-5)
        assert (step.metrics["grad_norm"] == 0) == (len(flat) == 5)


@pytest.mark.parametrize(
    "method",
    [
        GRPO4.model_copy(update={"num_iterations": 1}),
        GRPO4,
        PPO(num_generations=2, max_completion_length=6, kl_estimator="full"),
        PPO(num_generations=2, max_completion_length=6, kl_estimator="full", kl_in="loss"),
    ],
    ids=["once", "twice", "exact", "exact in the loss"],
)
def test_the_distance_is_told_wherever_a_reference_is_asked(method):
    """Once gone through, a rollout is not read again before its update: the sampler has said the same."""
    made = rollouts(method)
    batch = made.rollout(0, {})
    roles = online_engine()
    with torch.no_grad():
        said = roles.score(batch, {"policy": ("logp",), "ref": ("logp",)})
        priced = isinstance(method, PPO) and method.kl_in == "reward"
        exact = roles.score(batch, {"policy": ("kl",)}).policy.kl if priced else None
    nats = batch.sum_per_response(said.policy.logp - said.ref.logp if exact is None else exact)
    assert made.metrics["rollout/kl"] == pytest.approx(float(nats.mean()), abs=1e-4)
    assert [row["kl"] for row in made.samples] == pytest.approx(nats.tolist(), abs=1e-4)


def test_an_answer_that_is_cut_off_counts_where_it_is_not_learnt_from():
    masked = GRPO4.model_copy(update={"mask_truncated_completions": True, "max_completion_length": 2, "beta": 0.0})
    made, plain = rollouts(masked), rollouts(masked.model_copy(update={"mask_truncated_completions": False}))
    made.stop_ids = plain.stop_ids = tuple(range(0, 199, 2))
    batch, whole = made.rollout(0, {}), plain.rollout(0, {})
    assert made.metrics["rollout/truncated"] == plain.metrics["rollout/truncated"] > 0
    assert batch.num_responses < whole.num_responses
    never = rollouts(masked)
    never.stop_ids = ()
    assert not never.rollout(0, {}).adv.any() and never.metrics["rollout/truncated"] == 1.0


def test_groups_that_were_left_out_leave_no_update_empty():
    def judge(answers):
        return [
            Unscorable("no gold") if a.task.answer == 1 else o for a, o in zip(answers, evens(answers), strict=True)
        ]

    method = GRPO4.model_copy(update={"num_mini_batches": 3})
    made = rollouts(method, judge=judge)
    number = next(k for k in range(5) if 1 in {p.task.answer for p in next(iter(made._choices(k)))})
    parts = [*made.batches(dict, number, number + 1)]
    assert len(parts) == 6 and all(part.num_groups == 1 for part in parts)
    assert len({g.key for part in parts[:3] for g in part.groups}) == 2


def test_texts_to_imitate_are_mixed_in():
    method = PPO(ptx_coef=1.0, max_completion_length=6, num_iterations=1)
    made = rollouts(method)
    text = Group(np.arange(3), made.rollout(0, {}).responses[:1], "text")
    plain = Group(text.prompt, tuple(type(r)(r.ids, r.mask) for r in text.responses), "text")
    mixed = rollouts(method, mixed=lambda k: [plain])
    (batch,) = mixed.batches(dict, 0, 1)
    assert [g.key for g in batch.groups][-1] == "text" and not batch.acted[-1]
    roles = online_engine()
    (step,) = train(roles, method, [batch], learning_rate=lambda n: 0.0, budget=Budget(1 << 30))
    assert np.isfinite(step.metrics["ptx_loss"]) and global_norm(roles.optimizer.master.values()) > 0


def test_too_many_parts_are_refused_before_anything_is_drawn():
    with pytest.raises(InputError, match="num_mini_batches: 4 is more than the 3 prompts"):
        rollouts(GRPO(num_mini_batches=4))
