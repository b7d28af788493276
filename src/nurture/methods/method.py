"""What every method is: its configuration, its documentation and its loss, in one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ..types import Asks, Batch, Group, Loss, Quantity, RoleScores, Scope, Scores

Data = Literal["conversation", "text", "pair", "ranking", "rating", "steps", "task"]


class Method(BaseModel):
    """Subclass it in one file: fields with a docstring each, `roles`, `counts` and `loss`.

    `roles` says which scores the loss needs of which role, `trained` which of them learns. `scope` is the unit that
    must be seen whole. `data` is the kind of record it learns from, `accepts` other kinds it learns from as well.
    `default_learning_rate` suits tuning all weights of a pretrained model. `lab_data` and `lab_settings` are what a
    stage that starts from the lab's base model takes where it says nothing. `metrics` explains every statistic the
    loss reports, for `nurture explain`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = ""

    roles: ClassVar[Asks] = {"policy": ("logp",)}
    trained: ClassVar[str] = "policy"
    scope: ClassVar[Scope] = "response"
    data: ClassVar[Data] = "conversation"
    accepts: ClassVar[tuple[Data, ...]] = ()
    default_learning_rate: ClassVar[float] = 2e-5
    lab_data: ClassVar[str] = ""
    lab_settings: ClassVar[Mapping[str, float]] = {}
    metrics: ClassVar[Mapping[str, str]] = {}
    unrelated: ClassVar[bool] = False
    """Whether every prompt also gets the answer to another one, unlabelled (KTO measures its KL on these)."""

    @property
    def asks(self) -> Asks:
        """`roles`, unless a field of the method asks for more."""
        return self.roles

    def counts(self, batch: Batch) -> dict[str, float]:
        """How many of each unit the batch holds, known before any forward pass."""
        raise NotImplementedError

    def taught(self, batch: Batch) -> Batch:
        """The part of the batch that the loss has a gradient for. Nothing else of it is computed; what the sums are
        divided by is counted over the whole."""
        return batch

    def refuses(self, groups: Sequence[Group]) -> str | None:
        """Why this method cannot learn from these groups, in one sentence, where it cannot."""
        return None

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        """Sums over those units, and statistics as (sum, count)."""
        raise NotImplementedError

    @property
    def judged_by(self) -> tuple[Quantity, ...]:
        """What `scores` needs to know, of a method that trains a reward model."""
        return ("score",)

    def scores(self, said: RoleScores, batch: Batch) -> Tensor:
        """`[M, C]` the scores of a reward model, from what it says."""
        return said.score

    def judge(self, score: Tensor, batch: Batch) -> Tensor:
        """`[M, C] -> [R]` one number for each response, of a method that trains a reward model."""
        raise NotImplementedError

    def after_step(self, state: dict[str, Any], stats: Mapping[str, float]) -> dict[str, Any]:
        """The method's own state after a step (adaptive coefficients, running baselines). It is in the checkpoint."""
        return state
