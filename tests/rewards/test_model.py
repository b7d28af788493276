import pytest

from nurture.errors import InputError
from nurture.protocols import Answer, Failed, Scored
from nurture.records import Message, Task
from nurture.rewards import bind, reward_from, score_all
from nurture.rewards.model import models_in

TASK = Task((Message("system", "be kind"), Message("user", "hi")))


def test_a_bound_model_sees_the_whole_conversation():
    seen = []

    def scorer(conversations):
        seen.extend(conversations)
        return [float(len(c.messages)) for c in conversations]

    reward = reward_from({"name": "sum", "of": {"rm": {"name": "model", "model": "reward"}, "form": "format"}})
    assert list(models_in(reward)) == ["reward"]
    bind(reward, {"reward": scorer})
    turns = (Message("assistant", "a"), Message("tool", "b"), Message("assistant", "c"))
    found = score_all(reward, [Answer(TASK, "hello"), Answer(TASK, "c", turns)])
    assert [o.value for o in found] == [3.0, 5.0]
    assert seen[0].messages == (*TASK.prompt, Message("assistant", "hello")) and seen[1].messages == (
        *TASK.prompt,
        *turns,
    )


def test_not_bound():
    reward = reward_from({"name": "model", "model": "reward"})
    with pytest.raises(InputError, match="was not loaded"):
        score_all(reward, [Answer(TASK, "hello")])
    with pytest.raises(InputError, match="'reward' is asked for"):
        bind(reward, {})


def test_a_model_gone_mad_is_no_score():
    reward = reward_from({"name": "model", "model": "m"})
    bind(reward, {"m": lambda conversations: [float("nan"), 1.0]})
    found = score_all(reward, [Answer(TASK, "a")] * 2, stop_limit=0.5)
    assert isinstance(found[0], Failed) and found[1] == Scored(1.0)
