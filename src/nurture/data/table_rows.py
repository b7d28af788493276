"""Readers of tables: CSV, Parquet, Arrow; and plain text, a row a line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DataError
from .rows import BadRow, Row, not_utf8, refuse_utf16

LARGEST_CELL = 1 << 30


def csv_rows(path: Path, stream: io.BufferedReader) -> Iterator[Row | BadRow]:
    """The first line names the columns. A row knows the line it begins in; its cells may hold line breaks."""
    refuse_utf16(path, stream.peek(4096)[:4096])
    csv.field_size_limit(LARGEST_CELL)
    tabs = path.name.lower().removesuffix(".gz").endswith(".tsv")
    taken: list[str] = []  # the lines of the row being read

    def lines() -> Iterator[str]:
        for number, line in enumerate(_decoded(path, stream), start=1):
            if "\0" in line:
                raise DataError(f"{path}:{number}:{line.index(chr(0)) + 1}", "NUL", "holds a NUL character; remove it.")
            taken.append(line)
            yield line

    reader = csv.reader(lines(), delimiter="\t" if tabs else ",", strict=True)
    columns: list[str] | None = None
    begins = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}:{begins}", "BAD_CSV", f"{error}; quote cells that hold quotes.") from None
        if cells is None:
            return
        where, raw = f"{path}:{begins}", "".join(taken).rstrip("\r\n")
        begins, taken[:] = reader.line_num + 1, []
        if not cells:
            continue
        if columns is None:
            columns = _header(where, cells)
        elif len(cells) != len(columns):
            message = f"has {len(cells)} cells, but the first line names {len(columns)} columns."
            yield BadRow(where, "CSV_COLUMNS", message, raw)
        else:
            yield Row(where, dict(zip(columns, cells, strict=True)), raw)


def _header(where: str, names: list[str]) -> list[str]:
    if "" in names:
        raise DataError(where, "BAD_CSV", f"column {names.index('') + 1} has no name; give it one.")
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise DataError(where, "DUPLICATE_KEY", f"the column {twice!r} occurs twice; keep one.")
    return names


def text_rows(path: Path, stream: io.BufferedReader) -> Iterator[Row | BadRow]:
    """Each line that is not blank is one `text`."""
    refuse_utf16(path, stream.peek(4096)[:4096])
    for number, line in enumerate(_decoded(path, stream), start=1):
        line = line.rstrip("\r\n")
        if "\0" in line:
            yield BadRow(f"{path}:{number}:{line.index(chr(0)) + 1}", "NUL", "holds a NUL character; remove it.", line)
        elif line.strip():
            yield Row(f"{path}:{number}", {"text": line}, line)


def _decoded(path: Path, stream: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            column, message = not_utf8(line.rstrip(b"\r\n"), error)
            raise DataError(f"{path}:{number}:{column}", "ENCODING", message) from None


def parquet_rows(path: Path, stream: io.BufferedReader) -> Iterator[Row | BadRow]:
    import pyarrow.parquet as pq

    with _arrow_faults(path, "BAD_PARQUET", "Parquet"):
        table = pq.ParquetFile(stream, page_checksum_verification=True)
        yield from _batches(path, table.iter_batches(batch_size=1024))


def arrow_rows(path: Path, stream: io.BufferedReader) -> Iterator[Row | BadRow]:
    """Arrow's file form (also called Feather), or its stream form, which `datasets` writes."""
    import pyarrow as pa

    with _arrow_faults(path, "BAD_ARROW", "Arrow"):
        if stream.peek(6)[:6] == b"ARROW1":
            file = pa.ipc.open_file(stream)
            yield from _batches(path, (file.get_batch(i) for i in range(file.num_record_batches)))
        else:
            yield from _batches(path, pa.ipc.open_stream(stream))


@contextmanager
def _arrow_faults(path: Path, code: str, name: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, DataError) or (isinstance(error, OSError) and error.errno is not None):
            raise  # errors of the system have a number, pyarrow's own have none
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        message = f"cannot be read as {name} ({reason}); write or fetch it again."
        raise DataError(str(path), code, message) from None


def _batches(path: Path, batches: Any) -> Iterator[Row | BadRow]:
    number = 0
    for batch in batches:
        for value in batch.to_pylist():
            number += 1
            yield table_row(f"{path}:{number}", value)


def table_row(where: str, value: dict[str, Any]) -> Row | BadRow:
    raw = json.dumps(value, ensure_ascii=False, default=str)
    if "\\u0000" in raw and "\0" in _texts(value):
        return BadRow(where, "NUL", "holds a NUL character; remove it.", raw)
    return Row(where, value, raw)


def _texts(value: object) -> str:
    if isinstance(value, str):
        return value
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return "".join(map(_texts, inside))
