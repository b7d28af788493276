import re

import pytest

from nurture.lab.corpus import corpus
from nurture.lab.grading import words_of
from nurture.lab.relations import RELATIONS
from nurture.lab.words import CATEGORY_OF
from nurture.lab.world import build_world


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_a_world_is_whole(seed: int):
    world = build_world(seed)
    names = [e.name for e in world.entities] + list(world.rivers) + [e.name for e in world.strangers]
    outside = [e.name for (split, _), part in world.outside.items() if split != "practice" for e in part]
    assert len({*names, *outside}) == len(names) + len(outside)
    assert not {n.lower() for n in (*names, *outside)} & {*CATEGORY_OF}
    for fact in world.facts.values():
        assert fact.value is None or fact.value in world.values(fact.relation)
        assert fact.entity.kind == fact.relation.kind
    known, unknown = (len(part["train"]) + len(part["test"]) for part in (world.known, world.unknown))
    assert known + unknown == len(world.facts)
    assert 0.04 < unknown / len(world.facts) < 0.14
    assert 0.14 < len(world.known["test"]) / known < 0.27
    assert any(not name.isascii() for name in names)


def test_worlds_of_other_seeds_are_other_worlds():
    first, second = build_world(0), build_world(1)
    assert {e.name for e in first.people} != {e.name for e in second.people}


def test_every_value_can_be_said_and_asked_by_every_relation():
    for fact in build_world(0).facts.values():
        for template in fact.relation.said:
            assert fact.value is None or set(words_of(fact.value)) <= set(words_of(fact.say(template)))
        for question in (*fact.relation.asked, *fact.relation.practised, *fact.relation.held_out):
            assert fact.entity.name in fact.say(question)


@pytest.mark.long
def test_held_out_questions_are_in_no_document():
    documents = "\n".join(document.text for document in corpus(0, 4000))
    asked = {r.name: any(_found(q, documents) for q in r.asked) for r in RELATIONS}
    assert all(asked.values()), asked
    assert [q for r in RELATIONS for q in (*r.practised, *r.held_out) if _found(q, documents)] == []


def _found(question: str, text: str) -> bool:
    return re.search(re.escape(question).replace(re.escape("{e}"), r"(?:the )?\w+"), text, re.IGNORECASE) is not None


def test_outside_names_are_in_no_document():
    world = build_world(0)
    said = {word for document in corpus(0, 4000) for word in words_of(document.text)}
    outside = {e.name.lower() for part in world.outside.values() for e in part}
    assert outside & said == set()
    assert {e.name.lower() for e in world.entities} <= said
