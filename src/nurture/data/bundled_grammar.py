"""The grammar behind the bundled data sets: a handful of facts, told as small stories and asked as questions.

    python -m nurture.data.bundled_grammar

writes `bundled/stories.jsonl` and `bundled/chat.jsonl` anew, byte for byte the same each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.random import numpy_generator
from .bundled import FOLDER

NUM_STORIES = 420

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
NUMBERS += ["eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"]
NAMES = ["Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jonas"]
NAMES += ["Kate", "Leo", "Mary", "Nico", "Olga", "Paul", "Rosa", "Sam", "Tina", "Will"]
COLOURS = {
    "sky": "blue",
    "grass": "green",
    "snow": "white",
    "sun": "yellow",
    "night": "black",
    "cherry": "red",
    "lemon": "yellow",
    "leaf": "green",
    "cloud": "white",
    "coal": "black",
    "carrot": "orange",
    "sea": "blue",
    "mouse": "grey",
    "strawberry": "red",
    "pig": "pink",
    "chestnut": "brown",
}
SOUNDS = {
    "cow": "moo",
    "dog": "woof",
    "cat": "meow",
    "duck": "quack",
    "sheep": "baa",
    "pig": "oink",
    "horse": "neigh",
    "mouse": "squeak",
    "frog": "croak",
    "owl": "hoot",
    "bee": "buzz",
    "lion": "roar",
}
HOMES = {
    "cow": "on the farm",
    "fish": "in the sea",
    "frog": "in the pond",
    "bird": "in a nest",
    "bee": "in a hive",
    "fox": "in the forest",
    "dog": "in the house",
    "camel": "in the desert",
    "owl": "in a tree",
    "mouse": "in a hole",
    "horse": "in the stable",
    "whale": "in the ocean",
}
OPPOSITES = (
    ("big", "small"),
    ("hot", "cold"),
    ("day", "night"),
    ("fast", "slow"),
    ("happy", "sad"),
    ("up", "down"),
    ("old", "new"),
    ("wet", "dry"),
    ("open", "closed"),
    ("light", "dark"),
    ("long", "short"),
    ("left", "right"),
    ("loud", "quiet"),
    ("full", "empty"),
)
FRUIT = ("apples", "pears", "cherries", "lemons", "plums", "nuts")
PLACES = ("garden", "market", "kitchen", "school", "park", "barn")
FRIENDS = ("friend", "sister", "brother", "teacher", "neighbour")


@dataclass(frozen=True)
class Teller:
    """Draws what a story is about."""

    random: np.random.Generator

    def one(self, choices: Sequence[str]) -> str:
        return choices[int(self.random.integers(len(choices)))]

    def some(self, choices: Sequence[str], n: int) -> list[str]:
        return [choices[int(i)] for i in self.random.permutation(len(choices))[:n]]

    def number(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))


def a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


# ---- stories ----


def visit(tell: Teller) -> str:
    who, other = tell.some(NAMES, 2)
    animals = tell.some(list(SOUNDS), 3)
    lines = [
        f"{who} went to the {tell.one(PLACES)} with {other}.",
        tell.one([f"{other} wanted to hear the animals.", f"It was a warm day and {other} was happy."]),
    ]
    for animal in animals:
        lines += [f"There was {a(animal)}.", f"{capital(a(animal))} says {SOUNDS[animal]}."]
    lines.append(f'"{capital(SOUNDS[animals[0]])}!" said {who}, and {other} laughed.')
    return " ".join(lines)


def shopping(tell: Teller) -> str:
    who, other = tell.some(NAMES, 2)
    fruit = tell.one(FRUIT)
    first, second = tell.number(2, 8), tell.number(2, 8)
    total = NUMBERS[first + second]
    return " ".join(
        [
            f"{who} had {NUMBERS[first]} {fruit} and {other} had {NUMBERS[second]}.",
            tell.one(["They put them into one basket.", "They put them together on the table."]),
            f"{capital(NUMBERS[first])} plus {NUMBERS[second]} is {total}.",
            f"So there were {total} {fruit} in all.",
            tell.one([f"{who} gave one to the {tell.one(FRIENDS)}.", f"Then {who} and {other} went home."]),
        ]
    )


def counting(tell: Teller) -> str:
    who = tell.one(NAMES)
    start = tell.number(1, 4)
    stop = start + tell.number(3, 6)
    row = ", ".join(NUMBERS[start : stop + 1])
    after = tell.number(1, 14)
    return " ".join(
        [
            tell.one([f"{who} likes to count.", f"In the {tell.one(PLACES)} {who} learned to count."]),
            f'"Count from {NUMBERS[start]} to {NUMBERS[stop]}," said the teacher.',
            f"{capital(row)}.",
            f"After {NUMBERS[after]} comes {NUMBERS[after + 1]}.",
            f"Before {NUMBERS[after + 1]} comes {NUMBERS[after]}.",
        ]
    )


def colours(tell: Teller) -> str:
    who = tell.one(NAMES)
    things = tell.some(list(COLOURS), 4)
    lines = [tell.one([f"{who} painted a picture.", f"{who} looked around in the {tell.one(PLACES)}."])]
    lines += [f"The {thing} is {COLOURS[thing]}." for thing in things]
    lines.append(tell.one([f"{who} likes {COLOURS[things[0]]} best.", f"It was a fine day for {who}."]))
    return " ".join(lines)


def opposites(tell: Teller) -> str:
    who, other = tell.some(NAMES, 2)
    pairs = [OPPOSITES[int(i)] for i in tell.random.permutation(len(OPPOSITES))[:3]]
    lines = [f"{who} and {other} played a game with words."]
    for one, two in pairs:
        one, two = (one, two) if tell.number(0, 1) else (two, one)
        lines += [f'"{capital(one)}," said {who}. "{capital(two)}," said {other}.']
        lines += [f"The opposite of {one} is {two}."]
    lines.append(tell.one(["It was a good game.", f"Then it was {other}'s turn to ask."]))
    return " ".join(lines)


def homes(tell: Teller) -> str:
    who = tell.one(NAMES)
    animals = tell.some(list(HOMES), 3)
    lines = [tell.one([f"{who} asked where the animals live.", f"{who} read a book about animals."])]
    lines += [f"{capital(a(animal))} lives {HOMES[animal]}." for animal in animals]
    lines.append(f"{who} lives in a {tell.one(['small', 'big', 'red', 'white'])} house.")
    return " ".join(lines)


def meeting(tell: Teller) -> str:
    who, other = tell.some(NAMES, 2)
    return " ".join(
        [
            f"{who} met {other} in the {tell.one(PLACES)}.",
            f'"Hello, I am {who}," said {who}.',
            f'"Hello {who}! It is nice to meet you," said {other}.',
            f'"How are you?" asked {who}. "I am well, thank you," said {other}.',
            tell.one(["They talked for a while.", f"{other} had a {tell.one(['dog', 'cat', 'horse'])} and a garden."]),
            f'"Goodbye, {other}," said {who}. "Goodbye, {who}. Have a nice day!"',
        ]
    )


STORIES: tuple[Callable[[Teller], str], ...] = (visit, shopping, counting, colours, opposites, homes, meeting)


def stories() -> list[dict[str, str]]:
    """Each is one or two passages, all kinds equally often."""
    rows: list[dict[str, str]] = []
    for i in range(NUM_STORIES):
        tell = Teller(numpy_generator(0, "bundled stories", i))
        passages = [STORIES[i % len(STORIES)](tell)]
        if tell.number(0, 1):
            passages.append(STORIES[tell.number(0, len(STORIES) - 1)](tell))
        rows.append({"text": "\n".join(passages)})
    return rows


# ---- questions ----


def questions() -> list[tuple[str, str]]:
    asked: list[tuple[str, str]] = []
    for one in range(2, 9):
        for two in range(2, 9):
            answer = f"{capital(NUMBERS[one])} plus {NUMBERS[two]} is {NUMBERS[one + two]}."
            asked.append((f"What is {NUMBERS[one]} plus {NUMBERS[two]}?", answer))
    for pair in OPPOSITES:
        for one, two in (pair, pair[::-1]):
            asked.append((f"What is the opposite of {one}?", f"The opposite of {one} is {two}."))
            asked.append((f"Tell me the opposite of {one}.", f"The opposite of {one} is {two}."))
    for thing, colour in COLOURS.items():
        asked.append((f"What colour is the {thing}?", f"The {thing} is {colour}."))
        asked.append((f"Tell me the colour of the {thing}.", f"The {thing} is {colour}."))
    for animal, sound in SOUNDS.items():
        asked.append((f"What does {a(animal)} say?", f"{capital(a(animal))} says {sound}."))
        asked.append((f"Which animal says {sound}?", f"{capital(a(animal))} says {sound}."))
    for animal, home in HOMES.items():
        asked.append((f"Where does {a(animal)} live?", f"{capital(a(animal))} lives {home}."))
    for stop in range(3, 11):
        asked.append((f"Count to {NUMBERS[stop]}.", f"{capital(', '.join(NUMBERS[1 : stop + 1]))}."))
    for start in range(1, 5):
        for stop in range(start + 3, start + 7):
            row = ", ".join(NUMBERS[start : stop + 1])
            asked.append((f"Count from {NUMBERS[start]} to {NUMBERS[stop]}.", f"{capital(row)}."))
    for n in range(1, 15):
        asked.append((f"What comes after {NUMBERS[n]}?", f"After {NUMBERS[n]} comes {NUMBERS[n + 1]}."))
        asked.append((f"What comes before {NUMBERS[n + 1]}?", f"Before {NUMBERS[n + 1]} comes {NUMBERS[n]}."))
    for name in NAMES:
        asked.append((f"Hello, I am {name}.", f"Hello {name}! It is nice to meet you."))
    asked += [
        ("Hello!", "Hello! It is nice to meet you."),
        ("Good morning!", "Good morning! It is nice to meet you."),
        ("How are you?", "I am well, thank you."),
        ("Goodbye!", "Goodbye! Have a nice day!"),
        ("Thank you.", "You are welcome."),
    ]
    return asked


def chat() -> list[dict[str, list[dict[str, str]]]]:
    """Every question once, and dialogues of a greeting with a question after it."""
    asked = questions()
    greetings = [pair for pair in asked if pair[0].startswith("Hello, I am")]
    others = [pair for pair in asked if pair not in greetings]
    order = numpy_generator(0, "bundled dialogues").permutation(len(others))
    dialogues = [[pair] for pair in asked]
    dialogues += [[pair, others[order[i]]] for i, pair in enumerate(greetings)]
    shuffled = numpy_generator(0, "bundled chat").permutation(len(dialogues))
    return [{"messages": _messages(dialogues[i])} for i in shuffled]


def _messages(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": content}
        for question, answer in turns
        for role, content in (("user", question), ("assistant", answer))
    ]


def written(rows: Sequence[object]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "stories.jsonl").write_text(written(stories()), encoding="utf-8")
    (FOLDER / "chat.jsonl").write_text(written(chat()), encoding="utf-8")
