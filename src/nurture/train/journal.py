"""What a run writes down while it goes: metrics, events and samples, one JSON object a line.

`metrics.jsonl` and `samples.jsonl` hold only what seed and data determine. A checkpoint remembers how long they were, a
resumed run cuts them back to that length, and so they end byte-equal to those of a run that was never stopped.
`events.jsonl` is history: times, memory, warnings, every start and stop. It is only ever appended to.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError

DETERMINED = ("metrics.jsonl", "samples.jsonl")


class Journal:
    """The three files of one run folder. A process that is not rank 0 has `folder=None` and writes nothing."""

    def __init__(self, folder: Path | None):
        self.folder = folder
        if folder is not None and (folder / "events.jsonl").exists():
            _cut_torn_line(folder / "events.jsonl")

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._append("metrics.jsonl", {"step": step, **metrics})

    def sample(self, step: int, sample: Mapping[str, Any]) -> None:
        self._append("samples.jsonl", {"step": step, **sample})

    def emit(self, event: str, facts: Mapping[str, Any] | None = None) -> None:
        self._append("events.jsonl", {"event": event, "time": round(time.time(), 3), **(facts or {})})

    def lengths(self) -> dict[str, int]:
        """How long the determined files are now, flushed to disk: what a checkpoint must remember."""
        if self.folder is None:
            return {}
        lengths: dict[str, int] = {}
        for name in DETERMINED:
            path = self.folder / name
            if path.exists():
                with path.open("rb") as f:
                    os.fsync(f.fileno())
            lengths[name] = path.stat().st_size if path.exists() else 0
        return lengths

    def cut_back(self, lengths: Mapping[str, int]) -> None:
        """Forget what was written after the checkpoint that remembers these lengths."""
        if self.folder is None:
            return
        for name in DETERMINED:
            path, length = self.folder / name, lengths.get(name, 0)
            size = path.stat().st_size if path.exists() else 0
            if size < length:
                raise InputError(
                    f"{path} has {size} bytes, but the checkpoint was written when it had {length}; restore the file, "
                    f"or start again with fresh=true."
                )
            if path.exists():
                os.truncate(path, length)

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        if self.folder is None:
            return
        with (self.folder / name).open("a", encoding="utf-8") as f:
            f.write(json.dumps({k: _plain(v) for k, v in row.items()}, ensure_ascii=False, allow_nan=False) + "\n")


def _cut_torn_line(path: Path) -> None:
    """Drop the end of a line that a crash left half-written, so that the next one begins where a line should."""
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def _plain(value: Any) -> Any:
    """JSON has no NaN; it is written as the string "NaN", never as 0."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
