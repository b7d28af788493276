"""What a format is, and how the values in its columns are read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

from ...records import Message, Record

Kind = Literal["conversation", "text", "pair", "ranking", "rating", "steps", "task"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Row = Mapping[str, Any]

LABELLER = ("labeller", "labeler", "annotator")


class Fault(Exception):
    """What is wrong with one row; the reader knows where the row is."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True, slots=True)
class Format:
    """`required` columns tell the format, `holds` looks at their values where names alone do not; `convert` makes the
    record of a row that has them, or its several records."""

    name: str
    kind: Kind
    required: tuple[str, ...]
    optional: tuple[str, ...]
    convert: Callable[[Row, str], Record | list[Any]]
    holds: Callable[[Row], bool] | None = None
    by_name: bool = False
    """Its columns do not say what they mean, so it is never recognised, only asked for."""
    turns: tuple[str, ...] = ()
    """Columns that hold messages."""
    unread: Callable[[Row], Iterable[str]] | None = None
    """What of the required columns' insides is left out."""
    unjudged: Callable[[Row], bool] | None = None
    """Whether a row has all of it but the judgement. It fits another format then, and would lose what matters there."""

    @property
    def columns(self) -> tuple[str, ...]:
        return self.required + self.optional + self.whose

    @property
    def whose(self) -> tuple[str, ...]:
        """Columns that may name who judged."""
        return LABELLER if self.kind in ("pair", "ranking", "rating") else ()

    def fits(self, row: Row) -> bool:
        return all(c in row for c in self.required) and (self.holds is None or self.holds(row))


def string(value: object, place: str) -> str:
    if value is None:
        raise Fault("NULL_FIELD", f"{place!r} is null; give it a value or remove the row.")
    if not isinstance(value, str):
        raise Fault("WRONG_TYPE", f"{place!r} must be a string, found {kind_of(value)}.")
    return value


def optional_string(row: Row, column: str) -> str:
    """Absent and null are the empty string: tables write null for what a row does not have."""
    value = row.get(column)
    return "" if value is None else string(value, column)


def answer(value: object, place: str) -> str:
    text = string(value, place)
    if not text.strip():
        raise Fault("EMPTY_ANSWER", f"{place!r} is empty; it would teach silence.")
    return text


def items(value: object, place: str, of: str) -> list[Any]:
    """A list, written as such or as a JSON string (in tables)."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = parsed(value, place)
    if not isinstance(value, list):
        raise Fault("WRONG_TYPE", f"{place!r} must be a list of {of}, found {kind_of(value)}.")
    return value


def equally_long(row: Row, first: str, second: str, of: tuple[str, str]) -> tuple[list[Any], list[Any]]:
    one, other = items(row[first], first, of[0]), items(row[second], second, of[1])
    if len(one) != len(other):
        raise Fault("LENGTHS_DIFFER", f"{first!r} holds {len(one)} and {second!r} {len(other)}; each needs its own.")
    return one, other


def number(value: object, place: str) -> float:
    """A finite number, written as such or in a string."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise Fault("WRONG_TYPE", f"{place!r} must be a number, found the string {value!r}.") from None
    if value is None:
        raise Fault("NULL_FIELD", f"{place!r} is null; give it a number or remove the row.")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Fault("WRONG_TYPE", f"{place!r} must be a number, found {kind_of(value)}.")
    if not math.isfinite(value):
        raise Fault("NOT_FINITE", f"{place!r} is {value}; write a finite number.")
    return float(value)


def whole(value: object, place: str) -> int:
    found = number(value, place)
    if found != int(found):
        raise Fault("WRONG_TYPE", f"{place!r} must be a whole number, found {found}.")
    return int(found)


def yes_or_no(value: object, place: str) -> float:
    """1.0 or 0.0 for true and false, 1 and 0, or those words."""
    if isinstance(value, str):
        value = {"true": 1, "1": 1, "false": 0, "0": 0}.get(value.lower(), value)
    if isinstance(value, bool | int | float) and value in (0, 1):
        return float(value)
    if value is None:
        raise Fault("NULL_FIELD", f"{place!r} is null; write true or false.")
    raise Fault("WRONG_TYPE", f"{place!r} must be true or false, found {value!r}.")


def parsed(value: object, place: str) -> Any:
    """What a JSON string says; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Fault("WRONG_TYPE", f"{place!r} is a string that is not JSON ({error}).") from None


def kind_of(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), f"the number {value}" if isinstance(value, int | float) else type(value).__name__)


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def assistant(text: str) -> tuple[Message, ...]:
    return (Message("assistant", text),)


@lru_cache(maxsize=4096)
def misspelt(found: frozenset[str], known: Sequence[str]) -> tuple[str, str] | None:
    """A name that is nearly a known one, which is itself absent: a slip of the pen and no column to ignore.

    Near is a distance of 2 (swapped neighbours count 1), for names shorter than six letters 1: `note` is not `name`.
    """
    from rapidfuzz.distance import OSA

    for name in sorted(found.difference(known)):
        for near in (k for k in known if k not in found):
            if OSA.distance(name, near) <= (2 if len(near) >= 6 else 1):
                return name, near
    return None


def refuse_misspelt(found: Iterable[str], known: tuple[str, ...], what: str) -> None:
    if slip := misspelt(frozenset(found), known):
        raise Fault("MISSPELT_COLUMN", f"has a {what} {slip[0]!r}, which looks like {slip[1]!r}; rename it.")
