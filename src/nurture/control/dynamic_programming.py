"""Planning with a known model of the world: what the learners below it are checked against. Sutton and Barto 2018,
chapter 4.

Gymnasium's small worlds publish their model as `P[state][action] = [(probability, next state, reward, done), ...]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Published = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]


@dataclass(frozen=True, eq=False)
class Model:
    """`chance[s, a, s']` of going on in s' (a step that ends the episode goes nowhere), `reward[s, a]` expected."""

    chance: Floats
    reward: Floats

    @classmethod
    def of(cls, published: Published) -> Model:
        states, actions = len(published), len(published[0])
        chance, reward = np.zeros((states, actions, states)), np.zeros((states, actions))
        for s, a in np.ndindex(states, actions):
            for p, following, r, done in published[s][a]:
                reward[s, a] += p * r
                if not done:
                    chance[s, a, following] += p
        return cls(chance, reward)

    def action_values(self, value: Floats, gamma: float) -> Floats:
        """`[states, actions]` Bellman's expectation of one step, then `value`."""
        return self.reward + gamma * self.chance @ value


def evaluate_policy(model: Model, policy: Floats, gamma: float, tolerance: float = 1e-10) -> Floats:
    """The value of each state under `policy[s, a]`, by sweeping Bellman's equation until nothing changes."""
    value = np.zeros(len(policy))
    while True:
        new = (policy * model.action_values(value, gamma)).sum(1)
        if np.abs(new - value).max() < tolerance:
            return new
        value = new


def value_iteration(model: Model, gamma: float, tolerance: float = 1e-10) -> Floats:
    """The value of each state under the best policy."""
    value = np.zeros(len(model.reward))
    while True:
        new = model.action_values(value, gamma).max(1)
        if np.abs(new - value).max() < tolerance:
            return new
        value = new
