"""What records become, and how they are wished to become it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, replace

from ..errors import DataError
from ..types import Group
from .fit import OnLong
from .judged import Judging
from .load import OnBadRow
from .report import DataReport
from .template import TrainOn

ANYTHING = Judging()


@dataclass(frozen=True)
class Wishes:
    """How records become groups."""

    max_length: int
    train_on: TrainOn = "assistant"
    on_long: OnLong = "drop"
    judging: Judging = ANYTHING
    on_bad_row: OnBadRow = "error"


@dataclass(frozen=True)
class Prepared:
    """Groups to train on and what became of the records: `records = prepared + dropped_long + dropped_masked`."""

    groups: list[Group]
    records: int
    """Without those of rows that were rejected."""
    tokens: int
    trained_tokens: int
    truncated: int = 0
    """Rows whose answers were cut."""
    cut_prompts: int = 0
    """Rows whose prompts were cut at their beginning."""
    split: int = 0
    """Rows that became several pieces,"""
    dropped_pieces: int = 0
    """of which so many were dropped."""
    dropped_long: int = 0
    dropped_masked: int = 0
    rejected: tuple[DataError, ...] = ()
    """What is wrong with rows that were set aside, one fault each."""
    rejected_records: int = 0
    cached: str = ""

    def report(self, loaded: DataReport) -> DataReport:
        """The report of the loaded file, completed."""
        codes = Counter(loaded.rejected) + Counter(fault.code for fault in self.rejected)
        counted = {name: getattr(self, name) for name in COUNTS if name not in ("records", "rejected_records")}
        return replace(
            loaded,
            kept=loaded.kept - len(self.rejected),
            rejected=dict(sorted(codes.items())),
            records=None if loaded.records is None else loaded.records - self.rejected_records,
            prepared=self.records - self.dropped_long - self.dropped_masked,
            groups=len(self.groups),
            cached=self.cached,
            **counted,
        )


COUNTS = tuple(field.name for field in fields(Prepared) if field.type == "int")
"""What is counted; of all that concerns tokens the report says the same under the same name."""
