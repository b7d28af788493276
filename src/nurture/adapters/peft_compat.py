"""Everything that touches the inside of peft (0.21), in one place.

- peft keeps a closed list of methods (`register_peft_method` refuses names that are not in its `PeftType`), so the
  bottleneck adapter is entered in its mapping tables directly. Its folders load with `PeftModel.from_pretrained` in any
  program that has imported `nurture` (`with_peft.py` sees to it).
- `set_adapter` also changes which parameters have gradients; several roles on one base need all of theirs at once, so
  `switch` sets the active adapter alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ..core.products import is_linear
from .low_rank import updated
from .targets import matrix_shape

KIND = "BOTTLENECK"


@dataclass
class BottleneckConfig(PeftConfig):
    """adapter_config.json of a bottleneck adapter."""

    target_modules: list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    bottleneck_size: int = field(default=64)
    non_linearity: str = field(default="gelu")
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = cast(Any, KIND)
        if isinstance(self.target_modules, list):
            self.target_modules = cast(Any, set(self.target_modules))


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """`h + W_up sigma(W_down h)` after a matrix that computes h."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig):
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down, self.bottleneck_up = nn.ModuleDict(), nn.ModuleDict()
        self.activation: dict[str, Any] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        width, narrow = matrix_shape(self.get_base_layer())[0], config.bottleneck_size
        down, up = nn.Linear(width, narrow), nn.Linear(narrow, width)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self.activation[adapter_name] = ACT2FN[config.non_linearity]
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        h = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return h
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                down, up = self.bottleneck_down[name], self.bottleneck_up[name]
                h = h + up(self.activation[name](down(h)))
        return h


class FusedLora(Linear):
    """peft's LoRA layer, computed as one operation while it is the plain one (`low_rank.py`)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base: Any = self.base_layer
        role = self.active_adapters[0] if len(self.active_adapters) == 1 else ""
        plain = (
            not self.disable_adapters and not self.merged and role in self.lora_A and role not in self.lora_variant
            and isinstance(self.lora_dropout[role], nn.Identity) and is_linear(base) and not args
            and not kwargs and not any(p.requires_grad for p in base.parameters())
        )  # fmt: skip
        if not plain:
            return super().forward(x, *args, **kwargs)
        a: Any = self.lora_A[role].weight
        b: Any = self.lora_B[role]
        if b.bias is not None or not x.dtype == a.dtype == base.weight.dtype:
            return super().forward(x)
        return updated(x, base.weight, base.bias, a, b.weight, self.scaling[role])


def fuse_lora(peft: PeftModel) -> None:
    for module in peft.modules():
        if type(module) is Linear:
            module.__class__ = FusedLora


class BottleneckModel(BaseTuner):
    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 (as in peft's own tuners)

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: Any, target_name: str, parent: nn.Module, current_key: str
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)


def register() -> None:
    tables: list[tuple[Any, Any]] = [
        (PEFT_TYPE_TO_CONFIG_MAPPING, BottleneckConfig),
        (PEFT_TYPE_TO_TUNER_MAPPING, BottleneckModel),
        (PEFT_TYPE_TO_PREFIX_MAPPING, BottleneckModel.prefix),
    ]
    for table, value in tables:
        table.setdefault(KIND, value)


def switch(peft: PeftModel, role: str | None) -> None:
    """Make one adapter the active one, or none of them; which parameters have gradients stays."""
    for module in peft.modules():
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            inner: Any = module
            inner._disable_adapters = role is None
            if role is not None:
                inner._active_adapter = [role]
    if role is not None:
        peft.active_adapter = role


def keys_and_values(peft: PeftModel, rows: int) -> Any:
    """peft's prefix for so many rows, as transformers' cache."""
    return peft.get_prompt(batch_size=rows)


def prompt_embeddings(peft: PeftModel) -> Tensor:
    """`[1, n, H]` the virtual tokens of prompt tuning and P-tuning."""
    return cast(Tensor, peft.get_prompt(batch_size=1)).to(cast(torch.dtype, peft.base_model_torch_dtype))


register()
