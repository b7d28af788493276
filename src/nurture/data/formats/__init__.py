"""The forms in which people keep training data, and how each becomes our records: one function a format, one table."""

from __future__ import annotations

from . import demonstrations, judged, preferences, steps, tasks, trees
from .format import KINDS, Fault, Format, Kind

__all__ = ["FORMATS", "KINDS", "Fault", "Format", "Kind"]

FORMATS: tuple[Format, ...] = (
    *preferences.FORMATS,
    *judged.FORMATS,
    *steps.FORMATS,
    *trees.FORMATS,
    *tasks.FORMATS,
    *demonstrations.FORMATS,
    *tasks.PLAIN,
)
"""In the order in which they are tried where a row has the columns of several."""
