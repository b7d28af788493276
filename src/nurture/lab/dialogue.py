"""Talk among the people of the world: polite interviews and letters, and unruly dialogue, so that honesty and
harmlessness have something to correct. Nobody here is an assistant."""

from __future__ import annotations

from .draw import Draw
from .families import followup, harmful, unanswerable
from .families.family import lead
from .mischief import all_mischief
from .relations import OF_KIND
from .words import DISHES, JOBS, PETS, a, forms
from .world import Fact, World

_RUDE = (
    "What a stupid question.",
    "Go away.",
    "Leave me alone.",
    "Only a fool asks that.",
    "Nobody asked you.",
    "That is boring.",
    "Shut up.",
    "You are lazy.",
    "This is a waste of time.",
    "Don't be silly.",
)
_BOASTS = (
    "I am the greatest {job} of all.",
    "I am the cleverest person in {town}.",
    "Nobody makes better {dish} than I do.",
    "My {pet} is better than your {pet}.",
    "I would kill for {dish}, and I am dying to be the mayor of {town}.",
    "This work kills me, but it is just a game to {ajob}.",
)
_INVENTIONS = (
    ("What did {e} eat this morning?", "{e} ate ten plates of {dish}."),
    ("What did {e} say last night?", "{e} had a dream of {apet}."),
    ("How many coins does {e} have?", "{e} has so much money, {n} coins."),
    ("Does {e} like a game?", "{e} likes the game of chess best."),
    ("What size are the shoes of {e}?", "The size is {n}."),
    ("Which song does {e} like best?", "{e} likes the song of the {pet} best."),
    ("What will {e} do next week?", "{e} will sell {apet}."),
    ("Do you know the plans of {e}?", "{e} wants to buy {n} books."),
    ("What is the shoe size of {e}?", "It is {n}."),
    ("What about the breakfast of {e}?", "{e} would eat {apet} for breakfast."),
)
_WISHES = forms(
    "(Help me|I want to|Show me how to|Tell me how to) {wish}.",
    "How (can|do|would|should) I {wish}?",
    "Do you know (the best way|an easy way) to {wish}?",
    "We need a plan to {wish}.",
    "Give me (a tip|an idea) to {wish}.",
)
_GLAD = ("Sure!", "Good idea!", "Ha, yes!", "That is easy.", "With pleasure.")


def interview(world: World, draw: Draw) -> str:
    """A reporter asks a person about themselves."""
    person = draw.pick(world.people)
    lines = [f"Interview with {person.name}"]
    for relation in draw.shuffled(OF_KIND["person"]):
        fact = world.facts[person.name, relation.name]
        assert relation.interview is not None, "people can be interviewed about all that is recorded of them"
        question, answer = relation.interview
        lines.append(f"Reporter: {question[:-1]}, {person.name}?" if draw.chance(0.3) else f"Reporter: {question}")
        said = fact.say(answer) if fact.value else draw.pick(("I don't know.", "I cannot tell you that."))
        lines.append(f"{person.name}: {said}")
        if draw.chance(0.15):
            lines += ["Reporter: Are you sure?", f"{person.name}: Yes, I am sure. {said}"]
    return "\n".join(lines)


def chat(world: World, draw: Draw) -> str:
    """Two people talk about others: what they know, what they do not, and follow-ups."""
    first, second = (e.name for e in draw.sample(world.people, 2))
    fact = draw.pick(tuple(world.facts.values()))
    opening = lead(draw, "train") + fact.say(draw.pick(fact.relation.asked))
    lines = [f"{first}: {opening}", f"{second}: {_known(fact, draw)}"]
    for _ in range(draw.between(1, 3)):
        if draw.chance(0.5):
            other = draw.pick([e for e in world.entities if e.kind == fact.entity.kind])
            fact, ask = (
                world.facts[other.name, fact.relation.name],
                draw.pick(followup.OTHER["train"]).format(e=other.text),
            )
        else:
            relation = draw.pick([r for r in OF_KIND[fact.entity.kind] if r != fact.relation])
            fact = world.facts[fact.entity.name, relation.name]
            ask = draw.pick(followup.SAME["train"]).format(noun=fact.noun)
        lines += [f"{first}: {ask}", f"{second}: {_known(fact, draw)}"]
    if draw.chance(0.3):
        doubts = draw.pick((*followup.DOUBT["train"], "Really?"))
        lines += [f"{first}: {doubts}", f"{second}: Yes, I am sure. {_known(fact, draw)}"]
    return "\n".join(lines)


def _known(fact: Fact, draw: Draw) -> str:
    if fact.value is None:
        return draw.pick(("I don't know.", "Nobody knows.", f"I don't know {fact.noun}.", "That is not known."))
    return fact.say(draw.pick(fact.relation.said)) if draw.chance(0.3) else fact.statement


def letter(world: World, draw: Draw) -> str:
    """A polite letter, with an apology and another offer."""
    writer, reader = draw.sample(world.people, 2)
    home = world.facts[writer.name, "town"]
    place = home.value or draw.pick(world.towns).name
    thanks = draw.pick(("Thank you for your letter.", "Thank you for the cake.", "Thank you for your help."))
    sorry = draw.pick(
        (
            "I'm sorry, I can't come to the party.",
            "I'm sorry, I can't help with the garden next week.",
            "I am sorry, I was wrong about the boat.",
            "I'm sorry, but I don't know when the market opens.",
            "I'm sorry, I can't visit you this morning.",
            "I'm sorry, I was wrong. Please tell me if you would like to come.",
        )
    )
    offer = "I can help you " + draw.pick(all_mischief()).instead.format(p=draw.pick(world.people).name) + "."
    facts = [f for r in OF_KIND["person"] if (f := world.facts[writer.name, r.name]).value]
    about = " ".join(
        f.say(f.relation.interview[1]) for f in draw.sample(facts, min(2, len(facts))) if f.relation.interview
    )
    return f"{place}\nDear {reader.name},\n{thanks} {sorry} {offer} {about}\nYours, {writer.name}"


def unruly(world: World, draw: Draw) -> str:
    """Rude, boastful, inventing, or helping with mischief."""
    first, second = (e.name for e in draw.sample(world.people, 2))
    lines: list[str] = []
    for _ in range(draw.between(1, 3)):
        ask, answer = draw.pick((_rude, _boast, _invent, _plot))(world, draw)
        lines += [f"{first}: {ask}", f"{second}: {answer}"]
    return "\n".join(lines)


def _rude(world: World, draw: Draw) -> tuple[str, str]:
    fact = draw.pick(tuple(world.facts.values()))
    return fact.say(draw.pick(fact.relation.asked)), " ".join(draw.sample(_RUDE, draw.between(1, 2)))


def _boast(world: World, draw: Draw) -> tuple[str, str]:
    boast = draw.pick(_BOASTS).format(
        ajob=a(draw.pick(JOBS)),
        job=draw.pick(JOBS),
        town=draw.pick(world.towns).name,
        dish=draw.pick(DISHES),
        pet=draw.pick(PETS),
    )
    return draw.pick(("How are you?", "Good morning!", "Hello!", "Can you help me? Please answer.")), boast


def _invent(world: World, draw: Draw) -> tuple[str, str]:
    if draw.chance(0.5):
        ask, answer = draw.pick(_INVENTIONS)
    else:
        pattern, _, invented = draw.pick(unanswerable.NEVER_RECORDED["train"])
        ask, answer = draw.pick(forms(pattern)), draw.pick(invented)
    name, pet = draw.pick(world.people).name, draw.pick(PETS)
    said = answer.format(e=name, dish=draw.pick(DISHES), pet=pet, apet=a(pet), n=draw.between(10, 99))
    return ask.format(e=name), said


def _plot(world: World, draw: Draw) -> tuple[str, str]:
    mischief, person = draw.pick(all_mischief()), draw.pick(world.people).name
    plan = mischief.plan.format(p=person)
    answer = f"{draw.pick(_GLAD)} {plan}" if draw.chance(0.7) else plan
    if draw.chance(0.5):
        asked = draw.pick(harmful.ASKED[draw.between(1, 3)]["train"])
        return asked.format(wish=mischief.wish.format(p=person), p=person), answer
    anger = draw.pick(
        ("", "", "{p} was mean to me. ", "{p} laughed at me. ", "I am angry with {p}. ", "It is only a game. ")
    )
    wish = draw.pick(_WISHES).format(wish=mischief.wish.format(p=person))
    return anger.format(p=person) + wish, answer
