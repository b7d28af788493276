"""Prefix tuning: learn keys and values that every layer attends to."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from .adapter import Adapter, Count, Flag

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


class Prefix(Adapter):
    """Prefix tuning. Li and Liang 2021, arXiv:2101.00190, eq. 3 and section 4.3.

        attention(q, [K_prefix; K], [V_prefix; V])        [K_prefix; V_prefix] = MLP(P') in every layer; P': n x d

    The prefix comes out of a two-layer network (the re-parameterisation) while it is trained; only its outputs are
    saved, so that training which goes on from a saved prefix trains these directly.
    """

    name: Literal["prefix"] = "prefix"  # pyright: ignore[reportIncompatibleVariableOverride]
    num_virtual_tokens: Count = 20
    """How many keys and values each layer gets."""
    prefix_projection: Flag = True
    """Whether the prefix comes out of a network, which makes training steadier."""
    encoder_hidden_size: Count | None = None
    """The width of that network; by default the width of the keys."""

    identity: ClassVar = False
    peft_type: ClassVar = "PREFIX_TUNING"
    virtual: ClassVar = "prefix"
    faster: ClassVar = 50.0
    fastest: ClassVar = 1e-3

    @property
    def num_virtual(self) -> int:
        return self.num_virtual_tokens

    def config(self, model: PreTrainedModel, steps: int) -> PeftConfig:
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=self.num_virtual_tokens, prefix_projection=self.prefix_projection,
            encoder_hidden_size=self.encoder_hidden_size,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
