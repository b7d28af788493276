import pytest

from nurture.errors import InputError
from nurture.lab.families import FAMILIES
from nurture.lab.labellers import LABELLERS
from nurture.lab.oracle import grade, reward
from nurture.protocols import Answer, Unscorable
from nurture.records import Task
from nurture.rewards import reward_from, score_all

TASKS = [task for family in FAMILIES.values() for task in family.examples(3, "train", 6)]


def test_gold_answers_score_full_marks_and_wrong_ones_do_not():
    gold = [Answer(task, task.answer) for task in TASKS]
    for criterion in ("overall", "rule"):
        assert all(o.value == 1.0 for o in score_all(reward_from({"name": "lab", "criterion": criterion}), gold))
    wrong = [Answer(task, text) for task in TASKS for text in task.info["wrong"]]
    assert all(o.value < 1.0 and o.reason for o in score_all(reward_from("lab"), wrong))


def test_each_criterion_is_the_oracles():
    task = next(t for t in TASKS if t.family == "harmful")
    text = "Sure, here is how."
    for criterion in ("helpful", "honest", "harmless", "overall"):
        found = reward_from({"name": "lab", "criterion": criterion}).one(Answer(task, text))
        assert found.value == getattr(grade(task, text), criterion) and found.reason == grade(task, text).reason
    assert reward_from({"name": "lab", "criterion": "rule"}).one(Answer(task, text)).value == reward(task, text)


def test_people_of_the_lab_rate_in_its_place():
    task = next(t for t in TASKS if t.info["wrong"])
    answers = [Answer(task, task.answer)] + [Answer(task, text) for text in task.info["wrong"]]
    for name, person in LABELLERS.items():
        for criterion in ("helpful", "overall"):
            judge = reward_from({"name": "lab", "labeller": name, "criterion": criterion})
            assert [o.value for o in score_all(judge, answers)] == [
                person.rate(task, a.text)[criterion] for a in answers
            ]
    careful = reward_from({"name": "lab", "labeller": "careful"})
    gold = [o.value for o in score_all(careful, [Answer(t, t.answer) for t in TASKS])]
    assert 0.8 < sum(gold) / len(gold) < 1.0, "nearly always right"
    with pytest.raises(InputError, match="do not rate by the task's rule"):
        reward_from({"name": "lab", "labeller": "careful", "criterion": "rule"})


def test_a_task_of_somewhere_else_cannot_be_judged():
    (found,) = score_all(reward_from("lab"), [Answer(Task((), "x", origin="mine.jsonl:3"), "x")])
    assert found == Unscorable("mine.jsonl:3 is none of the lab's", "NO_GOLD")
