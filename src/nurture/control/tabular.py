"""Learning values in a table, one number per state or per state and action. Sutton and Barto 2018, chapters 5 and 6.

    Monte Carlo   V(s) += alpha (G - V(s))                                  what came of it, once the episode is over
    TD(0)         V(s) += alpha (r + gamma V(s') - V(s))                    one step, and the own estimate of the rest
    SARSA         Q(s,a) += alpha (r + gamma Q(s',a') - Q(s,a))             of the policy that is followed
    Q-learning    Q(s,a) += alpha (r + gamma max_b Q(s',b) - Q(s,a))        of the best policy, whichever is followed

`alpha` is a number, or None for one over the number of visits, with which Monte Carlo's estimate is the plain mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.random import numpy_generator, stream_key
from ..protocols import Env
from .sampler import SEEDS

Floats = NDArray[np.float64]
World = Env[int, NDArray[np.float32]]
"""An environment with numbered states, shown as one-hot vectors."""


@dataclass(frozen=True, slots=True)
class Transition:
    state: int
    action: int
    reward: float
    following: int
    ended: bool
    """The episode is over in the sense of the problem: nothing follows. (A limit of time is no such end.)"""


def monte_carlo(
    world: World, policy: Floats, *, gamma: float, episodes: int, seed: int, alpha: float | None = None
) -> Floats:
    """The value of each state under `policy[s, a]`: the mean return that followed each visit."""
    value, visits = np.zeros(len(policy)), np.zeros(len(policy))
    for episode in range(episodes):
        steps, ret = list(_follow(world, policy, seed, episode)), 0.0
        for step in reversed(steps):
            ret = step.reward + gamma * ret
            _move(value, visits, step.state, ret, alpha)
    return value


def td0(world: World, policy: Floats, *, gamma: float, episodes: int, seed: int, alpha: float | None = None) -> Floats:
    """The value of each state under `policy[s, a]`, learnt at every step."""
    value, visits = np.zeros(len(policy)), np.zeros(len(policy))
    for episode in range(episodes):
        for step in _follow(world, policy, seed, episode):
            target = step.reward + (0.0 if step.ended else gamma * value[step.following])
            _move(value, visits, step.state, target, alpha)
    return value


def sarsa(
    world: World, states: int, actions: int, *, gamma: float, alpha: float, epsilon: float, episodes: int, seed: int
) -> Floats:
    """Action values of the epsilon-greedy policy that is being followed. A table that starts at 0 is hopeful where
    rewards are negative, so everything gets tried."""
    q = np.zeros((states, actions))
    for episode in range(episodes):
        draw = numpy_generator(seed, "sarsa", episode)
        state = int(world.reset(_start(seed, episode)).argmax())
        action, done = _epsilon_greedy(q[state], epsilon, draw), False
        while not done:
            turn = world.step(action)
            following = int(turn.observation.argmax())
            after, done = _epsilon_greedy(q[following], epsilon, draw), turn.done
            rest = 0.0 if done and not turn.truncated else q[following, after]
            q[state, action] += alpha * (turn.reward + gamma * rest - q[state, action])
            state, action = following, after
    return q


def q_learning(
    world: World, states: int, actions: int, *, gamma: float, alpha: float, epsilon: float, episodes: int, seed: int
) -> Floats:
    """Action values of the best policy, learnt while following an epsilon-greedy one."""
    q = np.zeros((states, actions))
    for episode in range(episodes):
        draw = numpy_generator(seed, "q-learning", episode)
        state, done = int(world.reset(_start(seed, episode)).argmax()), False
        while not done:
            action = _epsilon_greedy(q[state], epsilon, draw)
            turn = world.step(action)
            following, done = int(turn.observation.argmax()), turn.done
            rest = 0.0 if done and not turn.truncated else q[following].max()
            q[state, action] += alpha * (turn.reward + gamma * rest - q[state, action])
            state = following
    return q


def _follow(world: World, policy: Floats, seed: int, episode: int) -> Iterator[Transition]:
    draw = numpy_generator(seed, "follow", episode)
    state, done = int(world.reset(_start(seed, episode)).argmax()), False
    while not done:
        action = int(draw.choice(policy.shape[1], p=policy[state]))
        turn = world.step(action)
        following, done = int(turn.observation.argmax()), turn.done
        yield Transition(state, action, turn.reward, following, done and not turn.truncated)
        state = following


def _move(value: Floats, visits: Floats, state: int, target: float, alpha: float | None) -> None:
    visits[state] += 1
    value[state] += (1 / visits[state] if alpha is None else alpha) * (target - value[state])


def _epsilon_greedy(q: Floats, epsilon: float, draw: np.random.Generator) -> int:
    """Ties are broken by chance: in a table of zeros the first action must not win."""
    if draw.random() < epsilon:
        return int(draw.integers(len(q)))
    return int(draw.choice(np.flatnonzero(q == q.max())))


def _start(seed: int, episode: int) -> int:
    return stream_key(seed, "start", episode) % SEEDS
