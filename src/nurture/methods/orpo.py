"""ORPO: imitate the better answer and push the worse one away, in one stage and without a reference."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from ..core.preference import log_odds, log_sigmoid
from ..types import Batch, Loss, Scores, tally
from .method import Method
from .pairs import PAIR_METRICS, Positive, pair_stats, watch


class ORPO(Method):
    """Odds-ratio preference optimisation. Hong et al. 2024, arXiv:2403.07691, eq. 6 and 7.

        odds(y) = p / (1 - p),   p = exp( mean log-probability of y's tokens )
        L = NLL(y_w) - beta * log sigmoid( log odds(y_w) - log odds(y_l) )

    The first term is supervised fine-tuning on the better answer; the second makes its odds larger than those of the
    worse one. No reference model and no fine-tuning before it: the two terms hold each other. With a model that knows
    nothing the odds are equal and the second term is beta * log 2.
    """

    name: Literal["orpo"] = "orpo"  # pyright: ignore[reportIncompatibleVariableOverride]
    beta: Positive = 0.1
    """Weight of the odds ratio (the paper's lambda)."""

    scope: ClassVar = "group"
    data: ClassVar = "pair"
    default_learning_rate: ClassVar = 8e-6
    metrics: ClassVar = {
        "loss": "the odds-ratio term per pair, without beta; log 2 = 0.693 where both answers are as likely",
        "nll": "negative log-probability per token of the better answers",
        **PAIR_METRICS,
    }

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"pairs": batch.num_pairs, "chosen_tokens": float(batch.own_tokens[batch.better].sum())}

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        total = batch.sum_per_response(scores.policy.logp)
        odds = log_odds(total / batch.own_tokens)
        losses = -log_sigmoid(odds.index_select(0, batch.better) - odds.index_select(0, batch.worse))
        nll = -total.index_select(0, batch.better).sum()
        stats = {"loss": tally(losses), "nll": (nll.detach(), int(batch.own_tokens[batch.better].sum()))}
        sums = {"pairs": self.beta * losses.sum(), "chosen_tokens": nll}
        return Loss(sums, stats | pair_stats(batch, self.beta * odds, scores))

    def after_step(self, state: dict[str, Any], stats: Mapping[str, float]) -> dict[str, Any]:
        return watch(state, stats, has_reference=False)
