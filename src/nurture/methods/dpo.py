"""Direct preference optimisation: learn from comparisons without a reward model."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ..core.preference import log_sigmoid
from ..types import Batch, Loss, Scores, tally
from .method import Method
from .pairs import PAIR_METRICS, NotNegative, Positive, pair_stats, watch


class DPO(Method):
    """Direct preference optimisation. Rafailov et al. 2023, arXiv:2305.18290, eq. 7.

        r(y) = beta * log( p(y | x) / p_ref(y | x) )
        L = -log sigmoid( r(y_w) - r(y_l) )

    RLHF looks for the policy that earns the most reward without going far from a reference. That policy has a closed
    form, and solved for the reward it says: the reward of an answer is how much more likely the policy makes it than
    the reference does. Put into Bradley and Terry's model of a comparison, the reward model is gone and a
    classification remains: make the better answer gain more over the reference than the worse one.

    Only the difference counts. Both log-probabilities may fall together, and usually do, while the margin grows; watch
    `logp_chosen`, and give the better answer a pull of its own with `nll_coef` where it falls too far. At the first
    step policy and reference are the same and the loss is log 2 = 0.6931 (`hinge`: 1, `ipo`: 1 / (4 beta²)).
    """

    name: Literal["dpo"] = "dpo"  # pyright: ignore[reportIncompatibleVariableOverride]
    beta: Positive = 0.1
    """How much a log-ratio weighs (an inverse temperature): larger keeps the policy nearer the reference."""
    loss_type: Literal["sigmoid", "ipo", "hinge", "robust"] = "sigmoid"
    """`sigmoid` is eq. 7. `ipo` pulls the margin of the mean log-ratios per token to 1 / (2 beta) and no further, for
    labels that are nearly certain (Azar et al. 2023, arXiv:2310.12036). `hinge` stops at a margin of 1 (SLiC, Zhao et
    al. 2023, arXiv:2305.10425). `robust` undoes on average the labels that are flipped with probability
    `label_smoothing` (Chowdhury et al. 2024, arXiv:2403.00409)."""
    label_smoothing: Annotated[float, Field(strict=True, ge=0, lt=0.5)] = 0.0
    """The share of labels taken to be wrong: conservative DPO (cDPO) with `sigmoid`, the flip rate with `robust`."""
    length_normalization: bool = False
    """Use the mean log-ratio per token, so that long answers do not weigh more; `beta` then wants to be larger."""
    nll_coef: NotNegative = 0.0
    """Weight of the negative log-likelihood of the better answers, per token: it holds their probability up."""

    @model_validator(mode="after")
    def _smooths(self) -> Self:
        if self.label_smoothing and self.loss_type in ("ipo", "hinge"):
            raise ValueError(f"label_smoothing: {self.loss_type} has no place for it; use sigmoid or robust")
        return self

    roles: ClassVar = {"policy": ("logp",), "ref": ("logp",)}
    scope: ClassVar = "group"
    data: ClassVar = "pair"
    default_learning_rate: ClassVar = 1e-6
    metrics: ClassVar = {
        "loss": "the preference loss per pair; where policy and reference agree log 2 = 0.693, with hinge 1, with ipo "
        "1 / (4 beta²)",
        **PAIR_METRICS,
    }

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"pairs": batch.num_pairs, "chosen_tokens": float(batch.own_tokens[batch.better].sum())}

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        better, worse = batch.better, batch.worse
        ratio = batch.sum_per_response(scores.policy.logp - scores.ref.logp)
        if self.length_normalization or self.loss_type == "ipo":
            ratio = ratio / batch.own_tokens
        reward = self.beta * ratio
        margin = reward.index_select(0, better) - reward.index_select(0, worse)
        match self.loss_type:
            case "sigmoid":
                e = self.label_smoothing
                losses = -(1 - e) * log_sigmoid(margin) - e * log_sigmoid(-margin)
            case "robust":
                e = self.label_smoothing
                losses = (-(1 - e) * log_sigmoid(margin) + e * log_sigmoid(-margin)) / (1 - 2 * e)
            case "hinge":
                losses = (1 - margin).relu()
            case "ipo":
                losses = (margin / self.beta - 1 / (2 * self.beta)).square()
        sums = {"pairs": losses.sum()}
        if self.nll_coef:
            logp = batch.sum_per_response(scores.policy.logp)
            sums["chosen_tokens"] = -self.nll_coef * logp.index_select(0, better).sum()
        return Loss(sums, {"loss": tally(losses), **pair_stats(batch, reward, scores)})

    def after_step(self, state: dict[str, Any], stats: Mapping[str, float]) -> dict[str, Any]:
        return watch(state, stats, has_reference=True)
