"""What stands on a model's last layer: its vocabulary, or a few numbers that say how good a text is."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..adapters.freeze import HEAD
from ..core.logp import Head
from ..errors import InputError
from .vet import ENCODERS

MULTIPLIES_BY_LOGITS_SCALING = ("hyperclovax",)
"""Families whose `logits_scaling` multiplies; Granite's, the older use of the name, divides."""


def output_head(model: PreTrainedModel) -> Head:
    """The whole output head of a causal model (`layouts.check_head` compares it with the model's own logits)."""
    linear: Any = model.get_output_embeddings()
    if type(linear).__name__ == "TrainableTokensWrapper":  # peft's, around a matrix some of whose rows are new
        linear = linear.token_adapter
        active = [] if linear.disable_adapters else linear.active_adapters
        weight, bias = linear.get_merged_weights(active), linear.get_base_layer().bias
    elif isinstance(linear, nn.Linear):
        weight, bias = linear.weight, linear.bias
    else:
        raise InputError(
            f"The output head of {type(model).__name__} is not a linear layer but {type(linear).__name__}, which "
            "Nurture does not know; use a model with a plain linear head."
        )
    config = model.config.get_text_config()
    scale = 1.0
    if getattr(config, "scale_decoder_outputs", False):  # T5
        scale *= config.d_model**-0.5
    if (s := getattr(config, "logit_scale", None)) is not None:  # Cohere
        scale *= float(s)
    if (s := getattr(config, "lm_head_multiplier", None)) is not None:  # Falcon-H1
        scale *= float(s)
    if (s := getattr(config, "logits_scaling", None)) is not None:
        scale *= float(s) if config.model_type in MULTIPLIES_BY_LOGITS_SCALING else 1 / float(s)
    return Head(weight, bias, scale, getattr(config, "final_logit_softcapping", None))


def tables_of(model: nn.Module) -> list[Tensor]:
    """The matrices that hold a vector for each token, position or criterion, not a map from one space to another."""
    head: Any = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    tables: list[Any] = [m for m in model.modules() if m is head or isinstance(m, (nn.Embedding, ScoreHead))]
    new_tokens = [p for name, p in model.named_parameters() if ".trainable_tokens_delta." in name]
    return [table.weight for table in tables if hasattr(table, "weight")] + new_tokens


class ScoreHead(nn.Linear):
    """One number per criterion from a hidden state, as transformers' sequence classifiers have it: on a decoder without
    a bias, on an encoder with one.

    Computed in fp32 at least, whatever format the trunk has: scores are compared with each other, and bf16 has 8 bits
    to tell them apart. It starts at zero, so at first all answers are equally good.
    """

    def __init__(self, hidden_size: int, criteria: int, device: torch.device | None = None, bias: bool = False):
        super().__init__(hidden_size, criteria, bias=bias, device=device, dtype=torch.float32)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input.to(self.weight.dtype), self.weight, self.bias)


def is_encoder(model: PreTrainedModel) -> bool:
    """Whether the model is an encoder's sequence classifier, which reads a text as a whole and says nothing."""
    return model.config.model_type in ENCODERS and hasattr(model, "classifier")


def add_score_head(model: PreTrainedModel, criteria: int, adapter: str | None = None) -> None:
    """Give the model a `score` head beside what it has; its parameters are the model's own from here on. Where several
    roles share the model, each has a head of its own, beside its adapter. An encoder's is its `classifier`."""
    if is_encoder(model):
        last: Any = model.classifier
        model.classifier = ScoreHead(last.in_features, criteria, model.device, bias=True)
        return
    name = f"{adapter}_score" if adapter else "score"
    setattr(model, name, ScoreHead(model.config.get_text_config().hidden_size, criteria, model.device))


def start_critic(critic: PreTrainedModel, judge: PreTrainedModel, source: str) -> None:
    """Give a critic the weights of a reward model, head and all."""
    if score_head(judge).out_features != 1:
        raise InputError(f"critic: {source} judges several criteria; a critic expects one number.")
    own, told = dict(critic.named_parameters()), dict(judge.named_parameters())
    if strange := [name for name, p in told.items() if name not in own or own[name].shape != p.shape]:
        raise InputError(
            f"critic: {source} is of another shape than the model (it has {strange[0]}); a critic starts as a reward "
            "model that was trained whole, from the same base."
        )
    # What nobody trains is the learner's too.
    if other := [n for n, p in told.items() if not own[n].requires_grad and not torch.equal(own[n], p)]:
        raise InputError(
            f"critic: {source} differs from the model in weights that this run does not train ({other[0]}); a critic "
            "with frozen weights starts as a reward model that froze them too."
        )
    with torch.no_grad():
        for name, parameter in told.items():
            if own[name].requires_grad:
                own[name].copy_(parameter)


def _last(model: PreTrainedModel) -> Any:
    """What a sequence classifier ends with, ours or not; nothing on a model that only writes."""
    return getattr(model, "classifier" if is_encoder(model) else "score", None)


def has_score_head(model: PreTrainedModel) -> bool:
    """Whether the model itself judges texts."""
    return isinstance(_last(model), ScoreHead)


def score_head(model: PreTrainedModel, adapter: str | None = None) -> ScoreHead:
    """The head that belongs to an adapter, or else the model's only one."""
    head = getattr(model, f"{adapter}_score", None) or _last(model)
    assert isinstance(head, ScoreHead), "this model has no score head; add_score_head gives it one"
    return head


def classifier(model: PreTrainedModel, criteria: tuple[str, ...], settings: Mapping[str, Any]) -> PreTrainedModel:
    """The model's trunk and score head as transformers' sequence classifier, sharing the weights: what is saved. Where
    transformers has no such class for this architecture, the model itself, whose weights then hold the head as well.

    `settings` say how scores are to be read; they stand in the configuration under `reward`.
    """
    from transformers import AutoModelForSequenceClassification

    head = score_head(model)
    config = copy.deepcopy(model.config)
    config.num_labels = len(criteria)
    config.id2label, config.label2id = dict(enumerate(criteria)), {c: i for i, c in enumerate(criteria)}
    config.reward = dict(settings)
    if is_encoder(model):
        model.config = config
        return model
    try:
        with torch.device("meta"):
            found = AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        found = None
    linear = getattr(found, "score", None)
    same_trunk = found is not None and type(found.base_model) is type(model.base_model)
    if found is None or not same_trunk or not isinstance(linear, nn.Linear) or linear.bias is not None:
        model.config = config
        return model
    setattr(found, found.base_model_prefix, model.base_model)
    found.score = head
    return found


def head_parameters(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The model's own head; of an encoder all that stands on the layers, the pooler too."""
    return {name: p for name, p in model.named_parameters() if HEAD.match(name)}


def put_head(model: PreTrainedModel, tensors: Mapping[str, Tensor], adapter: str | None = None) -> bool:
    """Give the model (or a role of it) the head that was saved with an adapter, by the model's names. False, and
    nothing done, where the model has no place for it."""
    last = "classifier.weight" if is_encoder(model) else "score.weight"
    if last not in tensors or not set(tensors) <= {last, *head_parameters(model)}:
        return False
    add_score_head(model, len(tensors[last]), adapter)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[f"{adapter}_{name}" if adapter else name].copy_(tensor)
    return True


def read_score_head(model: PreTrainedModel, weight: Tensor | None = None) -> None:
    """The head of a loaded sequence classifier (or this weight) as one of ours."""
    last = _last(model)
    found: Tensor = last.weight if weight is None else weight
    add_score_head(model, found.shape[0])
    head = score_head(model)
    with torch.no_grad():
        head.weight.copy_(found)
        if head.bias is not None:
            head.bias.copy_(last.bias)
