"""Playing episodes: what drawing responses is to a language model.

A group is a start state (its "prompt") and the episodes played from it; all episodes of a rollout advance together, one
action each at a time. What an episode draws is a function of (seed, key, k) and its own states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..core.random import stream_key, uniform
from ..core.sampling import draw, greedy
from ..types import Batch, Group, Ids
from .gym import Gym, State
from .roles import Trajectory

SEEDS = 1 << 31


@torch.no_grad()
def play(
    worlds: Callable[[int], Sequence[Gym]],
    policy: nn.Module,
    keys: Sequence[str],
    *,
    seed: int,
    n: int = 1,
    max_steps: int,
    temperature: float = 1.0,
) -> Batch:
    """`n` episodes from each of the start states that `keys` name. Temperature 0 always takes the likeliest action."""
    envs = worlds(len(keys) * n)
    starts = [stream_key(seed, "start", key) % SEEDS for key in keys for _ in range(n)]
    streams = np.array([stream_key(seed, "play", key, k) for key in keys for k in range(n)], np.uint64)
    states: list[list[State]] = [[env.reset(start)] for env, start in zip(envs, starts, strict=True)]
    actions: list[list[int]] = [[] for _ in envs]
    rewards: list[list[float]] = [[] for _ in envs]
    logps: list[list[float]] = [[] for _ in envs]
    cut = [False] * len(envs)
    active = list(range(len(envs)))
    for t in range(max_steps):
        logits: Tensor = policy(torch.as_tensor(np.stack([states[i][-1] for i in active])))
        if temperature == 0.0:
            chosen, logp = greedy(logits)
        else:
            numbers = uniform(streams[active], np.full(len(active), t, np.uint64))
            chosen, logp = draw(logits / temperature, torch.as_tensor(numbers))
        going: list[int] = []
        for i, action, p in zip(active, chosen.tolist(), logp.tolist(), strict=True):
            turn = envs[i].step(action)
            actions[i].append(action)
            rewards[i].append(turn.reward)
            logps[i].append(p)
            states[i].append(turn.observation)
            cut[i] = turn.truncated or (not turn.done and t + 1 == max_steps)
            if not turn.done:
                going.append(i)
        active = going
        if not active:
            break
    episodes = [
        Trajectory(
            np.array(actions[i]),
            np.ones(len(actions[i]), bool),
            score=float(sum(rewards[i])),
            truncated=cut[i],
            reward=np.array(rewards[i], np.float32),
            logp_sampler=np.array(logps[i], np.float32),
            states=np.stack(states[i][:-1]),
            cut_at=states[i][-1] if cut[i] else None,
        )
        for i in range(len(envs))
    ]
    prompts: list[Ids] = [np.array([start], np.int64) for start in starts[::n]]
    groups = (
        Group(prompt, tuple(episodes[i * n : (i + 1) * n]), key)
        for i, (prompt, key) in enumerate(zip(prompts, keys, strict=True))
    )
    return Batch(tuple(groups))
