"""REINFORCE: make what went well likelier. The page all others of its kind correct."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from ..core.advantages import discounted_returns, whiten
from ..types import Batch, Loss, Scores, tally
from .online import NotNegative, Online, Share, sampler_gap


class Reinforce(Online):
    """The policy gradient. Williams 1992, "Simple statistical gradient-following algorithms for connectionist
    reinforcement learning"; with returns from each step on, Sutton and Barto 2018, section 13.3.

        G_t = r_t + gamma G_{t+1}
        L = mean_t - (G_t - b) log p(y_t)  -  entropy_coef H_t

    The baseline b changes no expectation, only how noisy the gradient is.
    """

    name: Literal["reinforce"] = "reinforce"  # pyright: ignore[reportIncompatibleVariableOverride]
    gamma: Share = 1.0
    """Discount per token."""
    baseline: Literal["none", "mean", "whiten"] = "whiten"
    """What is taken off the returns: nothing, their mean over the rollout, or that and their scale."""
    entropy_coef: NotNegative = 0.0
    """Reward for staying undecided."""

    roles: ClassVar = {"policy": ("logp", "entropy")}
    metrics: ClassVar = {
        "loss": "advantage times negative log-probability, per token; its value says little, its gradient is the point",
        "entropy": "entropy of the policy per token, in nats: a steady fall to 0 means it has stopped exploring",
        "sampler_gap": "mean absolute difference of the trainer's and the sampler's log-probabilities",
    }

    @model_validator(mode="after")
    def _learns_once(self) -> Reinforce:
        if self.num_iterations > 1:
            raise ValueError("num_iterations: nothing corrects for answers of an earlier policy; set 1, or take ppo")
        return self

    def advantage(self, batch: Batch, state: Mapping[str, Any]) -> Batch:
        ret = discounted_returns(batch.reward, batch.own_lengths, self.gamma)
        adv = {"none": ret, "mean": ret - ret.mean(), "whiten": whiten(ret)}[self.baseline]
        return batch.recording(adv=adv, ret=ret)

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"tokens": batch.num_own}

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        per_token = -batch.adv * scores.policy.logp - self.entropy_coef * scores.policy.entropy
        return Loss(
            {"tokens": per_token.sum()},
            {
                "loss": tally(per_token),
                "entropy": tally(scores.policy.entropy),
                "sampler_gap": sampler_gap(batch, scores.policy.logp),
            },
        )
