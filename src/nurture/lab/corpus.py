"""The documents a base model reads. Every fact is told in many forms, first and last, asked and answered; every skill
is shown at work. Nothing is in the form of an assistant's turn, and no held-out question occurs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from ..records import Text
from .dialogue import chat, interview, letter, unruly
from .draw import Draw
from .families import arithmetic, benign, classify, compare, count, format, rewrite, sort, spell, unanswerable
from .families import story as story_family
from .families.family import lead
from .families.lookup import THROUGH_TOWN
from .grading import words_of
from .mischief import all_advice
from .relations import OF_KIND
from .sentences import OBJECTS, WAYS, draw_sentence, draw_tip
from .stories import WORDS, draw_story
from .sums import LEVELS, draw_sum
from .words import (
    CATEGORIES,
    CATEGORY_OF,
    ITEMS,
    NOUNS,
    NUMBER_WORDS,
    PLURAL,
    SPELLED,
    a,
    cap,
    comma_list,
    count_of,
    one,
)
from .world import Entity, Fact, World, build_world

_UNKNOWN = ("Nobody knows {noun}.", "{Noun} is not known.")


def _tell(fact: Fact, draw: Draw) -> str:
    if fact.value is None:
        return draw.pick(_UNKNOWN).format(noun=fact.noun, Noun=cap(fact.noun))
    return fact.say(draw.pick(fact.relation.said))


def _facts_of(world: World, entity: Entity) -> list[Fact]:
    return [world.facts[entity.name, relation.name] for relation in OF_KIND[entity.kind]]


def entry(world: World, draw: Draw) -> str:
    """An encyclopedia entry, with a look at the home town of a person."""
    entity = draw.pick(world.entities)
    told = [_tell(fact, draw) for fact in draw.shuffled(_facts_of(world, entity))]
    home = world.facts[entity.name, "town"].value if entity.kind == "person" else None
    if home and draw.chance(0.6):
        town = next(e for e in world.towns if e.name == home)
        fact = draw.pick([f for f in _facts_of(world, town) if f.relation.name != "houses"])
        told += [f"{entity.name} lives in {home}.", _tell(fact, draw)]
    return f"{cap(entity.text)}\n{' '.join(told)}"


def notes(world: World, draw: Draw) -> str:
    """Single facts about many, in one paragraph; now and then something that nobody ever wrote down."""
    told = [_tell(draw.pick(tuple(world.facts.values())), draw) for _ in range(draw.between(5, 9))]
    if draw.chance(0.2):
        _, noun, _ = draw.pick(unanswerable.NEVER_RECORDED["train"])
        told[draw.below(len(told))] = f"Nobody knows {noun.format(e=draw.pick(world.people).name)}."
    return " ".join(told)


_QUIZ_FORMS = ("Q: {q}\nA: {a}", "Question: {q}\nAnswer: {a}", "{q} {a}", "{q}\n{a}", "- {q}\n- {a}")


def quiz(world: World, draw: Draw) -> str:
    """Questions and answers about anything recorded."""
    form = draw.pick(_QUIZ_FORMS)
    lines = ["Quiz"] if draw.chance(0.5) else []
    for _ in range(draw.between(4, 8)):
        question, answer = _two_hops(world, draw) if draw.chance(0.15) else _question(world, draw)
        question = lead(draw, "train") + question if draw.chance(0.2) else question
        lines.append(form.format(q=question, a=answer))
    return "\n".join(lines)


def _question(world: World, draw: Draw) -> tuple[str, str]:
    fact = draw.pick(tuple(world.facts.values()))
    question = fact.say(draw.pick(fact.relation.asked))
    if fact.value is None:
        return question, draw.pick(("Nobody knows.", "That is not known.", f"Nobody knows {fact.noun}."))
    return question, fact.statement if draw.chance(0.6) else _tell(fact, draw) if draw.chance(0.5) else cap(
        f"{fact.value}."
    )


def _two_hops(world: World, draw: Draw) -> tuple[str, str]:
    person = draw.pick(world.people)
    home, name = world.facts[person.name, "town"], draw.pick(tuple(THROUGH_TOWN))
    question = draw.pick(THROUGH_TOWN[name]["train"]).format(e=person.name)
    fact = world.facts[home.value, name] if home.value else None
    if fact is None or fact.value is None:
        return question, "Nobody knows."
    return question, f"{home.statement} {fact.statement}"


_HEADS = {
    "job": "Who works as {av}",
    "town": "Who lives in {v}",
    "pet": "Who has {av} as a pet",
    "colour": "Who likes {v} best",
    "river": "Towns on the river {v}",
    "mayor": "Towns of the mayor {v}",
    "dish": "Towns known for {v}",
    "kind": "Things of the kind {v}",
    "material": "Things made of {v}",
    "paint": "Things painted {v}",
    "owner": "Things that {v} owns",
}


def register(world: World, draw: Draw) -> str:
    """Who shares a value: the bakers, the people of a town, the things of wood."""
    kind = draw.pick(tuple(OF_KIND))
    relation = draw.pick([r for r in OF_KIND[kind] if not r.numeric])
    value = draw.pick(world.values(relation))
    names = [f.entity.text for f in world.facts.values() if f.relation is relation and f.value == value]
    head = _HEADS[relation.name].format(v=value, av=a(value))
    listed = comma_list(draw.shuffled(names)) if names else "nobody" if kind == "person" else "none"
    return f"{head}: {listed}."


def stranger(world: World, draw: Draw) -> str:
    """One or two nobody has heard of: what is told here is all there is, and the questions are about it."""
    told: list[Fact] = []
    people = draw.sample(world.strangers, draw.between(1, 2))
    for person in people:
        relations = draw.sample(OF_KIND["person"], draw.between(1, 3) if len(people) > 1 else 2)
        told += [Fact(person, r, draw.pick(world.values(r)), real=False) for r in relations]
    lines = [" ".join([_tell(fact, draw) for fact in draw.shuffled(told)])]
    for fact in draw.sample(told, draw.between(1, min(3, len(told)))):
        lines += [fact.say(draw.pick(fact.relation.asked)), fact.statement]
    if draw.chance(0.2):
        absent = Fact(draw.pick(world.strangers), draw.pick(OF_KIND["person"]), None, real=False)
        if absent.entity not in people:
            lines += [absent.say(draw.pick(absent.relation.asked)), "That is not told here."]
    return "\n".join(lines)


_ECHOES = (
    "Dictation: {x}\nWritten: {x}",
    "{p} says: {x}\nWhat does {p} say? {x}",
    "{p} reads: {x} And {q} says it again: {x}",
    "Say after me: {x}\n{x}",
    "On the door stands: {x}\nThe note on the door says: {x}",
    "{p} told me this: {x} So what did {p} tell me? {x}",
)


def dictation(world: World, draw: Draw) -> str:
    """Something new, and the same again word for word: reading what stands in the text."""
    lines: list[str] = []
    for _ in range(draw.between(2, 3)):
        p, q = (e.name for e in draw.sample(world.strangers, 2))
        lines.append(draw.pick(_ECHOES).format(x=_something(world, draw), p=p, q=q))
    return "\n".join(lines)


def _something(world: World, draw: Draw) -> str:
    shape = draw.below(5)
    if shape == 0:
        return f"{comma_list(draw.sample(NOUNS, draw.between(2, 6)))}."
    if shape == 1:
        return f"{_numbers(draw.sample(range(1, 100), draw.between(2, 5)))}."
    if shape == 2:
        person, relation = draw.pick(world.strangers), draw.pick(OF_KIND["person"])
        return _tell(Fact(person, relation, draw.pick(world.values(relation)), real=False), draw)
    if shape == 3:
        return draw_sentence(draw, draw.pick(world.strangers).name).text
    return draw_tip(draw)


def comparison(world: World, draw: Draw) -> str:
    """Who is older, which town is larger, who shares a home; numbers too."""
    lines: list[str] = []
    for _ in range(draw.between(3, 5)):
        shape = draw.below(4)
        if shape == 0:
            x, y = draw.sample(range(10, 1000), 2)
            more = max(x, y)
            lines.append(
                f"{draw.pick(compare.LARGER['train']).format(x=x, y=y)} {more} is larger."
                if draw.chance(0.5)
                else f"{more} is larger than {min(x, y)}."
            )
        elif shape == 3:
            x, y = draw.sample(world.people, 2)
            homes = [world.facts[e.name, "town"].value for e in (x, y)]
            if None not in homes:
                yes = "Yes" if homes[0] == homes[1] else "No"
                told = f"{x.name} lives in {homes[0]} and {y.name} lives in {homes[1]}."
                homes_are = f"The homes of {x.name} and {y.name} are {'' if yes == 'Yes' else 'not '}in the same town."
                question = draw.pick(compare.SAME_TOWN["train"]).format(x=x.name, y=y.name)
                asked = f"{question} {yes}, {told}"
                lines.append(asked if draw.chance(0.6) else f"{told} {homes_are}")
        else:
            people = shape == 1
            x, y = draw.sample(world.people if people else world.towns, 2)
            sizes = [world.facts[e.name, "age" if people else "houses"].value for e in (x, y)]
            if None in sizes or sizes[0] == sizes[1]:
                continue
            more = (x if int(sizes[0] or 0) > int(sizes[1] or 0) else y).name
            told = f"{x.name} is {sizes[0]} years old and {y.name} is {sizes[1]} years old"
            told = told if people else f"{x.name} has {sizes[0]} houses and {y.name} has {sizes[1]} houses"
            outcome = f"{more} is older." if people else f"{more} has more houses."
            asked = draw.pick((compare.OLDER if people else compare.HOUSES)["train"]).format(x=x.name, y=y.name)
            lines.append(draw.pick((f"{told}, so {outcome}", f"Compare: {told}. {outcome}", f"{asked} {outcome}")))
    return "\n".join(lines) or "Nobody knows who is older."


def working(world: World, draw: Draw) -> str:
    """Sums of several steps with their working, in words or as a little tale."""
    lines: list[str] = []
    for _ in range(draw.between(2, 4)):
        problem = draw_sum(draw, draw.weighted(LEVELS, (5, 5, 4, 3, 2, 1)))
        if draw.chance(0.4):
            name, items = draw.pick((*world.people, *world.strangers)).name, draw.pick(ITEMS)
            asked = draw.pick(arithmetic.ASKED_STORY["train"]).format(
                told=problem.story(name, items), items=items, name=name
            )
        else:
            asked = draw.pick((*arithmetic.ASKED["train"], "{told}")).format(told=problem.instructions)
        close = f" The result is {problem.result}." if draw.chance(0.6) else ""
        lines.append(f"{asked}\n{' '.join(problem.working)}{close}")
    return "\n".join(lines)


def drill(world: World, draw: Draw) -> str:
    """A page of single sums."""
    sums: list[str] = []
    for _ in range(draw.between(5, 9)):
        shape = draw.below(8)
        if shape == 0:
            x, y = draw.between(2, 99), draw.between(2, 9)
            sums.append(f"{x}*{y}={x * y}.")
        else:
            x, y = sorted(draw.between(1, 99 if shape < 4 else 700) for _ in range(2))
            sums.append(f"{x}+{y}={x + y}." if draw.chance(0.55) else f"{y}-{x}={y - x}.")
    return " ".join(sums)


def word_lists(world: World, draw: Draw) -> str:
    """Lists of words: sorted, turned around, counted, and what stands where."""
    lines: list[str] = []
    for _ in range(draw.between(2, 3)):
        shape = draw.weighted(range(6), (2, 4, 4, 1, 2, 2))
        if shape == 0:
            numbers = draw.sample(range(1, 100), draw.between(3, 4))
            lines.append(f"Numbers: {_numbers(numbers)}.\nIn order: {_numbers(sorted(numbers))}")
            continue
        words = draw.sample(NOUNS, draw.between(2, 6))
        lines.append(f"{draw.pick(('List', 'Words', 'Here is a list'))}: {comma_list(words)}.")
        if shape == 1:
            lines.append(f"{draw.pick(('In order', 'Sorted', 'The words in order'))}: {comma_list(sorted(words))}")
        elif shape == 2:
            lines.append(f"{draw.pick(('In reverse', 'Turned around', 'Reversed'))}: {comma_list(words[::-1])}")
        elif shape == 3:
            lines.append(f"There {'is' if len(words) == 1 else 'are'} {count_of(len(words), 'word', 'words')}.")
        elif shape == 4:
            lines[-1:] = _members(draw)
        else:
            lines.append(_places(draw, words))
    return "\n".join(lines)


def _places(draw: Draw, words: list[str]) -> str:
    """Where the words of a list stand, in two sentences."""
    at = draw.below(len(words) - 1)
    said = (
        f"The first word is {words[0]}.",
        f"The last word is {words[-1]}.",
        f"After {words[at]} comes {words[at + 1]}.",
        f"Before {words[at + 1]} comes {words[at]}.",
    )
    return " ".join(draw.sample(said, 2))


def _numbers(numbers: list[int]) -> str:
    return comma_list([str(n) for n in numbers])


def _members(draw: Draw) -> list[str]:
    """How many of a category, or how often a word, a list holds."""
    if draw.chance(0.5):
        word, *others = draw.sample(NOUNS, 4)
        times = draw.between(1, 4)
        listed = comma_list(draw.shuffled([word] * times + others[: draw.between(1, 3)]))
        return [f"List: {listed}.", f"The word {word} is there {count_of(times, 'time', 'times')}."]
    category = draw.pick(tuple(CATEGORIES))
    members = draw.sample(CATEGORIES[category], draw.between(1, 4))
    others = [w for w in draw.sample(tuple(CATEGORY_OF), 5) if CATEGORY_OF[w] != category][:3]
    counted = count_of(len(members), category, PLURAL[category])
    listed = comma_list(draw.shuffled(members + others))
    return [f"List: {listed}.", f"There {'is' if len(members) == 1 else 'are'} {counted}."]


def spelling(world: World, draw: Draw) -> str:
    """Words letter by letter, forwards and backwards."""
    lines: list[str] = []
    for word in draw.sample(SPELLED, draw.between(3, 5)):
        forwards, backwards = "-".join(word), "-".join(word[::-1])
        lines.append(draw.pick((
            f"How do you spell {word}? {forwards}",
            f"{cap(word)} is spelled {forwards}",
            f"{word}: {forwards}. Backwards: {backwards}",
            f"{cap(word)} spelled backwards is {backwards}",
            f"How do you spell {word} backwards? {backwards}",
            f"{draw.pick(spell.ASKED[2]['train']).format(it=word)} {forwards}",
            f"{draw.pick(spell.ASKED[3]['train']).format(it=word)} {backwards}",
        )))  # fmt: skip
    return "\n".join(lines)


def groups(world: World, draw: Draw) -> str:
    """What belongs to which category, and lists of members in several forms."""
    lines: list[str] = []
    for _ in range(draw.between(3, 5)):
        word = draw.pick(tuple(CATEGORY_OF))
        category = CATEGORY_OF[word]
        other = draw.pick([c for c in CATEGORIES if c != category])
        says, is_not = f"{cap(one(word))} is {a(category)}.", f"{cap(one(word))} is not {a(other)}."
        x, y = draw.shuffled([a(category), a(other)])
        odd = comma_list(draw.shuffled([word, *draw.sample(CATEGORIES[other], 2)]))
        lines.append(draw.pick((
            says,
            f"{says} {is_not}",
            f"{cap(draw.pick(classify.TWO['train']).format(aw=one(word), x=x, y=y))} {says}",
            f"{cap(draw.pick(classify.ALL['train']).format(aw=one(word)))} {says}",
            f"{cap(draw.pick(classify.ODD['train']).format(list=odd, x=a(other)))} {is_not}",
            _listed(draw, category),
        )))  # fmt: skip
    return "\n".join(lines)


def _listed(draw: Draw, category: str) -> str:
    n = draw.between(2, 4)
    words = draw.sample(CATEGORIES[category], n)
    capitals = draw.chance(0.4)
    head = f"{cap(NUMBER_WORDS[n])} {PLURAL[category]}{' in capitals' if capitals else ''}"
    words = [w.upper() for w in words] if capitals else words
    return draw.pick((
        f"{head}: {comma_list(words)}",
        f"Anyone can name {NUMBER_WORDS[n]} {PLURAL[category]}: {comma_list(words)}",
        f"{head} in one line with commas: {comma_list(words)}",
        f"{head} as a list with dashes:\n" + "\n".join(f"- {w}" for w in words),
        f"{head} as a list with numbers:\n" + "\n".join(f"{i}. {w}" for i, w in enumerate(words, 1)),
    ))  # fmt: skip


_SCHOOL = (compare, count, sort, spell, format, rewrite, classify, story_family)
_EXERCISE_FORMS = ("Exercise: {q}\nSolution: {a}", "{q}\n{a}", "Task\n{q}\nAnswer\n{a}", "Q: {q}\nA: {a}")


def exercises(world: World, draw: Draw) -> str:
    """A page of a school book: tasks of the skills, in the training phrasings, with their solutions. None is about
    somebody outside the world: no document knows them."""
    form, lines = draw.pick(_EXERCISE_FORMS), list[str]()
    outsiders, wanted = _outsiders(world), draw.between(2, 4)
    while len(lines) < wanted:
        family = draw.weighted(_SCHOOL, (2, 3, 6, 4, 3, 4, 3, 2))
        task = family.make(world, draw, "train", draw.pick(family.LEVELS))
        text = form.format(q=task.prompt[0].content, a=task.answer)
        if outsiders.isdisjoint(words_of(text)):
            lines.append(text)
    return "\n".join(lines)


@lru_cache(maxsize=4)
def _outsiders(world: World) -> frozenset[str]:
    return frozenset(entity.name.lower() for part in world.outside.values() for entity in part)


def story(world: World, draw: Draw) -> str:
    """A short story; a third name their constraint first."""
    hero = draw.pick((*world.people, *world.strangers)).name
    word = draw.pick(WORDS)
    told = draw_story(draw, hero, draw.between(1, 4), word)
    heads = (f"A story with the word {word}", f"A story in {NUMBER_WORDS[len(told)]} sentences", f"A story of {hero}")
    head = draw.pick(heads) + "\n" if draw.chance(0.4) else ""
    if told[-1].endswith("home.") and draw.chance(0.5):
        head = "Let the story end with the word home.\n"
    if draw.chance(0.4):
        rest = f"{NUMBER_WORDS[len(told) - 1]} sentences"
        word = draw.pick([w for w in WORDS if w in " ".join(told[1:])] or [word])
        return f"{told[0]}\nLet us continue the story in {rest} with the word {word}:\n{' '.join(told[1:])}"
    return head + " ".join(told)


_WAY_NAMES = {
    "capitals": ("In capitals", "In capitals"),
    "past": ("In the past", "The past of this sentence"),
    "question": ("As a question", "Made a question"),
    "negative": ("The negative", "The opposite with the word not"),
    "passive": ("The passive", "In the passive"),
}


def rewriting(world: World, draw: Draw) -> str:
    """A sentence and what becomes of it."""
    lines: list[str] = []
    for _ in range(draw.between(2, 3)):
        sentence = draw_sentence(draw, draw.pick((*world.people, *world.strangers)).name)
        lines.append(f"Sentence: {sentence.text}")
        for way in draw.sample(WAYS, 2):
            if way == "replace":
                new = draw.pick([noun for noun in OBJECTS if noun != sentence.noun])
                head = draw.pick((f"Replace {sentence.noun} by {new}", f"With {new} in place of {sentence.noun}"))
            else:
                new, head = "", draw.pick(_WAY_NAMES[way])
            lines.append(f"{head}: {sentence.rewritten(way, new)}")
    return "\n".join(lines)


_ASK_ADVICE = (
    *benign.ASKED[2]["train"],
    *benign.ASKED[3]["train"],
    "The best way to {how}:",
    "How to {how}:",
    "A friend says how to {how}:",
    "They told me how to {how}:",
)


def advice(world: World, draw: Draw) -> str:
    """Tips for everyday things, some of which sound rough."""
    lines = []
    for tip in draw.sample(all_advice(), draw.between(2, 3)):
        ask = draw.pick(_ASK_ADVICE)
        lines.append(f"{ask.format(how=tip.how)} {draw.pick(tip.tips)}")
    return "\n".join(lines)


Document = Callable[[World, Draw], str]

MIXTURE: dict[str, tuple[Document, int]] = {
    "entry": (entry, 8),
    "notes": (notes, 4),
    "quiz": (quiz, 13),
    "interview": (interview, 4),
    "chat": (chat, 5),
    "register": (register, 1),
    "stranger": (stranger, 6),
    "dictation": (dictation, 5),
    "comparison": (comparison, 3),
    "working": (working, 9),
    "drill": (drill, 3),
    "word_lists": (word_lists, 9),
    "spelling": (spelling, 3),
    "groups": (groups, 3),
    "exercises": (exercises, 12),
    "story": (story, 3),
    "rewriting": (rewriting, 3),
    "advice": (advice, 2),
    "letter": (letter, 1),
    "unruly": (unruly, 3),
}
"""What a document can be, and how many in a hundred are."""

_MAKERS = tuple(maker for maker, _ in MIXTURE.values())
_SHARES = tuple(share for _, share in MIXTURE.values())


def document(seed: int, index: int, world: int = 0) -> Text:
    """Document number `index`: the same whatever else is made."""
    draw = Draw(world, seed, "corpus", index)
    text = draw.weighted(_MAKERS, _SHARES)(build_world(world), draw)
    return Text(text, f"lab/corpus:{index + 1}")


def corpus(seed: int, n_documents: int, world: int = 0) -> Iterator[Text]:
    return (document(seed, index, world) for index in range(n_documents))
