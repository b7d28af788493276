"""Small networks behind the `Roles` protocol: the same five verbs that the loop asks of a language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..core.reduce import global_norm
from ..errors import InputError
from ..train.optim import AdamW
from ..types import Ask, Asks, Batch, Response, RoleScores, Scores


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory(Response):
    """A response whose tokens are the actions of an episode, with the states they were chosen in.

    For a language model the state is the text so far, which the token ids already are; here it has to be kept.
    """

    states: NDArray[np.float32] | None = None
    """`[T, state]`"""
    cut_at: NDArray[np.float32] | None = None
    """The state in which a limit of time ended the episode."""


def states_of(batch: Batch) -> Tensor:
    """`[T, state]` in the flat order of the batch's own tokens."""
    states = [r.states for r in batch.responses if isinstance(r, Trajectory) and r.states is not None]
    assert len(states) == batch.num_responses, "every response of a game is a trajectory with its states"
    return torch.as_tensor(np.concatenate(states))


def network(
    inputs: int, outputs: int, hidden: int, seed: int, last_gain: float, between: type[nn.Module] = nn.Tanh
) -> nn.Sequential:
    """Two hidden layers, orthogonal weights. A policy begins near uniform (`last_gain` 0.01)."""
    draw = torch.Generator().manual_seed(seed)
    layers = [nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, outputs)]
    for layer, gain in zip(layers, (2**0.5, 2**0.5, last_gain), strict=True):
        nn.init.orthogonal_(layer.weight, gain, generator=draw)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], between(), layers[1], between(), layers[2])


class NetworkRoles:
    """Implements `protocols.Roles`. Each role is a network from states to numbers: one per action for `policy` (logits)
    and `q` (action values), one for `value`.

    `value_scale` is about how large returns are. The critic's network says what share of it to expect, since a network
    with outputs near 1 learns in a tenth of the updates that one with outputs near 100 needs.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        *,
        max_grad_norm: float | None = None,
        temperature: float = 1.0,
        value_scale: float = 1.0,
        critic_lr_ratio: float = 1.0,
    ):
        self.networks, self.max_grad_norm, self.temperature = dict(networks), max_grad_norm, temperature
        named = [(f"{role}.{n}", p) for role, net in networks.items() for n, p in net.named_parameters()]
        self.value_scale = value_scale
        self.optimizer = AdamW(named, rates={name: critic_lr_ratio for name, _ in named if name.startswith("value.")})
        self._live: list[tuple[RoleScores, RoleScores]] = []

    def score(self, batch: Batch, asks: Asks) -> Scores:
        self._live.clear()
        states, scores = states_of(batch), Scores()
        for role, quantities in asks.items():
            if role not in self.networks:
                raise InputError(f"the method asks for the role {role!r}, which no network plays here; a game has no "
                                 "reference to stay near, so set kl_coef (or beta) to 0.")  # fmt: skip
            outputs = self._outputs(role, quantities, self.networks[role](states), batch)
            leaves = RoleScores({q: t.detach().requires_grad_(torch.is_grad_enabled()) for q, t in outputs.items()})
            self._live.append((leaves, outputs))
            scores[role] = leaves
        return scores

    def _outputs(self, role: str, quantities: tuple[Ask, ...], out: Tensor, batch: Batch) -> RoleScores:
        if role == "value":
            return RoleScores(value=self.value_scale * out.squeeze(-1))
        if role == "q":
            return RoleScores(value=out.gather(1, batch.target[:, None]).squeeze(1))
        logp = (out / self.temperature).log_softmax(-1)
        known = {
            "logp": lambda: logp.gather(1, batch.target[:, None]).squeeze(1),
            "entropy": lambda: -(logp.exp() * logp).sum(-1),
        }
        return RoleScores({str(q): known[str(q)]() for q in quantities})

    def backward(self, loss: Tensor) -> None:
        loss.backward()
        for leaves, outputs in self._live:
            asked = {q: leaf.grad for q, leaf in leaves.items() if leaf.grad is not None}
            torch.autograd.backward([outputs[q] for q in asked], list(asked.values()))
        self._live.clear()

    def step(self, learning_rate: float) -> dict[str, float]:
        gradients = {n: p.grad for n, p in self.optimizer.parameters.items() if p.grad is not None}
        norm = global_norm(gradients.values())
        if np.isfinite(norm):
            clip = self.max_grad_norm is not None and norm > self.max_grad_norm
            self.optimizer.step(
                gradients, learning_rate, self.max_grad_norm / norm if clip and self.max_grad_norm else 1.0
            )
        self.discard()
        return {"grad_norm": norm}

    def discard(self) -> None:
        self._live.clear()
        for parameter in self.optimizer.parameters.values():
            parameter.grad = None

    def all_sum(self, values: Mapping[str, float]) -> dict[str, float]:
        return dict(values)
