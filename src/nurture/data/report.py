"""What became of every row: read, kept, rejected by code, dropped, cut, trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class DataReport:
    """`rows = kept + rejected`; once they are tokenised, `records = prepared + dropped_long + dropped_masked`. A row
    that could be read and not be tokenised is then rejected."""

    source: str
    format: str
    rows: int
    kept: int
    rejected: Mapping[str, int] = field(default_factory=dict[str, int])
    """Set aside, by code."""
    ignored: Mapping[str, int] = field(default_factory=dict[str, int])
    """Columns that nothing reads, and in how many rows they occur."""
    sha256: str = ""
    """Digest of the kept rows as they were written."""
    records: int | None = None
    """Records the kept rows became, where that is not one each."""
    kind: str = ""
    served: str = ""
    """How records of the file's kind serve as the wanted kind, where that is another."""
    files: Mapping[str, int] = field(default_factory=dict[str, int])
    """Rows of each file, where there are several."""
    unread: Sequence[str] = ()
    """Files of the folder that hold no data."""
    screened: Mapping[str, int] = field(default_factory=dict[str, int])
    """Labellers who were left out, and how many of their records; `records` are those of the others."""
    prepared: int | None = None
    """Records that became groups. The fields from here on are unknown before they are tokenised."""
    truncated: int = 0
    cut_prompts: int = 0
    split: int = 0
    dropped_pieces: int = 0
    dropped_long: int = 0
    dropped_masked: int = 0
    groups: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    cached: str = ""
    """Where the tokens were kept from an earlier run, or why these could not be kept."""

    def __post_init__(self):
        assert self.rows == self.kept + sum(self.rejected.values()), "every row is kept or rejected"
        if self.prepared is not None:
            made = self.kept if self.records is None else self.records
            lost = self.dropped_long + self.dropped_masked
            assert made == self.prepared + lost, "every record is accounted for"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """A few plain lines for the terminal."""
        first = f"{self.source}: {self.rows:,} rows of format {self.format}"
        rejected = ", ".join(f"{count:,} {code}" for code, count in sorted(self.rejected.items()))
        lines = [f"{first}, {self.kept:,} kept" + (f", rejected: {rejected}" if rejected else "")]
        if self.records is not None and self.records != self.kept:
            lines.append(f"{self.records:,} records made of them")
        if self.served:
            lines.append(f"read as {self.kind}: {self.served}")
        if self.screened:
            left_out = ", ".join(f"{who} ({n:,} rows)" for who, n in self.screened.items())
            lines.append(f"labellers left out, whom the others' majority contradicts: {left_out}")
        if self.files:
            lines.append("files: " + ", ".join(f"{name} ({n:,} rows)" for name, n in self.files.items()))
        if self.unread:
            lines.append(f"not read, as no data: {', '.join(self.unread)}")
        if self.ignored:
            lines.append("ignored columns: " + ", ".join(f"{c} ({n:,} rows)" for c, n in sorted(self.ignored.items())))
        if self.prepared is not None:
            share = self.trained_tokens / self.tokens if self.tokens else 0.0
            parts = "pieces" if self.split else "windows"
            used = f"{self.prepared:,} rows trained on" + (
                f" as {self.groups:,} {parts}" if self.groups > self.prepared else ""
            )
            lines.append(f"{used}: {self.tokens:,} tokens, {self.trained_tokens:,} of them ({share:.0%}) carry loss")
            if self.dropped_long:
                lines.append(f"{self.dropped_long:,} rows dropped: longer than max_length")
            if self.truncated:
                lines.append(f"{self.truncated:,} answers cut at max_length: they end without a stop token")
            if self.cut_prompts:
                lines.append(f"{self.cut_prompts:,} prompts cut at their beginning to fit max_length; answers whole")
            if self.split:
                lines.append(f"{self.split:,} rows longer than max_length split before turns of the user")
            if self.dropped_pieces:
                why = "longer than max_length by themselves, or nothing of them carries loss"
                lines.append(f"{self.dropped_pieces:,} pieces of these dropped: {why}")
            if self.dropped_masked:
                lines.append(f"{self.dropped_masked:,} rows dropped: no token of theirs carries loss")
            if self.cached:
                lines.append(self.cached)
        return lines
