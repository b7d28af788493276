"""LoRA: a low-rank update beside frozen matrices, and its variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from torch import nn

from .adapter import Adapter, Count, Flag, Positive, Share, Targets
from .targets import ALL, check_targets, linear_names, parts

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


class LoRA(Adapter):
    """Low-Rank Adaptation. Hu et al. 2021, arXiv:2106.09685, eq. 3.

        h = W x + (alpha / r) * B A x        A: r x in, random;  B: out x r, zero;  W frozen

    Variants as fields: rsLoRA divides by sqrt(r) (Kalajdzievski 2023, arXiv:2312.03732); DoRA learns the length of each
    output's weight row apart from its direction (Liu et al. 2024, arXiv:2402.09353); PiSSA starts A and B from the
    largest singular vectors of W and freezes the rest (Meng et al. 2024, arXiv:2404.02948); LoRA+ gives B a higher
    learning rate (Hayou et al. 2024, arXiv:2402.12354). What PiSSA learnt is saved as plain LoRA of twice the rank,
    relative to the unchanged model.
    """

    name: Literal["lora"] = "lora"  # pyright: ignore[reportIncompatibleVariableOverride]
    r: Count = 8
    """The rank of the update."""
    lora_alpha: Positive = 16
    """The update is scaled by `lora_alpha / r`."""
    lora_dropout: Share = 0.0
    """The probability of dropping an input of A."""
    target_modules: Targets = "all-linear"
    """Which matrices get an update: `all-linear` (all but the output head), a list of module names, or a regular
    expression over them."""
    layers_to_transform: list[int] | None = None
    """Only in these layers, by number; by default in all."""
    use_rslora: Flag = False
    """rsLoRA: scale by `lora_alpha / sqrt(r)`."""
    use_dora: Flag = False
    """DoRA: learn magnitude and direction apart."""
    init_lora_weights: Literal["default", "gaussian", "pissa"] = "default"
    """First values of A: uniform (`default`), normal (`gaussian`), or A and B from the singular vectors of W."""
    loraplus_lr_ratio: Positive = 1.0
    """LoRA+: how many times the learning rate of A the one of B is (16 is usual)."""

    mergeable: ClassVar = True
    peft_type: ClassVar = "LORA"
    faster: ClassVar = 10.0
    fastest: ClassVar = 2e-4

    @property
    def dropout(self) -> float:
        return self.lora_dropout

    def config(self, model: PreTrainedModel, steps: int) -> PeftConfig:
        from peft import LoraConfig

        targets = check_targets(model, self.target_modules, rank=self.r, field="r")
        if self.layers_to_transform is not None and targets == ALL:  # peft takes layers only of named modules
            targets = sorted(parts(linear_names(model)))
        first: Any = True if self.init_lora_weights == "default" else self.init_lora_weights
        return LoraConfig(
            task_type="CAUSAL_LM", r=self.r, lora_alpha=cast(int, self.lora_alpha), lora_dropout=self.lora_dropout,
            target_modules=targets, layers_to_transform=self.layers_to_transform,
            use_rslora=self.use_rslora, use_dora=self.use_dora, init_lora_weights=first,
        )  # fmt: skip

    def rates(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, float]:
        if self.loraplus_lr_ratio == 1.0:
            return {}
        return {name: self.loraplus_lr_ratio for name in parameters if ".lora_B." in name}
