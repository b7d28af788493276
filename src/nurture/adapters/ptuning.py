"""P-tuning (v1): prompt embeddings that come out of a small encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from .adapter import Adapter, Count, Share

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


class PTuning(Adapter):
    """P-tuning. Liu et al. 2021, arXiv:2103.10385, eq. 3.

        p(y | [h; x])        h = MLP(LSTM(P)), or MLP(P);  P: n learnt vectors

    The encoder ties the virtual tokens together while they are trained; only its outputs are saved, so that training
    which goes on from them trains these directly.
    """

    name: Literal["ptuning"] = "ptuning"  # pyright: ignore[reportIncompatibleVariableOverride]
    num_virtual_tokens: Count = 20
    """How many virtual tokens are learnt."""
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    """The encoder: a network for each token alone, or one that reads them in order first."""
    encoder_hidden_size: Count | None = None
    """The width of the encoder; by default the model's."""
    encoder_num_layers: Count | None = None
    """Layers of the LSTM; 2 by default."""
    encoder_dropout: Share = 0.0
    """The probability of dropping a number between the layers of the LSTM."""

    identity: ClassVar = False
    peft_type: ClassVar = "P_TUNING"
    virtual: ClassVar = "prompt"
    faster: ClassVar = 50.0
    fastest: ClassVar = 1e-3

    @model_validator(mode="after")
    def _only_for_lstm(self) -> PTuning:
        if self.encoder_reparameterization_type == "MLP" and (self.encoder_num_layers or self.encoder_dropout):
            raise ValueError("encoder_num_layers and encoder_dropout are of the LSTM encoder; leave them out for MLP")
        return self

    @property
    def dropout(self) -> float:
        return self.encoder_dropout

    @property
    def num_virtual(self) -> int:
        return self.num_virtual_tokens

    def config(self, model: PreTrainedModel, steps: int) -> PeftConfig:
        from peft import PromptEncoderConfig

        return PromptEncoderConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=self.num_virtual_tokens,
            encoder_reparameterization_type=self.encoder_reparameterization_type,
            encoder_hidden_size=self.encoder_hidden_size,  # pyright: ignore[reportArgumentType]
            encoder_num_layers=self.encoder_num_layers or 2, encoder_dropout=self.encoder_dropout,
        )  # fmt: skip
