"""QLoRA: LoRA over a base kept in four bits."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from .lora import LoRA


class QLoRA(LoRA):
    """LoRA over a base in 4-bit NormalFloat. Dettmers et al. 2023, arXiv:2305.14314, eq. 5.

        h = dequantize(W_nf4, c) x + (alpha / r) * B A x

    The frozen matrices are stored as NF4 in blocks of 64, their block constants c are quantised once more (double
    quantisation), and each is dequantised to bf16 when it is used. Embeddings, norms and the output head stay as they
    are. Needs `nurture-llm[quantized]`. On a CPU the result is right but slow. The update starts at zero, so training
    starts from the quantised model, not from the original.
    """

    name: Literal["qlora"] = "qlora"  # pyright: ignore[reportIncompatibleVariableOverride]

    quantized: ClassVar = True

    @model_validator(mode="after")
    def _starts_beside_four_bits(self) -> Self:
        if self.init_lora_weights == "pissa":
            raise ValueError(
                "init_lora_weights: pissa takes singular vectors out of the base and leaves the rest, which four bits "
                "cannot hold; take default or gaussian, or lora"
            )
        return self
