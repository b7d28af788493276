"""Gymnasium's environments as `Env`, with numbers in and numbers out."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..errors import InputError, did_you_mean
from ..protocols import Turn

State = NDArray[np.float32]


class Gym:
    """`Env[int, State]`. States are vectors (a numbered state becomes a one-hot vector), actions are numbers from 0."""

    def __init__(self, name: str, **options: Any):
        try:
            self.env: Any = gymnasium.make(name, **options)
        except gymnasium.error.Error as error:
            known = did_you_mean(name, gymnasium.registry)
            raise InputError(f"gym/{name} cannot be made: {' '.join(str(error).split())}{known}") from None
        seen, acts = self.env.observation_space, self.env.action_space
        if not isinstance(acts, spaces.Discrete) or acts.start != 0:
            raise InputError(f"gym/{name} wants actions of the kind {acts}; only numbered actions can be learnt here.")
        if not isinstance(seen, spaces.Discrete | spaces.Box):
            raise InputError(f"gym/{name} shows {seen}; only vectors and numbered states can be learnt here.")
        self.num_actions = int(acts.n)
        self.num_states = int(seen.n) if isinstance(seen, spaces.Discrete) else None
        self.state_size = self.num_states or int(np.prod(seen.shape or (1,)))

    def reset(self, seed: int) -> State:
        return self._vector(self.env.reset(seed=seed)[0])

    def step(self, action: int) -> Turn[State]:
        seen, reward, terminated, truncated, _ = self.env.step(action)
        return Turn(self._vector(seen), float(reward), terminated or truncated, truncated and not terminated)

    def _vector(self, seen: Any) -> State:
        if self.num_states is None:
            return np.asarray(seen, np.float32).reshape(-1)
        one_hot = np.zeros(self.num_states, np.float32)
        one_hot[seen] = 1.0
        return one_hot
