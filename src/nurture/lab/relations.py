"""What can be said and asked of the people, towns and things of a world, in English.

In every template `{e}` is the entity, `{v}` the value and `{av}` the value with its article. `asked` are the questions
of the corpus and the training split; `practised` and `held_out` those of the other two, and occur nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .words import forms

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
    practised: tuple[str, ...] = ()


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
        forms(
            "What is {e}'s (job|work)?",
            "What does {e} do(| for a living| for work| all day)?",
            "(What|Which) (work|job) does {e} have?",
            "What (work|kind of work) does {e} do?",
            "What does {e} work as?",
            "(Tell me|I want to know) what {e} (does|works as).",
            "Do you know what {e} does(| for a living)?",
            "How does {e} earn a living?",
        ),
        ("What is the job of {e}?", "What job does {e} do?"),
        ("What do you do for a living?", "I am {av}."),
        practised=forms(
            "(Please name|Name|Say) the (job|work) of {e}.",
            "How does {e} make a living?",
            "{e} works. As what?",
            "(What|Which) is {e}'s (trade|living)?",
            "I ask (about the work|what is the work) of {e}.",
        ),
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
        forms(
            "Where does {e} live?",
            "In (which|what) town does {e} live?",
            "(Which|What) town does {e} live in?",
            "Where is {e}'s home?",
            "In (which|what) town is {e}'s (home|house)?",
            "(Tell me|I want to know) where {e} (lives|has a home).",
            "Where can I (find|visit) {e}?",
        ),
        ("Where is the home of {e}?", "What is the town where {e} lives?"),
        ("Where do you live?", "I live in {v}."),
        practised=forms(
            "(Please name|Name|Say) the (town|home) of {e}.",
            "{e} lives in (what|which) town?",
            "Where is {e} at home?",
            "(What|Which) is {e}'s (home town|town)?",
            "I ask where {e} lives.",
        ),
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
        forms(
            "What (pet|animal|kind of pet) does {e} (have|own)?",
            "Which (animal|kind of animal) does {e} keep?",
            "What is {e}'s (pet|animal)?",
            "What kind of pet does {e} keep?",
            "Which pet does {e} (have|own)?",
            "(Tell me|I want to know) what pet {e} has.",
            "What (pet|animal) (lives with|belongs to) {e}?",
        ),
        ("What is the pet of {e}?", "Which pet does {e} keep?"),
        ("What pet do you have?", "I have {av}."),
        practised=forms(
            "(Please name|Name|Say) the (pet|animal) of {e}.",
            "{e} has (what|which) pet?",
            "What animal is at home with {e}?",
            "(Which|What kind of animal) is {e}'s pet?",
            "I ask what pet {e} keeps.",
        ),
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
        forms(
            "What is {e}'s (favourite|best) colour?",
            "(Which|What) colour does {e} like(| best| most)?",
            "Which colour is {e}'s favourite?",
            "(Tell me|I want to know) (which|what) colour {e} likes( best|).",
            "(Which|What) colour is best for {e}?",
        ),
        ("What is the favourite colour of {e}?", "What is the colour that {e} likes best?"),
        ("What is your favourite colour?", "I like {v} best."),
        practised=forms(
            "(Please name|Name|Say) the favourite colour of {e}.",
            "{e} likes (what|which) colour best?",
            "What colour makes {e} happy?",
            "(What|Which) is {e}'s colour?",
            "I ask what colour {e} likes best.",
        ),
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
        forms(
            "How old is {e}?",
            "What is {e}'s age?",
            "How many years old is {e}?",
            "What age is {e}?",
            "(Tell me|I want to know) how old {e} is.",
            "(Tell me|Give me) {e}'s age.",
            "How old is {e} (now|today|this year)?",
        ),
        ("What is the age of {e}?", "Please tell me the age of {e}."),
        ("How old are you?", "I am {v} years old."),
        numeric=True,
        practised=forms(
            "(Please name|Name|Say) the age of {e}.",
            "{e} is how old?",
            "How many years has {e}?",
            "(What|Which) is the age {e} has?",
            "I ask how old {e} is.",
        ),
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
        forms(
            "Which river runs (through|by|past) {e}?",
            "(What|Which) river does {e} lie on?",
            "On (which|what) river does {e} (lie|stand)?",
            "What is {e}'s river(| called)?",
            "(Tell me|I want to know) which river runs (through|by) {e}.",
            "What river runs (by|past) {e}?",
        ),
        ("What is the river of {e}?", "What river runs through {e}?"),
        practised=forms(
            "(Please name|Name|Say) the river (of|at) {e}.",
            "{e} lies on (what|which) river?",
            "Which river is (at|near) {e}?",
            "What is the river at {e} called?",
            "I ask which river {e} lies on.",
        ),
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
        forms(
            "Who is (the mayor of {e}|{e}'s mayor)(| now| today)?",
            "What is (the mayor of {e}|{e}'s mayor) called?",
            "(Tell me|I want to know) who is (the mayor of {e}|{e}'s mayor).",
            "Who (leads|runs) (the town of |){e}?",
        ),
        ("Which person is the mayor of {e}?", "Who is mayor in {e}?"),
        practised=forms(
            "(Please name|Name|Say) the mayor of {e}.",
            "{e} has (what|which) mayor?",
            "Which mayor has {e}?",
            "What is the name of the mayor of {e}?",
            "I ask who the mayor of {e} is.",
        ),
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
        forms(
            "What (|food )is {e} (known|famous) for?",
            "Which food is {e} known for?",
            "(Tell me|I want to know) what {e} is (known|famous) for.",
            "What (food |)do people (eat|like) (best |)in {e}?",
            "What should I eat in {e}?",
        ),
        ("Which food is {e} famous for?", "What is the best food of {e}?"),
        practised=forms(
            "(Please name|Name|Say) the food {e} is (known|famous) for.",
            "{e} is (known|famous) for (what|which) food?",
            "What food makes {e} (known|famous)?",
            "Which food is best in {e}?",
            "I ask what {e} is known for.",
        ),
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
        forms(
            "How many houses (does {e} have|are there in {e}|are in {e}|does the town of {e} have)?",
            "(Tell me|I want to know) how many houses (there are in {e}|{e} has).",
            "How many houses can you (see|count|find) in {e}?",
        ),
        ("What is the number of houses in {e}?", "How many houses stand in {e}?"),
        numeric=True,
        practised=forms(
            "(Please name|Name|Say) the number of houses in {e}.",
            "{e} has how many houses?",
            "How many are the houses of {e}?",
            "What number of houses has {e}?",
            "I ask how many houses {e} has.",
        ),
    ),
    Relation(
        "kind",
        "thing",
        "the use of {e}",
        ("{e} is {av}.", "People call {e} {av}.", "One well known {v} is {e}.", "Among the things is {av} called {e}."),
        forms(
            "What (kind of |sort of )thing is {e}?",
            "What is {e}?",
            "What do people call {e}?",
            "(Tell me|I want to know) what (|kind of thing |sort of thing ){e} is.",
            "What sort of a thing is {e}?",
        ),
        ("Which kind of thing is {e}?", "What thing is {e}?"),
        practised=forms(
            "(Please name|Name|Say) what {e} is.",
            "{e} is what?",
            "{e} is what (kind|sort) of thing?",
            "Is there a word for what {e} is?",
            "I ask what {e} is.",
        ),
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
        forms(
            "What is {e} made (of|from)?",
            "Which material is {e} made (of|from)?",
            "What was {e} made (of|from)?",
            "(Tell me|I want to know) what {e} (is|was) made (of|from).",
            "From (what|which material) was {e} made?",
        ),
        ("What is the material of {e}?", "What material is {e} made of?"),
        practised=forms(
            "(Please name|Name|Say) the material of {e}.",
            "{e} is made of what?",
            "Of (what|which) material is {e}?",
            "What did they make {e} (of|from)?",
            "I ask what {e} is made of.",
        ),
    ),
    Relation(
        "paint",
        "thing",
        "the colour of {e}",
        ("{e} is {v}.", "The colour of {e} is {v}.", "{e} was painted {v}.", "{v} is the colour of {e}."),
        forms(
            "(What|Which) colour is {e}?",
            "What colour does {e} have?",
            "(What|Which) colour was {e} painted?",
            "(Tell me|I want to know) (what|which) colour {e} (is|has).",
            "How is {e} painted?",
        ),
        ("What is the colour of {e}?", "Which colour does {e} have?"),
        practised=forms(
            "(Please name|Name|Say) the colour of {e}.",
            "{e} has (what|which) colour?",
            "In (what|which) colour is {e}?",
            "What colour did they paint {e}?",
            "I ask what colour {e} has.",
        ),
    ),
    Relation(
        "owner",
        "thing",
        "the owner of {e}",
        ("{e} belongs to {v}.", "{v} owns {e}.", "The owner of {e} is {v}.", "{e} is owned by {v}."),
        forms(
            "Who (owns|has) {e}(| now)?",
            "Who does {e} belong to?",
            "To whom does {e} belong?",
            "(Tell me|I want to know) who (owns|has) {e}.",
            "Whose is {e}?",
        ),
        ("Who is the owner of {e}?", "Which person owns {e}?"),
        practised=forms(
            "(Please name|Name|Say) the owner of {e}.",
            "{e} is whose?",
            "{e} belongs to whom?",
            "Which owner has {e}?",
            "I ask who owns {e}.",
        ),
    ),
)

RELATION = {relation.name: relation for relation in RELATIONS}
OF_KIND: dict[Kind, tuple[Relation, ...]] = {
    kind: tuple(r for r in RELATIONS if r.kind == kind) for kind in ("person", "town", "thing")
}
