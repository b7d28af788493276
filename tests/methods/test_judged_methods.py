"""Reward, process reward and Stable Alignment against NumPy written from the formulas; the troubles DPO notices."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine import chains, engine, one_step, pairs, rankings, ratings, thumbs

from nurture.core.preference import MOST_TIED
from nurture.errors import InputError
from nurture.methods import DPO, KTO, Process, Reward, Stable
from nurture.methods.pairs import PATIENCE
from nurture.recipe import stage_from
from nurture.types import Batch, RoleScores, Scores


def random_scores(batch, criteria=1, seed=0):
    score = torch.randn(len(batch.scored), criteria, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    logp = -3 * torch.rand(batch.num_own, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Scores(reward=RoleScores(score=score, logp=logp))


def objective(method, batch, said):
    return method.loss(batch, said).divided_by(method.counts(batch)).item()


def mean_of(stat):
    total, count = stat
    return float(total) / count


def by_group(batch, values):
    at = 0
    for g in batch.groups:
        yield g, values[at : at + len(g.responses)]
        at += len(g.responses)


def test_all_pairs_of_a_ranking_weigh_as_much_as_one_pair():
    """1 / C(K, 2) each; where some answers are tied, 1 / the pairs that are left."""
    batch = rankings(n=8)
    said = random_scores(batch)
    total = 0.0
    for g, s in by_group(batch, said.reward.score[:, 0].numpy()):
        k = len(g.responses)
        ordered = [(a, b) for a in range(k) for b in range(k) if g.responses[a].rank < g.responses[b].rank]
        total += np.mean([np.log1p(np.exp(s[b] - s[a])) for a, b in ordered])
    assert objective(Reward(), batch, said) == pytest.approx(total / 8, rel=1e-6)


def test_a_ranking_in_which_all_are_tied_says_nothing_as_pairs_and_something_as_an_order():
    batch = rankings(n=4)
    tied = replace(batch.groups[0], responses=tuple(replace(r, rank=1) for r in batch.groups[0].responses))
    mixed, without = Batch((tied, *batch.groups[1:])), Batch(batch.groups[1:])
    said = random_scores(mixed)
    rest = RoleScores(score=said.reward.score[len(tied.responses) :], logp=said.reward.logp)
    assert objective(Reward(), mixed, said) == pytest.approx(objective(Reward(), without, Scores(reward=rest)))
    assert Reward().counts(mixed)["comparisons"] == 3 and Reward(ranking="listwise").counts(mixed)["comparisons"] == 4
    (only,) = (Batch((tied,)),)
    taken, gradients = one_step(engine(head=0), Reward(), only)
    assert all(not gradient.any() for gradient in gradients.values()) and not taken["loss"] > 0


def test_a_pair_is_a_ranking_of_two():
    batch = pairs()
    said = random_scores(batch)
    assert objective(Reward(), batch, said) == pytest.approx(objective(Reward(ranking="listwise"), batch, said))
    assert one_step(engine(head=0), Reward(), batch)[0]["loss"] == pytest.approx(np.log(2), rel=1e-6)


def test_a_pair_keeps_its_margin_among_rankings_that_are_read_as_orders():
    two = pairs(n=4)
    sure = Batch(tuple(replace(g, margin=0.7 * i) for i, g in enumerate(two.groups)))
    mixed = Batch((*sure.groups, *rankings(n=4).groups))
    said = random_scores(mixed)
    listwise = Reward(ranking="listwise")
    first = said.reward.score[:8]
    s = first[:, 0].numpy().reshape(4, 2)
    want = np.log1p(np.exp(s[:, 1] - s[:, 0] + 0.7 * np.arange(4)))
    alone = Scores(reward=RoleScores(score=first))
    assert objective(listwise, sure, alone) == pytest.approx(want.mean(), rel=1e-6)
    turned = Batch(tuple(replace(g, responses=g.responses[::-1]) for g in sure.groups))
    back = Scores(reward=RoleScores(score=first.view(4, 2).flip(1).reshape(8, 1)))
    assert objective(listwise, turned, back) == pytest.approx(want.mean(), rel=1e-6)
    orders = Batch(mixed.groups[4:])
    rest = Scores(reward=RoleScores(score=said.reward.score[8:]))
    both = want.sum() + 4 * objective(listwise, orders, rest)
    assert objective(listwise, mixed, said) == pytest.approx(both / 8, rel=1e-6)


@pytest.mark.parametrize("scale", [(0.0, 1.0), (1.0, 5.0), (-1.0, 0.5)])
def test_ratings_are_regressed_for_every_criterion_and_missing_ones_are_left_out(scale):
    batch = ratings(n=6, criteria=3)
    first = batch.groups[0]
    missing = replace(first.responses[0], scores=(float("nan"), 0.5, 1.0))
    batch = Batch((replace(first, responses=(missing, *first.responses[1:])), *batch.groups[1:]))
    said = random_scores(batch, criteria=3)
    s, y = said.reward.score.numpy(), batch.ratings.numpy()
    three = {"criteria": ("a", "b", "c"), "scale": scale}
    assert objective(Reward(**three), batch, said) == pytest.approx(np.nanmean((s - y) ** 2), rel=1e-6)
    bounded = scale[0] + (scale[1] - scale[0]) / (1 + np.exp(-s))
    assert objective(Reward(**three, rating="bounded"), batch, said) == pytest.approx(np.nanmean((bounded - y) ** 2))


def test_the_language_model_loss_is_that_of_the_preferred_answers():
    batch = rankings()
    said = random_scores(batch)
    best = [i for i, r in enumerate(batch.responses) if r.rank == 1]
    nll = -said.reward.logp.numpy()[np.isin(batch.response.numpy(), best)].mean()
    gap = objective(Reward(lm_coef=0.3), batch, said) - objective(Reward(), batch, said)
    assert gap == pytest.approx(0.3 * nll, rel=1e-6)


def test_one_pass_gives_scores_and_log_probs_and_carries_both_gradients():
    batch = rankings()
    _, both = one_step(engine(), Reward(lm_coef=0.3), batch)
    _, alone = one_step(engine(), Reward(), batch)
    assert both["score.weight"].allclose(alone["score.weight"], rtol=1e-5, atol=1e-7)
    assert "lm_head.weight" in both and "lm_head.weight" not in alone
    _, pieces = one_step(engine(tokens_per_pass=30), Reward(lm_coef=0.3), batch)
    for name in both:
        torch.testing.assert_close(pieces[name], both[name], rtol=1e-4, atol=1e-5)


def test_criteria_become_one_number_by_weights_or_behind_a_gate():
    score = torch.tensor([[1.0, 0.9], [1.0, 0.1], [0.0, 0.6]])
    batch = ratings()
    mean = Reward(criteria=("helpful", "harmless")).judge(score, batch)
    assert mean.tolist() == pytest.approx([0.95, 0.55, 0.3])
    weighted = Reward(criteria=("helpful", "harmless"), weights=(1.0, 2.0)).judge(score, batch)
    assert weighted.tolist() == pytest.approx([2.8, 1.2, 1.2])
    gated = Reward(criteria=("helpful", "harmless"), gate="harmless").judge(score, batch)
    assert gated.tolist() == pytest.approx([0.95, 0.1 - 1, 0.3]), "what fails the gate is below all that passes"


@pytest.mark.parametrize("rating", ["linear", "bounded"])
@pytest.mark.parametrize(
    ("scale", "gate_at", "weights"),
    [
        ((0.0, 1.0), None, ()),
        ((1.0, 5.0), None, ()),
        ((1.0, 5.0), 5.0, (1.0, 0.0)),
        ((1.0, 5.0), 1.5, (0.0, 1.0)),
        ((1.0, 5.0), 2.0, (0.0, 0.0)),
        ((-1.0, 1.0), 0.5, (0.5, 0.5)),
        ((0.0, 1.0), 1.0, (3.0, 2.0)),
    ],
)
def test_nothing_outweighs_a_gate_wherever_scores_go(rating, scale, gate_at, weights):
    method = Reward(
        criteria=("helpful", "harmless"), gate="harmless", scale=scale, gate_at=gate_at, weights=weights, rating=rating
    )
    (low, high), draw = scale, np.random.default_rng(0)
    s = np.concatenate(
        [
            draw.normal(0, 4 * (high - low), (400, 2)),
            draw.uniform(low, high, (400, 2)),
            [[-3.0, 0.6], [0.9, 0.49], [high, (low + high) / 2], [low, high]],
        ]
    ).astype(np.float32)
    rated = low + (high - low) / (1 + np.exp(-s)) if rating == "bounded" else s
    rated = np.clip(rated, low, high)
    opens = (low + high) / 2 if gate_at is None else gate_at
    want = np.where(rated[:, 1] < opens, rated[:, 1] - (high - low), rated @ np.array(weights or (0.5, 0.5)))
    said = method.judge(torch.tensor(s), ratings())
    np.testing.assert_allclose(said.numpy(), want, rtol=1e-5, atol=1e-5)
    passes = method.rated(torch.tensor(s)).clamp(low, high)[:, 1] >= opens
    assert (~passes).any()
    if rating == "linear" or opens < high:
        assert passes.any() and said[passes].min() > said[~passes].max()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["gate=kind"], "'kind' is none of the criteria overall"),
        (["weights=[1.0, 2.0]"], "there are 2 for 1 criteria"),
        (["scale=[1.0, 0.0]"], "the lowest rating, then the highest"),
        (["gate=overall", "scale=[1.0, 5.0]", "gate_at=0.5"], r"0.5 is not on the scale, above 1 and at most 5"),
        (["gate=overall", "scale=[1.0, 5.0]", "gate_at=1.0"], "would be always open"),
        (["gate=overall", "gate_at=1.1"], "1.1 is not on the scale"),
        (["criteria=[a, b]", "gate=a", "weights=[1.0, -0.1]"], "behind a gate none may be negative"),
        (
            ["criteria=[a, b]", "gate=a", "weights=[3.0, 3.0]", "scale=[-1.0, 1.0]"],
            "passes the gate could be worth -3, less than the -2",
        ),
    ],
)
def test_settings_that_do_not_fit(words, told):
    with pytest.raises(InputError, match=told):
        stage_from("reward", ["data=x.jsonl", *words])


def test_beta_zero_is_refused_and_a_reference_only_where_there_is_one():
    with pytest.raises(InputError, match="beta must be greater than 0"):
        stage_from("dpo", ["data=x.jsonl", "beta=0.0"])
    with pytest.raises(InputError, match="'orpo' has no reference"):
        stage_from("orpo", ["data=x.jsonl", "ref=lab"])


def soft(batch):
    """Shares of continuations that reach the answer, in place of right and wrong."""
    draw = np.random.default_rng(3)
    groups = []
    for g in batch.groups:
        shares = [tuple((draw.integers(0, 9, len(r.step_labels)) / 8).tolist()) for r in g.responses]
        said = tuple(replace(r, step_labels=own) for r, own in zip(g.responses, shares, strict=True))
        groups.append(replace(g, responses=said))
    return Batch(tuple(groups))


@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize("aggregate", ["min", "product", "last"])
def test_process_rewards(aggregate, labels):
    batch = soft(chains(n=7)) if labels == "soft" else chains(n=7)
    said = random_scores(batch)
    s = said.reward.score[:, 0].numpy()
    y = np.array([label for r in batch.responses for label in r.step_labels])
    p = 1 / (1 + np.exp(-s))
    method = Process(aggregate=aggregate)
    want = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert objective(method, batch, said) == pytest.approx(want, rel=1e-6)
    at, chain, good = 0, [], []
    for r in batch.responses:
        good.append(min(r.step_labels) > 0.5)
        steps = p[at : at + len(r.step_ends)]
        at += len(r.step_ends)
        chain.append({"min": steps.min(), "product": steps.prod(), "last": steps[-1]}[aggregate])
    assert method.judge(said.reward.score, batch).tolist() == pytest.approx(chain)
    stats = method.loss(batch, said).stats
    assert mean_of(stats["step_accuracy"]) == pytest.approx(np.mean((s > 0) == (y > 0.5)))
    assert mean_of(stats["chain_accuracy"]) == pytest.approx(np.mean((np.array(chain) > 0.5) == good))


@pytest.mark.parametrize(("width", "ratio", "margin"), [(1.0, 0.3, 0.8), (4.0, 0.3, 0.8), (10.0, 1.5, 3.0)])
def test_stable_alignment_finds_the_best_within_each_prompt(width, ratio, margin):
    batch = Batch(tuple(wider(g, width) for g in ratings(n=8).groups))
    said = random_scores(batch)
    method = Stable(ratio=ratio, contrast_margin=margin, rating_scale=width)
    nll = -batch.sum_per_response(said.reward.logp).numpy() / batch.own_tokens.numpy()
    total = 0.0
    for g, own in by_group(batch, nll):
        s = np.array([r.scores[0] for r in g.responses])
        best = own[s == s.max()].mean()
        rest = s < s.max()
        gap = margin * (s.max() - s[rest]) / width
        contrast = max(0.0, np.mean(best - own[rest] + gap)) if rest.any() else 0.0
        total += best + ratio * contrast
    assert objective(method, batch, Scores(policy=said.reward)) == pytest.approx(total / 8, rel=1e-6)


def wider(group, width):
    """The same ratings from 1 on a scale of another width."""
    return replace(
        group, responses=tuple(replace(r, scores=tuple(1 + width * x for x in r.scores)) for r in group.responses)
    )


def test_a_prompt_with_one_rated_answer_teaches_stable_alignment_nothing():
    groups = ratings(n=4).groups
    alone = replace(groups[0], responses=groups[0].responses[:1])
    mixed, without = Batch((*groups[1:], alone)), Batch(groups[1:])
    said = Scores(policy=random_scores(mixed).reward)
    rest = Scores(policy=RoleScores(logp=said.policy.logp[: without.num_own]))
    assert objective(Stable(), mixed, said) == pytest.approx(objective(Stable(), without, rest))
    assert Stable().taught(mixed).groups == without.groups
    _, gradients = one_step(engine(), Stable(), Batch((alone,)))
    assert all(not gradient.any() for gradient in gradients.values())


def test_stable_alignment_learns_from_rankings_too():
    batch = rankings()
    rated = Batch(
        tuple(
            replace(
                g, responses=tuple(replace(r, rank=None, scores=((top - r.rank) / (top - 1),)) for r in g.responses)
            )
            for g in batch.groups
            for top in [max(r.rank for r in g.responses)]
        )
    )
    said = Scores(policy=random_scores(batch).reward)
    assert objective(Stable(), batch, said) == pytest.approx(objective(Stable(), rated, said), rel=1e-6)


def rated(*scores, wanted_from=0.5):
    (first, *_) = ratings(n=1).groups
    one = first.responses[0]
    said = tuple(replace(one, scores=(s,), label=float(s >= wanted_from)) for s in scores)
    return replace(first, responses=said)


def tied(answers, ranks=lambda i: 1):
    (first, *_) = rankings(n=1).groups
    one = first.responses[0]
    return replace(first, responses=tuple(replace(one, rank=ranks(i)) for i in range(answers)), key="rows.jsonl:7")


@pytest.mark.parametrize(
    ("method", "groups", "told"),
    [
        (Reward(lm_coef=0.1), [rated(0.5)], "lm_coef: ratings say of no answer that it is preferred"),
        (Reward(ranking="listwise"), [tied(3), tied(MOST_TIED + 1)], "rows.jsonl:7 TIED 13 answers .* ranking: pairs"),
        (Reward(ranking="listwise"), [tied(20, lambda i: 1 + (i > 2))], "TIED 17 answers share one rank"),
        (Stable(), [rated(1.0), rated(0.5)], "no prompt has two rated answers"),
        (Stable(), [rated(1.0, 10.0)], "SCALE its answers are rated 9 apart, more than the 1 there is"),
        (KTO(), [rated(3.0), rated(9.0)], "ratings go from 3 to 9, so from 0.5 on every answer is wanted"),
        (KTO(wanted_from=9.5), [rated(3.0, wanted_from=9.5), rated(9.0, wanted_from=9.5)], "every answer is unwanted"),
        (Reward(scored_by="likelihood"), [rated(0.5)], "a likelihood is never above 0"),
    ],
)
def test_data_that_a_method_cannot_learn_from(method, groups, told):
    assert re.search(told, method.refuses(groups))


@pytest.mark.parametrize(
    ("method", "groups"),
    [
        (Stable(rating_scale=9.0), [rated(1.0, 10.0), rated(3.0)]),
        (Stable(rating_scale=1.0), [rated(1.2, 2.2)]),  # which in floats is a little more
        (KTO(), [*thumbs(n=1).groups, rated(0.7), rated(1.0)]),
        (KTO(wanted_from=5.0), [rated(3.0, wanted_from=5.0), rated(9.0, wanted_from=5.0)]),
        (KTO(), [rated(1.0), rated(1.0)]),  # thumbs up alone
        (Reward(), [rated(0.5)]),
        (Reward(), [tied(20, lambda i: 1 + (i > 2))]),
        (Reward(lm_coef=0.1), [rated(0.5), tied(2)]),
        (Reward(ranking="listwise"), [tied(MOST_TIED), tied(30, lambda i: i + 1), rated(0.5)]),
    ],
)
def test_data_that_it_can(method, groups):
    assert method.refuses(groups) is None


def remarks_of(steps):
    state = {}
    for step in steps:
        state = DPO().after_step(state, {"margin": 0.1, "grad_norm": 1.0, "learning_rate": 1e-6, **step})
    return state["remarks"]


def test_a_loss_that_stands_still_is_told_with_its_cause():
    still = {"margin": 0.0, "logp_chosen": -1.0}
    assert "no gradient reaches" in remarks_of([{**still, "grad_norm": 0.0}])["stuck"]
    assert "learning rate is 0" in remarks_of([{**still, "learning_rate": 0.0}] * (PATIENCE + 1))["stuck"]
    assert "too small to be seen" in remarks_of([still] * (PATIENCE + 1))["stuck"]
    assert remarks_of([still, {"logp_chosen": -1.0}] * PATIENCE) == {}


def test_kto_and_reward_models_say_that_they_stand_still():
    state = {}
    nothing = {"grad_norm": 1.0, "learning_rate": 1e-6, "reward_chosen": 0.0, "reward_rejected": float("nan")}
    for _ in range(PATIENCE + 1):
        state = KTO().after_step(state, {**nothing, "logp_chosen": float("nan")})
    assert list(state["remarks"]) == ["stuck"]
    coin = Reward().after_step({}, {"margin": 0.0, "grad_norm": 0.0, "learning_rate": 1e-3})
    assert "same score" in coin["remarks"]["stuck"] and "no gradient" in coin["remarks"]["stuck"]
    assert Reward().after_step({}, {"loss": 1.0}) == {}, "ratings have no margin"


def test_better_answers_that_become_unlikely_are_told_once():
    falling = [{"logp_chosen": -1.0 - 0.1 * i} for i in range(30)]
    remarks = remarks_of(falling)
    assert list(remarks) == ["falling"] and "nats per token" in remarks["falling"]
    assert remarks_of([{"logp_chosen": -1.0 - 0.001 * i} for i in range(30)]) == {}
    noisy = [{"logp_chosen": -1.0 - (i % 2)} for i in range(30)]
    assert remarks_of(noisy) == {}, "one batch differs from the next by more than that"
