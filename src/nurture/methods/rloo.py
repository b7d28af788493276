"""REINFORCE leave-one-out: each answer against the mean of its siblings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from ..core.advantages import EPS, leave_one_out
from ..core.kl import k1
from ..core.ratios import clipped_surrogate, outside
from ..types import Asks, Batch, Loss, Scores, tally
from .online import NotNegative, Online, Several, Share, sampler_gap, with_advantage


class RLOO(Online):
    """REINFORCE Leave-One-Out. Ahmadian et al. 2024, arXiv:2402.14740. A whole response is one action: one log-ratio,
    the sum over its tokens, and one advantage.

        s_i = score_i - beta sum_t (log p_old(y_t) - log p_ref(y_t))        A_i = s_i - mean of the other s_j
        L = mean_i - min( ratio_i A_i, clip(ratio_i, 1 - clip_low, 1 + clip_high) A_i )
    """

    name: Literal["rloo"] = "rloo"  # pyright: ignore[reportIncompatibleVariableOverride]
    num_generations: Several = 4
    """Responses per prompt."""
    beta: NotNegative = 0.05
    """Price of a nat of distance from the reference, in the score; 0 needs no reference."""
    clip_low: Share = 0.2
    """How far below 1 the ratio may fall before its gradient ends."""
    clip_high: NotNegative = 0.2
    """How far above 1 the ratio may rise before its gradient ends."""
    normalize_advantages: bool = False
    """Advantages of a rollout get mean 0 and standard deviation 1."""

    roles: ClassVar = {"policy": ("logp", "entropy")}
    metrics: ClassVar = {
        "loss": "clipped surrogate per response: near 0 at the first update of a rollout, then falling",
        "entropy": "entropy of the policy per token, in nats: a steady fall to 0 means it has stopped exploring",
        "kl": "distance from the reference per token in nats (k1, can be negative); NaN without a reference",
        "ratio": "mean of p / p_old of whole responses: stays near 1, since far ratios are noise",
        "clip_fraction": "share of responses where the clip took the gradient away",
        "sampler_gap": "mean absolute difference of the trainer's and the sampler's log-probabilities",
    }

    @property
    def records(self) -> Asks:
        return {"policy": ("logp",), "ref": ("logp",)} if self.beta else super().records

    def advantage(self, batch: Batch, state: Mapping[str, Any]) -> Batch:
        score = batch.score
        if self.beta:
            assert batch.logp_old is not None and batch.logp_ref is not None, "the rollout records both"
            score = score - self.beta * batch.sum_per_response(k1(batch.logp_old, batch.logp_ref))
        adv = leave_one_out(score, batch.group)
        if self.normalize_advantages:
            adv = (adv - adv.mean()) / ((adv.std() if adv.numel() > 1 else 0.0) + EPS)
        return batch.recording(adv=batch.per_token(adv))

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"responses": batch.num_responses}

    def taught(self, batch: Batch) -> Batch:
        return with_advantage(batch)

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        logp = scores.policy.logp
        old = logp.detach() if batch.logp_old is None else batch.logp_old
        length = batch.sum_per_response(logp.new_ones(batch.num_own)).clamp(min=1)
        # The tokens of a response share its advantage; importance weights may differ, and then count by their mean.
        adv = batch.sum_per_response(batch.adv.to(logp.dtype)) / length
        ratio = batch.sum_per_response(logp - old).exp()
        per_response = -clipped_surrogate(ratio, adv, self.clip_low, self.clip_high)
        ref = batch.logp_ref
        return Loss(
            {"responses": per_response.sum()},
            {
                "loss": tally(per_response),
                "entropy": tally(scores.policy.entropy),
                "kl": (0.0, 0) if ref is None else tally(k1(logp, ref)),
                "ratio": tally(ratio),
                "clip_fraction": tally(outside(ratio, adv, self.clip_low, self.clip_high)),
                "sampler_gap": sampler_gap(batch, logp),
            },
        )
