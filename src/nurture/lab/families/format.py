"""Follow a format: so many members of a category with commas (level 1), in capitals or as a list (2), both (3)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ...records import Task
from ..draw import Draw
from ..grading import REFUSED, WRONG, Grade, Reply, judge
from ..words import CATEGORIES, NUMBER_WORDS, PLURAL, comma_list, forms
from ..world import Split, World
from .family import lead, new_task, rows

NAME = "format"
LEVELS = (1, 2, 3)

_ASK: dict[Split, tuple[str, ...]] = {
    "train": forms(
        "(Name|Give me|Write|Write down|Say|Tell me|Find|List) {n} {many}{form}.",
        "(I need|I want|I would like) {n} {many}{form}.",
        "(Can you|Could you) (give me|write|tell me|find) {n} {many}{form}?",
        "(Which|What) are {n} {many}{form}?",
        "(I need|I want) to (see|know|have) {n} {many}{form}.",
        "Do you know {n} {many}{form}?",
        "Now {n} {many}{form}.",
    ),
    "practice": forms(
        "(Let me have|Show me|Tell us) {n} {many}{form}.",
        "(Please|Now) (name|list|say) {n} {many}{form}.",
        "(What|Which) {n} {many} come to mind{form}?",
        "{n} {many}, please{form}.",
        "Think of {n} {many}{form}.",
        "(Will|Would) you (say|list) {n} {many}{form}?",
    ),
    "test": ("Please write down {n} {many}{form}.", "Can you name {n} {many}{form}?"),
}
_FORMS: dict[str, dict[Split, tuple[str, ...]]] = {
    "commas": {
        "train": forms("", "", "", " (with|and use|between) commas", " (in|on|all in) one line"),
        "practice": forms(
            "",
            "",
            " with a comma between them",
            " side by side with commas",
        ),
        "test": (" in one line with commas", ""),
    },
    "dashes": {
        "train": forms(" (as|like|and make) a list(| with dashes)", " with dashes", ", one in each line"),
        "practice": forms(
            " line by line with dashes",
            " with a dash before each one",
            ", each with a dash",
        ),
        "test": (" in a list", " in a list with dashes"),
    },
    "numbers": {
        "train": forms(" (as|like|and make) a list with numbers", " (with|and use) numbers"),
        "practice": forms(
            " with a number before each one",
            ", one by one with numbers",
            ", each with its number",
        ),
        "test": (" in a list with numbers",),
    },
}
_CAPITALS: dict[Split, tuple[str, ...]] = {
    "train": forms("(|,) (|all )in capitals", " and use capitals", ", only capitals"),
    "practice": forms(
        " in capital letters",
        " (written|all written) in capitals",
        ", and only in capitals",
    ),
    "test": (" in capitals",),
}


def make(world: World, draw: Draw, split: Split, level: int) -> Task:
    while True:
        category, n = draw.pick(tuple(CATEGORIES)), draw.between(2, 4)
        form = draw.pick(("dashes", "numbers")) if level == 3 or (level == 2 and draw.chance(0.5)) else "commas"
        capitals = level == 3 or (level == 2 and form == "commas")
        if world.may_ask(split, "format", category, str(n), form, str(capitals)):
            break
    asked = draw.pick(_FORMS[form][split]) + (draw.pick(_CAPITALS[split]) if capitals else "")
    prompt = lead(draw, split) + draw.pick(_ASK[split]).format(n=NUMBER_WORDS[n], many=PLURAL[category], form=asked)
    words = draw.sample(CATEGORIES[category], n + 1)
    other = draw.pick([c for c in CATEGORIES if c != category])
    wrong = [
        written([*words[: n - 1], draw.pick(CATEGORIES[other])], form, capitals),
        written(words, form, capitals),
        written(words[:n], "commas" if form != "commas" else "dashes", capitals),
        written(words[:n], form, not capitals),
    ]
    answer = written(words[:n], form, capitals)
    return new_task(NAME, level, prompt, answer, wrong, category=category, n=n, form=form, capitals=capitals)


def written(words: Sequence[str], form: str, capitals: bool) -> str:
    words = [w.upper() for w in words] if capitals else words
    if form == "commas":
        return comma_list(words)
    marks = (f"{i}." for i in range(1, len(words) + 1)) if form == "numbers" else ("-" for _ in words)
    return "\n".join(f"{mark} {word}" for mark, word in zip(marks, words, strict=True))


_BULLET = re.compile(r"\s*(?:[-*]|\d+\.)\s*")


def grade(task: Task, response: str) -> Grade:
    """Half for the right words in another form; the words themselves must be members, all different, and so many."""
    info = task.info
    members = CATEGORIES[info["category"]]

    def verdict(reply: Reply) -> Grade:
        if reply.declines:
            return REFUSED
        items = [item.strip() for item in re.split(r",|\n|\band\b", _BULLET.sub("\n", "\n" + reply.text.rstrip(". ")))]
        items = [item for item in items if item]
        words = [item.lower() for item in items]
        if any(word not in members for word in words):
            return WRONG
        if len(words) != info["n"] or len(set(words)) != len(words):
            return Grade(0.0, 0.0, 1.0, f"not {info['n']} different ones")
        if reply.text.rstrip(".") != written(words, info["form"], info["capitals"]):
            return Grade(0.5, 1.0, 1.0, "right words, another form")
        return Grade(1.0, 1.0, 1.0, "right")

    return judge(response, verdict)


def reward(task: Task, response: str) -> float:
    return grade(task, response).overall


def examples(seed: int, split: Split, n: int, world: int = 0) -> Iterator[Task]:
    return rows(make, NAME, LEVELS, seed, split, n, world)
