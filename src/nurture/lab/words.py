"""The ordinary English words of the lab, and the few rules of spelling they need.

Few words, each met often: a model of a few million parameters has to know them all.
"""

from __future__ import annotations

from collections.abc import Sequence

JOBS = tuple(
    "actor baker banker barber clerk cook doctor farmer gardener guard hunter judge "
    "miner nurse painter pilot potter sailor singer smith tailor teacher weaver writer".split()
)
PETS = tuple("cat crow dog duck fox frog goat hen mouse owl parrot pig pony rabbit snake turtle".split())
COLOURS = tuple("black blue brown green grey pink purple red white yellow".split())
DISHES = tuple("beans bread butter cake cheese honey jam nuts pies rice soup tea".split())
MATERIALS = tuple("clay glass iron paper silver stone wood wool".split())
KINDS = tuple("bell boat box chair clock cup door drum flute kite lamp ring".split())

CATEGORIES = {
    "bird": tuple("crow duck eagle hen owl parrot robin swan".split()),
    "fish": tuple("carp cod eel pike salmon shark trout tuna".split()),
    "fruit": tuple("apple cherry grape lemon mango peach pear plum".split()),
    "metal": tuple("brass copper gold iron silver steel tin zinc".split()),
    "tool": tuple("axe drill hammer knife rake saw shovel spade".split()),
    "tree": tuple("ash birch elm fir maple oak pine willow".split()),
}
PLURAL = {"bird": "birds", "fish": "fish", "fruit": "fruits", "metal": "metals", "tool": "tools", "tree": "trees"}
CATEGORY_OF = {word: category for category, words in CATEGORIES.items() for word in words}

NOUNS = tuple(sorted({*CATEGORY_OF, *COLOURS, *PETS, *KINDS}))
"""The words that are sorted, counted, reversed and spelled."""

SPELLED = tuple(word for word in NOUNS if 3 <= len(word) <= 6)

NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()


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
