"""Scores of answers by a reward model: of groups in training, of conversations anywhere.

    model = load_reward_model("runs/reward/model")
    score(model, [Conversation((Message("user", "2 + 2?"), Message("assistant", "4")))])

An answer's score is read at its last own token and depends on its conversation alone, not on what is scored beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ..data.quality.view import chat_of
from ..data.template import Template, trained_messages
from ..errors import DataError, InputError
from ..methods import METHODS, Method
from ..models.heads import ScoreHead, has_score_head, score_head
from ..models.layouts import Layout, choose_layout, set_layout
from ..models.load import LoadedModel, join, load_model, resolve_model
from ..models.roles import LocalRoles
from ..protocols import Roles
from ..records import Conversation, Record, Text
from ..train.optim import AdamW
from ..train.precision import choose_device, choose_precision
from ..train.processes import Processes
from ..types import Batch, Group

TOKENS = 8192
"""Tokens in one pass."""


@dataclass(frozen=True, slots=True, eq=False)
class RewardModel:
    """A model that judges, its template, and the method that says how its heads are read."""

    roles: Roles
    template: Template
    method: Method
    device: torch.device
    max_length: int
    source: str

    @property
    def criteria(self) -> tuple[str, ...]:
        return getattr(self.method, "criteria", ("overall",))

    def require_same_template(self, policy: Template) -> None:
        """InputError for a policy whose turns are written in another way than those this model learnt to judge."""
        ours, theirs = self.template, policy
        if ours.hash != theirs.hash or ours.tokenizer.get_vocab() != theirs.tokenizer.get_vocab():
            what = "chat template" if ours.hash != theirs.hash else "vocabulary"
            raise InputError(
                f"{self.source} TEMPLATE this reward model was trained with another {what} than the policy's: it would "
                "judge texts of a form it has never seen; train both from one model, or give them the same template."
            )


def load_reward_model(name: str | Path, *, device: str = "auto", precision: str = "auto") -> RewardModel:
    """A reward model that Nurture saved, or any sequence classifier with a linear `score` head."""
    where = choose_device(device)
    dtype = choose_precision(precision, where)
    loaded = load_model(resolve_model(str(name), {}), dtype=dtype, device=where, seed=0, reward=True)
    model = loaded.model.requires_grad_(False)
    layout = choose_layout(model, _positions(model)).layout
    set_layout(model, layout)
    return _reward_model(loaded, where, layout)


def join_reward_model(name: str | Path, policy: LoadedModel, layout: Layout, role: str) -> RewardModel | None:
    """The same on the policy's base, where it is an adapter on that very base; None where it is not."""
    if not Path(name).is_dir() or choose_layout(policy.model, _positions(policy.model)).layout != layout:
        return None
    joined = join(policy, Path(name), role, judges=True) or join(policy, Path(name), role, judges=False)
    return None if joined is None else _reward_model(joined, policy.model.device, layout, role)


def _reward_model(loaded: LoadedModel, where: torch.device, layout: Layout, adapter: str | None = None) -> RewardModel:
    model, name, template = loaded.model, loaded.source, Template(loaded.tokenizer)
    if loaded.reward is None and not has_score_head(model):
        raise InputError(f"{name} is a language model without a score head; train one with method reward.")
    settings = dict(loaded.reward or {"name": "reward", "criteria": _criteria(model, score_head(model, adapter))})
    trained_with = settings.pop("template", template.hash)
    kind = METHODS.get(str(settings.get("name")))
    if kind is None or kind.trained != "reward":
        raise InputError(
            f"{name}: its configuration says it was trained by {settings.get('name')!r}, no reward method."
        )
    if trained_with != template.hash:
        raise InputError(f"{name} TEMPLATE its chat template is not the one it was trained with; restore the folder.")
    adapters = {"reward": adapter} if adapter else {}
    roles = LocalRoles({"reward": model}, {"reward": layout}, AdamW([]), Processes(), adapters=adapters)
    return RewardModel(roles, template, kind.model_validate(settings), where, _positions(model), name)


def _positions(model: PreTrainedModel) -> int:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048


def _criteria(model: PreTrainedModel, head: ScoreHead) -> list[str]:
    """Those of a sequence classifier, or numbers where an adapter brought a head of another size."""
    names = [str(name) for name in (model.config.id2label or {}).values()]
    return names if len(names) == head.out_features else [f"LABEL_{i}" for i in range(head.out_features)]


def score(model: RewardModel, conversations: Sequence[Conversation]) -> list[float]:
    """One number for the last answer of each conversation."""
    return [float(x) for x in judge(model, conversations)[0]]


def scorer(
    name: str | Path, *, device: str = "auto", precision: str = "auto"
) -> Callable[[Sequence[Record]], list[float]]:
    """A reward model as `data.select.Best` asks it: its score of each record's last answer, which is the best one where
    there are several. It is loaded when it is first asked."""

    def scores(records: Sequence[Record]) -> list[float]:
        for record in records:
            if isinstance(record, Text):
                raise DataError(record.origin, "RAW_TEXT", "is raw text without turns, so there is no answer to score.")
        return score(load_reward_model(name, device=device, precision=precision), [chat_of(r) for r in records])

    return scores


def judge(
    model: RewardModel, conversations: Sequence[Conversation], alive: Callable[[], None] = lambda: None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`[n]` one number for the last answer of each conversation, and `[M, C]` the scores it is made of: one for each
    answer, or of a process reward model one for each step."""
    if model.method.data == "steps":
        groups = [_in_steps(model.template, conversation) for conversation in conversations]
    else:
        groups = model.template.encode_many(conversations, "last")
    for conversation, group in zip(conversations, groups, strict=True):
        if not group.responses[0].mask.any():
            raise DataError(conversation.origin, "EMPTY", "has no answer to score.")
        if group.length > model.max_length:
            too_long = f"has {group.length} tokens, more than the {model.max_length} positions of the reward model."
            raise DataError(conversation.origin, "TOO_LONG", too_long)
    scores = score_groups(model.roles, model.method, groups, TOKENS, model.device, alive)
    batch = Batch(tuple(groups))
    return model.method.judge(scores, batch).double().numpy(), scores.double().numpy()


def _in_steps(template: Template, conversation: Conversation) -> Group:
    """An answer as a chain of steps: each of its lines is one. (Where nothing is said, the end is judged.)"""
    said = [conversation.messages[i].content for i in trained_messages(conversation.messages, "last")]
    lines = said[-1].split("\n") if said else []
    group, ends = template.encode_steps(conversation, [line.strip() for line in lines if line.strip()])
    (response,) = group.responses
    return replace(group, responses=(replace(response, step_ends=ends),))


def score_groups(
    roles: Roles,
    method: Method,
    groups: Sequence[Group],
    tokens: int,
    device: torch.device,
    alive: Callable[[], None] = lambda: None,
) -> Tensor:
    """`[M, C]` on the CPU, in the flat order of `Batch(groups)`."""
    whole = Batch(tuple(groups), device)
    out: Tensor | None = None
    with torch.no_grad():
        for piece in whole.pieces(tokens, "group"):
            alive()
            scores = method.scores(roles.score(piece.batch, {"reward": method.judged_by}).reward, piece.batch).cpu()
            out = scores.new_empty(len(whole.scored), scores.shape[1]) if out is None else out
            out[piece.scored.cpu()] = scores
    assert out is not None, "there is nothing to score"
    return out
