"""Deep Q-networks: Q-learning with a network for the table, in the same loop as everything else."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from ..core.random import numpy_generator, stream_key
from ..methods.method import Method
from ..train.loop import Budget, train
from ..types import Batch, Group, Loss, Scores, Step, tally
from .gym import Gym, State
from .learn import mean_score
from .roles import NetworkRoles, Trajectory, network
from .sampler import SEEDS, play

Count = Annotated[int, Field(strict=True, ge=1)]
Whole = Annotated[int, Field(strict=True, ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


TRIAL = 20
"""Episodes of a trial."""


class DQN(Method):
    """Deep Q-network with experience replay and a target network. Mnih et al. 2015, "Human-level control through deep
    reinforcement learning", algorithm 1.

        ret = r + gamma max_a Q_target(s', a)
        L = mean over a mini-batch from the memory of  huber( Q(s, a) - ret )

    It learns from what any policy did, so everything it has seen can be seen again.
    """

    name: Literal["dqn"] = "dqn"  # pyright: ignore[reportIncompatibleVariableOverride]
    gamma: Share = 0.99
    """Discount per step."""
    memory: Count = 100_000
    """Transitions remembered; older ones are forgotten."""
    collect: Count = 256
    """Steps played between two rounds of updates."""
    updates: Count = 128
    """Updates in a round."""
    first: Count = 1000
    """Steps played before the first update."""
    target_every: Count = 128
    """Updates after which the target network becomes a copy of the learning one."""
    epsilon: Share = 0.04
    """How often a random action is taken in the end; it falls linearly from 1 over the first `explore` of the steps."""
    explore: Share = 0.16
    """Share of the updates during which exploration falls."""
    max_completion_length: Count = 500
    """The most steps of an episode."""
    trials: Whole = 50
    """How often (at most about) in a run the network plays `TRIAL` greedy episodes. In the end the one remains that did
    best in them: action values that chase each other's targets forget again what they could do. 0 keeps the last."""

    roles: ClassVar = {"q": ("value",)}
    default_learning_rate: ClassVar[float] = 1e-3
    metrics: ClassVar = {
        "loss": "Huber loss of the action values: it may rise while the policy improves, since the target moves",
        "q": "mean value of the actions in the mini-batch: runs away when learning diverges",
        "trial": "mean score of the last trial",
        "epsilon": "chance of a random action when the memory was last added to: falls from 1 to the field `epsilon`",
    }

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"tokens": batch.num_own}

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        q = scores.q.value
        huber = torch.nn.functional.huber_loss(q, batch.ret.to(q.dtype), reduction="none")
        return Loss({"tokens": huber.sum()}, {"loss": tally(huber), "q": tally(q)})


@dataclass
class Memory:
    """The newest transitions, each in its place in one array per field."""

    size: int
    state_size: int
    filled: int = 0
    written: int = 0

    def __post_init__(self):
        self.states = np.zeros((self.size, self.state_size), np.float32)
        self.following = np.zeros((self.size, self.state_size), np.float32)
        self.actions = np.zeros(self.size, np.int64)
        self.rewards = np.zeros(self.size, np.float32)
        self.ended = np.zeros(self.size, np.float32)

    def add(self, state: State, action: int, reward: float, following: State, ended: bool) -> None:
        at = self.written % self.size
        self.states[at], self.actions[at], self.rewards[at] = state, action, reward
        self.following[at], self.ended[at] = following, ended
        self.written += 1
        self.filled = min(self.written, self.size)


@dataclass
class QPlayer:
    """A network of action values for one environment. `batch_size` transitions make a mini-batch."""

    env: str
    method: DQN
    seed: int
    batch_size: int
    hidden: int = 256
    metrics: dict[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self):
        self.world = Gym(self.env)
        # Values reach 100, and a layer of tanh that has to say so saturates: with it the pole fell after 25 steps.
        self.policy = network(
            self.world.state_size, self.world.num_actions, self.hidden, stream_key(self.seed, "q") >> 1, 1.0, nn.ReLU
        )
        self.roles = NetworkRoles({"q": self.policy}, max_grad_norm=10.0)
        self.memory = Memory(self.method.memory, self.world.state_size)
        self.draw = numpy_generator(self.seed, "explore")
        self.episodes: list[float] = []
        """The score of each episode, the last one still under way."""
        self._begin()

    def learn(self, steps: int, learning_rate: Callable[[int], float]) -> Iterator[Step]:
        updates = train(
            self.roles, self.method, self._batches(steps), learning_rate=learning_rate, budget=Budget(1 << 62)
        )
        trials = self.method.trials
        best, kept = -math.inf, self.policy.state_dict()
        for step in updates:
            if trials and (step.number % math.ceil(steps / trials) == 0 or step.number == steps):
                self.metrics["trial"] = mean_score(self.greedy(TRIAL, "trial"))
                if self.metrics["trial"] >= best:
                    best, kept = self.metrics["trial"], copy.deepcopy(self.policy.state_dict())
            if trials and step.number == steps:
                self.policy.load_state_dict(kept)
            yield replace(step, metrics={**step.metrics, **self.metrics})

    def greedy(self, episodes: int, name: str = "greedy") -> Batch:
        """Episodes from start states of this name, without exploring."""
        keys = [f"{name} {i}" for i in range(episodes)]
        return play(
            lambda n: [Gym(self.env) for _ in range(n)], self.policy, keys, seed=self.seed,
            max_steps=self.method.max_completion_length, temperature=0.0,
        )  # fmt: skip

    def _batches(self, steps: int) -> Iterator[Batch]:
        method, memory, target = self.method, self.memory, copy.deepcopy(self.policy)
        for number in range(steps):
            if number % method.updates == 0:
                fallen = min(1.0, number / max(1.0, method.explore * steps))
                self._collect(method.collect if number else method.first, 1 - fallen * (1 - method.epsilon))
            if number % method.target_every == 0:
                target.load_state_dict(self.policy.state_dict())
            chosen = numpy_generator(self.seed, "replay", number).integers(0, memory.filled, self.batch_size)
            yield self._batch(chosen, target)

    def _begin(self) -> None:
        self.now = self.world.reset(stream_key(self.seed, "start", len(self.episodes)) % SEEDS)
        self.episodes.append(0.0)
        self.length = 0

    @torch.no_grad()
    def _collect(self, steps: int, epsilon: float) -> None:
        """Play on, epsilon-greedily, and remember it."""
        for _ in range(steps):
            action = int(self.draw.integers(self.world.num_actions))
            if self.draw.random() >= epsilon:
                action = int(self.policy(torch.as_tensor(self.now)).argmax())
            turn = self.world.step(action)
            self.memory.add(self.now, action, turn.reward, turn.observation, turn.done and not turn.truncated)
            self.now, self.length = turn.observation, self.length + 1
            self.episodes[-1] += turn.reward
            if turn.done or self.length >= self.method.max_completion_length:
                self._begin()
        done = self.episodes[-11:-1]
        self.metrics |= {"rollout/score": float(np.mean(done)) if done else float("nan"), "epsilon": epsilon}

    @torch.no_grad()
    def _batch(self, chosen: Any, target: torch.nn.Module) -> Batch:
        m = self.memory
        best = target(torch.as_tensor(m.following[chosen])).amax(1).numpy()
        ret = m.rewards[chosen] + self.method.gamma * (1 - m.ended[chosen]) * best
        n = len(chosen)
        replayed = Trajectory(m.actions[chosen], np.ones(n, bool), ret=ret, states=m.states[chosen])
        return Batch((Group(np.zeros(1, np.int64), (replayed,)),))
