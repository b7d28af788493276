"""Classify: between two categories (level 1), among all (2), find the one that does not belong (3)."""

from __future__ import annotations

from collections.abc import Iterator

from ...records import Task
from ..draw import Draw
from ..grading import Grade, judge, judge_exact
from ..words import CATEGORIES, CATEGORY_OF, a, cap, comma_list, forms, one
from ..world import Split, World
from .family import lead, new_task, rows

NAME = "classify"
LEVELS = (1, 2, 3)

TWO: dict[Split, tuple[str, ...]] = {
    "train": forms(
        "Is {aw} {x} or {y}?",
        "What (is|do you call) {aw}: {x} or {y}?",
        "(Tell me|I want to know|Find out) (if|whether) {aw} is {x} or {y}.",
        "(Do you call|Would you call) {aw} {x} or {y}?",
        "{aw}: is it {x} or {y}?",
        "(Take|Look at|Think of) {aw}. Is it {x} or {y}?",
        "Is it {x} or {y}: {aw}?",
        "(Say|Tell me) what {aw} is, {x} or {y}.",
    ),
    "practice": forms(
        "Should I call {aw} {x} or {y}?",
        "(I see|There is|Here is) {aw}. Is (that|this) {x} or {y}?",
        "Which of the two is {aw}: {x} or {y}?",
        "Are you sure what {aw} is: {x} or {y}?",
        "{x}, or {y}? I mean {aw}.",
        "Do people say that {aw} is {x} or {y}?",
    ),
    "test": ("{x} or {y}: what is {aw}?", "Which is {aw}, {x} or {y}?"),
}
ALL: dict[Split, tuple[str, ...]] = {
    "train": forms(
        "What (|kind of thing |sort of thing )is {aw}?",
        "To (which|what) group (does {aw} belong|belongs {aw})?",
        "(What|Which) group does {aw} belong to?",
        "(Tell me|I want to know|Find out) what (|kind of thing |sort of thing ){aw} is.",
        "(What|Which) group is {aw} in?",
        "{aw}: what (|kind of thing )is it?",
        "(Take|Look at|Think of) {aw}. (What is it|Which group is it in)?",
        "What do you call {aw}?",
    ),
    "practice": forms(
        "(I see|There is|Here is) {aw}. What (kind of thing |)is (that|this)?",
        "(Of|From) which group is {aw}?",
        "(What|Which) sort of thing do you call {aw}?",
        "(Please say|Say) what {aw} is.",
        "{aw} is what (kind|sort) of thing?",
        "(What|Which) is the group of {aw}?",
        "Find the (right |)group for {aw}.",
    ),
    "test": ("Which kind of thing is {aw}?", "In which group is {aw}?"),
}
ODD: dict[Split, tuple[str, ...]] = {
    "train": forms(
        "Which of these is not {x}: {list}?",
        "(Which|What) word is not {x}? {list}",
        "(Find|Tell me|Name) the (word|one) that is not {x}: {list}.",
        "(Look at|Take|Read|You see) (this list|these words): {list}. (Which|Which one) is not {x}?",
        "{list}. (Which|Which word|Which of these|Which one) is not {x}?",
        "(One of these|One word here) is not {x}: {list}. Which(| one| word)?",
        "(What|Which) here is not {x}: {list}?",
    ),
    "practice": forms(
        "(My words are|I have|There are) {list}. One of them is not {x}. Which(| one)?",
        "(Say|Point at) the word that is not {x}: {list}.",
        "Each of these but one is {x}(:|.) {list}. (Find the other.|Which is the other?)",
        "Is one of these not {x}? {list}",
        "(Now|Please) find what is not {x} (here|in this list): {list}.",
    ),
    "test": ("Here is a list: {list}. Which word is not {x}?", "Which of these words is not {x}: {list}?"),
}


def make(world: World, draw: Draw, split: Split, level: int) -> Task:
    while True:
        word = draw.pick(tuple(CATEGORY_OF))
        if world.may_ask(split, "classify", word):
            break
    category = CATEGORY_OF[word]
    other = draw.pick([c for c in CATEGORIES if c != category])
    if level == 3:
        items = draw.shuffled([word, *draw.sample(CATEGORIES[other], draw.between(2, 3))])
        question = draw.pick(ODD[split]).format(x=a(other), list=comma_list(items))
        accept = (
            f"{cap(one(word))} is not {a(other)}.",
            word,
            a(word),
            f"The {word}.",
            f"The answer is {word}.",
            f"{word} is not {a(other)}.",
        )
        wrong = [f"{cap(one(w))} is not {a(other)}." for w in items if w != word]
    else:
        choices = draw.shuffled([a(category), a(other)])
        question = draw.pick((TWO if level == 1 else ALL)[split]).format(aw=one(word), x=choices[0], y=choices[1])
        accept = (
            f"{cap(one(word))} is {a(category)}.",
            category,
            a(category),
            f"It is {a(category)}.",
            f"{word} is {a(category)}.",
        )
        wrong = [f"{cap(one(word))} is {a(other)}."]
    return new_task(NAME, level, lead(draw, split) + cap(question), accept[0], wrong, accept=accept)


def grade(task: Task, response: str) -> Grade:
    return judge(response, lambda reply: judge_exact(reply, task.info["accept"], about=("group",)))


def reward(task: Task, response: str) -> float:
    return grade(task, response).overall


def examples(seed: int, split: Split, n: int, world: int = 0) -> Iterator[Task]:
    return rows(make, NAME, LEVELS, seed, split, n, world)
