"""A reward made ready: the models it asks are loaded, and what cannot be computed here is found out now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..data.template import Template
from ..models.layouts import Layout, choose_layout, set_layout
from ..models.load import LoadedModel, resolve_model
from ..records import Message
from ..rewards import Reward, bind
from ..rewards.local_judge import Asker, LocalJudge
from ..rewards.model import ModelReward, models_in
from ..train import reference
from ..types import Batch, Group, Response
from .answers import open_to_talk
from .scoring import TOKENS, join_reward_model, load_reward_model, score

NO_STAGES: Mapping[str, Path] = {}


def make_ready(
    reward: Reward,
    policy: Template | None,
    *,
    stages: Mapping[str, Path] = NO_STAGES,
    device: str = "auto",
    precision: str = "auto",
    base: tuple[LoadedModel, Layout] | None = None,
) -> list[str]:
    """Load what `reward` asks and check it. A reward model that is an adapter of the same kind on the policy's own
    `base` is put onto that; the names of these are returned. InputError for a reward model that reads other turns than
    the policy writes (None: nobody here wrote the answers); a judge is asked in words, so its template is its own."""
    scorers = {}
    joined: list[str] = []
    for name in dict.fromkeys(models_in(reward, ModelReward)):
        where = resolve_model(name, stages)
        judge = join_reward_model(where, *base, f"reward{len(joined) or ''}") if base else None
        if judge is not None:
            joined.append(name)
        else:
            judge = load_reward_model(where, device=device, precision=precision)
        if policy is not None:
            judge.require_same_template(policy)
        scorers[name] = partial(score, judge)
    askers: dict[str, Asker] = {}
    for name in models_in(reward, LocalJudge):
        askers[name] = partial(ask, *open_to_talk(name, stages, device=device, precision=precision))
    bind(reward, scorers, askers)
    reward.check()
    return joined


def ask(
    judge: LoadedModel, template: Template, questions: Sequence[str], words: Sequence[str]
) -> list[list[float] | None]:
    """For each question the log-probability of each word as the beginning of the answer, small or capital; None where
    the question is longer than the model reads."""
    if not questions:
        return []
    spellings = [tuple(dict.fromkeys((word, word.capitalize()))) for word in words]
    ids = [np.asarray(template.tokenizer.encode(s, add_special_tokens=False)) for some in spellings for s in some]
    responses = tuple(Response(x, np.ones(len(x), bool)) for x in ids)
    prompts = [template.encode_prompt([Message("user", question)]) for question in questions]
    positions = getattr(judge.model.config.get_text_config(), "max_position_embeddings", None) or 2048
    groups = [Group(prompt, responses) for prompt in prompts]
    short = [group for group in groups if group.length <= positions]
    if not short:
        return [None] * len(questions)
    layout = choose_layout(judge.model, max(group.length for group in short)).layout
    set_layout(judge.model, layout)
    device = next(judge.model.parameters()).device
    logp = torch.from_numpy(reference.ask(judge.model, layout, short, TOKENS, device)).double()
    each = Batch(tuple(short)).sum_per_response(logp).view(len(short), len(ids)).split([len(s) for s in spellings], 1)
    by_word = iter(torch.stack([some.logsumexp(1) for some in each], 1).tolist())
    return [next(by_word) if group.length <= positions else None for group in groups]
