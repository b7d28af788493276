"""The one attention function that transformers' models call while Nurture drives them.

A *plan* decides who attends to whom: the tree layout of training (`layouts.py`) and the key-value cache of the sampler
(`rollout/cache.py`) are two plans. It travels as a forward keyword (`model(..., plan=plan)`), so there are no globals;
a call without one raises, because a model that drops the keyword would otherwise attend to the wrong tokens in silence.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "nurture"


class Plan(Protocol):
    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        """`query [B, heads, N, D]`, `key` and `value` `[B, kv_heads, N, D]` -> `[B, heads, N, D]`."""
        ...


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    plan: Plan | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    if plan is None:
        raise RuntimeError(f"{type(module).__name__} called Nurture's attention without a plan: use the rows layout")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: int = module.layer_idx  # pyright: ignore[reportAssignmentType]
    return plan.attend(layer, query, key, value, scale, softcap).transpose(1, 2), None


def _no_mask(*_: Any, **__: Any) -> None:
    """A plan knows who attends to whom; transformers must not build a mask beside it. (Registered all the same: for an
    attention function without a mask function transformers would drop padding masks without a word.)"""
    return None


def register() -> None:
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _no_mask)
