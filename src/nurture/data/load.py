"""One way in: a data file becomes records, and every row is accounted for."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import InputError
from ..records import Record
from .bundled import bundled_path
from .formats import Fault, Kind, convert, detect, ignored_columns, named, rename
from .read import BadRow, Row, scan
from .report import DataReport

SHOWN = 20

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

    def __init__(self, source: str, bad: Sequence[BadRow], rows: int, hint: str):
        codes = Counter(row.code for row in bad)
        totals = ", ".join(f"{count} {code}" for code, count in sorted(codes.items()))
        listed = [f"{row.where} {row.code} {row.message}" for row in bad[:SHOWN]]
        more = [f"... and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
        super().__init__("\n".join([*listed, *more, f"{source}: {len(bad)} of {rows} rows are bad ({totals}). {hint}"]))
        self.bad = tuple(bad)
        self.totals = dict(codes)


def load_records(
    source: str | Path,
    *,
    wants: Kind,
    on_bad_row: Literal["error", "quarantine"] = "error",
    max_bad_fraction: float = 0.01,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Loaded:
    """Records of the wanted kind. `columns` maps our column names to the file's.

    A bad row is an error, or with `on_bad_row="quarantine"` is set aside, as long as no more than `max_bad_fraction` of
    the rows are bad.
    """
    path = bundled_path(str(source)) if str(source).startswith("bundled/") else Path(source)
    columns = columns or {}
    good, bad = list[Row](), list[BadRow]()
    for row in scan(path):
        if isinstance(row, BadRow):
            bad.append(row)
        else:
            good.append(Row(row.where, rename(row.value, columns), row.raw) if columns else row)
    rows = len(good) + len(bad)
    if not good:
        raise BadRows(str(source), bad, rows, "No row can be read.")
    layout = named(format) if format else detect((row.value for row in good), wants, str(source))
    if layout.kind != wants:
        raise InputError(f"{source} is of format {layout.name}, but this method {INSTEAD[wants]}.")

    records, ignored, digest = list[Record](), Counter[str](), hashlib.sha256()
    for row in good:
        try:
            records.append(convert(row.value, row.origin, layout))
        except Fault as fault:
            bad.append(BadRow(row.where, fault.code, fault.message, row.raw))
        else:
            ignored.update(ignored_columns(row.value, layout))
            digest.update(row.raw.encode() + b"\n")
    if bad:
        bad.sort(key=lambda row: _line_number(row.where))
        if on_bad_row == "error":
            raise BadRows(str(source), bad, rows, 'Mend them, or set them aside with on_bad_row: "quarantine".')
        if not records or len(bad) > max_bad_fraction * rows:
            raise BadRows(
                str(source), bad, rows, f"More than max_bad_fraction={max_bad_fraction} may not be set aside."
            )
    rejected = dict(sorted(Counter(row.code for row in bad).items()))
    report = DataReport(str(source), layout.name, rows, len(records), rejected, dict(ignored), digest.hexdigest())
    return Loaded(records, report, bad)


def _line_number(where: str) -> tuple[int, ...]:
    """`file:3:24` -> (3, 24), whatever colons the file's name holds."""
    numbers: list[int] = []
    for part in reversed(where.split(":")[-2:]):
        if part.isdigit():
            numbers.insert(0, int(part))
    return tuple(numbers)


def write_rejected(path: Path, rows: Sequence[BadRow]) -> None:
    """Rows that were set aside, as they were written and why; all of the file or nothing of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    with draft.open("w", encoding="utf-8") as file:
        for row in rows:
            entry = {"where": row.where, "code": row.code, "message": row.message, "raw": row.raw}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    os.replace(draft, path)
