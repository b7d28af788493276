"""Recognising a format from all rows, and making records of a row of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from ...errors import DataError, InputError, did_you_mean
from ...records import Pair, Ranking, Rating, Record
from . import FORMATS
from .format import Fault, Format, Kind, Row, kind_of, refuse_misspelt
from .serve import SERVES
from .turns import rename_turns, unread_keys

TURN_NAMES = ("role", "content", "role.user", "role.assistant", "role.system", "role.tool", "role.function_call")
"""What `columns` may name inside messages: their keys, and their words for the roles."""

SUFFIX = " (not in columns)"


def named(name: str) -> Format:
    for known in FORMATS:
        if known.name == name:
            return known
    names = [f.name for f in FORMATS]
    raise InputError(f"format {name!r} is not known; there are {', '.join(names)}.{did_you_mean(name, names)}")


@dataclass
class Seen:
    """What the rows of a source look like: which columns they have, and which formats fit them."""

    rows: int = 0
    theirs: Counter[str] = field(default_factory=Counter[str])
    """As the file has them, before they are renamed."""
    columns: Counter[str] = field(default_factory=Counter[str])
    fits: Counter[str] = field(default_factory=Counter[str])
    unjudged: Counter[str] = field(default_factory=Counter[str])
    """Rows that would fit a format if they were judged."""

    def look(self, row: Row, columns: Mapping[str, str]) -> None:
        self.rows += 1
        if columns:
            self.theirs.update(row.keys())
            row = rename(row, columns)
        self.columns.update(row.keys())
        self.fits.update(f.name for f in fitting(row))
        self.unjudged.update(f.name for f in FORMATS if f.unjudged and f.unjudged(row))

    def format(self, wants: Sequence[Kind], source: str) -> Format:
        """The format of most rows; ties go to the first of the wanted kinds, then to one that can serve as it, then to
        the table's order. Where no wanted kind is found, or only a part of the columns would be read, it may be that
        the judgements were forgotten: the rows are of that format then, so that each says what it lacks."""
        if not self.fits:
            found = ", ".join(repr(c) for c, _ in self.columns.most_common(20)) or "none"
            known = "; ".join(f"{f.name} ({', '.join(f.required)})" for f in FORMATS)
            raise DataError(
                source,
                "UNKNOWN_FORMAT",
                f"has the columns {found}, those of no known format: {known}. Name yours with format= and columns=.",
            )
        near = {kind: place for place, kind in enumerate(wants)}
        far = {f.name: (near.get(f.kind, 9), not any((f.kind, kind) in SERVES for kind in wants)) for f in FORMATS}
        most = max(sorted(FORMATS, key=lambda f: far[f.name]), key=lambda f: self.fits[f.name])  # the first of equals
        for f in FORMATS:
            looked_for = f.kind in wants if wants else set(most.required) < set(f.required)
            of_it = self.unjudged[f.name] and self.unjudged[f.name] + self.fits[f.name] >= self.fits[most.name]
            if looked_for and of_it and most.kind not in wants:
                return f
        return most


def fitting(row: Row) -> tuple[Format, ...]:
    """The formats a row may be of. One that asks for fewer of its columns than another does not count: a completion
    with a label is no demonstration."""
    return _most_telling(tuple(f for f in _by_names(frozenset(row)) if f.holds is None or f.holds(row)))


@lru_cache(maxsize=4096)
def _by_names(columns: frozenset[str]) -> tuple[Format, ...]:
    return tuple(f for f in FORMATS if columns.issuperset(f.required) and not f.by_name)


@lru_cache(maxsize=4096)
def _most_telling(formats: tuple[Format, ...]) -> tuple[Format, ...]:
    return tuple(f for f in formats if not any(set(f.required) < set(other.required) for other in formats))


def rename(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row under our names; `columns` maps our name to theirs, or to nothing where a column of our name means
    something else."""
    inside = {k: v for k, v in columns.items() if k in TURN_NAMES}
    columns = {k: v for k, v in columns.items() if k not in TURN_NAMES}
    theirs = {their: our for our, their in columns.items() if their}
    renamed = {theirs.get(c) or (c + SUFFIX if c in columns else c): value for c, value in row.items()}
    return {c: rename_turns(v, inside) if inside else v for c, v in renamed.items()}


def check_columns(columns: Mapping[str, str], seen: Iterable[str]) -> None:
    """Every column that is renamed is there, and is renamed to something a format reads."""
    ours = {c for f in FORMATS for c in f.columns} | set(TURN_NAMES)
    there = list(seen)
    for our, their in columns.items():
        if our not in ours:
            raise InputError(
                f"columns: {our!r} is a key of no format; write {{our key: your column}}.{did_you_mean(our, ours)}"
            )
        if our not in TURN_NAMES and their and their not in there:
            raise InputError(f"columns: no row has a column {their!r}.{did_you_mean(their, there)}")


def convert(row: Row, origin: str, format: Format) -> list[Record]:
    """The records of a row, or a `Fault`."""
    refuse_misspelt(row, format.required + format.optional, "column")
    missing = [c for c in format.required if c not in row]
    if missing:
        other = next((f for f in fitting(row) if not set(f.required) < set(format.required)), None)
        if other and not (format.unjudged and format.unjudged(row)):
            raise Fault(
                "MIXED_FORMATS", f"is a row of format {other.name} in a file of format {format.name}; split it."
            )
        raise Fault("MISSING_FIELD", f"has no {' and no '.join(map(repr, missing))}; add it or remove the row.")
    for column in format.required:
        if row[column] is None and column not in NULLABLE:
            raise Fault("NULL_FIELD", f"{column!r} is null; give it a value or remove the row.")
    made = format.convert(row, origin)
    records = made if isinstance(made, list) else [made]
    who = next((row[c] for c in format.whose if row.get(c) is not None), None)
    if who is None:
        return records
    if not isinstance(who, str | int):
        raise Fault("WRONG_TYPE", f"who labelled must be a name or a number, found {kind_of(who)}.")
    return [_by(record, str(who)) for record in records]


def _by(record: Record, labeller: str) -> Record:
    return replace(record, labeller=labeller) if isinstance(record, (Pair, Ranking, Rating)) else record


NULLABLE = ("answer",)
"""A task may have no answer: its grader looks at the prompt alone. (A demonstration's must be a string.)"""


def ignored_columns(row: Row, format: Format) -> list[str]:
    """Columns, and what inside them, the format does not read."""
    extra = [c for c in row if c not in format.columns]
    extra += unread_keys(row, format.turns)
    return extra + list(format.unread(row)) if format.unread else extra
