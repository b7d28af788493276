"""The small data sets that come with the package, for a first run with nothing downloaded."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError, did_you_mean

FOLDER = Path(__file__).parent / "bundled"


def bundled_path(name: str) -> Path:
    """`bundled/stories` -> the file it stands for."""
    names = sorted(f"bundled/{path.stem}" for path in FOLDER.glob("*.jsonl"))
    if name not in names:
        raise InputError(f"{name!r} is not bundled; there are {', '.join(names)}.{did_you_mean(name, names)}")
    return FOLDER / f"{name.removeprefix('bundled/')}.jsonl"
