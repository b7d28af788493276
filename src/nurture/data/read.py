"""Strict readers: every row of a file becomes a `Row` or a `BadRow`, and each knows its line and column.

Nothing is repaired or skipped here. What concerns the whole file (missing, empty, another encoding, a broken archive)
is raised; what concerns one row is yielded, so that the caller may list every fault or set the row aside.
"""

from __future__ import annotations

import difflib
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import DataError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".jsonl.gz", ".ndjson.gz", ".json.gz")


@dataclass(frozen=True, slots=True)
class Row:
    """`where` is `file:line`, or `file:line:column` for elements of a JSON array, several of which may share a line."""

    where: str
    value: dict[str, Any]
    raw: str

    @property
    def origin(self) -> str:
        """The row's name without its folder: the same wherever the data lies."""
        return Path(self.where).name


@dataclass(frozen=True, slots=True)
class BadRow:
    where: str
    code: str
    message: str
    raw: str

    @property
    def error(self) -> DataError:
        return DataError(self.where, self.code, self.message)


def read_rows(path: Path | str) -> Iterator[Row]:
    """The rows of a file; the first bad one is raised."""
    for row in scan(path):
        if isinstance(row, BadRow):
            raise row.error
        yield row


def scan(path: Path | str) -> Iterator[Row | BadRow]:
    """Every row of a JSON, JSON-lines or Parquet file in its order, good or bad. A file without rows is an error."""
    path = Path(path)
    empty = True
    try:
        for row in _parquet(path) if _suffix(path) == ".parquet" else _json(path):
            empty = False
            yield row
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            str(path), "UNREADABLE", f"cannot be read ({reason}); see to its permissions or its disk."
        ) from None
    if empty:
        raise DataError(str(path), "EMPTY_FILE", "holds no rows; give a file with at least one.")


def _suffix(path: Path) -> str:
    if not path.exists():
        folder = path.parent
        names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
        if not folder.is_dir():
            hint = f"neither is its folder {folder}"
        elif near:
            hint = f"near it are {', '.join(near)}"
        else:
            hint = f"its folder holds {', '.join(names[:5]) or 'nothing'}{', ...' if len(names) > 5 else ''}"
        raise DataError(str(path), "MISSING_FILE", f"is not there; {hint}.")
    if not path.is_file():
        raise DataError(str(path), "NOT_A_FILE", "is not a file; name one data file.")
    name = path.name.lower()
    suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), None)
    if suffix is None:
        raise DataError(str(path), "UNKNOWN_EXTENSION", f"has no extension that is read here: {', '.join(SUFFIXES)}.")
    return suffix


# ---- JSON ----


def _json(path: Path) -> Iterator[Row | BadRow]:
    compressed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path, "rb") if compressed else path.open("rb") as opened:
            stream = io.BufferedReader(cast(Any, opened)) if compressed else cast(io.BufferedReader, opened)
            head = stream.peek(4096)[:4096]
            _refuse_utf16(path, head)
            if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
                yield from _array(path, stream.read())
            else:
                yield from _lines(path, stream)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(str(path), "BAD_GZIP", f"is not a whole gzip file ({error}); compress it again.") from None


def _refuse_utf16(path: Path, head: bytes) -> None:
    marked = head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff"))
    # JSON begins with ASCII, which UTF-16 writes with a zero byte beside each letter.
    zeros = max(head[0::2].count(0), head[1::2].count(0))
    if marked or (len(head) >= 4 and zeros > len(head) // 4):
        name = "UTF-32" if head[:4] in (b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff") else "UTF-16"
        raise DataError(f"{path}:1:1", "ENCODING", f"{name} suspected; save the file as UTF-8.")


def _lines(path: Path, stream: BinaryIO) -> Iterator[Row | BadRow]:
    suffix_json = path.name.lower().removesuffix(".gz").endswith(".json")
    first = True
    for number, line in enumerate(stream, start=1):
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        line = line.rstrip(b"\r\n")
        if not line.strip():
            continue
        row = _line(f"{path}:{number}", line)
        if first and suffix_json and isinstance(row, BadRow) and row.code == "BAD_JSON":
            message = f"is neither an array of objects nor one object a line ({row.message})"
            raise DataError(row.where, "NOT_AN_ARRAY", message)
        first = False
        yield row


def _line(where: str, line: bytes) -> Row | BadRow:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        column, message = _not_utf8(line, error)
        return BadRow(f"{where}:{column}", "ENCODING", message, line.decode("utf-8", errors="replace"))
    decoder = _StrictDecoder()
    try:
        value = decoder.decode(text)
    except (ValueError, RecursionError) as error:
        column, code, message = _syntax_error(text, error)
        return BadRow(f"{where}:{column}", code, message, text)
    if fault := decoder.fault(text, value):
        column, code, message = fault
        return BadRow(f"{where}:{column}", code, message, text)
    return Row(where, value, text)


def _array(path: Path, content: bytes) -> Iterator[Row | BadRow]:
    """Elements one by one. After broken syntax nothing tells where the next element begins, so that is raised."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        start = content.rfind(b"\n", 0, error.start) + 1
        column, message = _not_utf8(content[start:], error, start)
        raise DataError(f"{path}:{line}:{column}", "ENCODING", message) from None

    line, counted = 1, 0

    def place(at: int) -> str:
        nonlocal line, counted
        line, counted = line + text.count("\n", counted, at), at
        return f"{path}:{line}:{at - text.rfind(chr(10), 0, at)}"

    at = _skip_space(text, text.index("[") + 1)
    if text[at : at + 1] == "]":
        return
    while True:
        decoder = _StrictDecoder()
        where = place(at)
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            if isinstance(error, json.JSONDecodeError):
                where = place(error.pos)
            _, code, message = _syntax_error(text, error)
            raise DataError(where, code, message) from None
        raw = text[at:end]
        if fault := decoder.fault(raw, value):
            offset, code, message = fault
            yield BadRow(place(at + offset - 1), code, message, raw)
        else:
            yield Row(where, value, raw)
        at = _skip_space(text, end)
        separator = text[at : at + 1]
        if separator == "]":
            break
        if separator != ",":
            raise DataError(place(at), "BAD_JSON", f"expected ',' or ']' after an element, found {_shown(text, at)}.")
        at = _skip_space(text, at + 1)
    rest = _skip_space(text, at + 1)
    if rest < len(text):
        raise DataError(place(rest), "BAD_JSON", f"the array has ended, but {_shown(text, rest)} follows.")


_SPACE = re.compile(r"[ \t\r\n]*")


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _shown(text: str, at: int) -> str:
    return repr(text[at : at + 12]) if at < len(text) else "the end of the file"


def _not_utf8(line: bytes, error: UnicodeDecodeError, start: int = 0) -> tuple[int, str]:
    byte = error.object[error.start]
    column = len(line[: error.start - start].decode("utf-8")) + 1
    if error.start + 1 >= len(error.object) and byte >= 0xC2:
        return column, f"byte 0x{byte:02x} begins a UTF-8 character that never ends; the file seems to be cut off."
    name = "Windows-1252" if 0x80 <= byte < 0xA0 else "Latin-1"
    return column, f"byte 0x{byte:02x} is not UTF-8, {name} suspected; save the file as UTF-8."


def _syntax_error(text: str, error: Exception) -> tuple[int, str, str]:
    if isinstance(error, RecursionError):
        return 1, "BAD_JSON", "is nested too deeply."
    if not isinstance(error, json.JSONDecodeError):  # an integer of more than 4300 digits
        return 1, "BAD_JSON", f"{error}."
    if text[error.pos : error.pos + 1] == "\0":
        return error.colno, "NUL", "holds a NUL character; remove it."
    message = error.msg[:1].lower() + error.msg[1:]
    return error.colno, "BAD_JSON", f"{message}, found {_shown(text, error.pos)}."


class _StrictDecoder(json.JSONDecoder):
    """Standard JSON, remembering what `json` would let pass. (It remembers instead of raising, since the end of an
    array element is known only after the whole of it was read.)"""

    def __init__(self):
        self.duplicate = self.not_finite = False
        super().__init__(object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        self.duplicate |= len(value) < len(pairs)
        return value

    def _constant(self, name: str) -> None:
        self.not_finite = True

    def _float(self, digits: str) -> float:
        value = float(digits)
        self.not_finite |= not math.isfinite(value)
        return value

    def fault(self, raw: str, value: object) -> tuple[int, str, str] | None:
        """(column, code, message) of what is wrong with a row whose syntax is right."""
        if self.duplicate:
            at, key = _second_key(raw)
            return at + 1, "DUPLICATE_KEY", f"the key {key!r} occurs twice in one object; keep one."
        if self.not_finite:
            at = next(m.start() for m in _TOKEN.finditer(raw) if _is_infinite(m[0]))
            return at + 1, "NOT_FINITE", "NaN and Infinity are not JSON; write a number or null."
        if not isinstance(value, dict):
            kinds = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
            kind = kinds.get(type(value), "a number")
            return 1, "NOT_AN_OBJECT", f"a row must be an object of named columns, found {kind}."
        if "\\u" in raw:
            return _bad_escape(raw)
        return None


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?Infinity|NaN|-?\d[\d.eE+-]*|[{}\[\]:,]')


def _is_infinite(token: str) -> bool:
    if token in ("NaN", "Infinity", "-Infinity"):
        return True
    return token[0] in "-0123456789" and any(c in token for c in ".eE") and not math.isfinite(float(token))


def _second_key(raw: str) -> tuple[int, str]:
    """Where a key is written that its object has already."""
    open_objects: list[set[str] | None] = []
    previous = None
    for token in _TOKEN.finditer(raw):
        word = token[0]
        if word in "{[":
            open_objects.append(set() if word == "{" else None)
        elif word in "}]":
            open_objects.pop()
        elif word == ":" and previous is not None:
            keys, key = open_objects[-1], json.loads(previous[0])
            assert keys is not None
            if key in keys:
                return previous.start(), key
            keys.add(key)
        previous = token
    raise AssertionError("called for a row without a duplicate key")


_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)")


def _bad_escape(raw: str) -> tuple[int, str, str] | None:
    escapes = [(m.start(), m.end(), int(m[1], 16)) for m in _ESCAPE.finditer(raw) if m[1]]
    pairs_with = -1
    for i, (start, end, code) in enumerate(escapes):
        if code == 0:
            return start + 1, "NUL", "holds a NUL character; remove it."
        if 0xDC00 <= code < 0xE000 and pairs_with != start:
            return start + 1, "LONE_SURROGATE", f"\\u{code:04x} is half a character; write the whole one."
        if 0xD800 <= code < 0xDC00:
            following = escapes[i + 1] if i + 1 < len(escapes) else None
            if following is None or following[0] != end or not 0xDC00 <= following[2] < 0xE000:
                return start + 1, "LONE_SURROGATE", f"\\u{code:04x} is half a character; write the whole one."
            pairs_with = end
    return None


# ---- Parquet ----


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        try:
            table = pq.ParquetFile(file, page_checksum_verification=True)
            number = 0
            for batch in table.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}:{number}", value, json.dumps(value, ensure_ascii=False, default=str))
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the system; pyarrow's own have no number
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            message = f"cannot be read as Parquet ({reason}); write or fetch it again."
            raise DataError(str(path), "BAD_PARQUET", message) from None
