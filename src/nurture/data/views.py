"""Records as a model will see them: decoded tokens, in runs that carry loss or do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..records import Completion, Conversation, Message, Pair, Ranking, Rating, Record, Steps, Task, Text
from ..types import Ids
from .quality.view import all_messages
from .raw import encode_completions, encode_texts
from .template import Template, TrainOn


@dataclass(frozen=True)
class Part:
    """A piece of decoded text: `trained` carries loss."""

    text: str
    trained: bool


@dataclass(frozen=True)
class Shown:
    """A record as a model will see it. `views` are its sequences with a title each: one of a conversation, one an
    answer of a pair; `facts` are what else the record says."""

    origin: str
    kind: str
    views: tuple[tuple[str, tuple[Part, ...]], ...]
    facts: Mapping[str, str]


def view(record: Record, template: Template, train_on: TrainOn) -> Shown:
    """The record in the template, each of its answers with what carries loss."""
    facts = _facts(record)
    if spelled := template.spelled_out(all_messages(record)):
        facts["spelled out as text"] = ", ".join(spelled)
    return Shown(record.origin, type(record).__name__, tuple(_views(record, template, train_on)), facts)


def _views(record: Record, template: Template, train_on: TrainOn) -> Iterator[tuple[str, tuple[Part, ...]]]:
    match record:
        case Conversation() | Text() | Completion():
            yield "", _parts(record, template, train_on)
        case Pair(prompt, chosen, rejected):
            yield "chosen", _answer(prompt, chosen, template)
            yield "rejected", _answer(prompt, rejected, template)
        case Ranking(prompt, responses, ranks):
            for rank, response in sorted(zip(ranks, responses, strict=True), key=lambda pair: pair[0]):
                yield f"rank {rank}", _answer(prompt, response, template)
        case Rating(prompt, response):
            yield "", _answer(prompt, response, template)
        case Steps(prompt, steps, labels):
            parts = [Part(_decoded(template, template.encode_prompt(prompt)), False)]
            parts += [Part(f"{step} [{label:g}]\n", True) for step, label in zip(steps, labels, strict=True)]
            yield "steps with their labels", tuple(parts)
        case Task(prompt):
            yield "prompt", (Part(_decoded(template, template.encode_prompt(prompt)), False),)


def _answer(prompt: tuple[Message, ...], response: tuple[Message, ...], template: Template) -> tuple[Part, ...]:
    """Of prompt and answer the answer carries loss."""
    before = tuple(replace(message, train=False) for message in prompt)
    return _parts(Conversation((*before, *response)), template, "assistant")


def _parts(record: Conversation | Text | Completion, template: Template, train_on: TrainOn) -> tuple[Part, ...]:
    """The decoded tokens, in runs that carry loss or do not. (A text is shown whole, not in windows.)"""
    match record:
        case Conversation():
            group = template.encode(record, train_on)
        case Completion():
            (group,) = encode_completions([record], template.tokenizer)
        case Text():
            ((group,),) = encode_texts([record], template.tokenizer, max(len(record.text.encode()) * 2, 16))
    ids = np.concatenate([group.prompt, *(r.ids for r in group.responses)])
    mask = np.concatenate([np.zeros(len(group.prompt), bool), *(r.mask for r in group.responses)])
    runs = np.split(np.arange(len(ids)), np.flatnonzero(np.diff(mask)) + 1)
    return tuple(Part(_decoded(template, ids[run]), bool(mask[run[0]])) for run in runs if len(run))


def _facts(record: Record) -> dict[str, str]:
    facts: dict[str, Any] = {}
    match record:
        case Pair():
            facts["margin"] = record.margin
        case Ranking():
            facts["scores"] = record.scores
        case Rating():
            facts |= record.scores
        case Task():
            facts |= {"answer": record.answer, "family": record.family or None, **record.info}
        case Conversation():
            facts["tools"] = ", ".join(str(t.get("function", t).get("name")) for t in record.tools) or None
        case _:
            pass
    return {name: str(value) for name, value in facts.items() if value is not None}


def _decoded(template: Template, ids: Ids) -> str:
    return str(template.tokenizer.decode(ids.tolist()))
