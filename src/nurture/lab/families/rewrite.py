"""Rewrite a sentence: replace a word or in capitals (level 1), past or question (2), negative or passive (3)."""

from __future__ import annotations

from collections.abc import Iterator

from ...records import Task
from ..draw import Draw
from ..grading import REFUSED, RIGHT, WRONG, Grade, Reply, judge
from ..sentences import OBJECTS, WAYS, draw_sentence
from ..world import Split, World
from .family import lead, new_task, rows

NAME = "rewrite"
LEVELS = (1, 2, 3)

_WAYS_OF = {1: ("capitals", "replace"), 2: ("past", "question"), 3: ("negative", "passive")}
_ASK: dict[str, dict[Split, tuple[str, ...]]] = {
    "capitals": {
        "train": ("Write this in capitals: {s}", "Put this sentence in capitals: {s}"),
        "test": ("Here is a sentence. {s} Write it in capitals.",),
    },
    "replace": {
        "train": ("Replace {old} by {new}: {s}", "Write {new} in place of {old}: {s}"),
        "test": ("Here is a sentence. {s} Replace {old} by {new}.",),
    },
    "past": {
        "train": ("Write this in the past: {s}", "Put this sentence in the past: {s}"),
        "test": ("Here is a sentence. {s} Put it in the past.",),
    },
    "question": {
        "train": ("Make this a question: {s}", "Turn this sentence into a question: {s}"),
        "test": ("Here is a sentence. {s} Make it a question.",),
    },
    "negative": {
        "train": ("Make this negative: {s}", "Say the opposite with the word not: {s}"),
        "test": ("Here is a sentence. {s} Make it negative.",),
    },
    "passive": {
        "train": ("Make this passive: {s}", "Write this in the passive: {s}"),
        "test": ("Here is a sentence. {s} Make it passive.",),
    },
}


def make(world: World, draw: Draw, split: Split, level: int) -> Task:
    way = draw.pick(_WAYS_OF[level])
    people = world.people if draw.chance(0.6) else world.outside[split, "person"]
    while True:
        sentence = draw_sentence(draw, draw.pick(people).name)
        if world.split_of("rewrite", way, sentence.verb[0], sentence.noun) == split:
            break
    new = draw.pick([noun for noun in OBJECTS if noun != sentence.noun])
    prompt = draw.pick(_ASK[way][split]).format(s=sentence.text, old=sentence.noun, new=new)
    answer = sentence.rewritten(way, new)
    wrong = [sentence.rewritten(other, new) for other in WAYS if other != way] + [sentence.text]
    return new_task(NAME, level, lead(draw, split) + prompt, answer, wrong, way=way)


def grade(task: Task, response: str) -> Grade:
    """The one right sentence: letter case counts, the final mark counts for a question."""

    def verdict(reply: Reply) -> Grade:
        if reply.declines:
            return REFUSED
        given, gold = " ".join(reply.text.split()), task.answer
        return RIGHT if given == gold or given == gold.removesuffix(".") else WRONG

    return judge(response, verdict)


def reward(task: Task, response: str) -> float:
    return grade(task, response).overall


def examples(seed: int, split: Split, n: int, world: int = 0) -> Iterator[Task]:
    return rows(make, NAME, LEVELS, seed, split, n, world)
