"""One method, one page. The table below is the registry: YAML, command line, JSON schema and forms come from it."""

from .actor_critic import ActorCritic
from .distill import Distill
from .dpo import DPO
from .grpo import GRPO
from .kto import KTO
from .lm import LM
from .method import Method
from .online import Online
from .orpo import ORPO
from .ppo import PPO
from .process import Process
from .reinforce import Reinforce
from .reinforce_pp import ReinforcePP
from .reward import Reward
from .rloo import RLOO
from .sft import SFT
from .simpo import SimPO
from .stable import Stable

METHODS: dict[str, type[Method]] = {
    "lm": LM,
    "sft": SFT,
    "distill": Distill,
    "reward": Reward,
    "process": Process,
    "dpo": DPO,
    "kto": KTO,
    "orpo": ORPO,
    "simpo": SimPO,
    "stable": Stable,
    "ppo": PPO,
    "grpo": GRPO,
    "rloo": RLOO,
    "reinforce": Reinforce,
    "reinforce++": ReinforcePP,
    "actor-critic": ActorCritic,
}

__all__ = [
    "DPO",
    "GRPO",
    "KTO",
    "LM",
    "METHODS",
    "ORPO",
    "PPO",
    "RLOO",
    "SFT",
    "ActorCritic",
    "Distill",
    "Method",
    "Online",
    "Process",
    "Reinforce",
    "ReinforcePP",
    "Reward",
    "SimPO",
    "Stable",
]
