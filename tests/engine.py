"""A small real engine for tests: a tiny model behind `LocalRoles`, one process."""

from dataclasses import replace

import numpy as np
import torch
from families import tiny

from nurture.models.heads import add_score_head
from nurture.models.layouts import set_layout
from nurture.models.roles import LocalRoles
from nurture.rollout.record import advantages, record
from nurture.train.loop import Budget, train
from nurture.train.optim import AdamW
from nurture.train.processes import Processes
from nurture.types import Batch, Group, Response

VOCABULARY = 199


def engine(family="llama", layout="tree", seed=0, model=None, ref=None, criteria=1, head=0.3, **settings):
    """Policy and reward model are one model with two heads, both trained; reference and teacher are another one (or
    `ref`). `head` scales the random weights of the score head."""
    model = tiny(family, seed) if model is None else model
    ref = tiny(family, seed + 1) if ref is None else ref
    add_score_head(model, criteria)
    model.score.weight.data.normal_(0, head, generator=torch.Generator().manual_seed(seed)) if head else None
    models = {"policy": model, "reward": model, "ref": ref.requires_grad_(False), "teacher": ref}
    for one in models.values():
        set_layout(one, layout)
    optimizer = AdamW(list(model.named_parameters()))
    return LocalRoles(models, dict.fromkeys(models, layout), optimizer, Processes(), **settings)


def online_engine(family="llama", layout="tree", seed=0, model=None, ref=None, value_scale=0.1, **settings):
    """Policy and critic are one model with two heads; the reference is another one."""
    roles = engine(family, layout, seed, model, ref, head=value_scale, **settings)
    roles.models["value"], roles.layouts["value"] = roles.models.pop("reward"), roles.layouts.pop("reward")
    return roles


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


def judged(seed=0, n=5, answers=(2,), draw_one=None):
    """Groups of several answers to one prompt; `draw_one(draw, response, i)` says what people said of answer i."""
    draw = np.random.default_rng(seed)
    groups = []
    for key in range(n):
        lengths = [int(draw.integers(2, 12)) for _ in range(int(draw.choice(answers)))]
        one = group(draw, int(draw.integers(3, 12)), lengths, key=str(key))
        said = tuple(replace(r, **draw_one(draw, r, i)) for i, r in enumerate(one.responses))
        groups.append(replace(one, responses=said))
    return Batch(tuple(groups))


def pairs(seed=0, n=5):
    return judged(seed, n, (2,), lambda draw, r, i: {"rank": i + 1})


def rankings(seed=0, n=5):
    return judged(seed, n, (2, 3, 4), lambda draw, r, i: {"rank": (1, 2, 2, 4)[i]})


def ratings(seed=0, n=5, criteria=1):
    return judged(seed, n, (2, 3, 4), lambda draw, r, i: {"scores": tuple(draw.integers(0, 5, criteria) / 4)})


def chains(seed=0, n=5):
    def steps(draw, r, i):
        ends = sorted(draw.choice(len(r.ids), min(len(r.ids), 3), replace=False).tolist())
        return {"step_ends": tuple(ends), "step_labels": tuple(draw.integers(0, 2, len(ends)).astype(float).tolist())}

    return judged(seed, n, (1, 2), steps)


def thumbs(seed=0, n=5):
    """A wanted, an unwanted and an unrelated answer to each prompt."""
    return judged(seed, n, (3,), lambda draw, r, i: {"label": (1.0, 0.0, None)[i]})


BATCHES = {
    "lm": demonstrations,
    "sft": demonstrations,
    "distill": demonstrations,
    "reward": rankings,
    "process": chains,
    "dpo": pairs,
    "kto": thumbs,
    "orpo": pairs,
    "simpo": pairs,
    "stable": ratings,
}
"""The batch of each method; a method that learns from rollouts gets one of its own (`engine.rollout`)."""


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
