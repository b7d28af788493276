"""From hidden states to logits: what stands between a decoder's last layer and its vocabulary."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..core.logp import Head
from ..errors import InputError

MULTIPLIES_BY_LOGITS_SCALING = ("hyperclovax",)
"""Families whose `logits_scaling` multiplies; Granite's, the older use of the name, divides."""


def output_head(model: PreTrainedModel) -> Head:
    """The whole output head of a causal model (`layouts.check_head` compares it with the model's own logits)."""
    linear: Any = model.get_output_embeddings()
    if type(linear).__name__ == "TrainableTokensWrapper":  # peft's, around a matrix some of whose rows are new
        linear = linear.token_adapter
        weight, bias = linear.get_merged_weights(linear.active_adapters), linear.get_base_layer().bias
    elif isinstance(linear, nn.Linear):
        weight, bias = linear.weight, linear.bias
    else:
        raise InputError(
            f"The output head of {type(model).__name__} is not a linear layer but {type(linear).__name__}, which "
            "Nurture does not know; use a model with a plain linear head."
        )
    config = model.config.get_text_config()
    scale = 1.0
    if (s := getattr(config, "logit_scale", None)) is not None:  # Cohere
        scale *= float(s)
    if (s := getattr(config, "lm_head_multiplier", None)) is not None:  # Falcon-H1
        scale *= float(s)
    if (s := getattr(config, "logits_scaling", None)) is not None:
        scale *= float(s) if config.model_type in MULTIPLIES_BY_LOGITS_SCALING else 1 / float(s)
    return Head(weight, bias, scale, getattr(config, "final_logit_softcapping", None))
