"""What every method is: its configuration, its documentation and its loss, in one page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from ..types import Asks, Batch, Loss, Scope, Scores


class Method(BaseModel):
    """Subclass it in one file: fields with a docstring each, `roles`, `counts` and `loss`.

    `roles` says which scores the loss needs of which role. `scope` is the unit that must be seen whole. `data` is the
    kind of record it learns from. `default_learning_rate` suits tuning all weights of a pretrained model. `metrics`
    explains every statistic the loss reports, for `nurture explain`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = ""

    roles: ClassVar[Asks] = {"policy": ("logp",)}
    scope: ClassVar[Scope] = "response"
    data: ClassVar[Literal["conversation", "text", "task"]] = "conversation"
    default_learning_rate: ClassVar[float] = 2e-5
    metrics: ClassVar[Mapping[str, str]] = {}

    def counts(self, batch: Batch) -> dict[str, float]:
        """How many of each unit the batch holds, known before any forward pass."""
        raise NotImplementedError

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        """Sums over those units, and statistics as (sum, count)."""
        raise NotImplementedError

    def after_step(self, state: dict[str, Any], stats: Mapping[str, float]) -> dict[str, Any]:
        """The method's own state after a step (adaptive coefficients, running baselines). It is in the checkpoint."""
        return state
