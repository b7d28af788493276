"""A row that is longer than `max_length`: left out, or made to fit where that was asked for; and counted either way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..records import Conversation, Message, Record
from ..types import Batch, Group, Response
from .dialogues import split_long
from .template import Template, TrainOn, trained_messages

OnLong = Literal["drop", "error", "cut", "cut_prompt", "split"]

Counted = Literal["dropped_long", "truncated", "cut_prompts", "split"]


@dataclass(frozen=True)
class Fitted:
    groups: Sequence[Group]
    counted: Counted
    dropped_pieces: int = 0


def fit(
    record: Record, group: Group, template: Template, train_on: TrainOn, max_length: int, on_long: OnLong
) -> Fitted:
    """What becomes of a row that is too long. Where making it fit would leave nothing to train on, it is dropped."""
    found = Fitted((), "dropped_long")
    match on_long:
        case "cut":
            found = Fitted(_cut_answer(group, max_length), "truncated")
        case "cut_prompt":
            found = Fitted(_cut_prompt(group, max_length, template.tokenizer.bos_token_id), "cut_prompts")
        case "split" if isinstance(record, Conversation):
            found = _split(record, template, train_on, max_length)
        case _:
            pass
    return found if found.groups else Fitted((), "dropped_long")


def num_trained(group: Group) -> int:
    return Batch((group,)).num_own


def _cut_answer(group: Group, max_length: int) -> list[Group]:
    """Without what stands beyond `max_length`: the answer is a part, and has no stop token."""
    room = max(max_length - len(group.prompt), 0)
    cut = Group(group.prompt, tuple(Response(r.ids[:room], r.mask[:room]) for r in group.responses), group.key)
    return [cut] if num_trained(cut) else []


def _cut_prompt(group: Group, max_length: int, bos: object) -> list[Group]:
    """Without the beginning of the prompt (its begin-of-text token apart), so that the answers are whole."""
    first = group.prompt[:1] if len(group.prompt) and group.prompt[0] == bos else group.prompt[:0]
    room = max_length - (group.length - len(group.prompt)) - len(first)
    return [replace(group, prompt=np.concatenate([first, group.prompt[-room:]]))] if room > 0 else []


def _split(conversation: Conversation, template: Template, train_on: TrainOn, max_length: int) -> Fitted:
    """Pieces that begin with a user's turn. What is trained of the whole is trained of the pieces, and nothing else."""
    trained = set(trained_messages(conversation.messages, train_on))
    marked = tuple(replace(m, train=i in trained) for i, m in enumerate(conversation.messages))

    def length(messages: Sequence[Message]) -> int:
        return template.encode(replace(conversation, messages=tuple(messages)), train_on).length

    pieces = split_long(replace(conversation, messages=marked), max_length, length)
    groups = [g for g in template.encode_many(pieces, train_on) if g.length <= max_length and num_trained(g)]
    return Fitted(groups, "split", len(pieces) - len(groups))
