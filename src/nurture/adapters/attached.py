"""Adapters on a model: attaching, switching between the roles', and the virtual tokens they bring.

peft changes the model itself (its matrices become matrices with an adapter), so the rest of Nurture goes on calling the
model; nothing here runs through `PeftModel.forward`. What peft keeps beside the model hangs on it as `_attached`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .adapter import ROLE, Adapter

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(eq=False)
class Attached:
    """The adapters of a model by role."""

    peft: PeftModel
    adapters: dict[str, Adapter] = field(default_factory=dict[str, Adapter])
    active: str | None = ROLE
    """The role whose adapter computes; None where all are off."""
    start: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """PiSSA's first A and B, relative to which it is saved."""

    @property
    def current(self) -> Adapter | None:
        return None if self.active is None else self.adapters.get(self.active)


def attached(model: PreTrainedModel) -> Attached | None:
    return getattr(model, "_attached", None)


def attach(
    model: PreTrainedModel,
    adapter: Adapter,
    tokenizer: PreTrainedTokenizerFast,
    *,
    steps: int,
    role: str = ROLE,
    new_tokens: Sequence[str] = (),
) -> None:
    """Make `adapter` what is trained of the model. Draws its first values from torch's CPU generator."""
    if not adapter.peft_type:
        adapter.select(model)
        return
    with _refusals():
        config = adapter.config(model, steps)
    if new_tokens:
        _train_tokens(model, config, adapter, [tokenizer.get_vocab()[token] for token in new_tokens])
    held = put(model, config, adapter, role)
    adapter.initialize(model, tokenizer, role)
    to_compute_format(model)
    if getattr(adapter, "init_lora_weights", "") == "pissa":
        held.start |= {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


@contextmanager
def _refusals() -> Iterator[None]:
    """What peft does not accept, as it says it."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"adapter: peft refuses these settings: {' '.join(str(error).split())}") from error


def put(model: PreTrainedModel, config: PeftConfig, adapter: Adapter, role: str) -> Attached:
    """Have peft attach a configuration."""
    from peft import TaskType, get_peft_model

    from .peft_compat import fuse_lora

    held = attached(model)
    if getattr(model.config, "is_encoder_decoder", False):
        config.task_type = TaskType.SEQ_2_SEQ_LM
    elif not hasattr(model, "prepare_inputs_for_generation"):  # a classifier
        config.task_type = None
    with warnings.catch_warnings(), _refusals():
        warnings.simplefilter("ignore")  # what matters of them is an InputError by now
        if held is None:
            held = Attached(get_peft_model(model, config, adapter_name=role, autocast_adapter_dtype=False))
            if config.is_prompt_learning:  # part of the model from now on: counted, moved and trained with it
                model.virtual_tokens = held.peft.prompt_encoder
            object.__setattr__(model, "_attached", held)
            train_on(model, [role])
        else:
            learning = [p for p in model.parameters() if p.requires_grad]
            held.peft.add_adapter(role, config, autocast_adapter_dtype=False)
            model.requires_grad_(False)
            for parameter in learning:
                parameter.requires_grad_(True)
    fuse_lora(held.peft)
    held.adapters[role] = adapter
    return held


def copy_adapter(model: PreTrainedModel, role: str) -> None:
    """Give another role an adapter that begins as the policy's is now: of the same kind, with the same values."""
    held = attached(model)
    assert held is not None
    config: Any = copy.deepcopy(held.peft.peft_config[ROLE])
    if hasattr(config, "init_lora_weights"):  # PiSSA would take its first values out of the base once more
        config.init_lora_weights = True
    with torch.random.fork_rng(devices=[]):
        put(model, config, held.adapters[ROLE], role)
    own = adapter_parameters(model, role)
    with torch.no_grad():
        for name, parameter in adapter_parameters(model, ROLE).items():
            own[name].data = parameter.detach().clone()


def adapter_parameters(model: PreTrainedModel, role: str) -> dict[str, nn.Parameter]:
    """What a role's adapter consists of, by the model's names with `*` in the role's place."""
    found: dict[str, nn.Parameter] = {}
    for where, module in model.named_modules():
        if not isinstance(module, (nn.ModuleDict, nn.ParameterDict)) or role not in module:
            continue
        part: Any = module[role]
        if isinstance(part, nn.Module):
            found |= {f"{where}.*.{name}": p for name, p in part.named_parameters()}
        elif not where.endswith(".ranknum"):  # of AdaLoRA: a number that stands beside the matrices
            found[f"{where}.*"] = part
    return found


def train_on(model: PreTrainedModel, roles: Collection[str] = (ROLE,)) -> None:
    """Have the adapters of these roles learn, and nothing else of the model."""
    model.requires_grad_(False)
    for role in roles:
        for parameter in adapter_parameters(model, role).values():
            parameter.requires_grad_(True)


def to_compute_format(model: PreTrainedModel) -> None:
    """Adapters compute in the format of the model (peft's first values are fp32); the masters stay in fp32."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != model.dtype:
            parameter.data = parameter.data.to(model.dtype)


def _train_tokens(model: PreTrainedModel, config: Any, adapter: Adapter, ids: list[int]) -> None:
    if not hasattr(config, "trainable_token_indices"):
        raise InputError(
            f"adapter: {adapter.name} cannot learn the embeddings of the {len(ids)} tokens that are new to this model; "
            "use lora, or a base that has them."
        )
    matrices: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    if matrices[0].weight is matrices[1].weight:
        config.trainable_token_indices = ids
    else:
        names = {id(module): name for name, module in model.named_modules()}
        config.trainable_token_indices = {names[id(m)]: ids for m in matrices}


@contextmanager
def active(model: PreTrainedModel, role: str | None) -> Iterator[None]:
    """The model with the adapter of one role, or (None) without any: what it was before it learnt."""
    held = attached(model)
    if held is None or held.active == role:
        yield
        return
    before = held.active
    activate(model, role)
    try:
        yield
    finally:
        activate(model, before)


def activate(model: PreTrainedModel, role: str | None) -> None:
    """Switch to the adapter of a role, for good."""
    from .peft_compat import switch

    held = attached(model)
    assert held is not None
    switch(held.peft, role)
    held.active = role


# --- virtual tokens ---------------------------------------------------------------------------------------------------


def num_virtual(model: PreTrainedModel) -> int:
    """How many virtual tokens stand before every text."""
    held = attached(model)
    return 0 if held is None or held.current is None else held.current.num_virtual


def virtual_embeddings(model: PreTrainedModel) -> Tensor | None:
    """`[1, n, H]`, where the active adapter is a prompt."""
    held = attached(model)
    if held is None or held.current is None or held.current.virtual != "prompt":
        return None
    from .peft_compat import prompt_embeddings

    return prompt_embeddings(held.peft)


def virtual_cache(model: PreTrainedModel, rows: int) -> Any | None:
    """transformers' cache of keys and values for so many rows, where the active adapter is a prefix."""
    held = attached(model)
    if held is None or held.current is None or held.current.virtual != "prefix":
        return None
    from .peft_compat import keys_and_values

    cache = keys_and_values(held.peft, rows)
    if not hasattr(cache, "layers"):
        raise InputError(f"adapter: {held.current.name} needs keys and values, which {type(model).__name__} has not.")
    return cache


def adapter_state(model: PreTrainedModel, state: Mapping[str, Tensor], role: str = ROLE) -> dict[str, Tensor]:
    """The adapter's tensors by PEFT's names; `state` holds fp32 masters by the model's names."""
    from peft import get_peft_model_state_dict

    held = attached(model)
    assert held is not None
    if held.adapters[role].virtual:
        found = get_peft_model_state_dict(held.peft, adapter_name=role, save_embedding_layers=False)
    else:
        full = {n: state.get(n.removeprefix("base_model.model."), t) for n, t in held.peft.state_dict().items()}
        found = get_peft_model_state_dict(held.peft, full, adapter_name=role, save_embedding_layers=False)
    return {name: t.detach().to("cpu", torch.float32).contiguous() for name, t in found.items()}


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """The plain model with what the active adapter learnt added to its weights."""
    held = attached(model)
    assert held is not None and held.current is not None and held.current.mergeable
    tuner: Any = held.peft.base_model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain: PreTrainedModel = tuner.merge_and_unload(safe_merge=True)
    del model._attached  # pyright: ignore[reportAttributeAccessIssue]
    return plain
