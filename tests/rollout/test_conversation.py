"""Several turns with a tiny real model. Its vocabulary is read as characters, so that it can be made to call a tool."""

import numpy as np
import pytest
from engine import online_engine

from nurture.envs import Calculator
from nurture.errors import RewardLost
from nurture.methods import GRPO
from nurture.protocols import Request, Sampling, Scored, Turn
from nurture.records import Task
from nurture.rollout.conversation import several_turns
from nurture.rollout.loop import Prompt, Rollouts, single_turn
from nurture.rollout.sampler import LocalSampler

STOPS = tuple(range(0, 199, 8))


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("Let me see. <calc>12*7</calc>", Turn("84")),
        ("<calc> 3 - 10 </calc>\n", Turn("-7")),
        ("12*7 is 84", Turn("", done=True)),
        ("<calc>2**99</calc>", Turn("", done=True)),
        ("<calc>1+1</calc> and so on", Turn("", done=True)),
    ],
)
def test_calculator(said, heard):
    assert Calculator().step(said) == heard


class Parrot:
    """Repeats the last token twice, and ends the talk after a turn of an odd number of tokens."""

    role = "tool"

    def reset(self, seed):
        return ""

    def step(self, action):
        words = action.split()
        return Turn(" ".join(words[-1:] * 2), done=len(words) % 2 == 1 or not words)


def decode(ids):
    return " ".join(map(str, ids))


def encode(message):
    assert message.role == "tool"
    return [int(w) for w in message.content.split()]


def talks(seed=0, max_tokens=30):
    roles = online_engine()
    draw = several_turns(single_turn(LocalSampler(roles.models["policy"])), lambda request: Parrot(), decode, encode)
    prompts = [np.random.default_rng(i).integers(8, 199, 5) for i in range(3)]
    requests = [Request(p, 6, f"prompt {i}") for i, p in enumerate(prompts)]
    return roles, prompts, draw(requests, Sampling(max_tokens=max_tokens, stop_ids=STOPS, seed=seed))


def test_the_world_speaks_with_mask_0_and_the_model_answers_it():
    _, _, drawn = talks()
    several = 0
    for response in (r for row in drawn for r in row):
        turns = np.split(np.arange(len(response.ids)), np.flatnonzero(np.diff(response.mask.astype(int))) + 1)
        own, worlds = turns[::2], turns[1::2]
        several += len(own) > 1
        for before, heard in zip(own, worlds, strict=False):
            assert response.ids[before[-1]] in STOPS
            assert response.ids[heard].tolist() == [response.ids[before[-2]]] * 2, (
                "what was said to it, token for token"
            )
        assert len(response.logp_sampler) == response.mask.sum() and len(response.ids) <= 30
        said = [[int(w) for w in turn.content.split()] for turn in response.turns]
        assert [turn.role for turn in response.turns] == ["assistant", "tool"] * (len(own) - 1) + ["assistant"]
        for ids, turn in zip(turns, said, strict=True):
            assert [i for i in response.ids[ids].tolist() if i not in STOPS or i in turn] == turn
    assert several >= 3


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"step": lambda self, action: 1 / 0}, "step raised ZeroDivisionError"),
        ({"step": lambda self, action: None}, "step gave None where a Turn with a text is due"),
        ({"step": lambda self, action: Turn(3)}, "where a Turn with a text is due"),
        ({"reset": lambda self, seed: {}[seed]}, "reset raised KeyError"),
    ],
)
def test_a_world_that_fails_is_named(fault, told):
    world = type("Broken", (Parrot,), fault)
    sampler = LocalSampler(online_engine().models["policy"])
    draw = several_turns(single_turn(sampler), lambda request: world(), decode, encode)
    with pytest.raises(RewardLost, match=f"env Broken: .*{told}"):
        draw([Request(np.arange(8, 13), 6, "a")], Sampling(max_tokens=30, stop_ids=STOPS, seed=0))


def test_the_trainer_agrees_with_every_turn():
    """Log-probabilities of all turns equal those of one teacher-forced pass: no token was tokenised again."""
    roles, prompts, _drawn = talks()
    draw = several_turns(single_turn(LocalSampler(roles.models["policy"])), lambda request: Parrot(), decode, encode)
    tasks = [Prompt(Task(()), p, f"prompt {i}") for i, p in enumerate(prompts)]

    def judge(answers):
        return [Scored(float(len(a.text))) for a in answers]

    method = GRPO(num_generations=6, max_completion_length=30, num_iterations=2)
    batch = Rollouts(tasks, draw, judge, roles, method, decode, 3, 0, STOPS).rollout(0, {})
    assert (batch.logp_old - batch.logp_sampler).abs().max() < 5e-5
    assert batch.num_own < sum(len(r.ids) for r in batch.responses), "some words are not the model's"


def test_equal_seeds_talk_equally():
    first, again, other = (talks(seed)[2] for seed in (0, 0, 1))
    ids = [[r.ids.tobytes() for row in some for r in row] for some in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]
