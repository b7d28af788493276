"""The strict reader of JSON and JSON lines: what `json` and others let pass has a code and a place here."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DataError
from .rows import BadRow, Row, not_utf8, refuse_utf16


def json_rows(path: Path, stream: io.BufferedReader) -> Iterator[Row | BadRow]:
    """One object a line, or one array of objects (which is read whole)."""
    head = stream.peek(4096)[:4096]
    refuse_utf16(path, head)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
        yield from _array(path, stream.read())
    else:
        yield from _lines(path, stream)


def _lines(path: Path, stream: BinaryIO) -> Iterator[Row | BadRow]:
    suffix_json = path.name.lower().removesuffix(".gz").endswith(".json")
    first = True
    decoder = _StrictDecoder()
    for number, line in enumerate(stream, start=1):
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        line = line.rstrip(b"\r\n")
        if not line.strip():
            continue
        row = _line(f"{path}:{number}", line, decoder)
        if first and suffix_json and isinstance(row, BadRow) and row.code == "BAD_JSON":
            message = f"is neither an array of objects nor one object a line ({row.message})"
            raise DataError(row.where, "NOT_AN_ARRAY", message)
        first = False
        yield row


def _line(where: str, line: bytes, decoder: _StrictDecoder) -> Row | BadRow:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        column, message = not_utf8(line, error)
        return BadRow(f"{where}:{column}", "ENCODING", message, line.decode("utf-8", errors="replace"))
    decoder.forget()
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
        column, message = not_utf8(content[start:], error, start)
        raise DataError(f"{path}:{line}:{column}", "ENCODING", message) from None

    line, counted = 1, 0

    def place(at: int) -> str:
        nonlocal line, counted
        line, counted = line + text.count("\n", counted, at), at
        return f"{path}:{line}:{at - text.rfind(chr(10), 0, at)}"

    at = _skip_space(text, text.index("[") + 1)
    if text[at : at + 1] == "]":
        return
    decoder = _StrictDecoder()
    while True:
        decoder.forget()
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
        self.forget()
        super().__init__(object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float)

    def forget(self) -> None:
        self.duplicate = self.not_finite = False

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            self.duplicate = True
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
