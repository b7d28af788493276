"""What a source names: one file, a folder, a pattern, an entry of LLaMA-Factory's dataset_info.json, or a hub name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError, InputError, did_you_mean
from .bundled import bundled_path
from .llama_factory import dataset_info
from .read import BadRow, Row, missing, scan, suffix_of
from .table_rows import table_row

HUB_NAME = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w.-]+))?"
)
PATTERN = re.compile(r"[*?\[]")
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that describe data sets and hold none."""


@dataclass(frozen=True)
class Opened:
    """Rows that can be read any number of times, in the same order."""

    name: str
    scan: Callable[[], Iterator[Row | BadRow]]
    root: str
    """What is left out of a row's place to make its name, which is the same wherever the data lies."""
    files: tuple[Path, ...] = ()
    unread: tuple[str, ...] = ()
    """Files in the folder that are no data."""
    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict[str, str])

    def origin(self, row: Row | BadRow) -> str:
        return row.where.removeprefix(self.root)


def open_source(source: str | Path) -> Opened:
    """`bundled/NAME`, a file, `FOLDER`, `FOLDER#SPLIT` of one that `datasets` wrote, `*.jsonl`,
    `dataset_info.json#NAME`, or `owner/name#SPLIT` on the hub."""
    name = str(source)
    if name.startswith("bundled/"):
        return _files(name, [bundled_path(name)])
    path, _, part = (name, "", "") if Path(name).exists() else name.rpartition("#") if "#" in name else (name, "", "")
    where = Path(path).expanduser()
    if where.name == "dataset_info.json" and where.is_file() and not (where.parent / "state.json").exists():
        return _llama_factory(name, where, part)
    if where.is_dir():
        return _folder(name, where, part)
    if where.exists() and not part:
        return _files(name, [where])
    if PATTERN.search(path):
        return _glob(name, path)
    hub = HUB_NAME.fullmatch(path)
    if hub and suffix_of(where) is None and not where.parent.is_dir():
        return hub_rows(name, hub["name"], hub["config"], hub["revision"], part or None)
    raise missing(where)


def _files(name: str, files: list[Path], root: Path | None = None, unread: tuple[str, ...] = ()) -> Opened:
    def rows() -> Iterator[Row | BadRow]:
        for path in files:
            yield from scan(path)

    folder = str(root or files[0].parent)
    prefix = "" if folder == "." else folder.rstrip("/") + "/"
    return Opened(name, rows, prefix, tuple(files), unread)


def _folder(name: str, folder: Path, split: str) -> Opened:
    """All data files below the folder, by their names. What `datasets` saved knows its own files and order."""
    if (folder / "dataset_dict.json").is_file():
        splits = _json_file(folder / "dataset_dict.json").get("splits", [])
        if not split and len(splits) == 1:
            split = splits[0]
        if split not in splits:
            raise InputError(f"{folder} has the splits {', '.join(splits)}; write {folder}#{splits[0]}, say.")
        return _folder(name, folder / split, "")
    if split:
        raise InputError(
            f"{folder} has no splits (datasets writes a dataset_dict.json beside them); leave out #{split}."
        )
    if (folder / "state.json").is_file():
        state = _json_file(folder / "state.json")
        if state.get("_indices_files"):
            raise DataError(str(folder), "INDICES", "was saved with an order of its own; save flatten_indices() of it.")
        return _files(name, [folder / entry["filename"] for entry in state.get("_data_files", [])], folder)
    below = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    seen = [p for p in below if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    data = [p for p in seen if suffix_of(p) and p.name not in DESCRIPTIONS]
    if not data:
        raise DataError(str(folder), "EMPTY_FOLDER", "holds no file of data; name a file, or a folder that has some.")
    unread = tuple(str(p.relative_to(folder)) for p in seen if p not in set(data))
    return _files(name, data, folder, unread)


def _glob(name: str, pattern: str) -> Opened:
    parts = Path(pattern).expanduser().parts
    fixed = next(i for i, part in enumerate(parts) if PATTERN.search(part))
    root = Path(*parts[:fixed]) if fixed else Path()
    found = sorted(p for p in root.glob(str(Path(*parts[fixed:]))) if p.is_file())
    if not found:
        raise DataError(pattern, "NO_MATCH", "matches no file; see what the folder holds.")
    return _files(name, found, root)


def _llama_factory(name: str, info: Path, entry: str) -> Opened:
    entries = _json_file(info)
    if not entry and len(entries) == 1:
        (entry,) = entries
    if entry not in entries:
        wanted = f"no data set {entry!r}" if entry else f"{len(entries)} data sets"
        names = ", ".join(list(entries)[:20])
        raise InputError(f"{info} has {wanted}; write {info}#NAME with one of {names}.{did_you_mean(entry, entries)}")
    read = dataset_info(entries[entry], f"{info}#{entry}")
    if read.hub:
        opened = hub_rows(name, read.hub, read.config, None, read.split)
    else:
        opened = open_source(info.parent / read.file)
    return Opened(name, opened.scan, opened.root, opened.files, opened.unread, read.format, read.columns)


def _json_file(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(str(path), "BAD_JSON", f"cannot be read ({error}).") from None
    if not isinstance(value, dict):
        raise DataError(str(path), "NOT_AN_OBJECT", "must be an object.")
    return value


def hub_rows(source: str, name: str, config: str | None, revision: str | None, split: str | None) -> Opened:
    """Rows through `datasets`, streamed. Of several splits none is guessed."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            f"{name} is no file or folder here; to read it from the hub: pip install 'nurture-llm[datasets]'."
        ) from None
    try:
        splits = datasets.get_dataset_split_names(name, config, revision=revision)
        chosen = split or (splits[0] if len(splits) == 1 else None)
        rows = (
            datasets.load_dataset(name, config, split=chosen, revision=revision, streaming=True)
            if chosen in splits
            else None
        )
    except Exception as error:  # anything between the network and the files of others
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{source} is no file or folder here, and cannot be read from the hub: {reason}") from None
    if rows is None:
        raise InputError(
            f"{name} has the splits {', '.join(splits)}; write {source.partition('#')[0]}#{splits[0]}, say."
        )

    def read() -> Iterator[Row | BadRow]:
        for number, value in enumerate(rows, start=1):
            yield table_row(f"{name}#{chosen}:{number}", dict(value))

    return Opened(source, read, "")
