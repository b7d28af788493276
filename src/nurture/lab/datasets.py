"""The lab's data sets by name. Rows are made when first read and kept; each is a pure function of its index."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar, overload

from ..data.convert import as_nurture
from ..errors import InputError, did_you_mean
from ..records import Conversation, Message, Pair, Ranking, Rating, Record, Steps, Task
from .answers import draw_answers
from .corpus import document
from .draw import Draw
from .families import FAMILIES, arithmetic
from .families.family import row
from .labellers import LABELLERS
from .votes import VOTERS, compare, votes
from .world import Split

T = TypeVar("T", bound=Record)
Make = Callable[[int, int, int], Record]
"""(seed, index, world) -> record"""

REASONING_LEVELS = (7, 8, 9)
"""The levels of arithmetic in `lab/reasoning`: chosen so that a fine-tuned base solves some and misses some."""

RANKED = 4
_FAMILIES = tuple(FAMILIES.values())


@lru_cache(maxsize=1 << 12)  # many answers are alike
def _answer(text: str) -> tuple[Message, ...]:
    return (Message("assistant", text),)


def task_of_all(seed: int, split: Split, index: int, world: int) -> Task:
    """The families in turn, and within each the levels in turn."""
    family = _FAMILIES[index % len(_FAMILIES)]
    return row(family.make, family.NAME, family.LEVELS, seed, split, index // len(_FAMILIES), world)


def _demonstration(seed: int, index: int, world: int) -> Record:
    task = task_of_all(seed, "train", index, world)
    return Conversation((*task.prompt, *_answer(task.answer)))


def _judged(seed: int, index: int, world: int) -> Task:
    """A task whose answers are judged: none of the demonstrations', and in other words."""
    return task_of_all(seed + 1_000_003, "practice", index, world)


def _comparison(seed: int, index: int, world: int) -> Record:
    """Judged by the careful labeller."""
    (pair,) = compare(_judged(seed, index, world), (LABELLERS["careful"],), seed, index, world, "comparison")
    return pair


@lru_cache(maxsize=256)
def _votes(seed: int, comparison: int, world: int) -> list[Pair]:
    """Three rows of `lab/votes`."""
    return votes(_judged(seed, comparison, world), seed, comparison, world)


def _vote(seed: int, index: int, world: int) -> Record:
    """Three of the crowd on each comparison."""
    return _votes(seed, index // VOTERS, world)[index % VOTERS]


def _ranking(seed: int, index: int, world: int) -> Record:
    task = _judged(seed, index, world)
    answers = draw_answers(task, Draw(world, seed, "ranking", index), RANKED)
    ranks = LABELLERS["careful"].rank(task, answers, seed)
    return Ranking(task.prompt, tuple(map(_answer, answers)), ranks)


def _rating(seed: int, index: int, world: int) -> Record:
    task = _judged(seed, index, world)
    (answer,) = draw_answers(task, Draw(world, seed, "rating", index), 1)
    return Rating(task.prompt, _answer(answer), LABELLERS["careful"].rate(task, answer, seed))


def _steps(seed: int, index: int, world: int) -> Record:
    """A working of several steps. Half go wrong: from the first slip on, every step is labelled 0."""
    task = row(arithmetic.make, arithmetic.NAME, REASONING_LEVELS, seed + 1_000_003, "train", index, world)
    draw = Draw(world, seed, "steps", index)
    steps: tuple[str, ...] = task.info["working"]
    slip = draw.below(len(steps)) if draw.chance(0.5) else len(steps)
    written = arithmetic.with_slip(steps, slip, draw)
    return Steps(task.prompt, written, tuple(float(i < slip) for i in range(len(steps))))


def _prompt(seed: int, index: int, world: int) -> Record:
    return task_of_all(seed + 2_000_003, "practice", index, world)


def _reasoning(seed: int, index: int, world: int) -> Record:
    return row(arithmetic.make, arithmetic.NAME, REASONING_LEVELS, seed + 3_000_017, "train", index, world)


def _reasoning_test(seed: int, index: int, world: int) -> Record:
    return row(arithmetic.make, arithmetic.NAME, REASONING_LEVELS, seed + 5_000_077, "train", index, world)


def _prompts_test(seed: int, index: int, world: int) -> Record:
    return task_of_all(seed + 4_000_037, "practice", index, world)


def _test(seed: int, index: int, world: int) -> Record:
    return task_of_all(seed, "test", index, world)


@dataclass(frozen=True, slots=True)
class DataSet:
    make: Make
    size: int
    """Rows when nobody says how many."""
    description: str


DATASETS: dict[str, DataSet] = {
    "lab/corpus": DataSet(
        lambda seed, index, world: document(seed, index, world), 250_000, "documents to pretrain on (Text)"
    ),
    "lab/demonstrations": DataSet(_demonstration, 22_400, "instructions with gold answers (Conversation)"),
    "lab/comparisons": DataSet(_comparison, 6_006, "two answers, the better first, by a careful labeller (Pair)"),
    "lab/votes": DataSet(_vote, 6_006, "comparisons by three of a crowd, half of whom click at random (Pair)"),
    "lab/rankings": DataSet(_ranking, 2_002, "four answers, ranked by a careful labeller (Ranking)"),
    "lab/ratings": DataSet(_rating, 4_004, "one answer, rated per criterion by a careful labeller (Rating)"),
    "lab/steps": DataSet(_steps, 3_000, "workings with a label per step (Steps)"),
    "lab/prompts": DataSet(_prompt, 4_004, "instructions to reinforce, in other words than the demonstrations (Task)"),
    "lab/reasoning": DataSet(_reasoning, 8_000, "arithmetic in several steps, graded in difficulty (Task)"),
    "lab/reasoning-test": DataSet(_reasoning_test, 600, "new tasks of the kind of lab/reasoning (Task)"),
    "lab/prompts-test": DataSet(_prompts_test, 1_008, "new instructions in the words of lab/prompts (Task)"),
    "lab/test": DataSet(_test, 1_008, "held-out phrasings and facts, every family and level (Task)"),
}
"""Every data set of the lab. Sizes are multiples of the fourteen families where all take part."""


class Rows(Sequence[T], Generic[T]):
    """A sequence whose rows are made when first read, and kept. Of many, those of one kind are made together: their
    code is then at hand in the processor, which saves a sixth of the time."""

    def __init__(self, make: Callable[[int], T], n: int, kind: Callable[[int], str]):
        self._make, self._n, self._kind = make, n, kind
        self._made: dict[int, T] = {}

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            places = range(*index.indices(self._n))
            with _no_collection():
                for place in sorted(places, key=self._kind):
                    self[place]
                return [self._made[place] for place in places]
        place = index + self._n if index < 0 else index
        if not 0 <= place < self._n:
            raise IndexError(f"row {index} of {self._n}")
        if place not in self._made:
            self._made[place] = self._make(place)
        return self._made[place]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Rows hold no cycles, and the collector would go through all of them again and again."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@lru_cache(maxsize=64)
def open_dataset(name: str, seed: int = 0, n: int | None = None, world: int = 0) -> Rows[Record]:
    """The data set called `name`. `seed` chooses the rows; `world` the world, which the shipped base model knows as 0.

    A shorter one is the beginning of a longer one.
    """
    if name not in DATASETS:
        raise InputError(
            f"the lab has no data set {name!r}; it has {', '.join(DATASETS)}.{did_you_mean(name, DATASETS)}"
        )
    size = DATASETS[name].size if n is None else n
    if size < 1:
        raise InputError(f"{name}: n is {size}, and must be at least 1")
    make = DATASETS[name].make

    def named(index: int) -> Record:
        record = make(seed, index, world)
        object.__setattr__(record, "origin", f"{name}:{index + 1}")  # just made, and a tenth of the time of a copy
        return record

    return Rows(named, size, partial(family_of_row, name))


def family_of_row(name: str, index: int) -> str:
    """The family of the task that row `index` (from 0) is about; documents have none."""
    if name == "lab/corpus":
        return ""
    if name in ("lab/reasoning", "lab/reasoning-test", "lab/steps"):
        return arithmetic.NAME
    task = index // VOTERS if name == "lab/votes" else index
    return _FAMILIES[task % len(_FAMILIES)].NAME


def written(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(origin, row) of a data set as a file in our own form would have them, with the column `family` where there is
    one: a demonstration or a comparison does not know its own."""
    for index, record in enumerate(open_dataset(name)):
        family = family_of_row(name, index)
        yield record.origin, as_nurture(record) | ({"family": family} if family else {})
