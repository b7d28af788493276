"""What answers are worth: one reward, one class. The table `REWARDS` is the registry, as `METHODS` is for methods."""

from .combine import AnyReward
from .contract import outcome_of, outcomes_of, score_all, tally_outcomes
from .model import bind
from .registry import ELSEWHERE, REWARDS, reward_class, reward_from, reward_name
from .reward import Reward, Rule

__all__ = [
    "ELSEWHERE",
    "REWARDS",
    "AnyReward",
    "Reward",
    "Rule",
    "bind",
    "outcome_of",
    "outcomes_of",
    "reward_class",
    "reward_from",
    "reward_name",
    "score_all",
    "tally_outcomes",
]
