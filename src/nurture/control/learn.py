"""Rollouts of a game for the one loop: `for step in train(roles, method, rollouts, ...)`, as with a language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ..core.random import stream_key
from ..methods import Online
from ..rollout.record import advantages, check_parts, record, rollout_metrics, updates
from ..train.loop import Budget, train
from ..types import Batch, Group, Step
from .gym import Gym
from .roles import NetworkRoles, Trajectory, network
from .sampler import play

HIDDEN = 64
NO_LIMIT = 1 << 62


@dataclass
class Player:
    """A policy (and a critic, where the method wants one) for one environment, and its rollouts."""

    env: str
    method: Online
    seed: int
    batch_size: int
    hidden: int = HIDDEN
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """Of the newest rollout."""
    state: dict[str, Any] = field(default_factory=dict[str, Any])
    """The method's own, from `after_step`."""

    def __post_init__(self):
        check_parts(self.method, self.batch_size)
        self.worlds: list[Gym] = [Gym(self.env)]
        world = self.worlds[0]
        self.policy = network(world.state_size, world.num_actions, self.hidden, self._seed("policy"), 0.01)
        networks: dict[str, torch.nn.Module] = {"policy": self.policy}
        if "value" in self.method.roles:
            networks["value"] = network(world.state_size, 1, self.hidden, self._seed("value"), 1.0)
        # What rewards of 1 come to: as many as an episode has steps, or as the discount lets count.
        gamma = getattr(self.method, "gamma", 1.0)
        horizon = min(self.method.max_completion_length, 1 / (1 - gamma) if gamma < 1 else float("inf"))
        self.roles = NetworkRoles(
            networks, temperature=self.method.temperature, value_scale=float(horizon),
            critic_lr_ratio=getattr(self.method, "critic_lr_ratio", 1.0),
        )  # fmt: skip

    def learn(self, steps: int, learning_rate: Callable[[int], float]) -> Iterator[Step]:
        """One `Step` per update, with the metrics of its rollout."""
        method = self.method
        updates = train(self.roles, method, self._batches(steps), learning_rate=learning_rate, budget=Budget(NO_LIMIT))
        for step in updates:
            self.state = method.after_step(self.state, step.metrics)
            yield replace(step, metrics={**step.metrics, **self.metrics})

    def greedy(self, episodes: int) -> Batch:
        """Episodes from start states that no rollout begins in, taking the likeliest action each time."""
        keys = [f"greedy {i}" for i in range(episodes)]
        longest = self.method.max_completion_length
        return play(self._worlds, self.policy, keys, seed=self.seed, max_steps=longest, temperature=0.0)

    def _batches(self, steps: int) -> Iterator[Batch]:
        method, made, number = self.method, 0, 0
        while made < steps:
            keys = [f"rollout {number} {i}" for i in range(self.batch_size)]
            batch = play(
                self._worlds, self.policy, keys, seed=self.seed, n=method.num_generations,
                max_steps=method.max_completion_length, temperature=method.temperature,
            )  # fmt: skip
            batch = record(self._with_the_rest(batch), self.roles, method)
            priced = advantages(batch, method, self.state)
            self.metrics = rollout_metrics(batch, priced)
            for part in updates(priced, method, self.seed, number):
                if made < steps:
                    yield part
                made += 1
            number += 1

    def _with_the_rest(self, batch: Batch) -> Batch:
        """An episode that a limit of time ended would have gone on: the critic's estimate of what was still to come is
        added to its last reward."""
        value = self.roles.networks.get("value")
        if value is None:
            return batch

        def completed(r: Trajectory) -> Trajectory:
            if r.cut_at is None:
                return r
            assert r.reward is not None
            with torch.no_grad():
                rest = self.roles.value_scale * float(value(torch.as_tensor(r.cut_at)))
            return replace(
                r, reward=np.append(r.reward[:-1], r.reward[-1:] + getattr(self.method, "gamma", 1.0) * rest)
            )

        groups = (
            Group(g.prompt, tuple(completed(r) for r in g.responses if isinstance(r, Trajectory)), g.key)
            for g in batch.groups
        )
        return Batch(tuple(groups))

    def _worlds(self, n: int) -> list[Gym]:
        self.worlds += [Gym(self.env) for _ in range(n - len(self.worlds))]
        return self.worlds[:n]

    def _seed(self, what: str) -> int:
        return stream_key(self.seed, what) >> 1


def mean_score(batch: Batch) -> float:
    return float(batch.score.mean())


def tensors(networks: Mapping[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """All weights by name, to be saved."""
    return {f"{role}.{name}": t for role, net in networks.items() for name, t in net.state_dict().items()}
