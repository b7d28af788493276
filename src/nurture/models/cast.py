"""Who plays which role.

Where the model learns through an adapter, all play on one base: the critic is a second adapter with a head, the
reference is the base with its adapters off, a reward model or a teacher joins with the adapter it was saved as
(`load.join`). Where the base itself learns, critic and reference are copies of it, which share the weights that nobody
trains.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from ..adapters.adapter import ROLE
from ..adapters.attached import adapter_parameters, attached, copy_adapter, train_on
from ..errors import InputError
from .heads import add_score_head, score_head
from .layouts import Layout
from .load import LoadedModel, join

CRITIC = "value."
"""What names of the weights of a critic that is a copy begin with. They are in checkpoints, not in the model."""


@dataclass(eq=False)
class Cast:
    """The model of each role, its layout and, where roles share a model, the adapter with which each computes."""

    models: dict[str, PreTrainedModel]
    layouts: dict[str, Layout]
    adapters: dict[str, str | None] = field(default_factory=dict[str, "str | None"])
    judge: LoadedModel | None = None
    """The reward model that a critic on the same base began as."""

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Everything that learns, by name."""
        learner = next(iter(self.models.values()))
        named = {n: p for n, p in learner.named_parameters() if p.requires_grad}
        critic = self.models.get("value", learner)
        if critic is not learner:
            named |= {CRITIC + n: p for n, p in critic.named_parameters() if p.requires_grad}
        return named

    @property
    def critic(self) -> list[str]:
        """The names of what learns for the critic alone: its copy, or its adapter and head on the shared base."""
        if "value" not in self.models:
            return []
        critic = self.models["value"]
        if critic is not next(iter(self.models.values())):
            return [name for name in self.trained if name.startswith(CRITIC)]
        own = {
            id(p) for p in (*adapter_parameters(critic, "value").values(), *score_head(critic, "value").parameters())
        }
        return [name for name, p in self.trained.items() if id(p) in own]


def assemble(
    loaded: LoadedModel, layout: Layout, role: str, *, critic: bool, ref: bool, fresh: bool, judge: Path | None = None
) -> Cast:
    """The learner as `role`, with a critic and its own start as the reference where they are asked for. `fresh` says
    that its adapter is new, so that the base without it is what it starts from. A critic on the same base begins as
    the reward model `judge`, or else as the learner."""
    model = loaded.model
    cast = Cast({role: model}, {role: layout})
    shared = loaded.is_peft
    if shared:
        cast.adapters[role] = ROLE
    if critic:
        cast.models["value"], cast.layouts["value"] = model, layout
        if shared:
            cast.judge = _add_critic(loaded, judge)
            cast.adapters["value"] = "value"
        else:
            cast.models["value"] = _copy(model)
            add_score_head(cast.models["value"], 1)
    if ref:
        cast.models["ref"], cast.layouts["ref"] = model, layout
        if shared:
            cast.adapters["ref"] = start_of(loaded, fresh)
            if cast.adapters["ref"] == ROLE:
                copy_adapter(model, "ref")
                cast.adapters["ref"] = "ref"
        else:
            cast.models["ref"] = _copy(model).requires_grad_(False)
    return cast


def start_of(loaded: LoadedModel, fresh: bool) -> str | None:
    """Before its first step, the adapter with which the model is what it starts from: none where the adapter is new.
    (PiSSA takes its first values out of the base, which is the model only together with them.)"""
    held = attached(loaded.model)
    return None if held is not None and fresh and not held.start else ROLE


def _add_critic(loaded: LoadedModel, judge: Path | None) -> LoadedModel | None:
    assert loaded.adapter is not None
    if loaded.adapter.peft_type == "ADALORA":
        raise InputError(
            "adapter: adalora shares out one budget of ranks, which a critic on the same base would need a second one "
            "of; use lora, or a method without a critic."
        )
    joined = None
    if judge is None:
        copy_adapter(loaded.model, "value")
        add_score_head(loaded.model, 1, "value")
    elif (joined := join(loaded, judge, "value", judges=True)) is None:
        raise InputError(
            f"critic: {judge} is no {loaded.adapter.name} adapter with a head on the model's own base, as a critic "
            "beside an adapter is; train the reward model with the same adapter from the same model, or leave critic "
            "out."
        )
    elif score_head(loaded.model, "value").out_features != 1:
        raise InputError(f"critic: {judge} judges several criteria; a critic expects one number.")
    train_on(loaded.model, [ROLE, "value"])
    score_head(loaded.model, "value").requires_grad_(True)
    return joined


def _copy(model: PreTrainedModel) -> PreTrainedModel:
    """The model a second time, without the weights that do not learn."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters() if not p.requires_grad})
