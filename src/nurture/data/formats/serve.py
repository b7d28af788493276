"""Records of one kind that serve where another is wanted. Nothing is guessed: what is used and left out is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...records import Conversation, Pair, Ranking, Rating, Record, Task
from .format import Fault, Kind


@dataclass(frozen=True, slots=True)
class Serving:
    convert: Callable[[Any], Sequence[Record]]
    says: str
    on_request: bool = False
    """It leaves out so much that it is done only when asked for (`nurture data convert`)."""


def pairs(record: Ranking) -> list[Pair]:
    """Every two answers of different rank; the margin is the difference of their scores, where they have some."""
    found: list[Pair] = []
    order = sorted(range(len(record.ranks)), key=lambda i: record.ranks[i])
    for place, i in enumerate(order):
        for j in order[place + 1 :]:
            if record.ranks[i] < record.ranks[j] and record.responses[i] != record.responses[j]:
                margin = record.scores[i] - record.scores[j] if record.scores else None
                sides = record.responses[i], record.responses[j]
                found.append(Pair(record.prompt, *sides, margin, record.origin, record.labeller))
    if not found:
        raise Fault("ALL_TIED", "ranks all answers the same, so it makes no pair; remove the row.")
    return found


def ranking_of_two(record: Pair) -> list[Ranking]:
    return [Ranking(record.prompt, (record.chosen, record.rejected), (1, 2), record.origin, None, record.labeller)]


def labels(record: Pair) -> list[Rating]:
    return [
        Rating(record.prompt, turns, {"desirable": label}, record.origin, record.labeller)
        for turns, label in ((record.chosen, 1.0), (record.rejected, 0.0))
    ]


def prompt(record: Pair | Ranking | Rating) -> list[Task]:
    return [Task(record.prompt, origin=record.origin)]


def question(record: Record) -> list[Task]:
    """What precedes the last answer, which the grader is given as a reference."""
    if not isinstance(record, Conversation):
        raise Fault("RAW_TEXT", "is raw text without turns, so there is no prompt for a chat; write messages.")
    last = max(i for i, turn in enumerate(record.messages) if turn.role == "assistant")
    if not any(turn.role == "user" for turn in record.messages[:last]):
        raise Fault("NO_PROMPT", "has no user message before its last answer, so there is nothing to ask.")
    info = {"reference": record.messages[last].content}
    return [Task(record.messages[:last], None, "", info, record.origin)]


def chosen(record: Pair) -> list[Conversation]:
    return [_only_answer(record.prompt, record.chosen, record.origin)]


def best(record: Ranking) -> list[Conversation]:
    first = [r for r, rank in zip(record.responses, record.ranks, strict=True) if rank == min(record.ranks)]
    if len(first) > 1:
        raise Fault("TIED", f"ranks {len(first)} answers first, so none is the best; remove the row.")
    return [_only_answer(record.prompt, first[0], record.origin)]


def _only_answer(prompt: tuple[Any, ...], answer: tuple[Any, ...], origin: str) -> Conversation:
    return Conversation((*prompt, *answer), (), origin)


SERVES: dict[tuple[Kind, Kind | None], Serving] = {
    ("ranking", "pair"): Serving(pairs, "every two answers of different rank make a pair"),
    ("pair", "ranking"): Serving(ranking_of_two, "each pair is a ranking of two; margins are left out"),
    ("pair", "rating"): Serving(labels, "chosen answers are desirable 1, rejected ones 0; margins are left out"),
    ("conversation", "task"): Serving(
        question, "what precedes the last answer is the prompt, that answer its reference"
    ),
    ("pair", "task"): Serving(prompt, "the prompts alone are used"),
    ("ranking", "task"): Serving(prompt, "the prompts alone are used"),
    ("rating", "task"): Serving(prompt, "the prompts alone are used"),
    ("pair", "conversation"): Serving(chosen, "the chosen answers are the demonstrations", on_request=True),
    ("ranking", "conversation"): Serving(best, "the best answers are the demonstrations", on_request=True),
}
"""(kind the file has, kind that is wanted) -> how."""
