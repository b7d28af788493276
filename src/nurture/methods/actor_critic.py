"""Actor-critic: REINFORCE with a learnt baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from ..core.advantages import gae, whiten
from ..types import Asks, Batch, Loss, Scores, tally
from .online import NotNegative, Online, Share, sampler_gap


class ActorCritic(Online):
    """Advantage actor-critic. Mnih et al. 2016, arXiv:1602.01783, section 4; Sutton and Barto 2018, section 13.5.

        A = GAE(r, V)        ret = A + V
        L = mean_t  - A log p(y_t)  +  vf_coef (V - ret)^2 / 2  -  entropy_coef H_t

    The critic says what was to be expected, and bootstraps from itself where lam is below 1.
    """

    name: Literal["actor-critic"] = "actor-critic"  # pyright: ignore[reportIncompatibleVariableOverride]
    gamma: Share = 1.0
    """Discount per token."""
    lam: Share = 0.95
    """GAE's trade-off: 0 trusts the critic one step ahead, 1 only the rewards."""
    whiten_advantages: bool = True
    """Advantages of a rollout get mean 0 and standard deviation 1."""
    vf_coef: NotNegative = 0.5
    """Weight of the critic's loss."""
    entropy_coef: NotNegative = 0.0
    """Reward for staying undecided."""

    roles: ClassVar = {"policy": ("logp", "entropy"), "value": ("value",)}
    metrics: ClassVar = {
        "loss": "the whole objective per token; its value says little, its gradient is the point",
        "policy_loss": "advantage times negative log-probability, per token",
        "value_error": "squared difference of value and return per token: falls as the critic learns",
        "entropy": "entropy of the policy per token, in nats: a steady fall to 0 means it has stopped exploring",
        "sampler_gap": "mean absolute difference of the trainer's and the sampler's log-probabilities",
    }

    @model_validator(mode="after")
    def _learns_once(self) -> ActorCritic:
        if self.num_iterations > 1:
            raise ValueError("num_iterations: nothing corrects for answers of an earlier policy; set 1, or take ppo")
        return self

    @property
    def records(self) -> Asks:
        return {**super().records, "value": ("value",)}

    def advantage(self, batch: Batch, state: Mapping[str, Any]) -> Batch:
        adv = gae(batch.reward, batch.value, batch.own_lengths, self.gamma, self.lam)
        return batch.recording(adv=whiten(adv) if self.whiten_advantages else adv, ret=adv + batch.value)

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"tokens": batch.num_own}

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        policy = -batch.adv * scores.policy.logp
        error = (scores.value.value - batch.ret).square()
        per_token = policy + 0.5 * self.vf_coef * error - self.entropy_coef * scores.policy.entropy
        return Loss(
            {"tokens": per_token.sum()},
            {
                "loss": tally(per_token),
                "policy_loss": tally(policy),
                "value_error": tally(error),
                "entropy": tally(scores.policy.entropy),
                "sampler_gap": sampler_gap(batch, scores.policy.logp),
            },
        )
