"""Files that survive a crash: written, flushed to the disk, then moved into place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file whose bytes are on the disk when this returns."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_synced(path: Path, data: bytes) -> None:
    """Replace a file: a reader, also one after a crash, sees the old bytes or the new ones, never a mixture."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        write_synced(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file that someone else wrote, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted keys, no needless spaces, ASCII. NaN and infinities have none."""
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, however its keys were ordered."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def free_bytes(folder: Path) -> int:
    """What an ordinary user may still write to the file system that holds `folder`."""
    return shutil.disk_usage(folder).free


def readable_size(num_bytes: float) -> str:
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes:.0f} bytes"
