"""Tables against dynamic programming, and dynamic programming against linear algebra."""

import numpy as np
import pytest

from nurture.control.dynamic_programming import Model, evaluate_policy, value_iteration
from nurture.control.gym import Gym
from nurture.control.tabular import monte_carlo, q_learning, sarsa, td0


def lake(**options):
    world = Gym("FrozenLake-v1", **options)
    return world, Model.of(world.env.unwrapped.P)


def uniform(model):
    return np.full(model.reward.shape, 1 / model.reward.shape[1])


def solved(model, policy, gamma):
    """V = (I - gamma P)^-1 r."""
    chance = np.einsum("sa,sat->st", policy, model.chance)
    return np.linalg.solve(np.eye(len(policy)) - gamma * chance, (policy * model.reward).sum(1))


@pytest.mark.parametrize("gamma", [0.5, 0.95, 1.0])
def test_policy_evaluation_solves_bellmans_equation(gamma):
    _, model = lake(is_slippery=True)
    np.testing.assert_allclose(
        evaluate_policy(model, uniform(model), gamma), solved(model, uniform(model), gamma), atol=1e-7
    )


def test_no_policy_beats_value_iteration():
    _, model = lake(is_slippery=True)
    value = value_iteration(model, 0.95)
    best = np.eye(4)[model.action_values(value, 0.95).argmax(1)]
    np.testing.assert_allclose(solved(model, best, 0.95), value, atol=1e-7)
    draw = np.random.default_rng(0)
    for policy in draw.dirichlet(np.ones(4), size=(20, 16)):
        assert (solved(model, policy, 0.95) <= value + 1e-8).all()


def test_shortest_paths():
    """Without ice the value of the start is gamma to the number of steps but one; on the cliff it is minus the way."""
    _, model = lake(is_slippery=False)
    assert value_iteration(model, 0.9)[0] == pytest.approx(0.9**5)
    assert value_iteration(Model.of(Gym("CliffWalking-v1").env.unwrapped.P), 1.0)[36] == pytest.approx(-13)


@pytest.mark.parametrize("learner", [monte_carlo, td0])
def test_prediction_approaches_the_true_values(learner):
    """The mean of n returns is off by about sigma / sqrt(n); with values in [0, 1] sigma is at most 1/2."""
    world, model = lake(is_slippery=True)
    policy = value_policy(model)
    settings = {} if learner is monte_carlo else {"alpha": 0.02}
    value = learner(world, policy, gamma=0.95, episodes=3000, seed=0, **settings)
    true = evaluate_policy(model, policy, 0.95)
    on_the_way = [0, 4, 8, 9, 13, 14]
    np.testing.assert_allclose(value[on_the_way], true[on_the_way], atol=0.06)


def value_policy(model):
    """Mostly the best action, so that episodes get somewhere."""
    best = np.eye(4)[model.action_values(value_iteration(model, 0.95), 0.95).argmax(1)]
    return 0.8 * best + 0.2 * uniform(model)


def test_q_learning_finds_the_best_values_on_the_cliff():
    world = Gym("CliffWalking-v1")
    model = Model.of(world.env.unwrapped.P)
    q = q_learning(world, 48, 4, gamma=1.0, alpha=0.5, epsilon=0.1, episodes=500, seed=0)
    best = value_iteration(model, 1.0)
    along_the_edge = [36, *range(24, 36)]
    np.testing.assert_allclose(q.max(1)[along_the_edge], best[along_the_edge], atol=0.05)
    assert walk(world, q) == -13


def test_sarsa_walks_further_from_the_cliff():
    """Sutton and Barto 2018, example 6.6: who learns the value of what they do, slips included, takes the safer way."""
    world = Gym("CliffWalking-v1")
    settings = {"gamma": 1.0, "alpha": 0.5, "epsilon": 0.1, "episodes": 500, "seed": 0}
    careful, bold = sarsa(world, 48, 4, **settings), q_learning(world, 48, 4, **settings)
    assert -25 <= walk(world, careful) < walk(world, bold) == -13


def test_sarsa_without_exploring_finds_the_best_values_where_nothing_is_left_to_chance():
    world = Gym("CliffWalking-v1")
    q = sarsa(world, 48, 4, gamma=1.0, alpha=0.5, epsilon=0.0, episodes=600, seed=1)
    assert walk(world, q) == -13
    assert q[36].max() == pytest.approx(-13, abs=0.05)


def test_q_learning_crosses_the_ice():
    """On ice an action takes its direction one time in three: the greedy policy's true value comes near the best."""
    world, model = lake(is_slippery=True)
    q = q_learning(world, 16, 4, gamma=0.95, alpha=0.1, epsilon=0.3, episodes=4000, seed=0)
    greedy = np.eye(4)[q.argmax(1)]
    assert evaluate_policy(model, greedy, 0.95)[0] >= 0.9 * value_iteration(model, 0.95)[0]


def walk(world, q):
    state, total = world.reset(0).argmax(), 0.0
    for _ in range(100):
        turn = world.step(int(q[state].argmax()))
        state, total = turn.observation.argmax(), total + turn.reward
        if turn.done:
            break
    return total
