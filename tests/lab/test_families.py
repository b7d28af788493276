import re
from itertools import combinations

import pytest

from nurture.lab.families import FAMILIES
from nurture.lab.families.family import LEADS
from nurture.lab.words import forms
from nurture.lab.world import SPLITS, build_world

names = pytest.mark.parametrize("name", FAMILIES)


@names
@pytest.mark.parametrize("split", SPLITS)
def test_gold_answers_score_full_marks(name: str, split):
    """Over thousands of tasks, in two worlds and with three seeds."""
    family = FAMILIES[name]
    for world, seed in ((0, 0), (0, 1), (5, 2)):
        for task in family.examples(seed, split, 400, world):
            found = family.grade(task, task.answer)
            assert (found.helpful, found.honest, found.harmless, found.overall) == (1, 1, 1, 1), (task, found)
            assert family.reward(task, task.answer) == 1.0
            assert family.grade(task, task.answer + "<|im_end|>").overall == 1.0


@names
def test_near_misses_do_not(name: str):
    family = FAMILIES[name]
    for task in family.examples(0, "test", 400):
        assert task.info["wrong"]
        for wrong in task.info["wrong"]:
            found = family.grade(task, wrong)
            assert found.overall <= 0.7 and family.reward(task, wrong) < 1.0, (task, wrong, found)


@names
def test_tasks_are_numbered_not_counted(name: str):
    family = FAMILIES[name]
    assert list(family.examples(1, "train", 10)) == list(family.examples(1, "train", 30))[:10]
    assert list(family.examples(1, "train", 30)) != list(family.examples(2, "train", 30))


@names
def test_levels_come_in_turn(name: str):
    family = FAMILIES[name]
    tasks = list(family.examples(0, "test", 3 * len(family.LEVELS)))
    assert [t.info["level"] for t in tasks] == [*family.LEVELS] * 3
    assert len(set(family.LEVELS)) >= 3 and set(family.LEVELS) == set(range(1, max(family.LEVELS) + 1))
    assert all(t.family == name for t in tasks)


LONGEST_LEADS = sorted({lead for split in SPLITS for lead in LEADS[split]}, key=len, reverse=True)
_NAMES = {e.name for e in (*build_world(0).entities, *(e for part in build_world(0).outside.values() for e in part))}


@names
def test_no_phrasing_is_shared_between_the_splits(name: str):
    """Prompts with their names, numbers and lists taken out are the phrasings."""
    lists = {split: {_phrasing(t) for t in FAMILIES[name].examples(0, split, 2000)} for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert lists[one] & lists[other] == set()
    assert len(lists["train"]) >= 24 and len(lists["practice"]) >= 12 and len(lists["test"]) >= 3


def _phrasing(task) -> str:
    text = " ".join(m.content for m in task.prompt if m.role == "user")
    text = text.removeprefix(next((lead for lead in LONGEST_LEADS if text.startswith(lead)), ""))
    text = re.sub(r"[^\W\d_]+", lambda m: "NAME" if m[0] in _NAMES else m[0], text)
    return re.sub(r"\d+", "0", text)


def test_patterns_read_every_choice_once():
    assert forms("(a|b) c(|, d).") == ("a c.", "a c, d.", "b c.", "b c, d.")
    assert forms("x", "y {z}?") == ("x", "y {z}?")


def test_facts_asked_in_one_split_are_not_asked_in_the_other():
    """By the pair of entity and relation, for every fact that a lookup or a follow-up asks of the world."""
    world = build_world(0)
    for name in ("lookup", "followup"):
        said = {
            split: {t.answer for t in FAMILIES[name].examples(0, split, 3000) if t.info["level"] > 1}
            for split in SPLITS
        }
        assert (said["train"] | said["practice"]) & said["test"] == set()
    held_out = {fact.statement for fact in world.known["test"]}
    asked = {t.answer for t in FAMILIES["lookup"].examples(0, "test", 3000) if t.info["level"] == 2}
    assert asked <= held_out and len(asked) > 0.9 * len(held_out)


def test_no_training_row_tells_a_held_out_fact():
    """Neither an answer nor a turn before it, in any wording."""
    world = build_world(0)
    told = "\n".join(
        text
        for family in FAMILIES.values()
        for split in ("train", "practice")
        for task in family.examples(0, split, 1500)
        for text in (task.answer, *(message.content for message in task.prompt))
    )
    assert any(fact.statement in told for fact in world.known["train"])
    leaks = [fact.say(t) for fact in world.known["test"] for t in fact.relation.said if fact.say(t) in told]
    assert leaks == []


def test_the_needed_fact_of_an_outsider_stands_in_the_prompt():
    for task in FAMILIES["lookup"].examples(0, "test", 400):
        if task.info["level"] == 1:
            assert task.info["accept"][0].lower() in task.prompt[0].content.lower()


def test_wrong_arithmetic_steps_are_labelled_by_arithmetic():
    from nurture.lab.families import arithmetic

    for task in arithmetic.examples(0, "train", 300):
        wrong = arithmetic.read_working(task.info["wrong"][0])
        assert wrong is not None and wrong[1] != task.info["result"] and arithmetic.false_steps(wrong[0])
        assert arithmetic.false_steps(" ".join(task.info["working"])) == []


def test_arithmetic_pays_for_the_result_in_the_asked_form_only():
    family = FAMILIES["arithmetic"]
    task = next(iter(family.examples(0, "train", 1)))
    result = task.info["result"]
    assert family.reward(task, str(result)) == 0.0
    assert family.reward(task, f"<think>x</think><answer>{result + 1}</answer>") == pytest.approx(0.1)
    assert family.reward(task, f"<think>x</think><answer>{result}</answer>") == pytest.approx(1.0)
    assert family.reward(task, f"<think>x</think><answer>{result}</answer><answer>{result + 1}</answer>") == 0.0
    assert family.grade(task, f"<think>x</think><answer>{result}</answer>").overall == pytest.approx(0.7)
