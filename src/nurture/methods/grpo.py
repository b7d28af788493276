"""Group relative policy optimisation: the other answers to the same prompt are the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator

from ..core.advantages import EPS, group_mean, group_std
from ..core.kl import k3
from ..core.ratios import clipped_surrogate, outside
from ..types import Asks, Batch, Group, Loss, Scores, tally
from .online import NotNegative, Online, Several, Share, Whole, sampler_gap, with_advantage


class GRPO(Online):
    """Group Relative Policy Optimization. Shao et al. 2024, arXiv:2402.03300, eq. 3 and 4. No critic: what an answer is
    worth is how it compares with the other answers to its prompt.

        A_i = (score_i - mean of the group) / (std of the group + 1e-4)
        L = mean [ - min( ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A ) + beta KL_t ]

    KL_t is k3 of `core/kl.py`, towards the reference. Its kin are settings of this page:

        Dr. GRPO   Liu et al. 2025, arXiv:2503.20783    loss_type: dr_grpo, scale_rewards: none, beta: 0
        DAPO       Yu et al. 2025, arXiv:2503.14476     loss_type: dapo, clip_high: 0.28, beta: 0, overlong_buffer
        GSPO       Zheng et al. 2025, arXiv:2507.18071  importance_sampling_level: sequence, loss_type: grpo,
                                                        clip_low: 3e-4, clip_high: 4e-4, beta: 0
        CISPO      MiniMax 2025, arXiv:2506.13585       loss_type: cispo, clip_high: 4, beta: 0
    """

    name: Literal["grpo"] = "grpo"  # pyright: ignore[reportIncompatibleVariableOverride]
    num_generations: Several = 8
    """Responses per prompt: the group."""
    beta: NotNegative = 0.04
    """Weight of the KL towards the reference; 0 needs no reference."""
    clip_low: Share = 0.2
    """How far below 1 the ratio may fall before its gradient ends."""
    clip_high: NotNegative = 0.2
    """How far above 1 the ratio may rise before its gradient ends; more than clip_low leaves room for tokens that were
    unlikely (clip-higher)."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Whose standard deviation divides the advantage. `none`: Dr. GRPO found that dividing by the group's favours
    prompts that are nearly always or nearly never solved."""
    loss_type: Literal["dapo", "grpo", "dr_grpo", "cispo"] = "dapo"
    """What the mean is over. `dapo`: all tokens alike. `grpo`: first the tokens of each response, so tokens of long
    responses count less. `dr_grpo`: a sum over tokens, divided by responses times max_completion_length. `cispo`:
    all tokens alike, and the ratio, kept below 1 + clip_high, only weighs the gradient of log p."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """`sequence`: one ratio for a whole response, the geometric mean over its tokens."""
    overlong_buffer: Whole = 0
    """Soft overlong punishment: in the last so many tokens before max_completion_length the score falls linearly, by 1
    at the limit."""
    mask_truncated_completions: bool = False
    """Leave responses that were cut off at the limit out of the loss (they stay in their group's mean)."""

    metrics: ClassVar = {
        "loss": "the objective; at the first update of a rollout it is near beta times the KL, since advantages cancel",
        "entropy": "entropy of the policy per token, in nats: a steady fall to 0 means it has stopped exploring",
        "kl": "distance from the reference per token in nats (k3, never negative); NaN without a reference",
        "ratio": "mean of p / p_old: stays near 1, since far ratios are noise",
        "approx_kl": "KL from p_old to p per token (k3): how far the updates on this rollout have gone",
        "clip_fraction": "share of tokens where the clip took the gradient away (cispo: where it limited the weight)",
        "sampler_gap": "mean absolute difference of the trainer's and the sampler's log-probabilities",
    }

    roles: ClassVar = {"policy": ("logp", "entropy")}

    @model_validator(mode="after")
    def _buffer_fits(self) -> GRPO:
        if self.overlong_buffer > self.max_completion_length:
            raise ValueError("overlong_buffer is longer than max_completion_length, so every answer would be punished")
        return self

    @property
    def records(self) -> Asks:
        return {**super().records, **({"ref": ("logp",)} if self.beta else {})}

    def advantage(self, batch: Batch, state: Mapping[str, Any]) -> Batch:
        score = batch.score - self._overlong(batch)
        adv = score - group_mean(score, batch.group)
        if self.scale_rewards == "group":
            adv = adv / (group_std(score, batch.group) + EPS)
        elif self.scale_rewards == "batch":
            adv = adv / ((score.std() if score.numel() > 1 else 0.0) + EPS)
        batch = batch.recording(adv=batch.per_token(adv))
        return _without_truncated(batch) if self.mask_truncated_completions else batch

    def _overlong(self, batch: Batch) -> torch.Tensor | float:
        """DAPO, eq. 13."""
        if not self.overlong_buffer:
            return 0.0
        lengths = torch.tensor([len(r.ids) for r in batch.responses], device=batch.device)
        beyond = lengths - (self.max_completion_length - self.overlong_buffer)
        return (beyond / self.overlong_buffer).clamp(0, 1)

    def counts(self, batch: Batch) -> dict[str, float]:
        match self.loss_type:
            case "grpo":
                return {"responses": batch.num_responses}
            case "dr_grpo":
                return {"tokens": batch.num_responses * self.max_completion_length}
            case "dapo" | "cispo":
                return {"tokens": batch.num_own}

    def taught(self, batch: Batch) -> Batch:
        return batch if self.beta else with_advantage(batch)

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        logp = scores.policy.logp
        old = logp.detach() if batch.logp_old is None else batch.logp_old
        length = batch.sum_per_response(torch.ones_like(logp)).clamp(min=1)
        log_ratio = logp - old
        if self.importance_sampling_level == "sequence":
            log_ratio = batch.per_token(batch.sum_per_response(log_ratio) / length)
        ratio = log_ratio.exp()

        if self.loss_type == "cispo":
            weight = ratio.clamp(max=1 + self.clip_high).detach()
            per_token, clipped = -weight * batch.adv * logp, (ratio > 1 + self.clip_high).to(ratio.dtype)
        else:
            per_token = -clipped_surrogate(ratio, batch.adv, self.clip_low, self.clip_high)
            clipped = outside(ratio, batch.adv, self.clip_low, self.clip_high)
        kl = None if batch.logp_ref is None else k3(logp, batch.logp_ref)
        if self.beta and kl is not None:
            per_token = per_token + self.beta * kl

        if self.loss_type == "grpo":
            per_token = per_token / batch.per_token(length)
        ((unit, count),) = self.counts(batch).items()
        total = per_token.sum()
        return Loss(
            {unit: total},
            {
                "loss": (total.detach(), int(count)),
                "entropy": tally(scores.policy.entropy),
                "kl": (0.0, 0) if kl is None else tally(kl),
                "ratio": tally(ratio),
                "approx_kl": tally(ratio - 1 - log_ratio),
                "clip_fraction": tally(clipped),
                "sampler_gap": sampler_gap(batch, logp),
            },
        )


def _without_truncated(batch: Batch) -> Batch:
    kept = (Group(g.prompt, tuple(r for r in g.responses if not r.truncated), g.key) for g in batch.groups)
    groups = tuple(g for g in kept if g.responses)
    return Batch(groups, batch.device) if groups else batch.recording(adv=torch.zeros_like(batch.adv))
