"""What methods have in common that learn from their own behaviour: how it is drawn, and how often it is learnt from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from ..types import Asks, Batch, Tally, tally
from .method import Method

Count = Annotated[int, Field(strict=True, ge=1)]
Several = Annotated[int, Field(strict=True, ge=2)]
Whole = Annotated[int, Field(strict=True, ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Online(Method):
    """A rollout: draw responses, reward them, record what the roles say of them (`records`), turn that into
    advantages once (`advantage`), then make `num_iterations * num_mini_batches` updates on it (`loss`)."""

    num_generations: Count = 1
    """Responses per prompt."""
    max_completion_length: Count = 256
    """The most tokens of a response."""
    temperature: Positive = 1.0
    """Sampling temperature. Log-probabilities are those of the distribution at this temperature."""
    num_iterations: Count = 1
    """How often each rollout is gone through."""
    num_mini_batches: Count = 1
    """Updates each time: the rollout's prompts are shuffled and cut into so many parts."""
    oversample: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    """Dynamic sampling: groups whose scores are all equal teach nothing by comparison. So many times the prompts are
    asked at once, and the first of those that teach fill the batch. Answers drawn side by side cost less than refills,
    and some are drawn in vain."""
    refills: Whole = 0
    """Dynamic sampling afterwards: groups whose scores are all equal are set aside and other prompts drawn for them, so
    many times at most."""
    importance_cap: Positive | None = None
    """Multiply each token's advantage by min(p_trainer / p_sampler, this), to correct for a sampler whose arithmetic
    differs from the trainer's. `null` does not correct."""

    data: ClassVar = "task"
    default_learning_rate: ClassVar[float] = 1e-6
    lab_data: ClassVar = "lab/prompts"
    lab_settings: ClassVar = {"learning_rate": 2e-4, "epochs": 0.2, "batch_size": 8}

    @property
    def sets_aside(self) -> bool:
        """Whether groups without signal make room for others."""
        return self.oversample > 1 or self.refills > 0

    @property
    def updates_per_rollout(self) -> int:
        return self.num_iterations * self.num_mini_batches

    @property
    def records(self) -> Asks:
        """What each role is asked about a rollout before the first update on it. The policy's own log-probabilities
        need no pass of their own where the only update sees them anyway."""
        again = self.updates_per_rollout > 1 or self.importance_cap is not None
        return {"policy": ("logp",)} if again else {}

    def advantage(self, batch: Batch, state: Mapping[str, Any]) -> Batch:
        """The whole rollout with `adv` (and `ret`, for a critic) recorded. `state` is what `after_step` returned."""
        raise NotImplementedError


def sampler_gap(batch: Batch, logp: Tensor) -> Tally:
    """How far the trainer's log-probabilities, as they were before the first update, are from the sampler's."""
    sampler, old = batch.logp_sampler, logp.detach() if batch.logp_old is None else batch.logp_old
    return (0.0, 0) if sampler is None else tally((old - sampler).abs(), batch.acted)


def with_advantage(batch: Batch) -> Batch:
    """The groups in which some token has an advantage (or which were mixed in); one at least."""
    kept = (g for g in batch.groups if any(r.adv is None or r.adv.any() for r in g.responses))
    return Batch(tuple(kept) or batch.groups[:1], batch.device)
