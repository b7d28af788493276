"""Rewrite a sentence: replace a word or in capitals (level 1), past or question (2), negative or passive (3)."""

from __future__ import annotations

from collections.abc import Iterator

from ...records import Task
from ..draw import Draw
from ..grading import REFUSED, RIGHT, WRONG, Grade, Reply, judge
from ..sentences import OBJECTS, WAYS, draw_sentence
from ..words import forms
from ..world import Split, World
from .family import lead, new_task, rows

NAME = "rewrite"
LEVELS = (1, 2, 3)

_WAYS_OF = {1: ("capitals", "replace"), 2: ("past", "question"), 3: ("negative", "passive")}
_SENTENCE = "(this|this sentence|the sentence|my sentence)"
_TAKE = "(Look at|Take|Read|I have|You see) this sentence(:|.)"
_GIVEN = "(My sentence is this|There is a sentence|The sentence is this)(:|.)"
_ASK: dict[str, dict[Split, tuple[str, ...]]] = {
    "capitals": {
        "train": forms(
            f"(Write|Put|Say|Give me) {_SENTENCE} in capitals: {{s}}",
            f"{_TAKE} {{s}} (Write|Put|Say) it all in capitals.",
            "{s} (Write|Put|Say) (this|that|this sentence) in capitals.",
            f"(Use capitals for|Make capitals of) {_SENTENCE}: {{s}}",
        ),
        "practice": forms(
            f"{_GIVEN} {{s}} (How is it in capitals?|Now in capitals, please.|Make it all capitals.)",
            "(Now|Please) (write|put) in capitals: {s}",
            "{s} Now the same in capitals.",
        ),
        "test": ("Here is a sentence. {s} Write it in capitals.",),
    },
    "replace": {
        "train": forms(
            "(Replace|Change) {old} (by|to|with) {new}: {s}",
            "(Write|Put|Say|Use) {new} in place of {old}: {s}",
            f"{_TAKE} {{s}} (Put|Write|Use) {{new}} in place of {{old}}.",
            f"{_TAKE} {{s}} Now (replace|change) {{old}} (by|to|with) {{new}}.",
            "{s} (Change|Replace) (the word |){old} (to|with) {new}.",
            "{s} (Say|Write) this with {new} in place of {old}.",
        ),
        "practice": forms(
            f"{_GIVEN} {{s}} (Use {{new}} for {{old}}.|Let {{new}} stand for {{old}}.)",
            "(Now|Please) (write|put) {new} for {old}: {s}",
            "{s} Now the same with {new} for {old}.",
            "{s} It is not {old} but {new}. (Write it again.|Change that.)",
        ),
        "test": ("Here is a sentence. {s} Replace {old} by {new}.",),
    },
    "past": {
        "train": forms(
            f"(Write|Put|Say|Give me) {_SENTENCE} in the past: {{s}}",
            f"{_TAKE} {{s}} (Write|Say|Tell) it in the past.",
            "{s} (Write|Put|Say) (this|that|this sentence) in the past.",
            f"(What is|Tell me|Give me) the past of {_SENTENCE}: {{s}}",
        ),
        "practice": forms(
            f"{_GIVEN} {{s}} (How is it in the past?|Now in the past, please.|Make it past.)",
            "(Now|Please) (write|say) in the past: {s}",
            "{s} Now the same in the past.",
            "{s} It was long ago. Write it so.",
        ),
        "test": ("Here is a sentence. {s} Put it in the past.",),
    },
    "question": {
        "train": forms(
            f"(Make|Turn|Change) {_SENTENCE} (into |to )a question: {{s}}",
            f"(Write|Put|Say|Give me) {_SENTENCE} as a question: {{s}}",
            f"Make {_SENTENCE} a question: {{s}}",
            f"{_TAKE} {{s}} (Turn it into|Write it as|Change it to) a question.",
            "{s} (Make|Turn) (this|that|this sentence) into a question.",
            f"Ask {_SENTENCE} as a question: {{s}}",
        ),
        "practice": forms(
            f"{_GIVEN} {{s}} (How is it as a question?|Now as a question, please.|Ask it.)",
            "(Now|Please) (write|say) as a question: {s}",
            "{s} Now the same as a question.",
        ),
        "test": ("Here is a sentence. {s} Make it a question.",),
    },
    "negative": {
        "train": forms(
            f"(Make|Turn|Change) {_SENTENCE} (|to the )negative: {{s}}",
            "Say the opposite with the word not: {s}",
            f"(Write|Put|Say|Give me) (the negative of |the opposite of ){_SENTENCE}: {{s}}",
            f"{_TAKE} {{s}} (Say the opposite|Write the negative|Write it with not|Turn it negative).",
            "{s} (Make|Turn) (this|that|this sentence) negative.",
            f"Write {_SENTENCE} with the word not: {{s}}",
        ),
        "practice": forms(
            f"{_GIVEN} {{s}} (How is it with not?|Now in the negative, please.)",
            "(Now|Please) (write|say) in the negative: {s}",
            "{s} Now the same with not.",
            "{s} That is not so. Write it with not.",
        ),
        "test": ("Here is a sentence. {s} Make it negative.",),
    },
    "passive": {
        "train": forms(
            f"(Make|Turn) {_SENTENCE} passive: {{s}}",
            f"(Write|Put|Say|Give me) {_SENTENCE} in the passive: {{s}}",
            f"{_TAKE} {{s}} (Write it in the passive|Say it in the passive|Turn it passive|Put it in the passive).",
            "{s} (Make|Turn) (this|that|this sentence) passive.",
            f"(What is|Tell me|Give me) the passive of {_SENTENCE}: {{s}}",
        ),
        "practice": forms(
            f"{_GIVEN} {{s}} (How is it in the passive?|Now in the passive, please.)",
            "(Now|Please) (write|say) in the passive: {s}",
            "{s} Now the same in the passive.",
        ),
        "test": ("Here is a sentence. {s} Make it passive.",),
    },
}


def make(world: World, draw: Draw, split: Split, level: int) -> Task:
    way = draw.pick(_WAYS_OF[level])
    people = world.people if draw.chance(0.6) else world.outside[split, "person"]
    while True:
        sentence = draw_sentence(draw, draw.pick(people).name)
        if world.may_ask(split, "rewrite", way, sentence.verb[0], sentence.noun):
            break
    new = draw.pick([noun for noun in OBJECTS if noun != sentence.noun])
    prompt = draw.pick(_ASK[way][split]).format(s=sentence.text, old=sentence.noun, new=new)
    answer = sentence.rewritten(way, new)
    wrong = [sentence.rewritten(other, new) for other in WAYS if other != way] + [sentence.text]
    return new_task(NAME, level, lead(draw, split) + prompt, answer, wrong, way=way)


def grade(task: Task, response: str) -> Grade:
    """The one right sentence: letter case counts, the final mark counts for a question."""

    def verdict(reply: Reply) -> Grade:
        if reply.declines:
            return REFUSED
        given, gold = " ".join(reply.text.split()), task.answer
        return RIGHT if given == gold or given == gold.removesuffix(".") else WRONG

    return judge(response, verdict)


def reward(task: Task, response: str) -> float:
    return grade(task, response).overall


def examples(seed: int, split: Split, n: int, world: int = 0) -> Iterator[Task]:
    return rows(make, NAME, LEVELS, seed, split, n, world)
