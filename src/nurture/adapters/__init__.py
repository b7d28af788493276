"""What is trained of a model. One adapter, one page; the table below is the registry: YAML, command line, JSON schema
and forms come from it. peft does the arithmetic wherever it has the method, so that saved folders are PEFT's."""

import logging

from .adalora import AdaLoRA
from .adapter import Adapter, Companion
from .bottleneck import Bottleneck
from .freeze import Freeze
from .full import Full
from .ia3 import IA3
from .lora import LoRA
from .prefix import Prefix
from .prompt import Prompt
from .ptuning import PTuning
from .ptuning_v2 import PTuningV2
from .qlora import QLoRA

# peft imports bitsandbytes for every LoRA, and that warns of a kernel it would fetch from a hub, wanted or not.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

ADAPTERS: dict[str, type[Adapter]] = {
    "full": Full,
    "freeze": Freeze,
    "lora": LoRA,
    "adalora": AdaLoRA,
    "qlora": QLoRA,
    "ia3": IA3,
    "bottleneck": Bottleneck,
    "prompt": Prompt,
    "prefix": Prefix,
    "ptuning": PTuning,
    "ptuning_v2": PTuningV2,
}


def of_peft_type(word: object) -> type[Adapter] | None:
    """The first adapter that peft calls so."""
    return next((kind for kind in ADAPTERS.values() if kind.peft_type and kind.peft_type == word), None)


__all__ = ["ADAPTERS", "Adapter", "Companion", "of_peft_type"]
