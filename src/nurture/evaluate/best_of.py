"""Best of n as a file: a model answers tasks several times, a reward says which answers are worth learning from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from ..data.convert import as_nurture
from ..data.load import load_records
from ..errors import InputError, did_you_mean
from ..files import replace_synced
from ..lab.datasets import open_dataset
from ..recipe import Keep
from ..records import Record, Task
from ..rewards import reward_from, score_all
from ..rollout.best import best_of, kept
from .answers import draw_answers, open_to_talk
from .ready import make_ready

BLOCK = 64
"""Tasks that are answered and scored together."""


@dataclass(frozen=True, slots=True)
class BestOf:
    """How many answers to each task, how they are drawn, and what is kept: the `best` of each task, `all` different
    ones (at most `most` of a task), `pairs` of the best and the worst, or `rankings`; only what scores more than
    `above`, or of which the best does."""

    n: int = 8
    keep: Keep = "best"
    above: float | None = None
    most: int | None = None
    tasks: int | None = None
    """Only so many of the tasks, from the first."""
    temperature: float = 1.0
    max_tokens: int = 256
    seed: int = 42

    def __post_init__(self):
        for name in ("n", "most", "tasks", "max_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name}: must be at least 1, not {value}.")
        if not self.temperature > 0:
            raise InputError(f"temperature: must be more than 0, not {self.temperature:g}.")
        if self.keep not in (words := get_args(Keep)):
            raise InputError(f"keep: {self.keep!r} is none of {', '.join(words)}.{did_you_mean(self.keep, words)}")
        if self.most is not None and self.keep != "all":
            raise InputError("most: limits how many answers of a task are kept; set keep to all, or leave it out.")


def write_best_of(
    model: str, data: str, reward: Any, out: Path, plan: BestOf, console: Console, *, device: str, precision: str
) -> dict[str, int]:
    """Write the kept records to `out` and return how many there were of everything."""
    if out.suffix != ".jsonl":
        raise InputError(f"{out}: rows are written as JSON lines; give it a name that ends in .jsonl.")
    judge, asked = reward_from(reward), read_tasks(data, plan.tasks)
    loaded, template = open_to_talk(model, device=device, precision=precision)
    make_ready(judge, template, device=device, precision=precision)

    def say(some: Sequence[Task], n: int) -> list[list[str]]:
        return draw_answers(
            loaded.model, template, some, samples=n, temperature=plan.temperature, max_tokens=plan.max_tokens,
            seed=plan.seed,
        )  # fmt: skip

    counts = {"tasks": len(asked), "drawn": 0, "different": 0, "kept": 0}
    rows: list[str] = []
    with console.status(f"0 of {len(asked):,} tasks") as status:
        for first in range(0, len(asked), BLOCK):
            for found in best_of(asked[first : first + BLOCK], say, partial(score_all, judge), plan.n):
                some = kept(found, plan.keep, plan.above, plan.most)
                rows += [json.dumps(as_nurture(record), ensure_ascii=False) + "\n" for record in some]
                counts["drawn"] += found.drawn
                counts["different"] += len(found.texts)
                counts["kept"] += len(some)
            status.update(f"{min(first + BLOCK, len(asked)):,} of {len(asked):,} tasks, {counts['kept']:,} rows kept")
    if not rows:
        raise InputError(f"keep: none of {counts['drawn']:,} answers makes a row ({plan.keep}); nothing was written.")
    replace_synced(out, "".join(rows).encode())
    return counts


def read_tasks(data: str, limit: int | None) -> list[Task]:
    """Tasks of the lab or of a file."""
    if data.startswith("lab/"):
        records: Sequence[Record] = list(open_dataset(data, n=limit))
    else:
        records = load_records(data, wants="task").records[:limit]
    tasks = [record for record in records if isinstance(record, Task)]
    if not tasks:
        raise InputError(f"{data} holds no tasks; take lab/prompts, or a file of prompts.")
    return tasks
