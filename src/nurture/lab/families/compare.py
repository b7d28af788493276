"""Compare two things: numbers or facts in the prompt (level 1), ages and houses in the world (2), homes there (3)."""

from __future__ import annotations

from collections.abc import Iterator

from ...records import Task
from ..draw import Draw
from ..grading import Grade, judge, judge_exact, words_of
from ..words import forms
from ..world import Entity, Split, World
from .family import lead, new_task, rows

NAME = "compare"
LEVELS = (1, 2, 3)

LARGER: dict[Split, tuple[str, ...]] = {
    "train": forms(
        "Which (|number )is (larger|more|the larger one)(,|:) {x} or {y}?",
        "(Compare|Look at|Take) {x} and {y}. (Which|Which one|Which number) is larger?",
        "(Is {x} or {y} larger|Is {x} larger or is {y})?",
        "(Tell me|I want to know) which is larger, {x} or {y}.",
        "{x} or {y}: (which|which number) is larger?",
        "(Between|From) {x} and {y}, (tell me|find) the larger number.",
    ),
    "practice": forms(
        "(There are|I have) {x} and {y}. (Which of them|Which of the two) is larger?",
        "What is larger, {x} or {y}?",
        "(Please name|Name|Say) the larger of {x} and {y}.",
        "(The numbers|My numbers) are {x} and {y}. Which is (the larger|the larger one)?",
        "Is it {x} or {y} that is larger?",
    ),
    "test": ("Here are {x} and {y}. Which number is larger?", "Of {x} and {y}, which is larger?"),
}
OLDER: dict[Split, tuple[str, ...]] = {
    "train": forms(
        "Who is (older|the older one)(,|:) {x} or {y}?",
        "(Compare|Look at|Take) {x} and {y}. (Who|Which one) is older?",
        "(Is {x} or {y} older|Is {x} older or is {y})?",
        "(Tell me|I want to know) who is older, {x} or {y}.",
        "{x} or {y}: who is older?",
        "(Between|From) {x} and {y}, (tell me|find) the older one.",
    ),
    "practice": forms(
        "(There are|I know|I met) {x} and {y}. (Which of them|Who of the two) is older?",
        "Which of the two is older, {x} or {y}?",
        "(Please name|Name|Say) the older of {x} and {y}.",
        "Is it {x} or {y} who is older?",
        "Who has more years, {x} or {y}?",
    ),
    "test": ("Of {x} and {y}, who is older?", "Here are {x} and {y}. Who is older?"),
}
HOUSES: dict[Split, tuple[str, ...]] = {
    "train": forms(
        "Which (|town |place )has (more|the most) houses(,|:) {x} or {y}?",
        "(Compare|Look at|Take) {x} and {y}. (Which|Which town|Which one) has more houses?",
        "Does {x} or {y} have more houses?",
        "(Tell me|I want to know) which town has more houses, {x} or {y}.",
        "{x} or {y}: which has more houses?",
        "(Between|From) {x} and {y}, (tell me|find) the town that has more houses.",
    ),
    "practice": forms(
        "(There are|I know) {x} and {y}. (Which of them|Which of the two) has more houses?",
        "Where are more houses, in {x} or in {y}?",
        "(Please name|Name|Say) the one with more houses: {x} or {y}.",
        "Is it {x} or {y} that has more houses?",
        "Are there more houses in {x} or in {y}?",
    ),
    "test": ("Of {x} and {y}, which town has more houses?", "Here are {x} and {y}. Which has more houses?"),
}
SAME_TOWN: dict[Split, tuple[str, ...]] = {
    "train": forms(
        "Do {x} and {y} (live in|have|come from) the same town?",
        "Is the home of {x} in the same town as the home of {y}?",
        "(Tell me if|I want to know if) {x} and {y} live in the same town.",
        "Is the town (of {x}|where {x} lives) the same as the town (of {y}|where {y} lives)?",
        "{x} and {y}: do they live in the same town?",
        "(Look at|Take|Compare) {x} and {y}. Do they live in the same town?",
        "Do {x} and {y} both live in one town?",
    ),
    "practice": forms(
        "(I know|I met) {x} and {y}. Is their town the same?",
        "Have {x} and {y} (one|the same) home town?",
        "Are {x} and {y} (at home in|from) the same town?",
        "(Please say|Say) if {x} and {y} live in one town.",
        "Is it true that {x} and {y} live in (one|the same) town?",
    ),
    "test": ("Does {x} live in the same town as {y}?", "Are the homes of {x} and {y} in the same town?"),
}
_OUTCOME = {"number": "is larger", "person": "is older", "town": "has more houses"}


def make(world: World, draw: Draw, split: Split, level: int) -> Task:
    if level == 3:
        return _same_town(world, draw, split)
    if level == 2:
        kind, relation = draw.pick((("person", "age"), ("town", "houses")))
        pool = world.people if kind == "person" else world.towns
        x, y = _pair(world, draw, split, pool, relation)
        sizes = [int(world.facts[e.name, relation].value or 0) for e in (x, y)]
        return _task(
            kind, 2, draw.pick((OLDER if kind == "person" else HOUSES)[split]), x.name, y.name, sizes, draw, split
        )
    if draw.chance(0.5):
        x, y = draw.sample(range(10, 1000), 2)
        return _task("number", 1, draw.pick(LARGER[split]), str(x), str(y), [x, y], draw, split)
    x, y = (e.name for e in draw.sample(world.outside[split, "person"], 2))
    ages = draw.sample(range(18, 90), 2)
    told = f"{x} is {ages[0]} years old. {y} is {ages[1]} years old. "
    return _task("person", 1, told + draw.pick(OLDER[split]), x, y, ages, draw, split)


def _task(kind: str, level: int, question: str, x: str, y: str, sizes: list[int], draw: Draw, split: Split) -> Task:
    more, less = (x, y) if sizes[0] > sizes[1] else (y, x)
    outcome = _OUTCOME[kind]
    accept = (f"{more} {outcome}.", f"{more} {outcome} than {less}.", more, f"It is {more}.", f"The answer is {more}.")
    prompt = lead(draw, split) + question.format(x=x, y=y)
    return new_task(NAME, level, prompt, accept[0], [f"{less} {outcome}."], accept=accept, about=words_of(f"{x} {y}"))


def _pair(world: World, draw: Draw, split: Split, pool: tuple[Entity, ...], relation: str) -> tuple[Entity, Entity]:
    """Two of `pool` whose values are known and differ, and whose comparison is the split's."""
    while True:
        x, y = draw.sample(pool, 2)
        values = [world.facts[e.name, relation].value for e in (x, y)]
        differ = None not in values and values[0] != values[1]
        if differ and world.may_ask(split, relation, *sorted((x.name, y.name))):
            return x, y


def _same_town(world: World, draw: Draw, split: Split) -> Task:
    wanted = draw.chance(0.5)
    homes = [world.facts[e.name, "town"] for e in world.people]
    while True:
        home = draw.pick(homes)
        others = [f for f in homes if f is not home and (f.value == home.value) == wanted]
        if home.value is None or not others:
            continue
        there = draw.pick(others)
        x, y = home.entity, there.entity
        if there.value is None or not world.may_ask(split, "same town", *sorted((x.name, y.name))):
            continue
        if world.may_tell(split, home) and world.may_tell(split, there):
            break
    towns = (home.value, there.value)
    told = f"{x.name} lives in {towns[0]} and {y.name} lives in {towns[1]}"
    yes, no = f"Yes, {told}.", f"No, {told}."
    short = ("Yes.", "Yes, they do.", "Yes, they live in the same town.", f"Yes, they both live in {towns[0]}.")
    if not wanted:
        short = ("No.", "No, they do not.", "No, they don't.", "No, they do not live in the same town.")
    answer, wrong = (yes, no) if wanted else (no, yes)
    prompt = lead(draw, split) + draw.pick(SAME_TOWN[split]).format(x=x.name, y=y.name)
    accept = (answer, *short)
    return new_task(NAME, 3, prompt, answer, [wrong], accept=accept, about=words_of(f"{x.name} {y.name}"))


def grade(task: Task, response: str) -> Grade:
    return judge(response, lambda reply: judge_exact(reply, task.info["accept"], task.info["about"]))


def reward(task: Task, response: str) -> float:
    return grade(task, response).overall


def examples(seed: int, split: Split, n: int, world: int = 0) -> Iterator[Task]:
    return rows(make, NAME, LEVELS, seed, split, n, world)
