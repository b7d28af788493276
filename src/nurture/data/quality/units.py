"""What lengths are counted in: words, or a model's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from ...records import Conversation, Record
from .view import chat_of, turns_of
from .words import words

if TYPE_CHECKING:
    from ..template import Template

CHUNK = 2048


class Unit(Protocol):
    name: str

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many units each text has."""
        ...

    def trained(self, records: Sequence[Record]) -> tuple[int, int]:
        """(units that carry loss when the answers are trained on, all units)."""
        ...


class Words:
    """Words as `words.py` finds them; the assistant's turns and documents are what carries loss."""

    name = "words"

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(words(text)) for text in texts]

    def trained(self, records: Sequence[Record]) -> tuple[int, int]:
        own = everything = 0
        for record in records:
            for role, text in turns_of(record):
                n = len(words(text))
                everything += n
                own += n if role in ("assistant", "text") else 0
        return own, everything


class Tokens:
    """A model's tokens. What carries loss is found by its chat template, whose own tokens count too."""

    def __init__(self, template: Template, name: str):
        self.template, self.name = template, f"tokens of {name}"

    def lengths(self, texts: Sequence[str]) -> list[int]:
        from ..tokens import tokenize

        return [len(ids) for ids, _ in tokenize(self.template.tokenizer, texts)]

    def trained(self, records: Sequence[Record]) -> tuple[int, int]:
        own = everything = 0
        chats: list[Conversation] = []
        for record in records:
            turns = turns_of(record)
            if turns and turns[0][0] == "text":
                (length,) = self.lengths([turns[0][1]])
                own, everything = own + length + 1, everything + length + 1  # with the end-of-text token
            else:
                chats.append(chat_of(record))
        rest = iter(chats)
        while some := list(islice(rest, CHUNK)):
            for group in self.template.encode_many(some):
                everything += group.num_tokens
                own += sum(int(r.mask.sum()) for r in group.responses)
        return own, everything
