import pytest

from nurture.errors import InputError
from nurture.protocols import Answer, Failed, Scored
from nurture.records import Task
from nurture.rewards import reward_class, reward_from, reward_name, score_all

OWN = """
from nurture.protocols import Scored
from nurture.rewards import Reward

def short(answers):
    return [1 / len(a.text) for a in answers]

class Vowels(Reward):
    "The number of vowels, times a factor."
    name: str = "vowels"
    factor: float = 1.0

    def one(self, answer):
        return Scored(self.factor * sum(c in "aeiou" for c in answer.text))

number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_function_of_ones_own(here):
    reward = reward_from("own_rewards:short")
    found = score_all(reward, [Answer(Task((), None), "ab")])
    assert found == [Scored(0.5)]
    assert isinstance(score_all(reward, [Answer(Task((), None), "")], stop_limit=1.0)[0], Failed)
    assert reward_from(reward.model_dump()) == reward


def test_a_class_of_ones_own(here):
    reward = reward_from({"name": "own_rewards:Vowels", "factor": 2})
    assert score_all(reward, [Answer(Task((), None), "aeb")]) == [Scored(4.0)]
    assert reward_class(reward_name(reward)) is type(reward)


@pytest.mark.parametrize(
    "written, sentence",
    [
        ("own_rewards:shrot", "own_rewards has no 'shrot'. Did you mean 'short'?"),
        ("no_rewards:short", "no module named 'no_rewards'"),
        ("own_rewards:number", "is no function"),
        ({"name": "own_rewards:short", "x": 1}, "takes no fields"),
    ],
)
def test_mistakes(here, written, sentence):
    with pytest.raises(InputError) as caught:
        reward_from(written)
    assert sentence in str(caught.value)
