"""Reverse a list of words (level 1), spell a word (2), spell it backwards (3)."""

from __future__ import annotations

from collections.abc import Iterator

from ...records import Task
from ..draw import Draw
from ..grading import Grade, judge, judge_items
from ..words import NOUNS, SPELLED, comma_list
from ..world import Split, World
from .family import lead, new_task, rows

NAME = "spell"
LEVELS = (1, 2, 3)

_ASK: dict[int, dict[Split, tuple[str, ...]]] = {
    1: {
        "train": ("Reverse this list: {it}.", "Write this list in reverse: {it}.", "Turn this list around: {it}."),
        "test": ("Here is a list: {it}. Reverse it.", "Reverse these words: {it}."),
    },
    2: {
        "train": ("Spell the word {it}.", "How do you spell {it}?", "Spell {it}, please."),
        "test": ("How is the word {it} spelled?", "Please spell this word: {it}."),
    },
    3: {
        "train": (
            "Spell the word {it} backwards.",
            "How do you spell {it} backwards?",
            "Spell {it} backwards, please.",
        ),
        "test": ("How is the word {it} spelled backwards?", "Please spell this word backwards: {it}."),
    },
}


def make(world: World, draw: Draw, split: Split, level: int) -> Task:
    if level == 1:
        words = draw.sample(NOUNS, draw.between(3, 5))
        it, items = comma_list(words), words[::-1]
        answer, wrong = comma_list(items), [comma_list(words), comma_list(items[:-1])]
    else:
        while world.split_of("spell", it := draw.pick(SPELLED)) != split:
            pass
        items = list(it if level == 2 else it[::-1])
        answer, wrong = "-".join(items), ["-".join([*items[:-2], items[-1], items[-2], "e"]), "-".join(items[1:])]
    prompt = lead(draw, split) + draw.pick(_ASK[level][split]).format(it=it)
    return new_task(NAME, level, prompt, answer, wrong, items=tuple(items))


def grade(task: Task, response: str) -> Grade:
    return judge(response, lambda reply: judge_items(reply, task.info["items"]))


def reward(task: Task, response: str) -> float:
    return grade(task, response).overall


def examples(seed: int, split: Split, n: int, world: int = 0) -> Iterator[Task]:
    return rows(make, NAME, LEVELS, seed, split, n, world)
