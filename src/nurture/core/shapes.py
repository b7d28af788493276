"""How many rows the matrix products of a pass have.

A CPU's matrix library writes machine code for every new size of a product, which takes it a millisecond and over half a
megabyte. So numbers of rows are filled up, and passes of all lengths share a few sizes.
"""

from __future__ import annotations

ROWS = 32


def spare(rows: int, multiple: int = ROWS) -> int:
    """How many rows to add."""
    return -rows % multiple
