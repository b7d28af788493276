"""Raw text to groups: completions and documents, which no chat template surrounds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..records import Completion, Text
from ..types import Group, Ids, Response
from .tokens import tokenize, tokenize_inner

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_completions(records: Sequence[Completion], tokenizer: PreTrainedTokenizerBase) -> list[Group]:
    """The prompt's ids are those of the prompt alone, as the sampler will see them; the completion and the end-of-text
    token after it carry loss."""
    end = end_of_text(tokenizer)
    prompts = tokenize(tokenizer, [r.prompt for r in records], with_bos=True)
    answers = tokenize_inner(tokenizer, [r.completion for r in records])
    groups: list[Group] = []
    for record, (prompt, _), (answer, _) in zip(records, prompts, answers, strict=True):
        prompt = prompt[:-1] if len(prompt) and prompt[-1] == end else prompt
        groups.append(Group(prompt, (_trained(np.append(answer, end)),), record.origin))
    return groups


def encode_texts(records: Sequence[Text], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[Group]]:
    """For each document its windows of at most `max_length` tokens. The first has no prompt; each later one has the
    last token of the one before as its prompt. The end-of-text token ends the document."""
    if max_length < 2:
        raise InputError(f"max_length must be at least 2 to predict anything, and is {max_length}.")
    end = end_of_text(tokenizer)
    windows: list[list[Group]] = []
    for record, (ids, _) in zip(records, tokenize(tokenizer, [r.text for r in records], with_bos=True), strict=True):
        ids = ids if len(ids) and ids[-1] == end else np.append(ids, end)
        cuts = [0, *range(max_length, len(ids), max_length - 1), len(ids)]
        windows.append(
            [
                Group(ids[max(start - 1, 0) : start], (_trained(ids[start:stop]),), f"{record.origin}#{i}")
                for i, (start, stop) in enumerate(pairwise(cuts))
            ]
        )
    return windows


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise InputError("The tokenizer has no end-of-text token (eos_token), so no text could ever end; give it one.")
    return end


def _trained(ids: Ids) -> Response:
    return Response(ids, np.ones(len(ids), np.bool_))
