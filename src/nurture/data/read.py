"""Strict readers: every row of a file becomes a `Row` or a `BadRow`, and each knows its line and column.

Nothing is repaired or skipped here. What concerns the whole file (missing, empty, another encoding, a broken archive)
is raised; what concerns one row is yielded, so that the caller may list every fault or set the row aside.
"""

from __future__ import annotations

import difflib
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from ..errors import DataError
from .json_rows import json_rows
from .rows import BadRow, Row
from .table_rows import arrow_rows, csv_rows, parquet_rows, text_rows

__all__ = ["SUFFIXES", "BadRow", "Row", "read_rows", "scan", "suffix_of"]

Opened = Callable[[Path, io.BufferedReader], Iterator[Row | BadRow]]

TEXTS: dict[str, Opened] = {
    ".jsonl": json_rows,
    ".ndjson": json_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".txt": text_rows,
}
"""Files of text, which may also be compressed (`.gz`)."""

BINARIES: dict[str, Opened] = {
    ".parquet": parquet_rows,
    ".arrow": arrow_rows,
    ".feather": arrow_rows,
}

SUFFIXES = (*TEXTS, *BINARIES, *(f"{suffix}.gz" for suffix in TEXTS))


def read_rows(path: Path | str) -> Iterator[Row]:
    """The rows of a file; the first bad one is raised."""
    for row in scan(path):
        if isinstance(row, BadRow):
            raise row.error
        yield row


def scan(path: Path | str) -> Iterator[Row | BadRow]:
    """Every row of a data file in its order, good or bad. A file without rows is an error."""
    path = Path(path)
    empty = True
    try:
        for row in _read(path, _checked_suffix(path)):
            empty = False
            yield row
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            str(path), "UNREADABLE", f"cannot be read ({reason}); see to its permissions or its disk."
        ) from None
    if empty:
        raise DataError(str(path), "EMPTY_FILE", "holds no rows; give a file with at least one.")


def _read(path: Path, suffix: str) -> Iterator[Row | BadRow]:
    reader = (TEXTS | BINARIES)[suffix.removesuffix(".gz")]
    if not suffix.endswith(".gz"):
        with path.open("rb") as stream:
            yield from reader(path, cast(io.BufferedReader, stream))
        return
    try:
        with gzip.open(path, "rb") as stream:
            yield from reader(path, io.BufferedReader(cast(Any, stream)))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(str(path), "BAD_GZIP", f"is not a whole gzip file ({error}); compress it again.") from None


def suffix_of(path: Path) -> str | None:
    """The longest extension that is read here."""
    name = path.name.lower()
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), None)


def _checked_suffix(path: Path) -> str:
    if not path.exists():
        raise missing(path)
    if not path.is_file():
        raise DataError(str(path), "NOT_A_FILE", "is not a file; name one data file.")
    suffix = suffix_of(path)
    if suffix is None:
        raise DataError(str(path), "UNKNOWN_EXTENSION", f"has no extension that is read here: {', '.join(SUFFIXES)}.")
    return suffix


def missing(path: Path) -> DataError:
    folder = path.parent
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    if not folder.is_dir():
        hint = f"neither is its folder {folder}"
    elif near:
        hint = f"near it are {', '.join(near)}"
    else:
        hint = f"its folder holds {', '.join(names[:5]) or 'nothing'}{', ...' if len(names) > 5 else ''}"
    return DataError(str(path), "MISSING_FILE", f"is not there; {hint}.")
