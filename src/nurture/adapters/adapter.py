"""What every adapter is: its configuration, its documentation and what it attaches to a model, in one page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Count = Annotated[int, Field(strict=True, ge=1)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, lt=1)]
Flag = Annotated[bool, Field(strict=True)]
Targets = str | list[str]
"""`all-linear`, a list of module names, or a regular expression that whole module names match."""

ROLE = "policy"
"""The adapter's name inside peft is its role's name; this is the one of the model that learns."""


class Companion(Protocol):
    """What an adapter does in the loop besides being trained."""

    def penalty(self) -> Tensor:
        """A term to add to the loss of each step, once for the whole global batch."""
        ...

    def before_update(self, gradients: Mapping[str, Tensor], scale: float) -> None:
        """Look at the parameters and at the gradients (times `scale`) that will change them."""
        ...

    def after_update(self) -> dict[str, float]:
        """Change the masters after the optimiser did; what it returns joins the step's metrics."""
        ...

    def ranks(self) -> dict[str, int]:
        """The rank of each matrix as it stands."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Its state, for the checkpoint."""
        ...

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None: ...


class Learner(Protocol):
    """The optimiser, as far as a companion needs it."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]: ...
    @property
    def master(self) -> Mapping[str, Tensor]: ...


class Adapter(BaseModel):
    """Subclass it in one file: fields with a docstring each, and either `config` (peft attaches it) or `select`.

    `faster` and `fastest` make the default learning rate: so many times the method's own, which is meant for tuning
    all weights, and never more than that. `identity` promises that training starts from the unchanged model,
    `mergeable` that what was learnt can be added to the weights of the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = ""

    identity: ClassVar[bool] = True
    mergeable: ClassVar[bool] = False
    quantized: ClassVar[bool] = False
    peft_type: ClassVar[str] = ""
    """peft's word for it; empty for what needs no peft."""
    virtual: ClassVar[Literal["", "prompt", "prefix"]] = ""
    """Virtual tokens before every text: embeddings (`prompt`), or keys and values of every layer (`prefix`)."""
    faster: ClassVar[float] = 1.0
    fastest: ClassVar[float] = float("inf")

    def learning_rate(self, of_method: float) -> float:
        return min(self.faster * of_method, max(self.fastest, of_method))

    @property
    def dropout(self) -> float:
        """The probability in the adapter's own dropout layers."""
        return 0.0

    @property
    def num_virtual(self) -> int:
        return 0

    def select(self, model: PreTrainedModel) -> None:
        """Mark the parameters of the model itself that are trained."""
        raise NotImplementedError

    def config(self, model: PreTrainedModel, steps: int) -> PeftConfig:
        """What peft is to attach to this model for a training of so many steps. Refuses what does not fit it."""
        raise NotImplementedError

    def initialize(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, role: str) -> None:
        """Set the first values, where they are not peft's own."""

    def rates(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, float]:
        """Parameters that learn at a multiple of the learning rate."""
        return {}

    def companion(self, model: PreTrainedModel, learner: Learner, steps: int) -> Companion | None:
        return None

    def words(self) -> str:
        """Its name, and the fields that are not at their default."""
        changed: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
        told = ", ".join(f"{key} {value}" for key, value in changed.items())
        return f"{self.name} ({told})" if told else self.name
