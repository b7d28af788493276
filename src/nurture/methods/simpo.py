"""SimPO: compare answers by their mean log-probability, without a reference."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from ..core.preference import log_sigmoid
from ..types import Batch, Loss, Scores, tally
from .method import Method
from .pairs import PAIR_METRICS, NotNegative, Positive, pair_stats, watch


class SimPO(Method):
    """Simple preference optimisation. Meng et al. 2024, arXiv:2405.14734, eq. 6.

        r(y) = beta * mean log-probability of y's tokens
        L = -log sigmoid( r(y_w) - r(y_l) - gamma )

    The reward is what decides in sampling, the mean log-probability, so no reference model is held in memory, and long
    answers have no advantage. The better answer must win by `gamma`. Nothing ties the policy to where it started: use
    few steps and a small learning rate.
    """

    name: Literal["simpo"] = "simpo"  # pyright: ignore[reportIncompatibleVariableOverride]
    beta: Positive = 2.0
    """How much the mean log-probability weighs."""
    gamma: NotNegative = 1.0
    """By how much the better answer must win; about half of beta is usual."""
    nll_coef: NotNegative = 0.0
    """Weight of the negative log-likelihood of the better answers, per token: it holds their probability up."""

    scope: ClassVar = "group"
    data: ClassVar = "pair"
    default_learning_rate: ClassVar = 1e-6
    metrics: ClassVar = {
        "loss": "the preference loss per pair; log(1 + exp(gamma)) where both answers are as likely",
        **PAIR_METRICS,
    }

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"pairs": batch.num_pairs, "chosen_tokens": float(batch.own_tokens[batch.better].sum())}

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        total = batch.sum_per_response(scores.policy.logp)
        reward = self.beta * total / batch.own_tokens
        losses = -log_sigmoid(reward.index_select(0, batch.better) - reward.index_select(0, batch.worse) - self.gamma)
        sums = {"pairs": losses.sum()}
        if self.nll_coef:
            sums["chosen_tokens"] = -self.nll_coef * total.index_select(0, batch.better).sum()
        return Loss(sums, {"loss": tally(losses), **pair_stats(batch, reward, scores)})

    def after_step(self, state: dict[str, Any], stats: Mapping[str, float]) -> dict[str, Any]:
        return watch(state, stats, has_reference=False)
