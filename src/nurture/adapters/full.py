"""Full fine-tuning: every weight learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from .adapter import Adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Full(Adapter):
    """All weights are trained. Howard and Ruder 2018, arXiv:1801.06146; Devlin et al. 2019, arXiv:1810.04805.

        W  <-  W - eta * dL/dW        for every weight W of the model

    Needs memory for the gradient, the master and two Adam moments of each weight.
    """

    name: Literal["full"] = "full"  # pyright: ignore[reportIncompatibleVariableOverride]

    mergeable: ClassVar = True

    def select(self, model: PreTrainedModel) -> None:
        model.requires_grad_(True)
