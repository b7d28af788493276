"""Process reward models: a judgement of every step of a solution, not only of its end."""

from typing import ClassVar, Literal

import torch

from ..core.preference import log_sigmoid
from ..types import Batch, Loss, Scores, tally
from .method import Method


class Process(Method):
    """A process reward model from steps that are labelled one by one. Lightman et al. 2023, arXiv:2305.20050; soft
    labels by roll-outs: Wang et al. 2023, arXiv:2312.08935.

        L = - sum_steps  y log sigmoid(s) + (1 - y) log sigmoid(-s)   /  number of steps

    The score s of a step is read at the step's last token; sigmoid(s) is the probability that the reasoning is still
    right there. `y` is 1 for a right step and 0 for a wrong one, or between them the share of continuations that reach
    the answer. A step sees all steps before it and none after, so one pass judges the whole chain.
    """

    name: Literal["process"] = "process"  # pyright: ignore[reportIncompatibleVariableOverride]
    aggregate: Literal["min", "product", "last"] = "min"
    """How the steps make one score of a solution: the worst step, all of them right, or what the end looks like."""

    roles: ClassVar = {"reward": ("score",)}
    trained: ClassVar = "reward"
    data: ClassVar = "steps"
    default_learning_rate: ClassVar = 1e-5
    metrics: ClassVar = {
        "loss": "cross-entropy per step; log 2 = 0.693 for a coin",
        "step_accuracy": "share of steps on whose right side of one half the probability is",
        "chain_accuracy": "share of solutions whose aggregate tells whether all their steps are right",
    }

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"steps": len(batch.step_labels)}

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        score, label = scores.reward.score[:, 0], batch.step_labels
        losses = -(label * log_sigmoid(score) + (1 - label) * log_sigmoid(-score))
        right = (score.detach() > 0) == (label > 0.5)
        whole = self.judge(score.detach()[:, None], batch)
        good = torch.ones_like(whole).scatter_reduce(0, batch.scored, label.to(whole.dtype), "amin")
        told = (whole > 0.5) == (good > 0.5)
        stats = {"loss": tally(losses), "step_accuracy": tally(right.float()), "chain_accuracy": tally(told.float())}
        return Loss({"steps": losses.sum()}, stats)

    def judge(self, score: torch.Tensor, batch: Batch) -> torch.Tensor:
        return chain_score(score[:, 0], batch.scored, batch.num_responses, self.aggregate)


def chain_score(score: torch.Tensor, chain: torch.Tensor, chains: int, aggregate: str) -> torch.Tensor:
    """`[M]` scores of steps and the chain each belongs to, one chain after the other -> `[chains]` one probability for
    each chain."""
    right = score.sigmoid()
    if aggregate == "last":  # (a scatter would leave it open which step of a chain is written last)
        ends = torch.searchsorted(chain, torch.arange(chains, device=chain.device), right=True) - 1
        return right.index_select(0, ends)
    return right.new_ones(chains).scatter_reduce(0, chain, right, "amin" if aggregate == "min" else "prod")
