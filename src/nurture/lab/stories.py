"""Short stories from a small grammar. The oracle reads with the same grammar: a sentence is a story sentence if it
is one of these shapes, filled with these words, about the people of the story."""

from __future__ import annotations

import re

from .draw import Draw
from .words import wordlist

SLOTS: dict[str, tuple[str, ...]] = {
    "obj": wordlist("bag bell box candle coin cup hat key lamp letter map ring rope shell stone whistle"),
    "adj": wordlist("bright cold heavy little long new round small strange warm"),
    "place": wordlist("bridge field forest garden harbour hill market mill school tower"),
    "animal": wordlist("bear bird cat deer dog fox goat horse rabbit wolf"),
    "feeling": wordlist("afraid calm glad happy proud sad sleepy tired"),
    "time": wordlist("day evening morning night"),
}

OPENINGS = (
    "One {time}, {p} went to the {place}.",
    "One {time}, {p} walked to the {place} with a {obj}.",
    "{p} wanted to find a {adj} {obj}.",
    "{p} and a {animal} lived near the {place}.",
    "Once {p} lost a {adj} {obj}.",
)
MIDDLES = (
    "{p} found a {adj} {obj} near the {place}.",
    "A {animal} came out of the {place}.",
    "{p} saw a {adj} {animal}.",
    "The {animal} gave {p} a {obj}.",
    "{p} put the {obj} into a {adj} box.",
    "{p} took the {obj} and ran to the {place}.",
    "The {animal} was {feeling} and slept.",
    "{p} was {feeling} and sat down.",
    "{p} showed the {obj} to a {animal}.",
    "It was a {adj} {time}.",
    "Under the {obj} there was a {adj} {obj}.",
)
ENDINGS = (
    "Then {p} went home.",
    "At last {p} was {feeling}.",
    "In the end {p} gave the {obj} to the {animal}.",
    "{p} kept the {obj} and was {feeling}.",
    "The {animal} and {p} went home together.",
)
SENTENCES = OPENINGS + MIDDLES + ENDINGS
WORDS = tuple(word for slot in ("obj", "place", "animal", "feeling") for word in SLOTS[slot])
"""The words a story can be asked to use."""

_HERO = "\N{SECTION SIGN}"


def _pattern(template: str) -> str:
    parts = re.split(r"\{(\w+)\}", template)
    return "".join(
        re.escape(part) if i % 2 == 0 else _HERO if part == "p" else f"(?:{'|'.join(SLOTS[part])})"
        for i, part in enumerate(parts)
    )


_SENTENCE = re.compile("|".join(map(_pattern, SENTENCES)))
_SLOT = re.compile(r"\{(\w+)\}")


def fill(draw: Draw, template: str, hero: str, word: str = "") -> str:
    """The template with random words; `word`, where given, goes into the first slot that may hold it."""
    left = word

    def choose(slot: re.Match[str]) -> str:
        nonlocal left
        name = slot[1]
        if name == "p":
            return hero
        if left and left in SLOTS[name]:
            chosen, left = left, ""
            return chosen
        return draw.pick(SLOTS[name])

    return _SLOT.sub(choose, template)


def can_hold(template: str, word: str) -> bool:
    return any(word in SLOTS[slot] for slot in _SLOT.findall(template) if slot != "p")


def draw_story(draw: Draw, hero: str, num_middles: int, word: str = "") -> list[str]:
    """An opening, some middles and an ending; one of the middles uses `word`, where given."""
    middles: list[str] = list(draw.sample(MIDDLES, num_middles))
    if word:
        middles[draw.below(num_middles)] = draw.pick(HOLDING[word])
    sentences = [fill(draw, draw.pick(OPENINGS), hero)]
    sentences += [fill(draw, template, hero, word) for template in middles]
    return [*sentences, fill(draw, draw.pick(ENDINGS), hero)]


HOLDING = {word: tuple(t for t in MIDDLES if can_hold(t, word)) for word in WORDS}
"""The middles that can use a word."""


def split_sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])\s+", text.strip()) if s]


def is_story_sentence(sentence: str, hero: str) -> bool:
    """Whether the grammar has this sentence, with `hero` where it speaks of a person."""
    told = re.sub(rf"\b{re.escape(hero)}\b", _HERO, sentence)
    return _HERO not in sentence and _SENTENCE.fullmatch(told) is not None
