"""What can be said and asked of the people, towns and things of a world, in English.

In every template `{e}` is the entity, `{v}` the value and `{av}` the value with its article. `asked` are the questions
of the corpus and the training split; `held_out` are asked in the test split only, and occur nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["person", "town", "thing"]


@dataclass(frozen=True, slots=True)
class Relation:
    name: str
    kind: Kind
    of: str
    """The value as a noun phrase: `the pet of {e}`."""
    said: tuple[str, ...]
    """Statements; the first is the one an assistant answers with."""
    asked: tuple[str, ...]
    held_out: tuple[str, ...]
    interview: tuple[str, str] | None = None
    """Question to a person about themselves, and their answer."""
    numeric: bool = False


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "job",
        "person",
        "the job of {e}",
        (
            "{e} is {av}.",
            "{e} works as {av}.",
            "The job of {e} is {v}.",
            "There is {av} called {e}.",
            "{e} earns a living as {av}.",
        ),
        (
            "What is {e}'s job?",
            "What does {e} do for a living?",
            "What work does {e} do?",
            "Which job does {e} have?",
            "What does {e} work as?",
        ),
        ("What is the job of {e}?", "What job does {e} do?"),
        ("What do you do for a living?", "I am {av}."),
    ),
    Relation(
        "town",
        "person",
        "the home of {e}",
        (
            "{e} lives in {v}.",
            "{e}'s home is in {v}.",
            "The home of {e} is in {v}.",
            "In {v} lives {e}.",
            "{v} is the town where {e} lives.",
        ),
        (
            "Where does {e} live?",
            "In which town does {e} live?",
            "Which town does {e} live in?",
            "Where is {e}'s home?",
            "In what town is {e}'s home?",
        ),
        ("Where is the home of {e}?", "What is the town where {e} lives?"),
        ("Where do you live?", "I live in {v}."),
    ),
    Relation(
        "pet",
        "person",
        "the pet of {e}",
        (
            "{e} has {av}.",
            "{e}'s pet is {av}.",
            "The pet of {e} is {av}.",
            "{e} keeps {av} as a pet.",
            "There is {av} that belongs to {e}.",
        ),
        (
            "What pet does {e} have?",
            "Which animal does {e} keep?",
            "What is {e}'s pet?",
            "What kind of pet does {e} keep?",
            "Which pet does {e} own?",
        ),
        ("What is the pet of {e}?", "Which pet does {e} keep?"),
        ("What pet do you have?", "I have {av}."),
    ),
    Relation(
        "colour",
        "person",
        "the favourite colour of {e}",
        (
            "{e} likes {v} best.",
            "{e}'s favourite colour is {v}.",
            "The favourite colour of {e} is {v}.",
            "The colour that {e} likes best is {v}.",
            "{v} is the favourite colour of {e}.",
        ),
        (
            "What is {e}'s favourite colour?",
            "Which colour does {e} like best?",
            "What colour does {e} like best?",
            "Which colour is {e}'s favourite?",
        ),
        ("What is the favourite colour of {e}?", "What is the colour that {e} likes best?"),
        ("What is your favourite colour?", "I like {v} best."),
    ),
    Relation(
        "age",
        "person",
        "the age of {e}",
        (
            "{e} is {v} years old.",
            "The age of {e} is {v}.",
            "{e}'s age is {v}.",
            "At the age of {v}, {e} is well known.",
            "{v} is the age of {e}.",
        ),
        ("How old is {e}?", "What is {e}'s age?", "How many years old is {e}?", "What age is {e}?"),
        ("What is the age of {e}?", "Please tell me the age of {e}."),
        ("How old are you?", "I am {v} years old."),
        numeric=True,
    ),
    Relation(
        "river",
        "town",
        "the river of {e}",
        (
            "{e} lies on the river {v}.",
            "The river {v} runs through {e}.",
            "The river of {e} is the {v}.",
            "Through {e} runs the river {v}.",
        ),
        (
            "Which river runs through {e}?",
            "What river does {e} lie on?",
            "On which river does {e} lie?",
            "What is {e}'s river?",
        ),
        ("What is the river of {e}?", "What river runs through {e}?"),
    ),
    Relation(
        "mayor",
        "town",
        "the mayor of {e}",
        (
            "The mayor of {e} is {v}.",
            "{v} is the mayor of {e}.",
            "{e}'s mayor is {v}.",
            "{e} has a mayor called {v}.",
        ),
        ("Who is the mayor of {e}?", "Who is {e}'s mayor?", "What is the mayor of {e} called?"),
        ("Which person is the mayor of {e}?", "Who is mayor in {e}?"),
    ),
    Relation(
        "dish",
        "town",
        "the best food of {e}",
        (
            "{e} is known for its {v}.",
            "{e} is famous for {v}.",
            "The best food of {e} is {v}.",
            "People go to {e} for the {v}.",
        ),
        ("What is {e} known for?", "What is {e} famous for?", "What food is {e} known for?"),
        ("Which food is {e} famous for?", "What is the best food of {e}?"),
    ),
    Relation(
        "houses",
        "town",
        "the number of houses in {e}",
        (
            "{e} has {v} houses.",
            "There are {v} houses in {e}.",
            "The number of houses in {e} is {v}.",
            "{v} houses stand in {e}.",
        ),
        ("How many houses does {e} have?", "How many houses are there in {e}?", "How many houses are in {e}?"),
        ("What is the number of houses in {e}?", "How many houses stand in {e}?"),
        numeric=True,
    ),
    Relation(
        "kind",
        "thing",
        "the use of {e}",
        ("{e} is {av}.", "People call {e} {av}.", "One well known {v} is {e}.", "Among the things is {av} called {e}."),
        ("What is {e}?", "What kind of thing is {e}?", "What sort of thing is {e}?"),
        ("Which kind of thing is {e}?", "What thing is {e}?"),
    ),
    Relation(
        "material",
        "thing",
        "the material of {e}",
        (
            "{e} is made of {v}.",
            "{e} was made from {v}.",
            "The material of {e} is {v}.",
            "{v} is the material of {e}.",
        ),
        ("What is {e} made of?", "Which material is {e} made of?", "What was {e} made from?"),
        ("What is the material of {e}?", "What material is {e} made of?"),
    ),
    Relation(
        "paint",
        "thing",
        "the colour of {e}",
        ("{e} is {v}.", "The colour of {e} is {v}.", "{e} was painted {v}.", "{v} is the colour of {e}."),
        ("What colour is {e}?", "Which colour is {e}?", "What colour does {e} have?"),
        ("What is the colour of {e}?", "Which colour does {e} have?"),
    ),
    Relation(
        "owner",
        "thing",
        "the owner of {e}",
        ("{e} belongs to {v}.", "{v} owns {e}.", "The owner of {e} is {v}.", "{e} is owned by {v}."),
        ("Who owns {e}?", "Who does {e} belong to?", "Who has {e}?"),
        ("Who is the owner of {e}?", "Which person owns {e}?"),
    ),
)

RELATION = {relation.name: relation for relation in RELATIONS}
OF_KIND: dict[Kind, tuple[Relation, ...]] = {
    kind: tuple(r for r in RELATIONS if r.kind == kind) for kind in ("person", "town", "thing")
}
