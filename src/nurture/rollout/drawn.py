"""Answers drawn once, before training: sampled, scored, kept in a file, and chosen from.

The file's first row says what is in it; each other row is a task with all its answers and what they are worth. Rows are
written `CHUNK` at a time, each chunk sampled as a whole, so a drawing that was killed goes on and ends with the same
bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..data.convert import as_nurture
from ..errors import InputError
from ..files import replace_synced
from ..protocols import Answer, Request, Sampling, Scored
from ..recipe import Draw as Wanted
from ..records import Message, Task
from ..train.processes import Processes
from .best import Candidates, kept
from .loop import Draw, Judge, Prompt, spoken

CHUNK = 64

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Drawer:
    """Who answers and who judges: `n` answers to each prompt."""

    draw: Draw
    judge: Judge
    decode: Callable[[Sequence[int]], str]
    n: int
    sampling: Sampling

    def rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        """Each prompt with its answers and what they are worth."""
        drawn = self.draw([Request(p.ids, self.n, p.key) for p in prompts], self.sampling)
        answers = [
            Answer(p.task, self.decode(spoken(r, self.sampling.stop_ids)), tokens=len(r.ids))
            for p, responses in zip(prompts, drawn, strict=True)
            for r in responses
        ]
        told = zip(answers, self.judge(answers), strict=True)
        return [
            {
                "task": p.task.origin,
                "prompt": [_plain(m) for m in p.task.prompt],
                "answers": [
                    {"text": answer.text, "tokens": answer.tokens}
                    | ({"score": outcome.value} if isinstance(outcome, Scored) else {})
                    | {"reason": outcome.reason}
                    for answer, outcome in islice(told, self.n)
                ],
            }
            for p in prompts
        ]


def draw_to(
    path: Path,
    facts: Mapping[str, Any],
    prompts: Sequence[Prompt],
    drawer: Drawer,
    processes: Processes,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Answers to all prompts into the file; what it holds already is not drawn again."""
    rank, world = processes.rank, processes.world_size
    done = _begin(path, facts, len(prompts)) if rank == 0 else 0
    done = processes.gather(done)[0]
    for start in range(done, len(prompts), CHUNK):
        chunk = prompts[start : start + CHUNK]
        mine = chunk[rank::world]
        told = [iter(of_rank) for of_rank in processes.gather(drawer.rows(mine) if mine else [])]
        if rank == 0:
            with path.open("a", encoding="utf-8") as file:
                file.writelines(_line(next(told[i % world])) for i in range(len(chunk)))
            say(f"{start + len(chunk):,} of {len(prompts):,} tasks answered {drawer.n} times each.")
    processes.barrier()


def is_complete(path: Path, facts: Mapping[str, Any], tasks: int) -> bool:
    return _kept(path, facts) == tasks


def read_drawn(path: Path) -> list[Row]:
    return [json.loads(line) for line in _lines(path)[1:]]


def chosen(drawn: Sequence[Row], wanted: Wanted) -> list[dict[str, Any]]:
    """Rows of a data file: conversations, pairs, rankings, or tasks by their origin with their mean score. `kept`
    says which."""
    least = -math.inf if wanted.above is None else wanted.above
    below = math.inf if wanted.below is None else wanted.below
    rows: list[dict[str, Any]] = []
    for row in drawn:
        scored = [(str(a["text"]), float(a["score"])) for a in row["answers"] if "score" in a]
        found = Candidates.of(_task(row), scored, len(row["answers"]))
        if wanted.keep != "tasks":
            rows += map(as_nurture, kept(found, wanted.keep, wanted.above, wanted.most))
        elif found.texts and least < (mean := sum(s for _, s in scored) / len(scored)) < below:
            rows.append({"task": row["task"], "score": mean})
    if not rows:
        scores = [a["score"] for row in drawn for a in row["answers"] if "score" in a]
        reach = f"between {min(scores):g} and {max(scores):g}" if scores else "not at all"
        raise InputError(
            f"data: draw with keep: {wanted.keep} leaves nothing of {len(drawn):,} tasks, whose answers scored "
            f"{reach}; change above or below, raise n, or begin with a better model."
        )
    return rows


def _task(row: Row) -> Task:
    return Task(tuple(Message(**message) for message in row["prompt"]), origin=row["task"])


def _plain(message: Message) -> dict[str, Any]:
    """A message with what it says of itself; what it leaves open is left out."""
    return {key: value for key, value in asdict(message).items() if value not in (None, ())}


def _begin(path: Path, facts: Mapping[str, Any], tasks: int) -> int:
    """How many tasks the file holds already; what is not a whole chunk of the same drawing is cut off."""
    kept = _kept(path, facts)
    done = kept if kept == tasks else kept - kept % CHUNK
    lines = _lines(path)[: done + 1] if done else [_line(facts)]
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_synced(path, "".join(lines).encode())
    return done


def _kept(path: Path, facts: Mapping[str, Any]) -> int:
    """How many whole rows of this drawing the file holds."""
    if not path.exists():
        return 0
    lines = _lines(path)
    return sum(line.endswith("\n") for line in lines[1:]) if lines[:1] == [_line(facts)] else 0


def _lines(path: Path) -> list[str]:
    """(`splitlines` would also cut at characters that JSON leaves as they are.)"""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        return list(file)


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
