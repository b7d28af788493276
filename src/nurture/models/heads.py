"""From hidden states to logits: what stands between a decoder's last layer and its vocabulary."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from ..core.logp import Head


def output_head(model: PreTrainedModel) -> Head:
    """The whole output head of a causal model (the probe of `layouts.py` compares it with the model's own logits)."""
    linear = model.get_output_embeddings()
    assert isinstance(linear, nn.Linear), f"{type(model).__name__} has no linear output head"
    config = model.config.get_text_config()
    scale = 1.0
    if (s := getattr(config, "logit_scale", None)) is not None:  # Cohere
        scale *= float(s)
    if (s := getattr(config, "logits_scaling", None)) is not None:  # Granite
        scale /= float(s)
    return Head(linear.weight, linear.bias, scale, getattr(config, "final_logit_softcapping", None))
