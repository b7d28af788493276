"""Texts to vectors by a model in a folder: the mean of its last hidden states over the tokens of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from .vet import vet

BATCH, LONGEST = 32, 512


def embedder(folder: Path) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """An encoder or a causal model; texts are cut at 512 tokens, or at what its positions allow."""
    from transformers import AutoModel, AutoTokenizer

    vetted = vet(folder, allow="trunk")
    tokenizer = AutoTokenizer.from_pretrained(vetted.folder, local_files_only=True)
    model = AutoModel.from_pretrained(vetted.folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    model.eval()
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise InputError(f"{folder}: its tokenizer has neither a padding nor an end token, so texts cannot share "
                             "a batch; give it a pad_token.")  # fmt: skip
        tokenizer.pad_token = tokenizer.eos_token
    longest = min(LONGEST, getattr(model.config, "max_position_embeddings", None) or LONGEST)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        out: list[NDArray[np.float32]] = []
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))  # like lengths in one batch
        for start in range(0, len(order), BATCH):
            some = [texts[i] for i in order[start : start + BATCH]]
            inputs = tokenizer(
                some, return_tensors="pt", padding=True, padding_side="right", truncation=True, max_length=longest
            )
            with torch.inference_mode():
                mask = inputs["attention_mask"]
                hidden = model(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
                mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
            out.append(mean.float().numpy())
        vectors = np.concatenate(out) if out else np.zeros((0, 1), np.float32)
        back = np.empty(len(order), np.intp)
        back[order] = np.arange(len(order))
        return vectors[back]

    return embed
