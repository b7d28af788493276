"""Look up a fact: in the prompt (level 1), in the world (2), or through a second fact (3)."""

from __future__ import annotations

from collections.abc import Iterator

from ...records import Task
from ..draw import Draw
from ..grading import Grade, judge, judge_fact, words_of
from ..relations import OF_KIND, RELATIONS
from ..words import forms
from ..world import Fact, Split, World
from .family import lead, new_task, rows

NAME = "lookup"
LEVELS = (1, 2, 2, 3)

THROUGH_TOWN: dict[str, dict[Split, tuple[str, ...]]] = {
    "river": {
        "train": forms(
            "Which river runs (through|by|past) the town where {e} lives?",
            "(What|Which) river does the town of {e} lie on?",
            "Take the town of {e}. Which river runs through it?",
            "(Tell me|I want to know) which river runs through the town of {e}.",
        ),
        "practice": forms(
            "Which river is (at|near) the town where {e} lives?",
            "{e} lives in a town. (What|Which) river runs (through|by) it?",
            "(Please name|Name|Say) the river in the town (of {e}|where {e} lives).",
        ),
        "test": ("What is the river of the town where {e} lives?",),
    },
    "mayor": {
        "train": forms(
            "Who is (the |)mayor (in|of) the town (of {e}|where {e} lives)?",
            "Take the town of {e}. Who is its mayor?",
            "(Tell me|I want to know) who is the mayor of the town where {e} lives.",
            "Who is the mayor where {e} lives?",
        ),
        "practice": forms(
            "{e} lives in a town. Who is the mayor (there|of it)?",
            "(Please name|Name|Say) the mayor of the town (of {e}|where {e} lives).",
            "Who is mayor of {e}'s town?",
        ),
        "test": ("What is the mayor of the town where {e} lives called?",),
    },
    "dish": {
        "train": forms(
            "What (food |)is the town (of {e}|where {e} lives) (known|famous) for?",
            "Take the town of {e}. What food is it (known|famous) for?",
            "(Tell me|I want to know) what the town of {e} is (known|famous) for.",
        ),
        "practice": forms(
            "{e} lives in a town. (What|Which) food is it (known|famous) for?",
            "(Please name|Name|Say) the food that the town of {e} is (known|famous) for.",
            "(What|Which) food makes {e}'s town (known|famous)?",
        ),
        "test": ("What is the best food of the town where {e} lives?",),
    },
}


def questions(fact: Fact, split: Split) -> tuple[str, ...]:
    relation = fact.relation
    return {"train": relation.asked, "practice": relation.practised, "test": relation.held_out}[split]


def make(world: World, draw: Draw, split: Split, level: int) -> Task:
    if level == 3:
        return _through_town(world, draw, split)
    if level == 1:
        relation, other = draw.sample(OF_KIND[draw.pick(RELATIONS).kind], 2)
        fact = world.outside_fact(draw, split, relation)
        beside = Fact(fact.entity, other, draw.pick(world.values(other)), real=False)
        told = draw.shuffled([f.say(draw.pick(f.relation.said)) for f in (fact, beside)])
        context = " ".join(told) + " "
    else:
        fact, context = draw.pick(world.known[split]), ""
    question = fact.say(draw.pick(questions(fact, split)))
    return _task(world, draw, level, lead(draw, split) + context + question, fact)


def _through_town(world: World, draw: Draw, split: Split) -> Task:
    """Where `e` lives and what is asked of that town are known; the pair of person and question is the split's."""
    while True:
        person, name = draw.pick(world.people), draw.pick(tuple(THROUGH_TOWN))
        home = world.facts[person.name, "town"]
        fact = world.facts[home.value, name] if home.value else None
        if fact is None or fact.value is None or not world.may_ask(split, person.name, "through town", name):
            continue
        if world.may_tell(split, home) and world.may_tell(split, fact):
            break
    question = draw.pick(THROUGH_TOWN[name][split]).format(e=person.text)
    prompt = lead(draw, split) + question
    return _task(world, draw, 3, prompt, fact, before=f"{home.statement} ", about=(person.name, home.value or ""))


def _task(
    world: World, draw: Draw, level: int, prompt: str, fact: Fact, before: str = "", about: tuple[str, ...] = ()
) -> Task:
    wrong = Fact(fact.entity, fact.relation, world.wrong_value(fact, draw))
    return new_task(
        NAME,
        level,
        prompt,
        before + fact.statement,
        [before + wrong.statement],
        accept=(fact.value,),
        about=words_of(" ".join((fact.entity.name, *about))),
    )


def grade(task: Task, response: str) -> Grade:
    return judge(response, lambda reply: judge_fact(reply, task.info["accept"], task.info["about"]))


def reward(task: Task, response: str) -> float:
    return grade(task, response).overall


def examples(seed: int, split: Split, n: int, world: int = 0) -> Iterator[Task]:
    return rows(make, NAME, LEVELS, seed, split, n, world)
