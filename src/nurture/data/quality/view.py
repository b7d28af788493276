"""Every kind of record seen as a dialogue: who said what. The measures of quality read nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...records import (
    Completion,
    Conversation,
    Message,
    Pair,
    Ranking,
    Rating,
    Record,
    Steps,
    Task,
    Text,
)

Turn = tuple[str, str]
"""(role, text). The role of a document's text is `text`."""


def turns_of(record: Record) -> tuple[Turn, ...]:
    """The dialogue of a record, its best answer where it has several; a task has a prompt and no answer."""
    match record:
        case Conversation(messages):
            return _turns(messages)
        case Completion(prompt, completion):
            return (("user", prompt), ("assistant", completion))
        case Text(text):
            return (("text", text),)
        case Pair(prompt, chosen):
            return _turns((*prompt, *chosen))
        case Ranking(prompt, responses, ranks):
            return _turns((*prompt, *responses[ranks.index(min(ranks))]))
        case Rating(prompt, response):
            return _turns((*prompt, *response))
        case Steps(prompt, steps):
            return (*_turns(prompt), ("assistant", "\n".join(steps)))
        case Task(prompt):
            return _turns(prompt)


def _turns(messages: Sequence[Message]) -> tuple[Turn, ...]:
    return tuple((m.role, m.content) for m in messages)


def instruction_of(record: Record) -> str:
    """What the user first asks; for a document, its text."""
    return next((text for role, text in turns_of(record) if role in ("user", "text")), "")


def answers_of(record: Record) -> list[str]:
    return [text for role, text in turns_of(record) if role in ("assistant", "text")]


def text_of(record: Record) -> str:
    """All that is said, one turn a line."""
    return "\n".join(text for _, text in turns_of(record))


def texts_of(records: Iterable[Record]) -> list[str]:
    return [text_of(record) for record in records]
