"""One way in: a source of any known format becomes records, and every row is accounted for."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TextIO, cast

from ..errors import DataError, InputError
from ..records import Record
from .formats import FORMATS, Fault, Format, Kind
from .formats.detect import Seen, check_columns, convert, ignored_columns, named, rename
from .formats.serve import SERVES, Serving
from .read import BadRow, Row
from .report import DataReport
from .sources import Opened, open_source

SHOWN = 20

OnBadRow = Literal["error", "quarantine"]
MOST_BAD = 0.01
"""The share of rows that may be set aside."""

PLURAL: dict[Kind, str] = {
    "conversation": "conversations",
    "text": "plain text",
    "pair": "pairs",
    "ranking": "rankings",
    "rating": "ratings",
    "steps": "steps",
    "task": "tasks",
}

INSTEAD = {
    "text": "trains on plain text: give rows with a 'text' column, or use method sft for conversations",
    "conversation": "trains on conversations: give rows with messages, or use method lm for text",
}


@dataclass(frozen=True)
class Loaded:
    records: list[Record]
    report: DataReport
    rejected: list[BadRow]
    """Rows that were set aside."""


class BadRows(InputError):
    """Rows that cannot be used: the first of them one a line, and the totals by code."""

    def __init__(
        self, source: str, first: Sequence[BadRow | DataError], totals: Mapping[str, int], rows: int, hint: str
    ):
        bad = sum(totals.values())
        counted = ", ".join(f"{count} {code}" for code, count in sorted(totals.items()))
        listed = [f"{row.where} {row.code} {row.message}" for row in first[:SHOWN]]
        more = [f"... and {bad - len(listed)} more"] if bad > len(listed) else []
        super().__init__("\n".join([*listed, *more, f"{source}: {bad} of {rows} rows are bad ({counted}). {hint}"]))
        self.bad = tuple(first)
        self.totals = dict(totals)


def load_records(
    source: str | Path | Opened,
    *,
    wants: Kind | Sequence[Kind],
    on_bad_row: OnBadRow = "error",
    max_bad_fraction: float = MOST_BAD,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Loaded:
    """Records of the wanted kind, or of the one among several that the file holds. `columns` maps our column names to
    the file's.

    A bad row is an error, or with `on_bad_row="quarantine"` is set aside, as long as no more than `max_bad_fraction` of
    the rows are bad.
    """
    reading = Reading(source, wants=wants, format=format, columns=columns)
    records, bad = list[Record](), list[BadRow]()
    for found in reading:
        if isinstance(found, BadRow):
            bad.append(found)
        else:
            records += found
    refuse_bad(reading.name, reading.rows, bad, reading.rejected, on_bad_row, max_bad_fraction)
    return Loaded(records, reading.report, bad)


def refuse_bad(
    source: str,
    rows: int,
    first: Sequence[BadRow | DataError],
    totals: Mapping[str, int],
    on_bad_row: OnBadRow,
    max_bad_fraction: float = MOST_BAD,
) -> None:
    """Raise what was found wrong with a source's rows, unless so few may be set aside. `totals` counts it by code."""
    bad = sum(totals.values())
    if not bad:
        return
    if bad == rows:
        hint = "No row can be used."
    elif bad > max_bad_fraction * rows:
        hint = f"Mend them; only where at most {100 * max_bad_fraction:g}% of the rows are bad can they be set aside."
    elif on_bad_row == "error":
        hint = "Mend them, or set them aside: on_bad_row=quarantine (nurture data convert: --on-bad-row quarantine)."
    else:
        return
    raise BadRows(source, first, totals, rows, hint)


def set_aside(faults: Sequence[DataError], source: str) -> list[BadRow]:
    """Rows that could be read and not be tokenised, as they were written. (The lab's are written nowhere.)"""
    places = {fault.where for fault in faults}
    opened = None if source.startswith("lab/") else open_source(source)
    rows = {opened.origin(r): r for r in opened.scan() if opened.origin(r) in places} if opened else {}
    bad: list[BadRow] = []
    for fault in faults:
        row = rows.get(fault.where)
        where, raw = (row.where, row.raw) if row else (fault.where, "")
        bad.append(BadRow(where, fault.code, fault.message, raw))
    return bad


class Reading:
    """A source in two passes and bounded memory: the first recognises the format over all rows, iterating is the
    second. It yields for each row its records, or what is wrong with it; `report` is complete when it ends.

    `wants` is the kind of record; of several, the one that the file holds, or else the first that it can serve as.
    Without it the format's own kind is read. `on_request` allows also those conversions
    between kinds that leave much out.
    """

    def __init__(
        self,
        source: str | Path | Opened,
        *,
        wants: Kind | Sequence[Kind] | None = None,
        format: str | None = None,
        columns: Mapping[str, str] | None = None,
        on_request: bool = False,
    ):
        self.opened = source if isinstance(source, Opened) else open_source(source)
        self.name = self.opened.name
        self.columns = dict(columns or self.opened.columns)
        self.format: Format | None = None
        self.serving: Serving | None = None
        self.seen: Seen | None = None
        """What the first pass saw; nothing where the format was named."""
        kinds = cast("tuple[Kind, ...]", (wants,) if isinstance(wants, str) else tuple(wants or ()))
        self._recognise(format or self.opened.format, kinds)
        self.kind: Kind | None = self.format.kind if self.format else kinds[0] if kinds else None
        if self.format and kinds and self.format.kind not in kinds:
            has = self.format.kind
            served: list[Kind] = [kind for kind in kinds if (has, kind) in SERVES]
            self.kind = served[0] if served else kinds[0]
            serving = SERVES.get((has, self.kind))
            if serving is None or (serving.on_request and not on_request):
                raise InputError(self._instead(self.format, kinds, serving))
            self.serving = serving
        self.rows = self.kept = self.records = 0
        self.rejected, self._ignored, self._files = Counter[str](), Counter[str](), Counter[str]()
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[list[Record] | BadRow]:
        for row in self.opened.scan():
            found = self._read(row)
            self.rows += 1
            if len(self.opened.files) > 1:
                self._files[_PLACE.sub("", self.opened.origin(row))] += 1
            if isinstance(found, BadRow):
                self.rejected[found.code] += 1
            else:
                self.kept += 1
                self.records += len(found)
            yield found

    @property
    def report(self) -> DataReport:
        """What became of the rows read so far."""
        return DataReport(
            source=self.name,
            format=self.format.name if self.format else "unknown",
            rows=self.rows,
            kept=self.kept,
            rejected=dict(sorted(self.rejected.items())),
            ignored=dict(self._ignored),
            sha256=self._digest.hexdigest(),
            records=self.records,
            kind=self.kind or "",
            served=self.serving.says if self.serving else "",
            files=dict(self._files),
            unread=self.opened.unread,
        )

    def _recognise(self, format: str | None, wants: Sequence[Kind]) -> None:
        if format:
            self.format = named(format)
            if not self.columns:
                return
        seen = Seen()
        for row in self.opened.scan():
            if isinstance(row, Row):
                seen.look(row.value, self.columns)
        self.seen = seen
        if seen.rows:
            check_columns(self.columns, seen.theirs)
            self.format = self.format or seen.format(wants, self.name)

    def _read(self, row: Row | BadRow) -> list[Record] | BadRow:
        if isinstance(row, BadRow):
            return row
        assert self.format is not None, "a row that can be read was looked at"
        value = rename(row.value, self.columns) if self.columns else row.value
        try:
            records = convert(value, self.opened.origin(row), self.format)
            if self.serving:
                records = [served for record in records for served in self.serving.convert(record)]
        except Fault as fault:
            return BadRow(row.where, fault.code, fault.message, row.raw)
        self._ignored.update(ignored_columns(value, self.format))
        self._digest.update(row.raw.encode() + b"\n")
        return numbered(records)

    def _instead(self, format: Format, kinds: Sequence[Kind], serving: Serving | None) -> str:
        """Why the wanted kind cannot be had, and what to do."""
        wants = kinds[0]
        told = INSTEAD.get(wants) if format.kind in INSTEAD else None
        said = told or f"learns from {' or '.join(PLURAL[kind] for kind in kinds)}"
        sentence = f"{self.name} is of format {format.name} ({PLURAL[format.kind]}), but this method {said}."
        columns = {c for c, n in self.seen.columns.items() if n == self.seen.rows} if self.seen else set[str]()
        others = [f.name for f in FORMATS if f.kind == wants and not f.holds and columns.issuperset(f.required)]
        if others:
            sentence += f" To read its rows as {PLURAL[wants]} all the same, write format: {others[0]}."
        if serving:
            sentence += f" nurture data convert with --as {wants} makes them, in which {serving.says}."
        return sentence


_PLACE = re.compile(r"(:\d+){1,2}$")


def row_of(origin: str) -> str:
    """The row a record is of: its name without the number of a record or window, which it ends in. (The name of a file
    may hold a `#` too.)"""
    return re.sub(r"#\d+$", "", origin)


def numbered(records: list[Record]) -> list[Record]:
    """Several records of one row are told apart by a number behind its name."""
    if len(records) < 2:
        return records
    return [replace(record, origin=f"{record.origin}#{i}") for i, record in enumerate(records)]


def write_rejected(path: Path, rows: Sequence[BadRow]) -> None:
    with rejected_file(path) as reject:
        for row in rows:
            reject(row)


@contextmanager
def rejected_file(path: Path) -> Iterator[Callable[[BadRow], None]]:
    """Rows that were set aside, as they were written and why; all of the file or nothing of it. Where there are none,
    a file of earlier ones goes."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with ExitStack() as stack:
        stack.callback(draft.unlink, missing_ok=True)
        file: TextIO | None = None

        def reject(row: BadRow) -> None:
            nonlocal file
            if file is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(draft.open("w", encoding="utf-8"))
            entry = {"where": row.where, "code": row.code, "message": row.message, "raw": row.raw}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

        yield reject
        if file is None:
            path.unlink(missing_ok=True)
        else:
            file.flush()
            os.replace(draft, path)
