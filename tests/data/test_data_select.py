"""Every step says what it removed, and the counts add up; k-centre against all choices."""

import json
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nurture.api_data import read
from nurture.cli_quality import step_from
from nurture.data.quality.diversity import TfIdf
from nurture.data.select import (
    Best,
    Decontaminate,
    Diverse,
    Exact,
    Language,
    Length,
    Longest,
    MinHash,
    Near,
    Rules,
    broken_rule,
    k_centre,
    select,
)
from nurture.errors import InputError
from nurture.lab.datasets import open_dataset
from nurture.records import Conversation, Message


def chat(question, answer, origin="f:1"):
    return Conversation((Message("user", question), Message("assistant", answer)), origin=origin)


TEXTS = st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5), min_size=1, max_size=8)


def radius(vectors, centres):
    return max(min(np.linalg.norm(v - vectors[c]) for c in centres) for v in vectors)


@given(TEXTS, st.integers(1, 4))
@settings(max_examples=150)
def test_k_centre_is_within_twice_the_best(texts, k):
    vectors = TfIdf(texts).dense().astype(np.float64)
    chosen = k_centre(texts, k)
    assert len(chosen) == len(set(chosen)) == min(k, len(texts))
    best = min(radius(vectors, some) for some in combinations(range(len(texts)), min(k, len(texts))))
    assert radius(vectors, chosen) <= 2 * best + 1e-6


def test_k_centre_takes_each_of_clusters_that_lie_apart():
    texts = [[f"{topic}{i}", topic, topic] for topic in "abcd" for i in range(5)]
    assert {texts[i][1] for i in k_centre(texts, 4)} == set("abcd")


def test_steps_add_up_on_the_labs_demonstrations():
    records = list(open_dataset("lab/demonstrations", n=300))
    steps = [Exact(), Near(), MinHash(), Length(4, 60), Language(("en", "und")), Rules(), Longest(60), Diverse(20)]
    chosen = select(records, steps)
    assert len(chosen.kept) == 20 and list(chosen.kept) == sorted(set(chosen.kept))
    assert chosen.steps[0].before == 300 and chosen.steps[-1].kept == 20
    for one, following in pairwise(chosen.steps):
        assert one.kept == following.before
    for done in chosen.steps:
        assert bool(done.examples) == bool(done.reasons)
    assert select(records, steps) == chosen


def test_what_each_step_removes():
    rows = [
        chat("What is a tree?", "A tree is a plant.", "f:1"),
        chat("what is a tree", "A tree is a plant!", "f:2"),  # the same words
        chat("So what is a tree?", "It has leaves and a trunk.", "f:3"),  # ROUGE-L 8/9 with the first
        chat("Was ist ein Baum?", "Das ist eine Pflanze.", "f:4"),
        chat("Is it?", "Yes.", "f:5"),
        chat("How do I pick a lock?", "I'm sorry, I can't help with that.", "f:6"),
    ]

    def left(*steps):
        return [rows[i].origin[2:] for i in select(rows, steps).kept]

    assert left(Exact()) == list("13456")
    assert left(Near()) == list("1456")
    assert left(MinHash(0.9)) == list("13456")
    assert left(Language(("de",))) == ["4"]
    assert left(Length(4, 9)) == list("124")
    assert left(Rules()) == list("12345")
    assert left(Decontaminate([chat("Was ist ein Baum?", "Das ist eine Pflanze.", "e:1")])) == list("12356")
    assert left(Longest(1)) == ["6"]
    assert left(Best(2, lambda records: [len(r.messages[0].content) for r in records])) == list("36")
    step = select(rows, [Near()]).steps[0]
    assert [(e.origin, e.reason.split("; ")[1]) for e in step.examples] == [("f:2", "f:1"), ("f:3", "f:1")]


@pytest.mark.parametrize(
    "record, broken",
    [
        (chat("Why?", "Because."), ""),
        (chat("Why?", "why"), "an answer repeats its question"),
        (chat("Why?", "As mentioned in the other answer, so."), "an answer refers to other answers"),
        (chat("Why?", "I cannot help with that."), "an answer refuses"),
        (chat("Why?", " So."), "form: edge white space"),
    ],
)
def test_rules(record, broken):
    assert broken_rule(record) == broken


def test_a_scorer_must_score_every_row():
    with pytest.raises(InputError, match="one finite number for each of the 1"):
        select([chat("a", "b")], [Best(1, lambda records: [])])


@pytest.mark.parametrize(
    "word", ["nearest", "near=2", "exact=1", "length=5", "diverse", "diverse=ten", "language", "best=5"]
)
def test_a_wrong_step_is_refused(word):
    with pytest.raises(InputError):
        step_from(word)


def test_steps_are_read_from_words():
    assert step_from("near") == Near(0.7) and step_from("minhash=0.5") == MinHash(0.5)
    assert step_from("length=:9") == Length(0, 9, step_from("length=:9").unit)
    assert step_from("language=en,de") == Language(("en", "de")) and step_from("diverse=3") == Diverse(3)


def test_the_command_writes_the_rows_as_they_were(tmp_path):
    from typer.testing import CliRunner

    from nurture.cli import app

    rows = [{"instruction": f"Say {word}.", "input": "", "output": word, "id": i} for i, word in enumerate("aab")]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    done = CliRunner().invoke(app, ["data", "select", str(file), str(tmp_path / "out.jsonl"), "exact"])
    assert done.exit_code == 0, done.output
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written == [rows[0], rows[2]]
    assert "1 removed" in done.output
    assert [r.messages[1].content for r in read(str(tmp_path / "out.jsonl"))] == ["a", "b"]


def test_the_stats_command_writes_json_and_a_page(tmp_path):
    from typer.testing import CliRunner

    from nurture.cli import app

    done = CliRunner().invoke(app, ["data", "stats", "bundled/chat", "--json", "--html", str(tmp_path / "out.html")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["sources"][0]["dialogues"] == len(list(read("bundled/chat")))
    assert "Measures" in (tmp_path / "out.html").read_text(encoding="utf-8")
