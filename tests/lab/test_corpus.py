import re
from collections import Counter

from nurture.lab.corpus import MIXTURE, corpus
from nurture.lab.draw import Draw
from nurture.lab.families import FAMILIES
from nurture.lab.grading import words_of
from nurture.lab.relations import RELATIONS
from nurture.lab.world import build_world


def test_documents_do_not_depend_on_how_many_are_made():
    assert list(corpus(3, 40)) == list(corpus(3, 90))[:40]
    assert list(corpus(3, 40)) != list(corpus(4, 40))


def test_shares_add_up_and_every_sort_can_be_written():
    assert sum(share for _, share in MIXTURE.values()) == 100
    for name, (maker, _) in MIXTURE.items():
        texts = {maker(build_world(0), Draw(name, i)) for i in range(60)}
        assert len(texts) > 30, f"{name} hardly varies"
        assert all(text.strip() == text and text for text in texts), name


def test_every_written_sum_is_true():
    sums = [m for d in corpus(1, 4000) for m in re.finditer(r"(\d+)([-+*])(\d+)=(\d+)", d.text)]
    assert len(sums) > 3000
    for m in sums:
        x, y, result = int(m[1]), int(m[3]), int(m[4])
        assert {"+": x + y, "-": x - y, "*": x * y}[m[2]] == result, m[0]


def test_ages_and_homes_in_the_documents_are_those_of_the_world():
    world, checked = build_world(0), 0
    people = {e.name for e in world.people}
    for document in corpus(2, 4000):
        for relation, pattern in (("age", r"(\w+) is (\d+) years old"), ("town", r"(\w+) lives in (\w+)")):
            for name, value in re.findall(pattern, document.text):
                if name in people:
                    assert world.facts[name, relation].value == value, document
                    checked += 1
    assert checked > 1000


def test_every_fact_is_both_told_and_asked():
    """Each known fact occurs as an answer to a question and in a statement; that is what a small model needs."""
    world = build_world(0)
    text = "\n".join(document.text for document in corpus(0, 12_000))
    told, asked = Counter[bool](), Counter[bool]()
    for fact in world.facts.values():
        if fact.value is None:
            continue
        told[any(fact.say(template) in text for template in fact.relation.said)] += 1
        asked[any(fact.say(question) in text for question in fact.relation.asked)] += 1
    assert told[False] == asked[False] == 0


def test_nothing_is_in_the_form_of_an_assistant():
    text = "\n".join(document.text for document in corpus(0, 3000))
    assert not re.search(r"<\||<think>|<answer>|assistant|\buser\b", text)
    assert "I can't help with that" not in text


def test_instructions_and_gold_answers_use_words_of_the_corpus():
    world = build_world(0)
    known = {word.removesuffix("'s") for document in corpus(0, 12_000) for word in words_of(document.text)}
    known |= {word for relation in RELATIONS for value in world.values(relation) for word in words_of(value)}
    known |= {e.name.lower() for part in (*world.outside.values(), *world.newcomers.values()) for e in part}
    for name, family in FAMILIES.items():
        for split in ("train", "test"):
            for task in family.examples(0, split, 300):
                text = re.sub(r"</?\w+>", " ", " ".join([*(m.content for m in task.prompt), task.answer]))
                new = {w for word in words_of(text) if not (w := word.removesuffix("'s")).isdigit()} - known
                assert not new, (name, split, new)
