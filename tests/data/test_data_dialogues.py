"""Cleaning, splitting without losing a pair, threads of a tree."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nurture import api_data
from nurture.data.dialogues import clean_sharegpt, looks_like_html, rounds, split_long, threads, to_markdown
from nurture.errors import InputError
from nurture.records import Conversation, Message

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def dump(*turns, **more):
    return {"conversations": [{"from": who, "value": text} for who, text in turns], **more}


Q, A = ("human", "What is the capital of France?"), ("gpt", "It is Paris.")


@pytest.mark.parametrize(
    "row, dropped",
    [
        (dump(Q, A), None),
        (dump(("gpt", "Welcome."), Q, A, Q), None),
        (dump(("system", "Be kind."), Q, A), None),
        (dump(Q, Q, A), "does not alternate"),
        (dump(Q), "no question with an answer"),
        (dump(("human", "a"), ("gpt", "b")), "shorter than 16 characters"),
        (dump(Q, ("gpt", "Too many requests in 1 hour.")), "blocked words"),
        (dump(Q, ("gpt", " ")), "an empty turn"),
        (dump(Q, ("alien", "It is Paris.")), "a turn without a known speaker or text"),
        ({"text": "a"}, "has no conversations"),
        (dump(Q, A, tools="[]"), "has tools"),
        (dump(("system", "Be kind."), Q, A, system="Be brief."), "two system messages"),
    ],
)
def test_cleaning(row, dropped):
    cleaned = clean_sharegpt([("f:1", row)])
    assert cleaned.dropped == ({dropped: 1} if dropped else {})
    if not dropped:
        spoken = [m for m in cleaned.conversations[0].messages if m.role != "system"]
        assert [m.role for m in spoken] == ["user", "assistant"] and spoken[1].content == "It is Paris."


def test_repetitions_are_dropped_by_id_and_by_opening():
    rows = [
        dump(Q, A, id="a"),
        dump(Q, ("gpt", "Paris, of course."), id="a"),
        dump(Q, A, ("human", "Sure?"), ("gpt", "Yes.")),
    ]
    assert clean_sharegpt(("f", row) for row in rows).dropped == {"repeats an earlier one": 2}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of real data, ../shared/data, is absent")
def test_every_real_row_is_accounted_for():
    rows = json.loads((SHARED / "sharegpt_dummy.json").read_text(encoding="utf-8"))
    cleaned = clean_sharegpt((f"f:{i}", row) for i, row in enumerate(rows))
    openings = {tuple(turn["value"].strip() for turn in row["conversations"][:2]) for row in rows}
    short = sum(len("\n".join(t["value"].strip() for t in row["conversations"])) < 16 for row in rows)
    assert cleaned.rows == 500 and len(cleaned.conversations) == len(openings) - short


def test_html_becomes_markdown():
    page = (
        '<div class="markdown"><p>Use <code>x&lt;1</code> and <strong>wait</strong>:</p>'
        '<pre><div>Copy code</div><code class="hljs language-python">if x &lt; 1:\n    <span>go</span>()\n</code></pre>'
        "<ul><li>one</li><li>two</li></ul></div>"
    )
    assert to_markdown(page) == "Use `x<1` and **wait**:\n\n```python\nif x < 1:\n    go()\n```\n\n- one\n- two"
    assert looks_like_html(page)
    assert not looks_like_html("Use `<div></div>` here, if a < b and c > d.")
    assert not looks_like_html("```html\n<p>a</p>\n```")


ROLES = st.sampled_from(["user", "assistant", "tool"])
TURNS = st.lists(st.builds(Message, ROLES, st.text("ab ", min_size=1, max_size=8)), min_size=1, max_size=12)


def size(messages):
    return sum(len(m.content) for m in messages)


@given(TURNS, st.booleans(), st.integers(1, 30))
def test_splitting_loses_nothing_and_parts_no_pair(turns, with_system, longest):
    system = (Message("system", "be"),) if with_system else ()
    whole = Conversation((*system, *turns), origin="f:1")
    pieces = split_long(whole, longest, size)
    bodies = [piece.messages[len(system) :] for piece in pieces]
    assert [m for body in bodies for m in body] == turns
    assert all(piece.messages[: len(system)] == system for piece in pieces)
    assert all(body[0].role == "user" for body in bodies[1:])
    for piece, body in zip(pieces, bodies, strict=True):
        assert size(piece.messages) <= longest or len(rounds(body)) == 1
    for body, following in pairwise(bodies):  # no piece could have taken the next round in
        assert size((*system, *body, *rounds(following)[0])) > longest
    assert len({piece.origin for piece in pieces}) == len(pieces)


def test_a_short_one_stays_itself():
    whole = Conversation((Message("user", "a"), Message("assistant", "b")), origin="f:1")
    assert split_long(whole, 10, size) == [whole]


def node(role, text, *replies, **more):
    return {"role": role, "text": text, "replies": list(replies), **more}


TREE = {
    "tree_state": "ready_for_export",
    "prompt": node(
        "prompter",
        "q",
        node("assistant", "bad", rank=1),
        node("assistant", "good", node("prompter", "q2", node("assistant", "a2")), node("prompter", "open"), rank=0),
        node("assistant", "gone", deleted=True),
        node("assistant", "failed", node("prompter", "q3", node("assistant", "a3")), review_result=False),
    ),
}


def said(conversations):
    return [" ".join(m.content for m in c.messages) for c in conversations]


def test_threads_of_a_tree():
    assert said(threads(TREE)) == ["q bad", "q good q2 a2"]
    assert said(threads(TREE, best_only=True)) == ["q good q2 a2"]
    assert [m.role for m in threads(TREE)[1].messages] == ["user", "assistant"] * 2
    assert [c.origin for c in threads(TREE, "f:3")] == ["f:3#0", "f:3#1"]
    assert threads({**TREE, "tree_state": "growing"}) == []
    assert threads({"prompt": node("prompter", "q")}) == []


# ---- the commands ----


def command(*words):
    from typer.testing import CliRunner

    from nurture.cli import app

    return CliRunner().invoke(app, ["data", *map(str, words)])


def test_a_dump_is_cleaned_to_a_file(tmp_path):
    html = ("gpt", "<p>It is <b>Paris</b>.</p>")
    rows = [dump(Q, html, Q, system="Be brief."), dump(Q, Q), dump(Q, ("gpt", "Regenerate response")), dump(Q, Q, A)]
    source, out = tmp_path / "dump.json", tmp_path / "out.jsonl"
    source.write_text(json.dumps(rows), encoding="utf-8")
    done = command("clean", source, out)
    assert done.exit_code == 0, done.output
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": Q[1]},
            {"role": "assistant", "content": "It is **Paris**."},
        ]}
    ]  # fmt: skip
    for line in ("4 dialogues, 1 kept", "1 dropped: blocked words", "1 mended: HTML to Markdown"):
        assert line in done.output
    source.write_text(json.dumps(rows[1:2]), encoding="utf-8")
    with pytest.raises(InputError, match=r"no dialogue is left \(1 no question with an answer\)"):
        api_data.clean(source, tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


@given(st.lists(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=6), min_size=1,
                max_size=4), st.integers(2, 12))  # fmt: skip
@settings(max_examples=40)
def test_splitting_a_file_loses_no_pair(tmp_path, dialogues, longest):
    """Each dialogue is questions and answers of so many words; an answer of none is missing, and only the last can."""
    rows, pairs, number = [], [], 0
    for rounds_of in dialogues:
        turns = []
        for place, (asked, said) in enumerate(rounds_of):
            said = said or (1 if place == 0 or place + 1 < len(rounds_of) else 0)
            number += 1
            turns.append({"role": "user", "content": " ".join([f"q{number}"] * asked)})
            if said:
                turns.append({"role": "assistant", "content": " ".join([f"a{number}"] * said)})
                pairs.append((turns[-2]["content"], turns[-1]["content"]))
        rows.append({"messages": turns})
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = api_data.split(source, out, longest)
    pieces = [json.loads(line)["messages"] for line in out.read_text().splitlines()]
    found = [(a["content"], b["content"]) for p in pieces for a, b in pairwise(p)
             if (a["role"], b["role"]) == ("user", "assistant")]  # fmt: skip
    assert found == pairs
    lengths = [sum(len(m["content"].split()) for m in piece) for piece in pieces]
    long = [length for length, piece in zip(lengths, pieces, strict=True) if length > longest]
    assert all(len(p) <= 2 for p, n in zip(pieces, lengths, strict=True) if n > longest)
    assert (counts["dialogues"], counts["pieces"], counts["too_long"]) == (len(rows), len(pieces), len(long))


def test_a_file_is_split_by_the_tokens_of_a_model(tmp_path):
    turns = [{"role": role, "content": "Tell me of the sea."} for _ in range(4) for role in ("user", "assistant")]
    rows = [{"messages": [{"role": "system", "content": "Be brief."}, *turns, turns[0]]}]
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = api_data.load_template("lab")
    longest = template.encode(Conversation(tuple(Message(m["role"], m["content"]) for m in rows[0]["messages"][:5])),
                              "assistant").length  # fmt: skip
    done = command("split", source, out, "--longest", longest, "--model", "lab")
    assert done.exit_code == 0, done.output
    pieces = [json.loads(line)["messages"] for line in out.read_text().splitlines()]
    assert [[m["role"][0] for m in piece] for piece in pieces] == [list("suaua")] * 2
    assert "1 of them split: 2 rows" in done.output and "1 last questions without an answer" in done.output
