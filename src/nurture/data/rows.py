"""A row as it was read, or what is wrong with it; and what all readers of text refuse."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError


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


def refuse_utf16(path: Path, head: bytes) -> None:
    marked = head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff"))
    # Data files begin with ASCII, which UTF-16 writes with a zero byte beside each letter.
    zeros = max(head[0::2].count(0), head[1::2].count(0))
    if marked or (len(head) >= 4 and zeros > len(head) // 4):
        name = "UTF-32" if head[:4] in (b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff") else "UTF-16"
        raise DataError(f"{path}:1:1", "ENCODING", f"{name} suspected; save the file as UTF-8.")


def not_utf8(line: bytes, error: UnicodeDecodeError, start: int = 0) -> tuple[int, str]:
    """(column, message) of the first byte of a line that is not UTF-8; `start` is where the line begins."""
    byte = error.object[error.start]
    column = len(line[: error.start - start].decode("utf-8")) + 1
    if error.start + 1 >= len(error.object) and byte >= 0xC2:
        return column, f"byte 0x{byte:02x} begins a UTF-8 character that never ends; the file seems to be cut off."
    name = "Windows-1252" if 0x80 <= byte < 0xA0 else "Latin-1"
    return column, f"byte 0x{byte:02x} is not UTF-8, {name} suspected; save the file as UTF-8."
