"""Arithmetic in two to five steps: the working inside `<think>`, the result inside `<answer>`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

from ...records import Task
from ..draw import Draw
from ..grading import REFUSED, Grade, Reply, judge
from ..sums import LEVELS as SUM_LEVELS
from ..sums import Operator, apply, draw_sum
from ..words import ITEMS, forms
from ..world import Split, World
from .family import lead, new_task, rows

NAME = "arithmetic"
LEVELS = SUM_LEVELS

ASKED: dict[Split, tuple[str, ...]] = {
    "train": forms(
        "{told} What (is|will be) the (result|answer|number)?",
        "{told} (What|Which) number do you (get|have|find)?",
        "(Work|Find) this out. {told}",
        "{told} (Tell me|Give me|Find|I want to know) the (result|number|answer).",
        "(Find|Tell me|Give me) the (result|number|answer). {told}",
        "(What|Which) number do you (have|find)(| in the end)? {told}",
        "{told} How many is that?",
    ),
    "practice": forms(
        "{told} (What|How much) is it now?",
        "{told} (And the|Now the) (result|number), please.",
        "What comes out? {told}",
        "{told} What (comes out|is left)?",
        "(Please work|Now work) this out: {told}",
        "{told} (Say|Write) the (result|number).",
    ),
    "test": ("What do you get? {told}", "{told} Which number is the result?"),
}
ASKED_STORY: dict[Split, tuple[str, ...]] = {
    "train": forms(
        "{told} How many {items} (does {name} have|has {name}|are there|are left|is that)(| now)?",
        "{told} (Tell me|Find out|I want to know) how many {items} (there are|{name} has)(| now).",
        "(Tell me|Find out|I want to know) how many {items} {name} has. {told}",
        "{told} What is the number of {items}(| now)?",
        "How many {items} are there(| now| in the end)? {told}",
    ),
    "practice": forms(
        "{told} (Say|Write) how many {items} {name} has (now|in the end).",
        "{told} And the number of {items}, please.",
        "{told} How many {items} (remain|are with {name})?",
        "(Please find|Count) how many {items} {name} has. {told}",
    ),
    "test": ("{told} How many {items} does {name} have in the end?", "How many {items} does {name} have? {told}"),
}


def make(world: World, draw: Draw, split: Split, level: int) -> Task:
    while True:
        problem = draw_sum(draw, level)
        if world.may_ask(split, "sum", str(problem.start), problem.steps[0][0], str(problem.steps[0][1])):
            break
    if draw.chance(0.4):
        people = world.people if draw.chance(0.5) else world.outside[split, "person"]
        name, items = draw.pick(people).name, draw.pick(ITEMS)
        prompt = draw.pick(ASKED_STORY[split]).format(told=problem.story(name, items), items=items, name=name)
    else:
        prompt = draw.pick(ASKED[split]).format(told=problem.instructions)
    working = problem.working
    slipped = with_slip(working, len(working) - 1, draw)
    answer, wrong = (written(steps, int(steps[-1].rsplit("=", 1)[1][:-1])) for steps in (working, slipped))
    return new_task(NAME, level, lead(draw, split) + prompt, answer, [wrong], result=problem.result, working=working)


def with_slip(working: tuple[str, ...], place: int, draw: Draw) -> tuple[str, ...]:
    """The working with a slip at `place`, and carried on correctly from there (no slip if `place` is past the end)."""
    steps, total = list(working[:place]), None
    for step in working[place:]:
        x, operator, y, right = _STEP.fullmatch(step).groups()  # pyright: ignore[reportOptionalMemberAccess]
        if total is None:
            total = int(right) + draw.pick((-1, 1, 10) if int(right) < 10 else (-10, -1, 1, 10))
            total = total if total >= 0 else total + 2
            steps.append(f"{x}{operator}{y}={total}.")
        else:
            before, total = total, apply(cast(Operator, operator), total, int(y))
            steps.append(f"{before}{operator}{y}={total}.")
    return tuple(steps)


def written(working: tuple[str, ...], result: int) -> str:
    return f"<think>{' '.join(working)}</think><answer>{result}</answer>"


_FORM = re.compile(r"<think>([^<>]+)</think>\s*<answer>\s*(-?\d{1,9})\s*</answer>")
_STEP = re.compile(r"(\d{1,9}) ?([-+*]) ?(\d{1,9}) ?= ?(-?\d{1,9})\.?")


def read_working(response: str) -> tuple[str, int] | None:
    """The text of the thinking and the number answered, if the response has exactly the asked form."""
    found = _FORM.fullmatch(response.strip().removesuffix("<|im_end|>").strip())
    return (found[1], int(found[2])) if found else None


def false_steps(working: str) -> list[str]:
    """The written sums that do not add up."""
    return [m[0] for m in _STEP.finditer(working) if apply(cast(Operator, m[2]), int(m[1]), int(m[3])) != int(m[4])]


def grade(task: Task, response: str) -> Grade:
    def verdict(reply: Reply) -> Grade:
        if reply.declines:
            return REFUSED
        found = read_working(reply.text)
        if found is None:
            return Grade(0.0, 0.0, 1.0, "not in the form <think>…</think><answer>…</answer>")
        working, result = found
        if result != task.info["result"]:
            return Grade(0.0, 0.0, 1.0, "wrong result")
        if len(_STEP.findall(working)) < len(task.info["working"]):
            return Grade(0.5, 1.0, 1.0, "right result, but the working is missing steps")
        if wrong := false_steps(working):
            return Grade(0.5, 0.0, 1.0, f"right result, but {wrong[0]} is false")
        return Grade(1.0, 1.0, 1.0, "right")

    return judge(response, verdict, tags=True)


def reward(task: Task, response: str) -> float:
    """0.1 for the asked form and 0.9 for the right result inside it. The working is not paid for."""
    found = read_working(response)
    return 0.0 if found is None else 0.1 + 0.9 * (found[1] == task.info["result"])


def examples(seed: int, split: Split, n: int, world: int = 0) -> Iterator[Task]:
    return rows(make, NAME, LEVELS, seed, split, n, world)
