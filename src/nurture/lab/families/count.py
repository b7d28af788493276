"""Count: the words of a list (level 1), one word in a list (2), the members of a category (3)."""

from __future__ import annotations

from collections.abc import Iterator

from ...records import Task
from ..draw import Draw
from ..grading import Grade, judge, judge_exact
from ..words import CATEGORIES, CATEGORY_OF, NOUNS, NUMBER_WORDS, PLURAL, comma_list, count_of, forms
from ..world import Split, World
from .family import lead, new_task, rows

NAME = "count"
LEVELS = (1, 2, 3)

_WORDS: dict[Split, tuple[str, ...]] = {
    "train": forms(
        "How many words (are|do you see|can you find|stand) (in this list|here): {list}?",
        "Count (the words|these words|all these words|all the words): {list}.",
        "How many words do you (see|find) here? {list}",
        "(Look at|Take|Read) (this list|these words): {list}. How many words (are there|do you see)?",
        "{list}. How many words (is that|are there|do you see)?",
        "(Tell me|I want to know) how many words (there are|you see) here: {list}.",
        "(I have|You see) these words: {list}. (Count them.|How many are there?)",
    ),
    "practice": forms(
        "(What is|Find) the number of words (here|in this list): {list}.",
        "(My list is|There is a list) {list}. How (long|many words) is it?",
        "(Please count|Now count) the words {list}.",
        "How many words (did I write|have I): {list}?",
        "(Count for me|Please count) how many words there are: {list}.",
    ),
    "test": ("Count the words in this list: {list}.", "Here is a list: {list}. How many words are in it?"),
}
_TIMES: dict[Split, tuple[str, ...]] = {
    "train": forms(
        "How many times (is the word {word}|do you see {word}|does {word} stand) (in this list|here): {list}?",
        "Count how many times (you see|there is) {word}: {list}.",
        "How many times do you (see|find|read) {word} here? {list}",
        "(Look at|Take|Read) (this list|these words): {list}. How many times (is {word} there|do you see {word})?",
        "{list}. How many times (is that {word}|do you see {word})?",
        "(Tell me|I want to know) how many times {word} is here: {list}.",
        "(I have|You see) these words: {list}. Count {word}.",
    ),
    "practice": forms(
        "(What is|Find) the number of times you see {word}: {list}.",
        "(My list is|There is a list) {list}. How often is {word} there?",
        "How often (is|do you see) {word} (here|in this list): {list}?",
        "(Please count|Now count) {word} here: {list}.",
        "How many times did I write {word}? {list}",
    ),
    "test": ("Here is a list: {list}. How many times is {word} in it?", "Count the word {word} in this list: {list}."),
}
_MEMBERS: dict[Split, tuple[str, ...]] = {
    "train": forms(
        "How many {many} (are|do you see|can you find|stand) (in this list|here): {list}?",
        "Count (the|these|all the) {many}: {list}.",
        "How many {many} do you (see|find) here? {list}",
        "(Look at|Take|Read) (this list|these words): {list}. How many {many} (are there|do you see)?",
        "{list}. How many {many} (is that|are there|do you see)?",
        "(Tell me|I want to know) how many {many} (there are|you see) here: {list}.",
        "(I have|You see) these words: {list}. Count the {many}.",
    ),
    "practice": forms(
        "(What is|Find) the number of {many} (here|in this list): {list}.",
        "(My list is|There is a list) {list}. How many of them are {many}?",
        "(Please count|Now count) only the {many}: {list}.",
        "How many of these are {many}: {list}?",
        "How many {many} did I write? {list}",
    ),
    "test": ("Count the {many} in this list: {list}.", "Here is a list: {list}. How many {many} are in it?"),
}


def make(world: World, draw: Draw, split: Split, level: int) -> Task:
    if level == 1:
        items = draw.sample(NOUNS, draw.between(2, 7))
        return _task(
            1, draw.pick(_WORDS[split]), lead(draw, split), items, len(items), "There {is} {n}.", ("word", "words")
        )
    if level == 2:
        word, *others = draw.sample(NOUNS, 4)
        times = draw.between(1, 4)
        items = draw.shuffled([word] * times + others[: draw.between(1, 3)])
        question = draw.pick(_TIMES[split]).replace("{word}", word)
        return _task(
            2, question, lead(draw, split), items, times, f"The word {word} is there {{n}}.", ("time", "times")
        )
    category = draw.pick(tuple(CATEGORIES))
    members = draw.sample(CATEGORIES[category], draw.between(1, 4))
    others = [w for w in draw.sample(tuple(CATEGORY_OF), 5) if CATEGORY_OF[w] != category]
    items = draw.shuffled(members + others[:3])
    question = draw.pick(_MEMBERS[split]).replace("{many}", PLURAL[category])
    return _task(3, question, lead(draw, split), items, len(members), "There {is} {n}.", (category, PLURAL[category]))


def _task(level: int, question: str, before: str, items: list[str], n: int, form: str, unit: tuple[str, str]) -> Task:
    def say(number: int | str) -> str:
        one = number in (1, "one")
        counted = count_of(1, *unit) if number == 1 else f"{number} {unit[0] if one else unit[1]}"
        return form.format(n=counted, **{"is": "is" if one else "are"})

    prompt = before + question.format(list=comma_list(items))
    accept = tuple(
        text
        for number in (n, NUMBER_WORDS[n])
        for text in (say(number), f"{number}", f"{number} {unit[0 if n == 1 else 1]}", f"The answer is {number}.")
    )
    return new_task(NAME, level, prompt, say(n), [say(n + 1), say(max(n - 1, 0))], accept=accept)


def grade(task: Task, response: str) -> Grade:
    return judge(response, lambda reply: judge_exact(reply, task.info["accept"]))


def reward(task: Task, response: str) -> float:
    return grade(task, response).overall


def examples(seed: int, split: Split, n: int, world: int = 0) -> Iterator[Task]:
    return rows(make, NAME, LEVELS, seed, split, n, world)
