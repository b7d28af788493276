"""The ordinary English words of the lab, and the few rules of spelling they need.

Few words, each met often: a model of a few million parameters has to know them all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product


def wordlist(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def forms(*patterns: str) -> tuple[str, ...]:
    """Every reading of the patterns, in which `(a|b)` is a choice and `(a|)` may be left out.

    A model that met three phrasings of a task knows three sentences; one that met fifty knows what is asked.
    """
    readings: list[str] = []
    for pattern in patterns:
        parts = re.split(r"\(([^()]*)\)", pattern)
        choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
        readings += ["".join(reading) for reading in product(*choices)]
    return tuple(readings)


JOBS = wordlist(
    "actor baker banker barber clerk cook doctor farmer gardener guard hunter judge miner nurse "
    "painter pilot potter sailor singer smith tailor teacher weaver writer"
)
PETS = wordlist("cat crow dog duck fox frog goat hen mouse owl parrot pig pony rabbit snake turtle")
COLOURS = wordlist("black blue brown green grey pink purple red white yellow")
DISHES = wordlist("beans bread butter cake cheese honey jam nuts pies rice soup tea")
MATERIALS = wordlist("clay glass iron paper silver stone wood wool")
KINDS = wordlist("bell boat box chair clock cup door drum flute kite lamp ring")

CATEGORIES = {
    "bird": wordlist("crow duck eagle hen owl parrot robin swan"),
    "fish": wordlist("carp cod eel pike salmon shark trout tuna"),
    "fruit": wordlist("apple cherry grape lemon mango peach pear plum"),
    "metal": wordlist("brass copper gold iron silver steel tin zinc"),
    "tool": wordlist("axe drill hammer knife rake saw shovel spade"),
    "tree": wordlist("ash birch elm fir maple oak pine willow"),
}
PLURAL = {"bird": "birds", "fish": "fish", "fruit": "fruits", "metal": "metals", "tool": "tools", "tree": "trees"}
CATEGORY_OF = {word: category for category, words in CATEGORIES.items() for word in words}

NOUNS = tuple(sorted({*CATEGORY_OF, *COLOURS, *PETS, *KINDS}))
"""The words that are sorted, counted, reversed and spelled."""

SPELLED = tuple(word for word in NOUNS if 3 <= len(word) <= 6)

NUMBER_WORDS = wordlist("zero one two three four five six seven eight nine ten eleven twelve")

ITEMS = wordlist("beans candles coins cups nuts pears plums shells")
"""What the people of sums have and give away."""


def a(word: str) -> str:
    """`word` with its indefinite article."""
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def one(word: str) -> str:
    """`word` as a member of its category: `an owl`, but `copper`."""
    return word if CATEGORY_OF.get(word) == "metal" else a(word)


def cap(text: str) -> str:
    """`text` with a capital first letter."""
    return text[:1].upper() + text[1:]


def comma_list(items: Sequence[str]) -> str:
    return ", ".join(items)


def and_list(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join((", ".join(items[:-1]), items[-1])) if len(items) > 1 else items[0]


def count_of(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
