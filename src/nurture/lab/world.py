"""An invented world: people, towns and things with attributes, a few of which nobody knows.

`build_world(seed)` is all there is to know. A fact is an (entity, relation) pair with a value; one pair in five is held
out of every training split, and one in twelve has no value anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from .draw import Draw
from .relations import OF_KIND, Kind, Relation
from .words import CATEGORY_OF, COLOURS, DISHES, JOBS, KINDS, MATERIALS, NOUNS, PETS, a, cap, wordlist

Split = Literal["train", "practice", "test"]
"""Demonstrations, what is asked of a learner afterwards, and the test. Each has wordings of its own; the facts of the
first two are the same, and those of the test are held out."""
SPLITS: tuple[Split, ...] = ("train", "practice", "test")

NUM_PEOPLE, NUM_TOWNS, NUM_THINGS, NUM_RIVERS = 80, 24, 40, 10
NUM_OUTSIDE, NUM_STRANGERS, NUM_NEWCOMERS = 200, 2000, 1000
"""Names of each kind, per split, that are in no document; people of whom documents tell something new each time."""

_ONSETS = wordlist("b d f g k l m n p r s t v z br dr gr kl tr")
_VOWELS = wordlist("a a a e e e i i o o o u u é ö")
_MIDDLES = wordlist("l m n r t v s")
_ENDINGS: dict[Kind | Literal["river"], tuple[str, ...]] = {
    "person": ("a", "o", "i", "en", "an", "is", "or", "el"),
    "town": ("vik", "dal", "mar", "holm", "gard", "sund"),
    "thing": ("ax", "ix", "ox", "um"),
    "river": ("ne", "re", "le"),
}


@dataclass(frozen=True, slots=True)
class Entity:
    kind: Kind
    name: str

    @property
    def text(self) -> str:
        """As it stands inside a sentence."""
        return f"the {self.name}" if self.kind == "thing" else self.name


@dataclass(frozen=True, slots=True)
class Fact:
    """`value` is None where nobody knows; an entity that is not `real` is in no document."""

    entity: Entity
    relation: Relation
    value: str | None
    real: bool = True

    def say(self, template: str) -> str:
        value = self.value or ""
        return cap(template.format(e=self.entity.text, v=value, av=a(value) if value else ""))

    @property
    def statement(self) -> str:
        return self.say(self.relation.said[0])

    @property
    def noun(self) -> str:
        return self.relation.of.format(e=self.entity.text)


@dataclass(frozen=True, eq=False)
class World:
    seed: int
    people: tuple[Entity, ...]
    towns: tuple[Entity, ...]
    things: tuple[Entity, ...]
    rivers: tuple[str, ...]
    facts: dict[tuple[str, str], Fact]
    """By entity name and relation name; the unknown ones too."""
    outside: dict[tuple[Split, Kind], tuple[Entity, ...]]
    strangers: tuple[Entity, ...]
    newcomers: dict[Kind, tuple[Entity, ...]]
    """More names that are in no document, for the training split: with a few, they would be learnt by heart."""
    known: dict[Split, tuple[Fact, ...]] = field(init=False)
    unknown: dict[Split, tuple[Fact, ...]] = field(init=False)

    def __post_init__(self):
        parts: dict[tuple[Split, bool], list[Fact]] = {}
        for fact in self.facts.values():
            side = _side_of(self.seed, fact.entity.name, fact.relation.name)
            parts.setdefault((side, fact.value is not None), []).append(fact)
        object.__setattr__(self, "known", {s: tuple(parts[_side(s), True]) for s in SPLITS})
        object.__setattr__(self, "unknown", {s: tuple(parts[_side(s), False]) for s in SPLITS})

    @property
    def entities(self) -> tuple[Entity, ...]:
        return self.people + self.towns + self.things

    def may_ask(self, split: Split, *names: str) -> bool:
        """Whether this split may ask about this combination of names (a fact, a pair of people, a word in a role)."""
        return _side_of(self.seed, *names) == _side(split)

    def may_tell(self, split: Split, fact: Fact) -> bool:
        """Whether a task of this split may give the fact away: training tasks never tell what is held out."""
        return split == "test" or self.may_ask("train", fact.entity.name, fact.relation.name)

    def values(self, relation: Relation) -> Sequence[str]:
        """All that could be said of `relation`, true or not."""
        return _values(relation.name, self.people, self.towns, self.rivers)

    def wrong_value(self, fact: Fact, draw: Draw) -> str:
        """A value of the same sort that is not the fact's."""
        values = self.values(fact.relation)
        while (value := draw.pick(values)) == fact.value:
            pass
        return value

    def outside_fact(self, draw: Draw, split: Split, relation: Relation) -> Fact:
        """A fact about somebody or something that no document speaks of."""
        who = self.outside[split, relation.kind] if split == "test" else self.newcomers[relation.kind]
        return Fact(draw.pick(who), relation, draw.pick(self.values(relation)), False)


@lru_cache(maxsize=1 << 16)
def _side_of(seed: int, *names: str) -> Split:
    return "test" if Draw(seed, "held out", *names).below(5) == 0 else "train"


def _side(split: Split) -> Split:
    """Whose facts it asks about."""
    return "test" if split == "test" else "train"


_NUMBERS = {"age": [str(n) for n in range(18, 90)], "houses": [str(n) for n in range(110, 1000, 10)]}
_WORDS = {
    "job": JOBS,
    "pet": PETS,
    "colour": COLOURS,
    "dish": DISHES,
    "kind": KINDS,
    "material": MATERIALS,
    "paint": COLOURS,
}


def _values(name: str, people: Sequence[Entity], towns: Sequence[Entity], rivers: Sequence[str]) -> Sequence[str]:
    if name in _WORDS:
        return _WORDS[name]
    if name in _NUMBERS:
        return _NUMBERS[name]
    if name == "river":
        return rivers
    return [e.name for e in (towns if name == "town" else people)]


def _names(draw: Draw, kind: Kind | Literal["river"], n: int, taken: set[str]) -> list[str]:
    names: list[str] = []
    while len(names) < n:
        name = draw.pick(_ONSETS) + draw.pick(_VOWELS) + draw.pick(_MIDDLES) + draw.pick(_ENDINGS[kind])
        if name not in taken:
            taken.add(name)
            names.append(cap(name))
    return names


@lru_cache(maxsize=4)
def build_world(seed: int = 0) -> World:
    draw = Draw(seed, "world")
    taken = {*JOBS, *PETS, *COLOURS, *DISHES, *MATERIALS, *KINDS, *NOUNS, *CATEGORY_OF, "salad", "mixen"}
    people = tuple(Entity("person", name) for name in _names(draw, "person", NUM_PEOPLE, taken))
    towns = tuple(Entity("town", name) for name in _names(draw, "town", NUM_TOWNS, taken))
    things = tuple(Entity("thing", name) for name in _names(draw, "thing", NUM_THINGS, taken))
    rivers = tuple(_names(draw, "river", NUM_RIVERS, taken))
    facts: dict[tuple[str, str], Fact] = {}
    for entity in people + towns + things:
        for relation in OF_KIND[entity.kind]:
            values = _values(relation.name, people, towns, rivers)
            nobody_knows = relation.name != "kind" and draw.below(12) == 0
            value = None if nobody_knows else draw.pick(values)
            facts[entity.name, relation.name] = Fact(entity, relation, value)
    sides: tuple[Split, Split] = ("train", "test")
    kinds: tuple[Kind, ...] = ("person", "town", "thing")
    outside: dict[tuple[Split, Kind], tuple[Entity, ...]] = {
        (side, kind): tuple(Entity(kind, name) for name in _names(draw, kind, NUM_OUTSIDE, taken))
        for side in sides
        for kind in kinds
    }
    outside |= {("practice", kind): outside["train", kind] for kind in kinds}
    strangers = tuple(Entity("person", name) for name in _names(draw, "person", NUM_STRANGERS, taken))
    newcomers: dict[Kind, tuple[Entity, ...]] = {
        kind: tuple(Entity(kind, name) for name in _names(draw, kind, NUM_NEWCOMERS, taken)) for kind in kinds
    }
    return World(seed, people, towns, things, rivers, facts, outside, strangers, newcomers)
