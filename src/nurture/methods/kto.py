"""KTO: learn from answers that are simply wanted or unwanted."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch

from ..types import Batch, Group, Loss, Scores, tally
from .method import Method
from .pairs import NotNegative, Positive, watch


class KTO(Method):
    """Kahneman-Tversky optimisation. Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7 and 8.

        r(y) = log( p(y | x) / p_ref(y | x) )        z = max( 0, mean of r(y') over answers y' to other prompts )
        L = w_wanted (1 - sigmoid( beta (r - z) ))     for a wanted answer
        L = w_unwanted (1 - sigmoid( beta (z - r) ))   for an unwanted one

    No pairs are needed: a thumb up or down on each answer is enough. People weigh what they gain or lose against a
    point of reference; here that is z, how far the policy has moved from its reference in general, an estimate of their
    KL divergence from unrelated answers. No gradient flows through z. At the first step r = z = 0 and L = 1/2.
    """

    name: Literal["kto"] = "kto"  # pyright: ignore[reportIncompatibleVariableOverride]
    beta: Positive = 0.1
    """How much a log-ratio weighs: larger keeps the policy nearer the reference."""
    desirable_weight: NotNegative = 1.0
    """Weight of wanted answers. Where one side is rarer, weigh it up until both count about the same."""
    undesirable_weight: NotNegative = 1.0
    """Weight of unwanted answers."""
    wanted_from: float = 0.5
    """Among rated answers, a rating from here on makes an answer a wanted one. (Of a pair the better is wanted, the
    worse is not.)"""

    roles: ClassVar = {"policy": ("logp",), "ref": ("logp",)}
    scope: ClassVar = "batch"
    data: ClassVar = "pair"
    accepts: ClassVar = ("rating",)
    default_learning_rate: ClassVar = 1e-6
    unrelated: ClassVar = True
    metrics: ClassVar = {
        "loss": "weighted loss per answer; 0.5 at the start",
        "kl": "z: how far the policy has moved, in nats per answer",
        "reward_chosen": "beta * log-ratio of wanted answers: it should rise",
        "reward_rejected": "beta * log-ratio of unwanted answers: it should fall",
        "accuracy": "share of answers on the right side of z",
        "logp_chosen": "log-probability per token of the wanted answers, in nats",
        "logp_rejected": "log-probability per token of the unwanted answers, in nats",
    }

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"answers": float((~batch.labels.isnan()).sum())}

    def refuses(self, groups: Sequence[Group]) -> str | None:
        rated = sorted(r.scores[0] for g in groups for r in g.responses if r.scores)
        sides = {r.label for g in groups for r in g.responses if r.label is not None}
        if rated and rated[0] < rated[-1] and len(sides) == 1:
            every = "wanted" if rated[0] >= self.wanted_from else "unwanted"
            return (
                f"wanted_from: ratings go from {rated[0]:g} to {rated[-1]:g}, so from {self.wanted_from:g} on every "
                f"answer is {every}; set it between them."
            )
        return None

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        wanted, unwanted, other = batch.labels >= 0.5, batch.labels < 0.5, batch.labels.isnan()
        ratio = batch.sum_per_response(scores.policy.logp - scores.ref.logp)
        far = ratio.detach()[other]
        z = far.mean().clamp(min=0) if len(far) else ratio.new_zeros(())
        good = 1 - torch.sigmoid(self.beta * (ratio[wanted] - z))
        bad = 1 - torch.sigmoid(self.beta * (z - ratio[unwanted]))
        losses = torch.cat([self.desirable_weight * good, self.undesirable_weight * bad])
        logp, tokens = batch.sum_per_response(scores.policy.logp.detach()), batch.own_tokens
        stats = {
            "loss": tally(losses),
            "kl": (z.detach(), 1),
            "reward_chosen": tally(self.beta * ratio[wanted]),
            "reward_rejected": tally(self.beta * ratio[unwanted]),
            "accuracy": tally((torch.cat([good, bad]) < 0.5).float()),
            "logp_chosen": (logp[wanted].sum(), int(tokens[wanted].sum())),
            "logp_rejected": (logp[unwanted].sum(), int(tokens[unwanted].sum())),
        }
        return Loss({"answers": losses.sum()}, stats)

    def after_step(self, state: dict[str, Any], stats: Mapping[str, float]) -> dict[str, Any]:
        told = [stats[name] for name in ("reward_chosen", "reward_rejected") if math.isfinite(stats[name])]
        margin = (told[0] - told[1]) if len(told) == 2 else sum(map(abs, told))
        return watch(state, {**stats, "margin": margin}, has_reference=True)
