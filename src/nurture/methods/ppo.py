"""Proximal policy optimisation: the third step of InstructGPT, and the page that balances the pole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator
from torch import Tensor

from ..core.advantages import gae, whiten
from ..core.kl import ESTIMATORS
from ..core.ratios import clipped_surrogate, clipped_value_error, outside
from ..types import Asks, Batch, Loss, Scores, tally
from .online import Count, NotNegative, Online, Positive, Share, Whole, sampler_gap


class PPO(Online):
    """Proximal Policy Optimization. Schulman et al. 2017, arXiv:1707.06347, eq. 7 and 9; for language models with a
    KL penalty, Ziegler et al. 2019, arXiv:1909.08593; with the pretraining mix, Ouyang et al. 2022, arXiv:2203.02155,
    eq. 2.

        r_t = score at the last token - kl_coef KL_t        A = GAE(r, V_old)        ret = A + V_old
        L = mean_t [ - min( ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A ) + vf_coef max( (V - ret)^2, (clip(V,
            V_old - clip_value, V_old + clip_value) - ret)^2 ) / 2 - entropy_coef H ] - ptx_coef mean_t' log p(y_t')

    `ratio` is p(y_t) / p_old(y_t), where p_old is the policy that drew the rollout. A token is an action, the text so
    far is the state, and a response is a trajectory that ends: beyond its last token the value is 0.
    """

    name: Literal["ppo"] = "ppo"  # pyright: ignore[reportIncompatibleVariableOverride]
    num_iterations: Count = 4
    """How often each rollout is gone through."""
    clip_low: Share = 0.2
    """How far below 1 the ratio may fall before its gradient ends."""
    clip_high: NotNegative = 0.2
    """How far above 1 the ratio may rise before its gradient ends."""
    gamma: Share = 1.0
    """Discount per token."""
    lam: Share = 0.95
    """GAE's trade-off: 0 trusts the critic one step ahead, 1 only the rewards."""
    whiten_advantages: bool = True
    """Advantages of a rollout get mean 0 and standard deviation 1."""
    vf_coef: NotNegative = 0.5
    """Weight of the critic's loss."""
    clip_value: Positive | None = 0.2
    """How far the value may move from the old one before its gradient ends; `null` never clips."""
    critic_warmup: Whole = 0
    """So many first updates teach only the critic: advantages are 0 in them. (What else moves the policy, where it is
    asked for, does: `entropy_coef`, a KL in the loss, `ptx_coef`.)"""
    critic_lr_ratio: Positive = 1.0
    """The critic learns at so many times the learning rate. A critic that starts with a new head wants 10."""
    entropy_coef: NotNegative = 0.0
    """Reward for staying undecided."""
    kl_coef: NotNegative = 0.05
    """Price of a nat of distance from the reference; 0 needs no reference."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Whether the distance lowers the reward of each token (and so reaches earlier tokens through the returns), or
    stands in the loss with a gradient of its own."""
    kl_estimator: Literal["k1", "k2", "k3", "full"] = "k1"
    """How it is measured: at the drawn token (`core/kl.py`), or exactly, over the whole vocabulary (`full`)."""
    kl_target: Positive | None = None
    """Adapt `kl_coef` so that the KL comes near this many nats per token."""
    ptx_coef: NotNegative = 0.0
    """Weight of imitating the demonstrations or texts mixed into each batch (27.8 in InstructGPT)."""

    default_learning_rate: ClassVar[float] = 5e-6
    metrics: ClassVar = {
        "loss": "the whole objective but for the ptx term, per token; each rollout has its own, so compare within one",
        "policy_loss": "clipped surrogate per token: near 0 at the first update of a rollout, then falling",
        "value_loss": "clipped squared error of the critic per token, halved, before vf_coef",
        "value_error": "squared difference of value and return per token: falls as the critic learns",
        "value_clip_fraction": "share of tokens whose value moved further than clip_value from the old one",
        "entropy": "entropy of the policy per token, in nats: a steady fall to 0 means it has stopped exploring",
        "kl": "distance from the reference per token in nats, by kl_estimator; NaN where kl_coef is 0",
        "kl_coef": "with kl_target, the price of a nat after this update",
        "ratio": "mean of p / p_old: stays near 1, since far ratios are noise",
        "approx_kl": "KL from p_old to p per token (k3): how far this rollout has moved the policy; above 0.1 is fast",
        "clip_fraction": "share of tokens where the clip took the gradient away: 0.05 to 0.3 is usual",
        "sampler_gap": "mean absolute difference of the trainer's and the sampler's log-probabilities",
        "ptx_loss": "negative log-probability per token of the texts mixed in",
    }  # fmt: skip

    @model_validator(mode="after")
    def _kl_means_something(self) -> PPO:
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError("kl_estimator: k1 has a gradient of mean 0 in the loss; use k2, k3 or full there")
        if self.kl_in == "loss" and self.kl_target is not None:
            raise ValueError("kl_target adapts a penalty in the reward; use kl_in: reward, or leave kl_target out")
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_target multiplies kl_coef, which is 0; set kl_coef to where it should begin")
        return self

    @property
    def records(self) -> Asks:
        asks: dict[str, tuple[Any, ...]] = {"policy": ("logp",), "value": ("value",)}
        if self.kl_coef and self.kl_estimator == "full" and self.kl_in == "reward":
            asks["policy"] = ("logp", "kl")
        elif self.kl_coef:  # for what is learnt, or, where the loss finds the exact one by itself, to be watched
            asks["ref"] = ("logp",)
        return asks

    @property
    def roles(self) -> Asks:  # pyright: ignore[reportIncompatibleVariableOverride]
        exact = self.kl_coef and self.kl_estimator == "full" and self.kl_in == "loss"
        return {"policy": ("logp", "entropy", "kl") if exact else ("logp", "entropy"), "value": ("value",)}

    def advantage(self, batch: Batch, state: Mapping[str, Any]) -> Batch:
        reward = batch.reward
        if self.kl_coef and self.kl_in == "reward":
            reward = reward - state.get("kl_coef", self.kl_coef) * self._kl_of_rollout(batch)
        adv = gae(reward, batch.value, batch.own_lengths, self.gamma, self.lam)
        ret = adv + batch.value
        if self.whiten_advantages:
            adv = whiten(adv)
        return batch.recording(adv=adv * float(state.get("updates", 0) >= self.critic_warmup), ret=ret)

    def _kl_of_rollout(self, batch: Batch) -> Tensor:
        if self.kl_estimator == "full":
            assert batch.kl is not None, "the rollout records the exact KL"
            return batch.kl
        assert batch.logp_old is not None and batch.logp_ref is not None, "the rollout records both log-probabilities"
        return ESTIMATORS[self.kl_estimator](batch.logp_old, batch.logp_ref)

    def counts(self, batch: Batch) -> dict[str, float]:
        acted = int(batch.acted.sum())
        return {"tokens": acted, "ptx_tokens": batch.num_own - acted}

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        acted = batch.acted
        logp, value, entropy = scores.policy.logp, scores.value.value, scores.policy.entropy
        old = logp.detach() if batch.logp_old is None else batch.logp_old
        log_ratio = (logp - old).where(acted, 0)
        ratio = log_ratio.exp()

        policy = -clipped_surrogate(ratio, batch.adv, self.clip_low, self.clip_high)
        critic = clipped_value_error(value, batch.value, batch.ret, self.clip_value)
        total = policy + self.vf_coef * critic - self.entropy_coef * entropy
        kl = self._kl(batch, scores)
        if self.kl_in == "loss" and kl is not None:
            total = total + self.kl_coef * kl
        total = total.where(acted, 0)
        moved = (value - batch.value).abs() > (self.clip_value or float("inf"))
        return Loss(
            {"tokens": total.sum(), "ptx_tokens": -self.ptx_coef * logp.where(~acted, 0).sum()},
            {
                "loss": tally(total, acted),
                "policy_loss": tally(policy, acted),
                "value_loss": tally(critic, acted),
                "value_error": tally((value - batch.ret).square(), acted),
                "value_clip_fraction": tally(moved.float(), acted),
                "entropy": tally(entropy, acted),
                "kl": (policy.new_zeros(()), 0) if kl is None else tally(kl, acted),
                "ratio": tally(ratio, acted),
                "approx_kl": tally(ratio - 1 - log_ratio, acted),
                "clip_fraction": tally(outside(ratio, batch.adv, self.clip_low, self.clip_high), acted),
                "sampler_gap": sampler_gap(batch, logp),
                "ptx_loss": tally(-logp, ~acted),
            },
        )

    def _kl(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Of the policy as it is now where it stands in the loss, else as it was when it was priced; None where nobody
        asks the reference."""
        logp, exact = scores.policy.logp, self.kl_estimator == "full"
        if self.kl_coef and self.kl_in == "loss":
            if exact:
                return scores.policy.kl
            if batch.logp_ref is not None:
                return ESTIMATORS[self.kl_estimator](logp, batch.logp_ref)
        elif self.kl_coef and (batch.kl if exact else batch.logp_ref) is not None:
            return self._kl_of_rollout(batch)
        return None

    def after_step(self, state: dict[str, Any], stats: Mapping[str, float]) -> dict[str, Any]:
        """Counts updates, and steers `kl_coef` towards the target: Ziegler et al. 2019, section 2.2, each update moving
        it by at most 2%."""
        state = {**state, "updates": state.get("updates", 0) + 1}
        if self.kl_target is not None and stats["kl"] == stats["kl"]:
            error = min(max(stats["kl"] / self.kl_target - 1, -0.2), 0.2)
            state["kl_coef"] = state.get("kl_coef", self.kl_coef) * (1 + 0.1 * error)
        return state
