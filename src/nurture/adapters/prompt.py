"""Prompt tuning: learn the embeddings of words that do not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import model_validator

from ..errors import InputError
from .adapter import Adapter, Count

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class Prompt(Adapter):
    """Prompt tuning. Lester et al. 2021, arXiv:2104.08691, section 2.

        p(y | [P; x])        P: n learnt embeddings before the text; the model is frozen

    Known to need large models: what the prompt can say to a small one is little.
    """

    name: Literal["prompt"] = "prompt"  # pyright: ignore[reportIncompatibleVariableOverride]
    num_virtual_tokens: Count = 20
    """How many embeddings are learnt."""
    prompt_tuning_init: Literal["SAMPLE_VOCAB", "TEXT", "RANDOM"] = "SAMPLE_VOCAB"
    """First values: embeddings of random words, of `prompt_tuning_init_text`, or normal numbers."""
    prompt_tuning_init_text: str | None = None
    """The text whose embeddings the prompt starts from, repeated or cut to its length."""

    identity: ClassVar = False
    peft_type: ClassVar = "PROMPT_TUNING"
    virtual: ClassVar = "prompt"
    faster: ClassVar = 500.0
    fastest: ClassVar = 1e-2

    @model_validator(mode="after")
    def _text_where_used(self) -> Prompt:
        if (self.prompt_tuning_init == "TEXT") != bool(self.prompt_tuning_init_text):
            raise ValueError("prompt_tuning_init: TEXT and prompt_tuning_init_text belong together")
        return self

    @property
    def num_virtual(self) -> int:
        return self.num_virtual_tokens

    def config(self, model: PreTrainedModel, steps: int) -> PeftConfig:
        from peft import PromptTuningConfig

        first = "SAMPLE_VOCAB" if self.prompt_tuning_init == "SAMPLE_VOCAB" else "RANDOM"
        return PromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=self.num_virtual_tokens, prompt_tuning_init=first
        )

    def initialize(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, role: str) -> None:
        if not self.prompt_tuning_init_text:
            return
        ids: list[int] = tokenizer(self.prompt_tuning_init_text, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportAssignmentType]
        if not ids:
            raise InputError("adapter.prompt_tuning_init_text: this text has no tokens.")
        repeated = (ids * self.num_virtual_tokens)[: self.num_virtual_tokens]
        encoder: Any = model.get_submodule(f"virtual_tokens.{role}")
        with torch.no_grad():
            embedding: Any = model.get_input_embeddings()
            encoder.embedding.weight.copy_(embedding.weight[torch.tensor(repeated, device=model.device)])
