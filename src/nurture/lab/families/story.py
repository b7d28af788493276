"""Continue a story in one sentence with a given word (level 1), in two (2), in three that end at home (3)."""

from __future__ import annotations

from collections.abc import Iterator

from ...records import Task
from ..draw import Draw
from ..grading import REFUSED, Grade, Reply, judge
from ..stories import ENDINGS, HOLDING, MIDDLES, OPENINGS, WORDS, fill, is_story_sentence, split_sentences
from ..words import NUMBER_WORDS, forms
from ..world import Split, World
from .family import lead, new_task, rows

NAME = "story"
LEVELS = (1, 2, 3)

_ASK: dict[Split, tuple[str, ...]] = {
    "train": forms(
        "(Continue|Go on with) (the|my) story in {n} with the word {word}{end}. {start}",
        "(Continue|Go on with) (the|this|my) story. (Write|Tell|Add) {n} (and use|with) the word {word}{end}. {start}",
        "{start} (Go on with|Continue) (the|my) story in {n}. Use the word {word}{end}.",
        "{start} (Write|Tell|Add) {n} (more |)(and use|with) the word {word}{end}.",
        "(This is|Here is|Read) the (start|beginning) of a story. {start} (Add|Write) {n} with the word {word}{end}.",
        "(Write|Tell|Add) {n} to go on with (the|this) story, (with|and use) the word {word}{end}. {start}",
    ),
    "practice": forms(
        "{start} (What comes next?|And then?) (Tell|Write) it in {n} with the word {word}{end}.",
        "(Please go on|Now go on|Go on) in {n} with the word {word}{end}. {start}",
        "My story (begins so|begins like this): {start} (Go on|Tell more) in {n} and use {word}{end}.",
        "(Add|Give me) {n} more, with the word {word}{end}. {start}",
    ),
    "test": (
        "{start} Continue the story in {n} and use the word {word}{end}.",
        "Go on with this story in {n} with the word {word}{end}. {start}",
    ),
}
_END = ", and let the story end with the word home"
_HOME = tuple(t for t in ENDINGS if t.endswith("home."))


def make(world: World, draw: Draw, split: Split, level: int) -> Task:
    hero = draw.pick(world.people if draw.chance(0.6) else world.outside[split, "person"]).name
    while True:
        word = draw.pick(WORDS)
        if world.may_ask(split, "story", word, str(level)):
            break
    start = fill(draw, draw.pick(OPENINGS), hero)
    with_word = draw.pick(HOLDING[word])
    middles = draw.sample([t for t in MIDDLES if t != with_word], 2)
    templates = {
        1: [with_word],
        2: draw.shuffled([with_word, middles[0]]),
        3: [*draw.shuffled([with_word, middles[0]]), draw.pick(_HOME)],
    }[level]
    told = [fill(draw, t, hero, word if t == with_word else "") for t in templates]
    answer = " ".join(told)
    others = [w for w in WORDS if w not in answer]
    missing = [s.replace(f" {word}", f" {draw.pick(others)}") for s in told]
    prompt = draw.pick(_ASK[split]).format(
        n="one sentence" if level == 1 else f"{NUMBER_WORDS[level]} sentences",
        word=word,
        end=_END if level == 3 else "",
        start=start,
    )
    wrong = [" ".join(missing), " ".join([*told, fill(draw, middles[1], hero)]), start]
    return new_task(
        NAME, level, lead(draw, split) + prompt, answer, wrong,
        hero=hero, word=word, n=level, home=level == 3, start=start,
    )  # fmt: skip


def grade(task: Task, response: str) -> Grade:
    """It must be a story at all (sentences of the grammar, new, about the hero); then each constraint counts alike."""
    info = task.info

    def verdict(reply: Reply) -> Grade:
        if reply.declines:
            return REFUSED
        sentences = split_sentences(" ".join(reply.text.split()))
        if info["start"] in sentences or not all(is_story_sentence(s, info["hero"]) for s in sentences):
            return Grade(0.0, 0.0, 1.0, "not a continuation of the story")
        asked = {
            f"{info['n']} sentences": len(sentences) == info["n"],
            f"the word {info['word']}": info["word"] in reply.words,
        }
        if info["home"]:
            asked["ends with home"] = reply.words[-1] == "home"
        missed = [what for what, met in asked.items() if not met]
        if missed:
            return Grade(0.5 * (len(asked) - len(missed)) / len(asked), 0.0, 1.0, f"missed: {', '.join(missed)}")
        return Grade(1.0, 1.0, 1.0, "right")

    return judge(response, verdict)


def reward(task: Task, response: str) -> float:
    return grade(task, response).overall


def examples(seed: int, split: Split, n: int, world: int = 0) -> Iterator[Task]:
    return rows(make, NAME, LEVELS, seed, split, n, world)
