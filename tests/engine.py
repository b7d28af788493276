"""A small real engine for tests: a tiny model behind `LocalRoles`, one process."""

import numpy as np
from families import tiny

from nurture.models.layouts import set_layout
from nurture.models.roles import LocalRoles
from nurture.train.loop import Budget, train
from nurture.train.optim import AdamW
from nurture.train.processes import Processes
from nurture.types import Batch, Group, Response

VOCABULARY = 199


def engine(family="llama", layout="tree", seed=0, model=None, **settings):
    model = tiny(family, seed) if model is None else model
    set_layout(model, layout)
    optimizer = AdamW(list(model.named_parameters()))
    return LocalRoles({"policy": model}, {"policy": layout}, optimizer, Processes(), **settings)


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
