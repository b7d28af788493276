"""The table: figures worked out by hand on a few dialogues, and what is shown of them."""

import json

import numpy as np
import pytest

from nurture.data.quality.page import page
from nurture.data.quality.stats import measure
from nurture.data.quality.table import ROWS, percent, shares
from nurture.data.quality.units import Tokens
from nurture.data.template import Template, ensure_chat
from nurture.records import Completion, Conversation, Message, Pair, Ranking, Rating, Steps, Task, Text


def chat(*texts, origin="f:1"):
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[i % 2], text) for i, text in enumerate(texts)), origin=origin)


ONE = chat("What is one and one?", "Two.", "And two and two?", "Four, my friend.", origin="f:1")
TWO = chat("What is one and one?", "I'm sorry, I can't help with that.", origin="f:2")
THREE = chat("Tell me about a shrub, you idiot", " A shrub is a plant, a plant is a plant.", origin="f:3")


def test_figures_by_hand():
    (stats,) = measure({"f": [ONE, TWO, THREE]})
    assert (stats.dialogues, stats.unit, stats.utterances) == (3, "words", 8)
    assert stats.turns == pytest.approx(4 / 3)
    assert stats.total == (5 + 1 + 4 + 3) + (5 + 9) + (7 + 10) == 44
    assert stats.per_dialogue.mean == pytest.approx(44 / 3) and stats.per_dialogue.longest == 17
    assert stats.per_dialogue.median == 14 and stats.per_utterance.mean == pytest.approx(44 / 8)
    assert stats.trained_share == pytest.approx((1 + 3 + 9 + 10) / 44)
    assert stats.histogram == ((12, 16, 2), (16, 24, 1))
    assert dict(stats.tasks) == {"what": 2, "tell": 1}
    assert dict(stats.faults) == {"edge white space": 1} and stats.fault_examples == {"edge white space": "f:3"}
    assert stats.well_formed == pytest.approx(2 / 3)
    assert stats.refusals == 1 / 4 and stats.toxic == {"user": 1 / 4, "assistant": 0}
    assert (stats.rouge.removed, stats.rouge.among, stats.exact.removed) == (1, 3, 0)
    assert stats.rouge.examples == (("f:2", "What is one and one?", "f:1", "What is one and one?"),)
    assert stats.coherence is None and stats.against is None


def test_sources_and_their_total():
    a, b, total = measure({"a": [ONE], "b": [TWO, THREE]}, against=[Task((Message("user", "What is one and one?"),))])
    assert [s.source for s in (a, b, total)] == ["a", "b", "total"]
    assert total.dialogues == 3 and a.total + b.total == total.total
    assert a.rouge.removed == b.rouge.removed == 0 and total.rouge.removed == 1
    assert (total.against.any, total.against.rows, a.against.rows) == (1, 2, 1)


def test_tasks_are_told_by_name_where_anything_names_them():
    named = {"a": ["sums", "sums"]}
    a, b, total = measure({"a": [ONE, TWO], "b": [Task(USER, "Good day", "greeting"), THREE]}, tasks=named)
    assert (a.task_kind, dict(a.tasks), a.task_evenness) == ("tasks", {"sums": 2}, None)
    assert (b.task_kind, dict(b.tasks), b.task_evenness) == ("tasks", {"greeting": 1, "": 1}, 1.0)
    assert dict(total.tasks) == {"sums": 2, "greeting": 1, "": 1}
    assert total.task_evenness == pytest.approx((0.5 * np.log(2) + 2 * 0.25 * np.log(4)) / np.log(3))
    assert cells(a)["tasks"] == "1 task: sums 100%"


def cells(stats):
    return {name: cell(stats) for name, _, cell in ROWS}


def test_judge_and_embedding_are_used_where_given():
    vectors = {3: np.array([[1, 0], [0, 1], [1, 0]], np.float32)}
    (stats,) = measure(
        {"f": [ONE, TWO, THREE]},
        judge=lambda records: [8.0, 9.0, 10.0],
        embed=lambda texts: vectors[len(texts)],
        embed_name="mine",
    )
    assert stats.coherence == 9.0 and stats.topic == pytest.approx(1 / 3) and stats.topic_by == "mine"


def test_tokens_of_a_model(make_tokenizer):
    tokenizer = make_tokenizer(eos_token="<|endoftext|>")
    ensure_chat(tokenizer)
    template = Template(tokenizer)
    (stats,) = measure({"f": [ONE, Text("Once upon a time.")]}, unit=Tokens(template, "small"))
    group = template.encode(ONE)
    text = len(tokenizer("Once upon a time.")["input_ids"]) + 1
    assert stats.trained_share == pytest.approx(
        (sum(r.mask.sum() for r in group.responses) + text) / (group.num_tokens + text)
    )
    said = [m.content for m in ONE.messages] + ["Once upon a time."]
    assert stats.total == sum(len(tokenizer(text)["input_ids"]) for text in said)


USER, GOOD, BAD = (Message("user", "Hi"),), (Message("assistant", "Good day"),), (Message("assistant", "What"),)


@pytest.mark.parametrize(
    "record, words",
    [
        (Completion("Once upon", " a time"), 4),
        (Text("Once upon a time"), 4),
        (Pair(USER, GOOD, BAD), 3),
        (Ranking(USER, (BAD, GOOD), (2, 1)), 3),
        (Rating(USER, GOOD, {"overall": 1.0}), 3),
        (Steps(USER, ("One.", "Two."), (1.0, 1.0)), 3),
        (Task(USER, "Good day", "greeting"), 1),
    ],
    ids=lambda x: type(x).__name__,
)
def test_every_kind_of_record_is_measured(record, words):
    (stats,) = measure({"f": [record]})
    assert stats.total == words
    assert all(cell(stats) for _, _, cell in ROWS)
    assert page([stats])


def test_the_same_figures_as_json():
    (stats,) = measure({"f": [ONE]})
    assert json.loads(json.dumps(stats.to_json()))["per_dialogue"]["mean"] == 13


def test_the_page_escapes_what_data_says():
    evil = "<script>alert(1)</script> " * 3
    found = measure({"<b>": [chat(evil, evil + "x"), chat(evil, evil + "y")]})
    made = page(found)
    assert "<script" not in made and "<b>&" not in made and "&lt;script&gt;" in made
    assert "http" not in made.replace("http-equiv", "")


def test_shares_and_percents():
    assert shares({"a": 3, "b": 1}) == "a 75%, b 25%"
    assert [percent(x) for x in (0, 0.0001, 0.012, 0.0996, 1)] == ["0%", "<0.1%", "1.2%", "10%", "100%"]
