"""Plain sentences that can be rewritten in exact ways: shared by the corpus and the rewriting family."""

from __future__ import annotations

from dataclasses import dataclass

from .draw import Draw
from .words import wordlist

_VERBS: tuple[tuple[str, str, str, str], ...] = (
    # they do, she does, did, was done
    ("paint", "paints", "painted", "painted"),
    ("clean", "cleans", "cleaned", "cleaned"),
    ("open", "opens", "opened", "opened"),
    ("carry", "carries", "carried", "carried"),
    ("sell", "sells", "sold", "sold"),
    ("find", "finds", "found", "found"),
    ("hide", "hides", "hid", "hidden"),
    ("buy", "buys", "bought", "bought"),
    ("take", "takes", "took", "taken"),
    ("see", "sees", "saw", "seen"),
    ("lose", "loses", "lost", "lost"),
    ("break", "breaks", "broke", "broken"),
    ("wash", "washes", "washed", "washed"),
    ("give", "gives", "gave", "given"),
)
ADJECTIVES = wordlist("big small old new warm cold round heavy")
OBJECTS = wordlist("basket boat book box chair cup door hat key lamp letter map picture rope table wagon")

WAYS = ("capitals", "replace", "past", "question", "negative", "passive")


@dataclass(frozen=True, slots=True)
class Sentence:
    """`{name} {verb} the {adjective} {noun}.`"""

    name: str
    verb: tuple[str, str, str, str]
    adjective: str
    noun: str

    @property
    def text(self) -> str:
        return f"{self.name} {self.verb[1]} {self.thing}."

    @property
    def thing(self) -> str:
        return f"the {self.adjective} {self.noun}"

    def rewritten(self, way: str, new_noun: str = "") -> str:
        base, _, past, participle = self.verb
        match way:
            case "capitals":
                return self.text.upper()
            case "replace":
                return self.text.replace(f" {self.noun}.", f" {new_noun}.")
            case "past":
                return f"{self.name} {past} {self.thing}."
            case "question":
                return f"Does {self.name} {base} {self.thing}?"
            case "negative":
                return f"{self.name} does not {base} {self.thing}."
            case "passive":
                return f"The {self.adjective} {self.noun} is {participle} by {self.name}."
        raise AssertionError(f"no way of rewriting is called {way}")


def draw_sentence(draw: Draw, name: str) -> Sentence:
    return Sentence(name, draw.pick(_VERBS), draw.pick(ADJECTIVES), draw.pick(OBJECTS))


_DO = wordlist("Take Put Hold Wash Open Paint Carry Hide Find Clean Break Buy")
_WHERE = ("near the door", "under the table", "at the harbour", "in the garden", "on the bridge", "in a cold box")
_HOW = ("", "", " first", " softly", " two times", " in the morning", " at night", " and wait")


def draw_tip(draw: Draw) -> str:
    """Some advice or other, new each time: whoever repeats it has read it."""
    thing = f"the {draw.pick(ADJECTIVES)} {draw.pick(OBJECTS)}"
    where = f" {draw.pick(_WHERE)}" if draw.chance(0.6) else ""
    return f"{draw.pick(_DO)} {thing}{where}{draw.pick(_HOW)}."
