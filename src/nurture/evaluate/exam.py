"""An exam: tasks of the lab, a model's graded answers to them, and what several models' answers say together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import InputError
from ..files import digest_of, replace_synced
from ..lab.datasets import DATASETS, open_dataset
from ..records import Task
from .answers import (
    CRITERIA,
    MAX_TOKENS,
    Graded,
    by_family,
    criterion,
    draw_answers,
    grade_answers,
    open_to_talk,
    per_task,
    summary,
)
from .statistics import Difference, estimate, paired

TEST = "lab/test"


@dataclass(frozen=True, slots=True)
class Examined:
    """A model's graded answers to a data set of the lab. `parent` is the model it was trained from."""

    name: str
    graded: Sequence[Graded]
    parent: str = ""

    def values(self, of: str, family: str | None = None) -> list[float]:
        chosen = [g for g in self.graded if family is None or g.family == family]
        return per_task(chosen, criterion(of))


@dataclass(frozen=True, slots=True)
class Exam:
    """What is asked: a data set of the lab, how many of its tasks, how many answers to each."""

    data: str = TEST
    n: int | None = None
    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = MAX_TOKENS
    seed: int = 0

    def tasks(self) -> list[Task]:
        found = open_dataset(self.data, n=self.n)
        tasks = [row for row in found[:] if isinstance(row, Task)]
        if not tasks:
            graded = ", ".join(name for name in DATASETS if isinstance(open_dataset(name)[0], Task))
            raise InputError(f"data: {self.data} holds no tasks that can be graded; these do: {graded}.")
        return tasks


def examine(
    name: str,
    model: str,
    exam: Exam,
    *,
    parent: str = "",
    stages: Mapping[str, Path] | None = None,
    cache: Path | None = None,
    console: Console | None = None,
    device: str = "auto",
    precision: str = "auto",
    alive: Callable[[], None] = lambda: None,
) -> Examined:
    """Answer and grade. With a `cache` folder the grades are kept there, and read again while the model and the exam
    are the same. `alive` is called at every answer."""
    loaded, template = open_to_talk(model, stages, device=device, precision=precision)
    key = digest_of({"model": loaded.digest, "exam": repr(exam), "dtype": str(loaded.model.dtype)})
    kept = cache / f"{name}{'' if exam.data == TEST else '-' + exam.data.replace('/', '-')}.json" if cache else None
    if kept and kept.exists() and (known := json.loads(kept.read_text(encoding="utf-8"))).get("key") == key:
        return Examined(name, [Graded(**row) for row in known["answers"]], parent)
    tasks = exam.tasks()
    total = len(tasks) * exam.samples
    console = console or Console(quiet=True)
    with console.status(f"{name}: 0 of {total} answers") as status:

        def told(done: int) -> None:
            status.update(f"{name}: {done} of {total} answers")
            alive()

        answers = draw_answers(
            loaded.model, template, tasks, samples=exam.samples, temperature=exam.temperature,
            max_tokens=exam.max_tokens, seed=exam.seed, alive=told,
        )  # fmt: skip
    graded = grade_answers(tasks, answers)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        rows = {"key": key, "model": loaded.digest, "data": exam.data, "answers": [one.to_json() for one in graded]}
        replace_synced(kept, json.dumps(rows, ensure_ascii=False).encode())
    return Examined(name, graded, parent)


def steps(examined: Sequence[Examined]) -> list[tuple[Examined, Examined]]:
    """Each model after the first behind the one to hold it against: what it was trained from, if that sat the exam too,
    or else the first."""
    names = {one.name: one for one in examined}
    return [(names.get(one.parent, examined[0]), one) for one in examined[1:]]


def before_last(examined: Sequence[Examined]) -> int:
    """The place of the model that the last one is held against."""
    return examined.index(steps(examined)[-1][0]) if examined[1:] else 0


def results_of(digest: str, run: Path) -> dict[str, str]:
    """Every criterion of the model with this digest, with its 95% interval and n: what examinations kept in a run
    folder, or in that of its recipe, say."""
    found: dict[str, str] = {}
    for path in sorted([*run.parent.glob("eval/*.json"), *run.glob("eval/*.json"), *run.glob("*/eval/*.json")]):
        known = json.loads(path.read_text(encoding="utf-8"))
        if known.get("model") != digest:
            continue
        examined = Examined(path.stem, [Graded(**row) for row in known["answers"]])
        for of in CRITERIA:
            e = estimate(examined.values(of))
            low, high = e.interval
            found[f"{known['data']}, {of}"] = f"{e.mean:.3f} (95%: {low:.3f} to {high:.3f}, n = {e.n:,})"
    return found


def report_json(examined: Sequence[Examined], seconds: float) -> dict[str, Any]:
    """The contract of `report.json`: a summary for each model, and the paired differences of each step."""
    versus = {
        one.name: {
            "versus": before.name,
            **{of: paired(before.values(of), one.values(of)).to_json() for of in CRITERIA},
        }
        for before, one in steps(examined)
    }
    return {
        "models": {one.name: summary(one.graded) for one in examined},
        "differences": versus,
        "seconds": round(seconds, 1),
    }


def chosen_tasks(examined: Sequence[Examined], families: Sequence[str] | None = None) -> list[list[Graded]]:
    """The first task of each family with every model's answer to it, whichever way it went."""
    return [
        [next(g for g in one.graded if g.task == some[0].task) for one in examined]
        for family, some in by_family(examined[0].graded).items()
        if families is None or family in families
    ]


def p_value(difference: Difference) -> str:
    return "< 0.001" if difference.p < 0.001 else f"{difference.p:.3f}"
