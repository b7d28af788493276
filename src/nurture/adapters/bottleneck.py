"""Bottleneck adapters: a narrow network after the sub-layers of a block."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import InputError
from .adapter import Adapter, Count, Targets
from .targets import FEED_FORWARD, check_targets, linear_names

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

ATTENTION = re.compile(r".*[Aa]tt[^.]*\.(output\.)?(o_proj|out_proj|out_lin|c_proj|dense|proj|o|Wo)")
"""The last matrix of the attention sub-layer, by what model families call it."""


class Bottleneck(Adapter):
    """Bottleneck adapters. Houlsby et al. 2019, arXiv:1902.00751, figure 2; Pfeiffer et al. 2021, arXiv:2005.00247.

        h  <-  h + W_up sigma(W_down h)        W_down: m x d, random;  W_up: d x m, zero

    Houlsby: after the attention and after the feed-forward sub-layer of every block, before the residual addition.
    Pfeiffer: after the feed-forward sub-layer only. Deeper than LoRA's update and not linear, so it cannot be merged.
    """

    name: Literal["bottleneck"] = "bottleneck"  # pyright: ignore[reportIncompatibleVariableOverride]
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    """After both sub-layers of a block, or after the feed-forward alone."""
    bottleneck_size: Count = 64
    """m, the width of the narrow network."""
    non_linearity: Literal["gelu", "relu", "silu", "tanh"] = "gelu"
    """sigma."""
    target_modules: Targets | None = None
    """The matrices that end the sub-layers; by default found by their names."""

    peft_type: ClassVar = "BOTTLENECK"
    faster: ClassVar = 10.0
    fastest: ClassVar = 3e-4

    def config(self, model: PreTrainedModel, steps: int) -> PeftConfig:
        from .peft_compat import BottleneckConfig

        targets = self.target_modules
        if targets is None:
            names = linear_names(model)
            targets = [name for name in names if FEED_FORWARD.fullmatch(name)]
            if self.placement == "houlsby":
                attention = [name for name in names if ATTENTION.fullmatch(name)]
                targets = [*attention, *targets] if attention and targets else []
            if not targets:
                raise InputError(
                    f"adapter.target_modules: where the sub-layers of {type(model).__name__} end is not known; name "
                    "their last matrices."
                )
        return BottleneckConfig(
            task_type="CAUSAL_LM", target_modules=check_targets(model, targets), bottleneck_size=self.bottleneck_size,
            non_linearity=self.non_linearity,
        )  # fmt: skip
