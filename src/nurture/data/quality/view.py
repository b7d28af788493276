"""Every kind of record seen as a dialogue: who said what. The measures of quality read nothing else."""

from __future__ import annotations

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


def messages_of(record: Record) -> tuple[Message, ...]:
    """The dialogue of a record, its best answer where it has several; a task has a prompt and no answer."""
    match record:
        case Conversation(messages):
            return messages
        case Completion(prompt, completion):
            return (Message("user", prompt), Message("assistant", completion))
        case Text(text):
            return (Message("text", text),)
        case Pair(prompt, chosen):
            return (*prompt, *chosen)
        case Ranking(prompt, responses, ranks):
            return (*prompt, *responses[ranks.index(min(ranks))])
        case Rating(prompt, response):
            return (*prompt, *response)
        case Steps(prompt, steps):
            return (*prompt, Message("assistant", "\n".join(steps)))
        case Task(prompt):
            return prompt


def all_messages(record: Record) -> tuple[Message, ...]:
    """The prompt of a record and every answer of it; of raw text none."""
    match record:
        case Conversation(messages):
            return messages
        case Pair(prompt, chosen, rejected):
            return (*prompt, *chosen, *rejected)
        case Ranking(prompt, responses):
            return (*prompt, *(message for response in responses for message in response))
        case Rating(prompt, response):
            return (*prompt, *response)
        case Steps(prompt) | Task(prompt):
            return prompt
        case Completion() | Text():
            return ()


def turns_of(record: Record) -> tuple[Turn, ...]:
    return tuple((m.role, m.content) for m in messages_of(record))


def chat_of(record: Record) -> Conversation:
    """Any record but a text as a conversation."""
    return record if isinstance(record, Conversation) else Conversation(messages_of(record), origin=record.origin)


def instruction_of(record: Record) -> str:
    """What the user first asks; for a document, its text."""
    return next((text for role, text in turns_of(record) if role in ("user", "text")), "")


def answers_of(record: Record) -> list[str]:
    return [text for role, text in turns_of(record) if role in ("assistant", "text")]


def text_of(record: Record) -> str:
    """All that is said, one turn a line."""
    return "\n".join(text for _, text in turns_of(record))
