"""Answers drawn before training: what is chosen of them, and going on after a kill."""

from itertools import pairwise

import numpy as np
import pytest
from engine import online_engine

from nurture.errors import InputError
from nurture.protocols import Sampling, Scored, Unscorable
from nurture.recipe import Draw
from nurture.records import Message, Task
from nurture.rollout.drawn import CHUNK, Drawer, chosen, draw_to, is_complete, read_drawn
from nurture.rollout.loop import Prompt, single_turn
from nurture.rollout.sampler import LocalSampler
from nurture.train.processes import Processes


def row(name, *answers):
    told = [{"text": text, "reason": ""} | ({} if score is None else {"score": score}) for text, score in answers]
    return {"task": name, "prompt": [{"role": "user", "content": name}], "answers": told}


ROWS = [
    row("easy", ("a", 1.0), ("b", 0.9), ("c", 1.0), ("a", 1.0)),
    row("hard", ("d", 0.0), ("e", 0.2), ("f", None), ("g", 0.1), (" ", 0.3), ("\0", 0.4)),
    row("flat", ("h", 0.5), ("i", 0.5)),
    row("dark", ("j", None)),
]


def kept(**settings):
    return chosen(ROWS, Draw(model="m", **settings))


def said(rows):
    return [r["messages"][-1]["content"] for r in rows]


def test_what_is_chosen():
    assert said(kept()) == ["a", "e", "h"], "the first of the best; a task without a score has none"
    assert said(kept(above=0.5)) == ["a"], "strictly above"
    assert said(kept(keep="all", above=0.15)) == ["a", "c", "b", "e", "h", "i"], "each different answer once"
    assert said(kept(keep="all", most=1)) == ["a", "e", "h"]
    pairs = [(p["chosen"][0]["content"], p["rejected"][0]["content"], p["margin"]) for p in kept(keep="pairs")]
    assert pairs == [("a", "b", pytest.approx(0.1)), ("e", "d", 0.2)], "equal scores make no pair"
    (easy, hard) = kept(keep="rankings")
    assert easy["ranks"] == [1, 1, 3] and [r[0]["content"] for r in easy["responses"]] == ["a", "c", "b"]
    assert hard["ranks"] == [1, 2, 3] and hard["scores"] == [0.2, 0.1, 0.0], "what has no score has no place"
    assert kept(keep="rankings", above=0.2) == [easy], "where the best is above"
    assert [(t["task"], t["score"]) for t in kept(keep="tasks", above=0.25, below=0.9)] == [("flat", 0.5)]
    assert [t["score"] for t in kept(keep="tasks")][1] == pytest.approx(0.2), "what cannot be learnt from has a score"
    assert [t["task"] for t in kept(keep="tasks")] == ["easy", "hard", "flat"]
    with pytest.raises(InputError, match=r"leaves nothing of 4 tasks, whose answers scored between 0 and 1;"):
        kept(above=1.0)


def test_thresholds_that_rise_keep_less_of_the_same():
    """ReST: the answers above a higher threshold are among those above a lower one."""
    some = [set(said(kept(keep="all", above=t))) for t in (-1, 0.1, 0.5, 0.9)]
    assert all(later < earlier for earlier, later in pairwise(some))


def drawing(path, judge=None, tasks=CHUNK + 9, seed=3):
    draw_one = np.random.default_rng(0)
    prompts = [
        Prompt(Task((Message("user", str(i)),), origin=f"row {i}"), draw_one.integers(8, 199, 5), f"row {i}")
        for i in range(tasks)
    ]
    lengths = lambda answers: [Scored(float(len(a.text))) for a in answers]  # noqa: E731
    sampler = LocalSampler(online_engine().models["policy"])
    sampling = Sampling(max_tokens=4, stop_ids=(7,), seed=seed)
    decode = lambda ids: " ".join(map(str, ids))  # noqa: E731
    draw_to(
        path, {"seed": seed}, prompts, Drawer(single_turn(sampler), judge or lengths, decode, 2, sampling), Processes()
    )


def test_going_on_ends_with_the_same_bytes(tmp_path):
    drawing(tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    assert len(read_drawn(tmp_path / "whole.jsonl")) == CHUNK + 9
    lines = whole.splitlines(keepends=True)
    for cut in (lines[:1], lines[: CHUNK + 1], lines[: CHUNK + 5], [*lines[: CHUNK + 3], lines[CHUNK + 3][:20]]):
        (tmp_path / "cut.jsonl").write_bytes(b"".join(cut))
        drawing(tmp_path / "cut.jsonl")
        assert (tmp_path / "cut.jsonl").read_bytes() == whole
    assert is_complete(tmp_path / "whole.jsonl", {"seed": 3}, CHUNK + 9)
    assert not is_complete(tmp_path / "whole.jsonl", {"seed": 4}, CHUNK + 9)

    def never(answers):
        raise AssertionError("what is there is not drawn again")

    drawing(tmp_path / "whole.jsonl", never)
    drawing(tmp_path / "whole.jsonl", seed=4)
    assert (tmp_path / "whole.jsonl").read_bytes() != whole, "another drawing begins anew"


def test_what_cannot_be_scored_is_written_down_and_not_learnt_from(tmp_path):
    path = tmp_path / "drawn.jsonl"
    drawing(path, lambda answers: [Unscorable("no gold") if i % 2 else Scored(1.0) for i in range(len(answers))], 3)
    rows = read_drawn(path)
    assert [["score" in a for a in r["answers"]] for r in rows] == [[True, False]] * 3
    assert len(chosen(rows, Draw(model="m", keep="all"))) == 3
