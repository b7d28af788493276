"""Stable Alignment: imitate the best-rated answer, and keep the others behind it by how much worse they were rated."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch

from ..types import Batch, Group, Loss, Scores, tally
from .method import Method
from .pairs import NotNegative, Positive


class Stable(Method):
    """Stable Alignment, contrastive imitation of rated answers. Liu et al. 2023, arXiv:2305.16960.

        l_i = mean negative log-probability of the tokens of answer i
        L = l_best + ratio * max( 0, mean_i [ l_best - l_i + margin * (s_best - s_i) / rating_scale ] )

    The best-rated answer to a prompt is imitated. Each other answer should be less likely than it, and by more the
    worse it was rated; where all are far enough behind, only imitation is left. Equally best answers share the first
    place, and the mean is over the answers behind it. Best, worst and margins are found within each prompt; a prompt
    with a single rated answer teaches nothing, since nobody knows whether that is a good one.
    """

    name: Literal["stable"] = "stable"  # pyright: ignore[reportIncompatibleVariableOverride]
    ratio: NotNegative = 0.2
    """Weight of the contrast beside imitation."""
    contrast_margin: Positive = 1.0
    """Nats per token by which an answer of the lowest rating should be behind one of the highest."""
    rating_scale: Positive = 1.0
    """Highest rating minus the lowest there is. (Answers that are only ranked are rated evenly over it.)"""

    scope: ClassVar = "group"
    data: ClassVar = "rating"
    accepts: ClassVar = ("ranking",)
    metrics: ClassVar = {
        "loss": "imitation and contrast together, per prompt",
        "nll": "negative log-probability per token of the best answers, mean over prompts",
        "contrast": "by how much the other answers are not yet far enough behind, in nats per token; 0 when they are",
        "accuracy": "share of other answers that are less likely per token than the best",
    }

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"prompts": float(sum(len(group.responses) > 1 for group in batch.groups))}

    def taught(self, batch: Batch) -> Batch:
        kept = tuple(group for group in batch.groups if len(group.responses) > 1)
        return Batch(kept or batch.groups[:1], batch.device)

    def refuses(self, groups: Sequence[Group]) -> str | None:
        said = [self._ratings(group) for group in groups]
        if not any(len(ratings) > 1 for ratings in said):
            return "no prompt has two rated answers that fit max_length, so none can be compared; rate more answers."
        for group, ratings in zip(groups, said, strict=True):
            apart = max(ratings) - min(ratings)
            if apart > self.rating_scale * (1 + 1e-6):
                return (
                    f"{group.key} SCALE its answers are rated {apart:g} apart, more than the {self.rating_scale:g} "
                    "there is; set rating_scale to the highest rating less the lowest."
                )
        return None

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        nll = -batch.sum_per_response(scores.policy.logp) / batch.own_tokens
        imitation, contrast, behind = list[torch.Tensor](), list[torch.Tensor](), list[torch.Tensor]()
        for group, own in zip(batch.groups, torch.split(nll, [len(g.responses) for g in batch.groups]), strict=True):
            if len(group.responses) < 2:
                continue
            rating = torch.tensor(self._ratings(group), dtype=own.dtype, device=own.device)
            top = rating == rating.max()
            best, others = own[top].mean(), own[~top]
            imitation.append(best)
            if len(others):
                gap = self.contrast_margin * (rating.max() - rating[~top]) / self.rating_scale
                contrast.append((best - others + gap).mean().relu())
                behind.append((others > best).detach())
        first = torch.stack(imitation) if imitation else nll[:0]
        second = torch.stack(contrast) if contrast else first.new_zeros(0)
        total = first.sum() + self.ratio * second.sum()
        told = torch.cat(behind).float() if behind else first.new_zeros(0)
        stats = {
            "loss": (total.detach(), len(first)),
            "nll": tally(first),
            "contrast": tally(second),
            "accuracy": tally(told),
        }
        return Loss({"prompts": total}, stats)

    def _ratings(self, group: Group) -> list[float]:
        if all(r.scores for r in group.responses):
            return [r.scores[0] for r in group.responses]
        ranks = [r.rank or 1 for r in group.responses]
        width = max(max(ranks) - 1, 1)
        return [self.rating_scale * (max(ranks) - rank) / width for rank in ranks]
