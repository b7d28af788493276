"""One method, one page. The table below is the registry: YAML, command line, JSON schema and forms come from it."""

from .dpo import DPO
from .kto import KTO
from .lm import LM
from .method import Method
from .orpo import ORPO
from .process import Process
from .reward import Reward
from .sft import SFT
from .simpo import SimPO
from .stable import Stable

METHODS: dict[str, type[Method]] = {
    "lm": LM,
    "sft": SFT,
    "reward": Reward,
    "process": Process,
    "dpo": DPO,
    "kto": KTO,
    "orpo": ORPO,
    "simpo": SimPO,
    "stable": Stable,
}

__all__ = ["DPO", "KTO", "LM", "METHODS", "ORPO", "SFT", "Method", "Process", "Reward", "SimPO", "Stable"]
