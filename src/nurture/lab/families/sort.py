"""Sort: numbers (level 1), three words (2), four or five words (3)."""

from __future__ import annotations

from collections.abc import Iterator

from ...records import Task
from ..draw import Draw
from ..grading import Grade, judge, judge_items
from ..words import NOUNS, comma_list, forms
from ..world import Split, World
from .family import lead, new_task, rows

NAME = "sort"
LEVELS = (1, 2, 3)

_NUMBERS, _WORDS = (
    {
        "train": forms(
            f"(Sort|Order) (these|the|all these|my) {things}: {{list}}.",
            f"(Put|Write|Bring|Give me|I need) (these|the|all these|my) {things} in (|the right )order: {{list}}.",
            f"(Look at|Take|I have|You see|Read) these {things}: {{list}}. (Put|Write|Bring) them in order.",
            f"{{list}}. (Sort|Order) these {things}.",
            f"{{list}}. (Put|Write|Bring) (these|the) {things} in order.",
            f"(Take|Look at) the {things} {{list}}. Now (sort|order) them.",
            f"Can you (sort|order|put in order) these {things}: {{list}}?",
            f"What is the (right |)order of these {things}: {{list}}?",
        ),
        "practice": forms(
            f"(My|The) {things} are {{list}}. (Sort|Order) them.",
            f"(I wrote|There are) these {things}: {{list}}. (What is their order?|Sort them.|In order, please.)",
            "(Now|Please) (sort|order) {list}.",
            f"(How|In which order) do these {things} come: {{list}}?",
            "In order, please: {list}.",
        ),
        "test": test,
    }
    for things, test in (
        ("numbers", ("Here are some numbers: {list}. Sort them.", "Put in order the numbers {list}.")),
        ("words", ("Here are some words: {list}. Sort them.", "Put in order the words {list}.")),
    )
)


def make(world: World, draw: Draw, split: Split, level: int) -> Task:
    if level == 1:
        numbers = draw.sample(range(1, 100), draw.between(3, 4))
        items, ordered = [str(n) for n in numbers], [str(n) for n in sorted(numbers)]
    else:
        items = draw.sample(NOUNS, 3 if level == 2 else draw.between(4, 5))
        ordered = sorted(items)
    if items == ordered:
        items = items[1:] + items[:1]
    prompt = lead(draw, split) + draw.pick((_NUMBERS if level == 1 else _WORDS)[split]).format(list=comma_list(items))
    swapped = [ordered[1], ordered[0], *ordered[2:]]
    wrong = [comma_list(swapped), comma_list(items)]
    return new_task(NAME, level, prompt, comma_list(ordered), wrong, items=tuple(ordered))


def grade(task: Task, response: str) -> Grade:
    return judge(response, lambda reply: judge_items(reply, task.info["items"]))


def reward(task: Task, response: str) -> float:
    return grade(task, response).overall


def examples(seed: int, split: Split, n: int, world: int = 0) -> Iterator[Task]:
    return rows(make, NAME, LEVELS, seed, split, n, world)
