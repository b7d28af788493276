"""REINFORCE++: PPO's clip and token-level KL without PPO's critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from ..core.advantages import discounted_returns, group_mean, whiten
from ..core.kl import k1
from ..core.ratios import clipped_surrogate, outside
from ..types import Asks, Batch, Loss, Scores, tally
from .online import NotNegative, Online, Share, sampler_gap


class ReinforcePP(Online):
    """REINFORCE++. Hu 2025, arXiv:2501.03262. The baseline is the mean of the whole rollout, of all prompts, so one
    response per prompt is enough.

        r_t = score at the last token - beta (log p_old(y_t) - log p_ref(y_t))        A = whiten(r_t + gamma G_{t+1})
        L = mean_t - min( ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A )
    """

    name: Literal["reinforce++"] = "reinforce++"  # pyright: ignore[reportIncompatibleVariableOverride]
    beta: NotNegative = 0.01
    """Price of a nat of distance from the reference, in the reward of each token; 0 needs no reference."""
    gamma: Share = 1.0
    """Discount per token."""
    group_baseline: bool = False
    """Take the mean score of the prompt's own group off first (REINFORCE++-baseline); needs num_generations above 1."""
    clip_low: Share = 0.2
    """How far below 1 the ratio may fall before its gradient ends."""
    clip_high: NotNegative = 0.2
    """How far above 1 the ratio may rise before its gradient ends."""

    roles: ClassVar = {"policy": ("logp", "entropy")}
    metrics: ClassVar = {
        "loss": "clipped surrogate per token: near 0 at the first update of a rollout, then falling",
        "entropy": "entropy of the policy per token, in nats: a steady fall to 0 means it has stopped exploring",
        "kl": "distance from the reference per token in nats (k1, can be negative); NaN without a reference",
        "ratio": "mean of p / p_old: stays near 1, since far ratios are noise",
        "clip_fraction": "share of tokens where the clip took the gradient away",
        "sampler_gap": "mean absolute difference of the trainer's and the sampler's log-probabilities",
    }

    @model_validator(mode="after")
    def _compares_something(self) -> ReinforcePP:
        if self.group_baseline and self.num_generations == 1:
            raise ValueError("group_baseline takes the mean of one answer off itself; set num_generations above 1")
        return self

    @property
    def records(self) -> Asks:
        return {"policy": ("logp",), "ref": ("logp",)} if self.beta else super().records

    def advantage(self, batch: Batch, state: Mapping[str, Any]) -> Batch:
        reward = batch.reward
        if self.group_baseline:
            # The return of every token loses the group's mean when the last reward does.
            mean = batch.per_token(group_mean(batch.score, batch.group))
            reward = reward - mean * batch.last
        if self.beta:
            assert batch.logp_old is not None and batch.logp_ref is not None, "the rollout records both"
            reward = reward - self.beta * k1(batch.logp_old, batch.logp_ref)
        return batch.recording(adv=whiten(discounted_returns(reward, batch.own_lengths, self.gamma)))

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"tokens": batch.num_own}

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        logp = scores.policy.logp
        old = logp.detach() if batch.logp_old is None else batch.logp_old
        ratio = (logp - old).exp()
        per_token = -clipped_surrogate(ratio, batch.adv, self.clip_low, self.clip_high)
        ref = batch.logp_ref
        return Loss(
            {"tokens": per_token.sum()},
            {
                "loss": tally(per_token),
                "entropy": tally(scores.policy.entropy),
                "kl": (0.0, 0) if ref is None else tally(k1(logp, ref)),
                "ratio": tally(ratio),
                "clip_fraction": tally(outside(ratio, batch.adv, self.clip_low, self.clip_high)),
                "sampler_gap": sampler_gap(batch, logp),
            },
        )
