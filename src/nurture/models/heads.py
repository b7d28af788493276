"""From hidden states to logits: what stands between a decoder's last layer and its vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Head:
    """`logits = softcap * tanh((hidden @ weight.T + bias) * scale / softcap)`, without the parts a model lacks."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


def output_head(model: PreTrainedModel) -> Head:
    """The whole output head of a causal model (a probe in `layouts.py` compares it with the model's own logits)."""
    linear = model.get_output_embeddings()
    assert isinstance(linear, nn.Linear), f"{type(model).__name__} has no linear output head"
    config = model.config.get_text_config()
    scale = 1.0
    if (s := getattr(config, "logit_scale", None)) is not None:  # Cohere
        scale *= float(s)
    if (s := getattr(config, "logits_scaling", None)) is not None:  # Granite
        scale /= float(s)
    return Head(linear.weight, linear.bias, scale, getattr(config, "final_logit_softcapping", None))
