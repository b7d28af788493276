"""One method, one page. The table below is the registry: YAML, command line, JSON schema and forms come from it."""

from .actor_critic import ActorCritic
from .grpo import GRPO
from .lm import LM
from .method import Method
from .online import Online
from .ppo import PPO
from .reinforce import Reinforce
from .reinforce_pp import ReinforcePP
from .rloo import RLOO
from .sft import SFT

METHODS: dict[str, type[Method]] = {
    "lm": LM,
    "sft": SFT,
    "ppo": PPO,
    "grpo": GRPO,
    "rloo": RLOO,
    "reinforce": Reinforce,
    "reinforce++": ReinforcePP,
    "actor-critic": ActorCritic,
}

__all__ = [
    "GRPO",
    "LM",
    "METHODS",
    "PPO",
    "RLOO",
    "SFT",
    "ActorCritic",
    "Method",
    "Online",
    "Reinforce",
    "ReinforcePP",
]
