"""A language model as a judge: its probabilities are those of transformers, and places cancel."""

import math

import numpy as np
import pytest
import torch
from families import tiny

from nurture.errors import InputError
from nurture.protocols import Answer, Scored, Unscorable
from nurture.records import Message, Task
from nurture.rewards import bind, reward_from, score_all
from nurture.rewards.model import models_in

TASK = Task((Message("user", "2 + 2?"),), "4")


def judged(asker, answers, **fields):
    reward = reward_from({"name": "local-judge", "model": "sft", **fields})
    assert list(models_in(reward)) == ["sft"]
    bind(reward, {}, {"sft": asker})
    return score_all(reward, answers, stop_limit=1.0)


def test_yes_or_no():
    def asker(questions, words):
        assert words == ("yes", "no") and "user: 2 + 2?" in questions[0] and "five" in questions[0]
        return [[math.log(0.3), math.log(0.1)], None]

    good, long = judged(asker, [Answer(TASK, "five"), Answer(TASK, "six")])
    assert good.value == pytest.approx(0.75) and isinstance(long, Unscorable) and long.code == "TOO_LONG"


@pytest.mark.parametrize("place", [-3.0, 0.0, 2.0])
def test_a_preference_for_a_place_cancels(place):
    """A judge whose log-odds for A are quality(A) - quality(B) + place."""

    def asker(questions, words):
        shown = [q.split("=====") for q in questions]
        quality = [[{"good": 1.0, "4": 0.0}[parts[i].strip()] for i in (4, 6)] for parts in shown]
        return [[a + place, b] for a, b in quality]

    better, same = judged(asker, [Answer(TASK, "good"), Answer(TASK, "4")], how="compare")

    def p(x):
        return 1 / (1 + np.exp(-x))

    assert better.value == pytest.approx((p(1 + place) + p(1 - place)) / 2) and better.value > 0.5
    assert same.value == pytest.approx(0.5)
    assert judged(asker, [Answer(Task((), None), "good")], how="compare")[0].code == "NO_GOLD"


def test_not_loaded():
    with pytest.raises(InputError, match="was not loaded"):
        score_all(reward_from({"name": "local-judge", "model": "sft"}), [Answer(TASK, "x")])


def test_probabilities_are_the_models_own():
    from nurture.data.template import Template, ensure_chat
    from nurture.evaluate.ready import ask
    from nurture.models.load import LoadedModel, embed_new_tokens, train_tokenizer

    tokenizer = train_tokenizer(["Is it right? yes no Yes No", "What is 2 + 2?"] * 30, 300)
    ensure_chat(tokenizer)
    model = tiny("llama")
    embed_new_tokens(model, tokenizer)
    template = Template(tokenizer)
    loaded = object.__new__(LoadedModel)
    object.__setattr__(loaded, "model", model)
    questions = ["Is it right?", "What is 2 + 2? " * 200, "What is 2 + 2?"]
    found = ask(loaded, template, questions, ("yes", "no"))
    assert found[1] is None
    model.set_attn_implementation("eager")
    for question, said in zip(questions[::2], found[::2], strict=True):
        prompt = template.encode_prompt([Message("user", question)]).tolist()
        for word, value in zip(("yes", "no"), said, strict=True):
            total = 0.0
            for spelling in (word, word.capitalize()):
                ids = tokenizer.encode(spelling, add_special_tokens=False)
                with torch.no_grad():
                    logp = model(torch.tensor([prompt + ids])).logits[0].double().log_softmax(-1)
                total += math.exp(sum(float(logp[len(prompt) - 1 + i, t]) for i, t in enumerate(ids)))
            assert value == pytest.approx(math.log(total), abs=1e-4)


def test_scored_is_between_0_and_1():
    (found,) = judged(lambda q, w: [[-900.0, 0.0]], [Answer(TASK, "x")])
    assert isinstance(found, Scored) and 0 <= found.value < 1e-9
