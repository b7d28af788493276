import numpy as np
import pytest

from nurture.errors import InputError
from nurture.protocols import Answer, Failed, Scored, Unscorable
from nurture.records import Message, Task
from nurture.rewards import Reward, reward_from, score_all

TASK = Task((Message("user", "?"),), "5")
GOOD = Answer(TASK, "<think>2+3</think><answer>5</answer>")
BARE = Answer(TASK, "5")
WRONG = Answer(TASK, "<think>2+3</think><answer>6</answer>")
NO_GOLD = Answer(Task((), None), "<think>2+3</think><answer>6</answer>")
NUMBER = {"name": "number", "where": "answer"}
asked = []


class Counting(Reward):
    """Remembers whom it was asked about."""

    name: str = "counting"

    def one(self, answer):
        asked.append(answer.text)
        return Scored(3.0)


class Failing(Reward):
    """Never works."""

    name: str = "failing"

    def one(self, answer):
        raise OSError("gone")


def of(reward, *answers):
    return score_all(reward_from(reward), answers, stop_limit=1.0)


def test_sum():
    found = of({"name": "sum", "of": {"right": NUMBER, "form": "format"}, "weights": {"form": 0.2}}, GOOD, BARE, WRONG)
    assert [o.value for o in found] == pytest.approx([1.2, 0.0, 0.2])
    assert [p.value for p in found[2].parts.values()] == [0.0, 1.0]
    assert "right 0 (6 is not 5)" in found[2].reason


def test_product():
    found = of({"name": "product", "of": {"right": NUMBER, "form": "format"}}, GOOD, BARE, WRONG)
    assert [o.value for o in found] == [1.0, 0.0, 0.0]


class Says(Reward):
    """Worth what it was told, answer by answer."""

    name: str = "says"
    values: tuple[float, ...]

    def score(self, answers):
        return list(self.values)


def test_ensemble_is_the_mean_less_the_deviation():
    members = np.array([[1.0, 2.0, 0.0], [3.0, 2.0, -1.0], [2.0, 2.0, 7.0]])
    of = {str(i): Says(values=tuple(row)) for i, row in enumerate(members)}
    found = score_all(reward_from({"name": "ensemble", "of": of, "penalty": 0.5}), [GOOD] * 3)
    assert [o.value for o in found] == pytest.approx(members.mean(0) - 0.5 * members.std(0))
    assert [p.value for p in found[2].parts.values()] == members[:, 2].tolist()
    with pytest.raises(InputError, match="ensemble"):
        reward_from({"name": "ensemble", "of": {"a": "exact"}})


def test_gate_asks_only_about_what_passes():
    asked.clear()
    found = of({"name": "gate", "gate": "format", "reward": Counting(), "otherwise": -1}, GOOD, BARE, WRONG)
    assert [o.value for o in found] == [3.0, -1.0, 3.0]
    assert asked == [GOOD.text, WRONG.text]


def test_a_part_that_cannot_judge_or_fails():
    found = of({"name": "sum", "of": {"right": NUMBER, "form": "format"}}, NO_GOLD, GOOD)
    assert isinstance(found[0], Unscorable) and found[0].code == "NO_GOLD" and found[0].reason.startswith("right: ")
    assert found[0].parts["form"] == Scored(1.0, "in the form")
    assert isinstance(found[1], Scored)
    both = of({"name": "product", "of": {"a": NUMBER, "b": Failing()}}, NO_GOLD)
    assert isinstance(both[0], Failed) and both[0].reason == "b: OSError: gone"
    gated = of({"name": "gate", "gate": NUMBER, "reward": Counting()}, NO_GOLD)
    assert isinstance(gated[0], Unscorable)
    failing = of({"name": "gate", "gate": "format", "reward": Failing()}, GOOD, BARE)
    assert isinstance(failing[0], Failed) and failing[1].value == 0


def test_nested_and_there_and_back():
    written = {
        "name": "gate",
        "gate": "format",
        "reward": {"name": "sum", "of": {"a": NUMBER, "b": {"name": "length", "at_most": 9}}},
    }
    reward = reward_from(written)
    again = reward_from(reward.model_dump(mode="json"))
    assert again == reward and again.reward.of["b"].at_most == 9


@pytest.mark.parametrize(
    "written, sentence",
    [
        ("nomber", "'nomber' is not a reward. Did you mean 'number'?"),
        ({"name": "number", "tolerence": 1}, "reward 'number' has no field 'tolerence'. Did you mean 'tolerance'?"),
        ({"name": "length"}, "reward 'length' needs the field 'at_most'."),
        ({"name": "sum", "of": {}}, "reward 'sum': of:"),
        ({"name": "sum", "of": {"a": "exakt"}}, "Did you mean 'exact'?"),
        ({"name": "sum", "of": {"right": "exact"}, "weights": {"rigt": 1}}, "no part 'rigt'. Did you mean 'right'?"),
        ({"of": {}}, "a reward is written as its name or as {name: ..., fields}"),
        (3, "not as 3"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_sentence(written, sentence):
    with pytest.raises(InputError) as caught:
        reward_from(written)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
