"""Arithmetic in several steps, with its working: shared by the corpus and the arithmetic family.

Level 1 has two easy steps, 2 three easy steps, 3 two steps with larger numbers, 4 three, 5 four, 6 five. Levels 7, 8
and 9 have three, four and five steps with numbers as large as fit; no document shows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .draw import Draw

Operator = Literal["+", "-", "*"]
LEVELS = (1, 2, 3, 4, 5, 6)
_STEPS = {1: 2, 2: 3, 3: 2, 4: 3, 5: 4, 6: 5, 7: 3, 8: 4, 9: 5}
_LARGEST = {1: 50, 2: 99}
"""No total is above it; 999 where nothing is said."""


@dataclass(frozen=True, slots=True)
class Sum:
    start: int
    steps: tuple[tuple[Operator, int], ...]

    @property
    def totals(self) -> tuple[int, ...]:
        """The running total after each step."""
        total, totals = self.start, []
        for operator, operand in self.steps:
            total = apply(operator, total, operand)
            totals.append(total)
        return tuple(totals)

    @property
    def result(self) -> int:
        return self.totals[-1]

    @property
    def working(self) -> tuple[str, ...]:
        """One written step each: `12+7=19.`"""
        totals = self.totals
        return tuple(
            f"{x}{operator}{operand}={y}."
            for x, (operator, operand), y in zip((self.start, *totals), self.steps, totals, strict=False)
        )

    @property
    def instructions(self) -> str:
        """In words: `Start with 12. Add 7. Multiply by 2.`"""
        verbs = {"+": "Add", "-": "Take away", "*": "Multiply by"}
        return " ".join([f"Start with {self.start}.", *(f"{verbs[op]} {n}." for op, n in self.steps)])

    def story(self, name: str, item: str) -> str:
        """As a little tale about `name` and their things (no multiplication by 1 or 0 ever occurs)."""
        verbs = {"+": "gets {n} more", "-": "gives away {n}", "*": "then has {n} times as many"}
        return " ".join(
            [f"{name} has {self.start} {item}.", *(f"{name} {verbs[op].format(n=n)}." for op, n in self.steps)]
        )


def apply(operator: Operator, x: int, y: int) -> int:
    return x + y if operator == "+" else x - y if operator == "-" else x * y


def draw_sum(draw: Draw, level: int) -> Sum:
    """A sum whose totals all lie between 0 and the level's largest number."""
    largest = _LARGEST.get(level, 999)
    easy = level <= 2
    most = 20 if easy else 300 if level <= 6 else largest
    total = start = draw.between(2, 20 if easy else 200)
    steps: list[tuple[Operator, int]] = []
    while len(steps) < _STEPS[level]:
        kind = draw.below(5)
        if kind == 0 and total * 2 <= largest and total:
            step: tuple[Operator, int] = ("*", draw.between(2, min(3 if easy else 9, largest // total)))
        elif (kind in (1, 2) and total > 1) or total >= largest:
            step = ("-", draw.between(1, min(total, most)))
        else:
            step = ("+", draw.between(1, min(largest - total, most)))
        steps.append(step)
        total = apply(step[0], total, step[1])
    return Sum(start, tuple(steps))
