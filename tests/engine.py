"""A small real engine for tests: a tiny model behind `LocalRoles`, one process."""

from dataclasses import replace

import numpy as np
import torch
from families import tiny

from nurture.models.layouts import LAY, set_layout
from nurture.models.roles import LocalRoles
from nurture.rollout.record import advantages, record
from nurture.train.loop import Budget, train
from nurture.train.optim import AdamW
from nurture.train.processes import Processes
from nurture.types import Batch, Group, Response, RoleScores

VOCABULARY = 199


def engine(family="llama", layout="tree", seed=0, model=None, **settings):
    model = tiny(family, seed) if model is None else model
    set_layout(model, layout)
    optimizer = AdamW(list(model.named_parameters()))
    return LocalRoles({"policy": model}, {"policy": layout}, optimizer, Processes(), **settings)


class ActorCriticRoles(LocalRoles):
    """`LocalRoles` with a critic: one more linear head on the policy's own hidden states."""

    def _pass(self, role, quantities, batch):
        if role != "value":
            return super()._pass(role, quantities, batch)
        hidden = self._at(self.models[role], LAY[self.layouts[role]](batch))
        return RoleScores(value=hidden @ self.optimizer.parameters["value_head"])


def online_engine(family="llama", layout="tree", seed=0, model=None, ref=None, value_scale=0.1, **settings):
    """Policy, critic and reference, for methods that learn from rollouts."""
    model = tiny(family, seed) if model is None else model
    ref = tiny(family, seed + 1) if ref is None else ref
    for m in (model, ref):
        set_layout(m, layout)
    draw = torch.Generator().manual_seed(3)
    value_head = torch.nn.Parameter(value_scale * torch.randn(model.config.hidden_size, generator=draw))
    optimizer = AdamW([*model.named_parameters(), ("value_head", value_head)])
    ref.requires_grad_(False)
    return ActorCriticRoles(
        {"policy": model, "value": model, "ref": ref}, dict.fromkeys(("policy", "value", "ref"), layout), optimizer,
        Processes(), **settings,
    )  # fmt: skip


def rollout(method, seed=0, roles=None, noise=0.2):
    """Groups of several scored responses with everything a rollout records. With `noise`, what was recorded is a little
    off what the model says now, as it is after an update, so that ratios differ from 1 and some are clipped."""
    draw = np.random.default_rng(seed)
    shapes = [(int(draw.integers(3, 12)), tuple(int(x) for x in draw.integers(2, 12, n))) for n in (3, 2, 4, 16)]
    groups = [group(draw, p, lengths, key=str(i)) for i, (p, lengths) in enumerate(shapes)]
    scored = [replace(g, responses=tuple(replace(r, score=float(draw.normal())) for r in g.responses)) for g in groups]
    batch = record(Batch(tuple(scored)), roles or online_engine(), method)
    for name in ("logp_old", "logp_ref", "value"):
        if any(getattr(r, name) is not None for r in batch.responses):
            off = torch.tensor(noise * draw.normal(size=batch.num_own))
            batch = batch.recording(**{name: getattr(batch, name) + off})
    return advantages(batch, method, {})


def group(draw, prompt, lengths, own=0.7, key=""):
    def ids(n):
        return draw.integers(0, VOCABULARY, n)

    responses = tuple(Response(ids(n), np.append(draw.random(n - 1) < own, True)) for n in lengths)
    return Group(ids(prompt), responses, key)


def demonstrations(seed=0, n=6):
    """A batch for methods that imitate: chains, a text without a prompt, and several answers to one prompt."""
    draw = np.random.default_rng(seed)
    shapes = [(int(draw.integers(3, 12)), (int(draw.integers(2, 15)),)) for _ in range(n)]
    shapes += [(0, (9,)), (6, tuple(int(x) for x in draw.integers(1, 8, 16)))]
    return Batch(tuple(group(draw, p, lengths, key=str(i)) for i, (p, lengths) in enumerate(shapes)))


def one_step(roles, method, batch, tokens=1 << 30):
    """The metrics and gradients of one step on the batch, without its update."""
    taken = {}

    def step(rate):
        taken.update({name: g.clone() for name, g in roles.gradients().items()})
        roles.discard()
        return {"grad_norm": 0.0}

    roles.step = step
    update = next(train(roles, method, [batch], learning_rate=lambda n: 0.0, budget=Budget(tokens)))
    del roles.step
    return update.metrics, taken
