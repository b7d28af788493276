"""(IA)^3: rescale keys, values and the inside of the feed-forward layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from .adapter import Adapter, Targets
from .targets import check_targets, linear_names

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

KEYS_VALUES = ("k_proj", "v_proj", "query_key_value", "qkv_proj", "c_attn")
INSIDE = ("down_proj", "fc2", "dense_4h_to_h", "mlp.c_proj", "w2")
"""The matrix that reads the inside of the feed-forward layer, by what model families call it."""


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

        def present(words: tuple[str, ...]) -> list[str]:
            return [word for word in words if any(name.endswith(f".{word}") for name in names)]

        inside = present(INSIDE) if self.feedforward_modules is None else self.feedforward_modules
        targets = self.target_modules
        if targets is None:
            targets = [*present(KEYS_VALUES), *(inside if isinstance(inside, list) else present(INSIDE))]
        check_targets(model, targets)
        return IA3Config(task_type="CAUSAL_LM", target_modules=targets, feedforward_modules=inside)
