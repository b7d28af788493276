"""Every field of every method has an effect: on what the method says to the loop about a batch, or where that is
decided elsewhere, in a test that is named here. A new field adds to one of the two tables."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine import BATCHES, ratings, rollout
from pydantic import ValidationError

from nurture.methods import METHODS, Online, Reward
from nurture.rollout.record import advantages
from nurture.types import Batch, RoleScores, Scores

SETTINGS = {
    "distill": {"divergence": "reverse", "beta": 0.3, "temperature": 2.0, "sft_coef": 0.5},
    "reward": {
        "scored_by": "likelihood", "beta": 3.0, "ranking": "listwise", "center_rewards_coefficient": 0.1,
        "lm_coef": 0.5, "rating": "bounded", "weights": (0.2, 0.8), "gate": "b", "gate_at": 0.9, "scale": (0.0, 2.0),
    },
    "process": {"aggregate": "product"},
    "dpo": {"beta": 0.2, "loss_type": "ipo", "label_smoothing": 0.1, "length_normalization": True, "nll_coef": 0.5},
    "kto": {"beta": 0.2, "desirable_weight": 2.0, "undesirable_weight": 2.0},
    "orpo": {"beta": 0.2},
    "simpo": {"beta": 1.0, "gamma": 0.5, "nll_coef": 0.5},
    "stable": {"ratio": 0.5, "contrast_margin": 3.0, "rating_scale": 0.5},
    "ppo": {
        "clip_low": 0.05, "clip_high": 0.05, "gamma": 0.9, "lam": 0.5, "whiten_advantages": False, "vf_coef": 1.0,
        "clip_value": 0.01, "critic_warmup": 2, "entropy_coef": 0.1, "kl_coef": 0.5, "kl_in": "loss",
        "kl_estimator": "k3", "kl_target": 0.1,
    },
    "grpo": {
        "beta": 0.5, "clip_low": 0.05, "clip_high": 0.05, "scale_rewards": "none", "loss_type": "dr_grpo",
        "importance_sampling_level": "sequence", "overlong_buffer": 4, "mask_truncated_completions": True,
    },
    "rloo": {"beta": 0.5, "clip_low": 0.05, "clip_high": 0.05, "normalize_advantages": True},
    "reinforce": {"gamma": 0.9, "baseline": "none", "entropy_coef": 0.1},
    "reinforce++": {"beta": 0.5, "gamma": 0.9, "group_baseline": True, "clip_low": 0.05, "clip_high": 0.05},
    "actor-critic": {"gamma": 0.9, "lam": 0.5, "whiten_advantages": False, "vf_coef": 1.0, "entropy_coef": 0.1},
}  # fmt: skip
"""Another value of each field."""

BESIDE = {
    ("distill", "beta"): {"divergence": "jsd"},
    ("reward", "beta"): {"scored_by": "likelihood"},
    ("reward", "weights"): {"criteria": ("a", "b")},
    ("reward", "gate"): {"criteria": ("a", "b")},
    ("reward", "gate_at"): {"criteria": ("a", "b"), "gate": "a"},
    ("reward", "scale"): {"rating": "bounded"},
    ("ppo", "kl_in"): {"kl_estimator": "k3"},
    ("grpo", "overlong_buffer"): {"max_completion_length": 12},
    ("reinforce++", "group_baseline"): {"num_generations": 4},
}
"""Settings without which a field means nothing."""

DRAWN = "tests/rollout/test_loop.py::test_how_answers_are_drawn_is_as_the_method_says"
KEPT = "tests/rollout/test_loop.py::test_more_prompts_are_asked_at_once_and_those_that_teach_are_kept"
OF_ROLLOUTS = {"num_generations": DRAWN, "max_completion_length": DRAWN, "temperature": DRAWN, "oversample": KEPT,
               "refills": KEPT}  # fmt: skip
WHAT_IS_TRAINED = "tests/data/test_data_fit.py::test_pieces_train_what_the_whole_would"
ELSEWHERE = {
    ("sft", "train_on"): WHAT_IS_TRAINED,
    ("distill", "train_on"): WHAT_IS_TRAINED,
    ("reward", "criteria"): "tests/test_run_preference.py::test_rows_that_rate_only_some_criteria",
    ("reward", "missing"): "tests/test_run_preference.py::test_rows_that_rate_only_some_criteria",
    ("kto", "wanted_from"): "tests/data/test_data_judged.py::test_a_rating_from_somewhere_on_is_a_wanted_answer",
    ("ppo", "critic_lr_ratio"): "tests/test_run_online.py::test_the_critic_learns_at_a_rate_of_its_own",
    ("ppo", "ptx_coef"): "tests/methods/test_online.py::test_ptx_is_a_second_mean",
}
"""Fields that are read before or after a method sees a batch, and the test of each."""

FIELDS = [(name, field) for name, method in METHODS.items() for field in method.model_fields if field != "name"]
LIVE = {"num_iterations": 3, "num_mini_batches": 2, "importance_cap": 0.9}
"""Those that all online methods have, and the loop sees."""


ONLY_ONE = [("reinforce", "num_iterations"), ("actor-critic", "num_iterations")]
"""Fields of all online methods that these refuse to change."""


def elsewhere(name, field):
    online = issubclass(METHODS[name], Online)
    return ELSEWHERE.get((name, field)) or (OF_ROLLOUTS.get(field) if online else None)


def batch_for(method):
    if isinstance(method, Online):
        batch = rollout(method.model_copy(update={"num_iterations": 2}))
        first, *others = batch.groups[0].responses  # one was cut off, and the sampler is a little off
        groups = (replace(batch.groups[0], responses=(replace(first, truncated=True), *others)), *batch.groups[1:])
        batch = Batch(groups)
        return batch.recording(logp_sampler=batch.logp_old + 0.3 * torch.randn(batch.num_own, generator=seeded()))
    if isinstance(method, Reward) and (method.rating == "bounded" or len(method.criteria) > 1):
        return ratings(criteria=len(method.criteria))
    return BATCHES[method.name]()


def seeded():
    return torch.Generator().manual_seed(0)


def seen(method, batch):
    """What the loop learns from a method about a batch: what it asks, how many updates it wants, the loss with its
    statistics and gradients, what follows for the next update, and the judgement of an answer."""
    told = {"asks": str(method.asks)}
    if isinstance(method, Online):
        told |= {"updates": (method.num_iterations, method.num_mini_batches), "records": str(method.records)}
        batch = advantages(batch, method, {})
    draw, leaves = seeded(), {}
    for role, asked in method.asks.items():
        for quantity in map(str, asked):
            width = len(getattr(method, "criteria", ("one",)))
            shape = (len(batch.scored), width) if quantity == "score" else (batch.num_own,)
            noise = torch.rand(shape, generator=draw, dtype=torch.float64) - 0.5
            near = batch.logp_old.double() if quantity == "logp" and batch.logp_old is not None else 0.0
            leaves[role, quantity] = (near + 2 * noise).requires_grad_()
    scores = Scores({role: RoleScores({q: leaf for (r, q), leaf in leaves.items() if r == role})
                     for role in method.asks})  # fmt: skip
    loss = method.loss(batch, scores)
    total = loss.divided_by(method.counts(batch))
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    told |= {
        f"gradient of {role} {q}": g.tolist() for (role, q), g in zip(leaves, gradients, strict=True) if g is not None
    }
    means = {name: float(torch.as_tensor(sum_).detach()) / n if n else None for name, (sum_, n) in loss.stats.items()}
    told |= {"loss": total.item(), "stats": {name: str(mean) for name, mean in means.items()}}
    told["next"] = method.after_step({}, {**{k: v for k, v in means.items() if v is not None}, "grad_norm": 1.0,
                                          "learning_rate": 1.0, "kl": 3.0}).get("kl_coef")  # fmt: skip
    if method.trained == "reward":
        told["judged"] = method.judge(scores.reward["score"].detach() if "score" in scores.reward else
                                      method.scores(scores.reward, batch).detach(), batch).tolist()  # fmt: skip
    return told


@pytest.mark.parametrize(("name", "field"), [f for f in FIELDS if not elsewhere(*f) and f not in ONLY_ONE])
def test_another_value_makes_a_difference(name, field):
    values = SETTINGS[name] if name in SETTINGS and field in SETTINGS[name] else LIVE
    beside = BESIDE.get((name, field), {})
    one, other = METHODS[name](**beside), METHODS[name].model_validate(beside | {field: values[field]})
    assert getattr(one, field) != getattr(other, field)
    batch = batch_for(one)
    assert seen(one, batch) == seen(one, batch) != seen(other, batch)


@pytest.mark.parametrize(("name", "field"), ONLY_ONE)
def test_a_field_without_another_value_refuses_it(name, field):
    with pytest.raises(ValidationError, match=field):
        METHODS[name].model_validate({field: LIVE[field]})


@pytest.mark.parametrize(("name", "field"), [f for f in FIELDS if elsewhere(*f)])
def test_a_field_that_is_read_elsewhere_is_tested_there(name, field):
    file, _, test = elsewhere(name, field).partition("::")
    found = [node for node in ast.walk(ast.parse(Path(file).read_text()))
             if isinstance(node, ast.FunctionDef) and node.name == test]  # fmt: skip
    assert len(found) == 1, f"{file} has no {test}"
    assert field in ast.unparse(found[0]), f"{test} says nothing of {field}"
