"""Reverse a list of words (level 1), spell a word (2), spell it backwards (3)."""

from __future__ import annotations

from collections.abc import Iterator

from ...records import Task
from ..draw import Draw
from ..grading import Grade, judge, judge_items
from ..words import NOUNS, SPELLED, comma_list, forms
from ..world import Split, World
from .family import lead, new_task, rows

NAME = "spell"
LEVELS = (1, 2, 3)

ASKED: dict[int, dict[Split, tuple[str, ...]]] = {
    1: {
        "train": forms(
            "(Reverse|Turn around) (this|the|my) list: {it}.",
            "(Write|Say|Give me|Put|Read) (this list|the list|the words) (in reverse|from the end|backwards): {it}.",
            "(Turn|Write) this list (around|the other way): {it}.",
            "(Look at|Take|I have|You see) (this list|these words): {it}. (Write|Say|Read) it (in reverse|backwards).",
            "(Look at|Take|Read) (this list|these words): {it}. Turn it around.",
            "{it}. (Reverse|Turn around) this list.",
            "{it}. Write (this list|these words) (in reverse|backwards).",
            "What is this list in reverse: {it}?",
        ),
        "practice": forms(
            "(Here are some words|My words are these): {it}. (Say|Write) them the other way.",
            "There is a list here: {it}. (Say|Write) it from the last to the first.",
            "(Now|Please) (write|say) the list {it} (backwards|in reverse).",
            "(Reverse|Turn around) what (I wrote|you see) here: {it}.",
            "(How|What) is the list {it} (in reverse|backwards)?",
            "(From the end to the beginning|From the last to the first): {it}.",
        ),
        "test": ("Here is a list: {it}. Reverse it.", "Reverse these words: {it}."),
    },
    2: {
        "train": forms(
            "Spell (|the word ){it}(|, please| for me).",
            "How (do you|do I|can I|would you) (spell|write) (|the word ){it}?",
            "(Tell me|Show me|I want to know) how to spell (|the word ){it}.",
            "(Give me|Say|Write|Tell me) the letters of (|the word ){it}.",
            "(Take|Look at|Here is) the word {it}. (Spell it|Write its letters).",
            "(What|Which) letters are in (|the word ){it}?",
            "Can you spell {it}?",
        ),
        "practice": forms(
            "(What is the|Which is the) (right |)spelling of {it}?",
            "(Now|Please) spell {it}.",
            "(Write|Say) {it} (letter by letter|one letter at a time).",
            "(How|In which way) is {it} (written|spelled)?",
            "The word is {it}. (Which letters has it?|What are its letters?)",
            "I cannot spell {it}. (Can you?|Help me.)",
        ),
        "test": ("How is the word {it} spelled?", "Please spell this word: {it}."),
    },
    3: {
        "train": forms(
            "Spell (|the word ){it} (backwards|in reverse|from the end)(|, please| for me).",
            "How (do you|do I|can I|would you) (spell|write) (|the word ){it} (backwards|in reverse)?",
            "(Tell me|Show me|I want to know) how to spell (|the word ){it} (backwards|in reverse).",
            "(Give me|Say|Write|Tell me) the letters of (|the word ){it} (backwards|in reverse).",
            "(Take|Look at|Here is) the word {it}. (Spell it|Write its letters) (backwards|in reverse).",
            "Can you spell {it} backwards?",
        ),
        "practice": forms(
            "(What is the|Which is the) spelling of {it} (backwards|in reverse)?",
            "(Now|Please) spell {it} (backwards|in reverse).",
            "(Write|Say) {it} letter by letter(, but|,) (backwards|from the end).",
            "How is {it} (written|spelled) (in reverse|from the end)?",
            "The word is {it}. What are its letters (backwards|in reverse)?",
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
        while not world.may_ask(split, "spell", it := draw.pick(SPELLED)):
            pass
        items = list(it if level == 2 else it[::-1])
        answer, wrong = "-".join(items), ["-".join([*items[:-2], items[-1], items[-2], "e"]), "-".join(items[1:])]
    prompt = lead(draw, split) + draw.pick(ASKED[level][split]).format(it=it)
    return new_task(NAME, level, prompt, answer, wrong, items=tuple(items))


def grade(task: Task, response: str) -> Grade:
    return judge(response, lambda reply: judge_items(reply, task.info["items"]))


def reward(task: Task, response: str) -> float:
    return grade(task, response).overall


def examples(seed: int, split: Split, n: int, world: int = 0) -> Iterator[Task]:
    return rows(make, NAME, LEVELS, seed, split, n, world)
