"""(IA)^3: rescale keys, values and the inside of the feed-forward layer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import InputError
from .adapter import Adapter, Targets
from .targets import FEED_FORWARD, check_targets, is_named, linear_names

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

KEYS_VALUES = re.compile(
    r".*\.(k_proj|v_proj|query_key_value|qkv_proj|c_attn|Wqkv|k_lin|v_lin)|.*[Aa]tt[^.]*\.(self\.)?(k|v|key|value)(_proj)?"
)
"""The matrices that make keys and values, by what model families call them."""


class IA3(Adapter):
    """Infused Adapter by Inhibiting and Amplifying Inner Activations. Liu et al. 2022, arXiv:2205.05638, section 3.3.

        k = l_k * (W_k x),   v = l_v * (W_v x),   ffn = W_2 (l_ff * act(W_1 x))        l: vectors, all ones at first

    The fewest parameters of all adapters that change every layer.
    """

    name: Literal["ia3"] = "ia3"  # pyright: ignore[reportIncompatibleVariableOverride]
    target_modules: Targets | None = None
    """The matrices whose outputs (or inputs) are rescaled; by default keys, values and the feed-forward's last."""
    feedforward_modules: Targets | None = None
    """Those of `target_modules` whose inputs are rescaled; by default the feed-forward's last."""

    mergeable: ClassVar = True
    peft_type: ClassVar = "IA3"
    faster: ClassVar = 150.0
    fastest: ClassVar = 3e-3

    def config(self, model: PreTrainedModel, steps: int) -> PeftConfig:
        from peft import IA3Config

        names = linear_names(model)
        last = [name for name in names if FEED_FORWARD.fullmatch(name)]
        targets = self.target_modules
        if targets is None:
            attention = [name for name in names if KEYS_VALUES.fullmatch(name)]
            if not (attention and last):
                raise InputError(
                    f"adapter.target_modules: where the keys, values and feed-forward layers of {type(model).__name__} "
                    "are is not known; name the matrices, and in feedforward_modules those of the feed-forward."
                )
            targets = [*attention, *last]
        targets = check_targets(model, targets)
        if self.feedforward_modules is not None:
            inside = check_targets(model, self.feedforward_modules) if self.feedforward_modules else []
        elif isinstance(targets, list):
            inside = [t for t in targets if any(is_named(name, t) for name in last)]
        else:
            inside = last
        return IA3Config(task_type="CAUSAL_LM", target_modules=targets, feedforward_modules=inside)
