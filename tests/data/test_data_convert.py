"""Records written in a form and read again are the same records; what a form cannot hold is refused."""

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nurture.data.convert import WRITERS, convert_file
from nurture.data.load import BadRows, Reading, load_records
from nurture.errors import InputError
from nurture.records import Completion, Conversation, Message, Pair, Ranking, Rating, Steps, Task, Text

KIND = {
    Conversation: "conversation", Completion: "conversation", Text: "text", Pair: "pair", Ranking: "ranking",
    Rating: "rating", Steps: "steps", Task: "task",
}  # fmt: skip

words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(str.strip)
numbers = st.floats(-100, 100, allow_nan=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
arguments = st.dictionaries(words, values, max_size=3)
trained = st.sampled_from([None, None, True, False])
functions = st.fixed_dictionaries({"name": words, "arguments": arguments})


@st.composite
def calls(draw, plain):
    """An assistant's turn that calls tools, and the answers; `plain` ones have no ids."""
    made = draw(st.lists(functions, min_size=1, max_size=2))
    ids = [None if plain else f"call_{i}" for i in range(len(made))]
    written = tuple(
        {"type": "function", **({} if i is None else {"id": i}), "function": f} for i, f in zip(ids, made, strict=True)
    )
    text = "" if plain else draw(st.just("") | words)
    return [
        Message("assistant", text, tool_calls=written),
        *(Message("tool", draw(words), tool_call_id=i) for i in ids),
    ]


@st.composite
def turns(draw, plain=False, answered=True):
    """A dialogue; without what only our own form and OpenAI's can hold, if `plain`."""
    said = [Message("system", draw(words))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        said.append(Message("user", draw(words), name=None if plain else draw(st.none() | words)))
        if draw(st.booleans()):
            said += draw(calls(plain))
        said.append(Message("assistant", draw(words), train=None if plain else draw(trained)))
    return tuple(said if answered else said[:-1])


def answer(text):
    return (Message("assistant", text),)


@st.composite
def pairs(draw, plain=False, margins=True):
    first, second = draw(st.lists(words, min_size=2, max_size=2, unique=True))
    margin = draw(st.none() | numbers) if margins else None
    return Pair(draw(turns(plain, answered=False)), answer(first), answer(second), margin)


@st.composite
def rankings(draw):
    n = draw(st.integers(2, 4))
    several = st.lists(words, min_size=n, max_size=n)
    ranks = tuple(draw(st.lists(st.integers(1, n), min_size=n, max_size=n)))
    scores = draw(st.none() | st.lists(numbers, min_size=n, max_size=n).map(tuple))
    return Ranking(draw(turns(answered=False)), tuple(map(answer, draw(several))), ranks, scores=scores)


@st.composite
def steps(draw, plain=False):
    n = draw(st.integers(1, 4))
    labels = st.sampled_from([0.0, 1.0]) if plain else st.floats(0, 1)
    prompt = (Message("user", draw(words)),) if plain else draw(turns(answered=False))
    return Steps(
        prompt,
        tuple(draw(st.lists(words, min_size=n, max_size=n))),
        tuple(draw(st.lists(labels, min_size=n, max_size=n))),
    )


schemas = st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": functions}), max_size=2).map(tuple)
labels = st.sampled_from([0.0, 1.0]).map(lambda v: {"desirable": v})
one_word = words.map(answer)
family = st.just("") | words

OURS = {
    Conversation: st.builds(Conversation, turns(), schemas),
    Completion: st.builds(Completion, words, words),
    Text: st.builds(Text, words),
    Pair: pairs(),
    Ranking: rankings(),
    Rating: st.builds(Rating, turns(answered=False), one_word, st.dictionaries(words, numbers, min_size=1, max_size=3)),
    Steps: steps(),
    Task: st.builds(Task, turns(answered=False), values, family, st.dictionaries(words, values, max_size=3)),
}
OPENAI = {Conversation: OURS[Conversation], Pair: pairs(margins=False)}
PLAIN = turns(plain=True, answered=False)
TRL = {
    Conversation: st.builds(Conversation, turns(plain=True), schemas),
    Completion: OURS[Completion],
    Text: OURS[Text],
    Pair: pairs(plain=True),
    Rating: st.builds(Rating, PLAIN, one_word, labels),
    Steps: steps(plain=True),
    Task: st.builds(
        Task, PLAIN, values.filter(lambda v: v is not None), family, st.dictionaries(words, values, max_size=3)
    ),
}
SHAREGPT = {
    Conversation: TRL[Conversation],
    Pair: pairs(plain=True, margins=False),
    Rating: TRL[Rating],
}
CASES = [
    (form, kind, strategy)
    for form, kinds in (("nurture", OURS), ("openai", OPENAI), ("trl", TRL), ("sharegpt", SHAREGPT))
    for kind, strategy in kinds.items()
]


@pytest.mark.parametrize("form, kind, strategy", CASES, ids=[f"{form}-{kind.__name__}" for form, kind, _ in CASES])
def test_written_and_read_again_they_are_the_same(tmp_path_factory, form, kind, strategy):
    folder = tmp_path_factory.mktemp("rows")

    @settings(max_examples=10, suppress_health_check=list(HealthCheck))
    @given(st.lists(strategy, min_size=1, max_size=3))
    def same(records):
        for written in {"nurture", form}:
            path = rows(folder / "rows.jsonl", *map(WRITERS[written], records))
            again = load_records(path, wants=KIND[kind])
            assert [bare(r) for r in again.records] == [bare(r) for r in records]
            assert not again.report.ignored

    same()


def bare(record):
    return {f: getattr(record, f) for f in record.__dataclass_fields__ if f != "origin"}


def rows(path, *values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


GOOD = {"instruction": "Add.", "output": "3"}
BAD = {"instruction": "Add.", "output": ""}


def test_the_rows_are_those_another_program_expects(tmp_path):
    source = rows(tmp_path / "rows.jsonl", {"question": "Hi", "response_j": "Hello.", "response_k": "What?"})
    wanted = {
        "openai": {
            "input": {"messages": [{"role": "user", "content": "Hi"}]},
            "preferred_output": [{"role": "assistant", "content": "Hello."}],
            "non_preferred_output": [{"role": "assistant", "content": "What?"}],
        },
        "trl": {
            "prompt": [{"role": "user", "content": "Hi"}],
            "chosen": [{"role": "assistant", "content": "Hello."}],
            "rejected": [{"role": "assistant", "content": "What?"}],
        },
        "sharegpt": {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello."},
            "rejected": {"from": "gpt", "value": "What?"},
        },
    }
    for form, row in wanted.items():
        convert_file(Reading(source), tmp_path / "out.jsonl", form)
        assert json.loads((tmp_path / "out.jsonl").read_text()) == row


def test_nothing_is_written_where_a_row_is_bad(tmp_path):
    source, out = rows(tmp_path / "rows.jsonl", GOOD, BAD), tmp_path / "out" / "rows.jsonl"
    with pytest.raises(BadRows, match=r"rows\.jsonl:2 EMPTY_ANSWER"):
        convert_file(Reading(source), out, "nurture")
    assert list(out.parent.iterdir()) == []
    report = convert_file(Reading(source), out, "nurture", on_bad_row="quarantine", max_bad_fraction=0.5)
    assert (report.rows, report.kept, report.rejected) == (2, 1, {"EMPTY_ANSWER": 1})
    assert len(out.read_text().splitlines()) == 1
    aside = out.parent / "rows.jsonl.rejected.jsonl"
    assert json.loads(json.loads(aside.read_text())["raw"]) == BAD
    convert_file(Reading(rows(tmp_path / "rows.jsonl", GOOD)), out, "nurture")
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(
    "row, form, what",
    [
        ({"messages": [{"role": "user", "content": "a", "name": "Al"}, {"role": "assistant", "content": "b"}]},
         "sharegpt", "a name beside the role"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": True}]},
         "trl", "which messages are trained"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1}, "openai", "a margin"),
        ({"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2]}, "trl", "--as pair"),
        ({"prompt": "a", "response": "b", "scores": {"honest": 1}}, "trl", "the criteria honest"),
        ({"prompt": "a", "steps": ["b"], "labels": [0.5]}, "trl", "labels between 0 and 1"),
        ({"text": "a"}, "openai", "a Text"),
    ],
)  # fmt: skip
def test_what_a_form_cannot_hold_is_refused(tmp_path, row, form, what):
    source, out = rows(tmp_path / "rows.jsonl", row), tmp_path / "out.jsonl"
    out.write_text("before")
    with pytest.raises(InputError, match=f"rows.jsonl:1 CANNOT_EXPRESS .*{what}"):
        convert_file(Reading(source), out, form)
    assert out.read_text() == "before" and sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]


def test_every_extension_holds_the_same_rows(tmp_path):
    source = rows(tmp_path / "rows.jsonl", GOOD, {"instruction": "Sag \u2028 é.", "output": "3"})
    expected = [r.messages for r in load_records(source, wants="conversation").records]
    for name in ("a.jsonl", "a.json", "a.jsonl.gz"):
        convert_file(Reading(source), tmp_path / name, "nurture")
        assert [r.messages for r in load_records(tmp_path / name, wants="conversation").records] == expected


def test_equal_rows_are_equal_bytes(tmp_path):
    source = rows(tmp_path / "rows.jsonl", GOOD)
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        convert_file(Reading(source), tmp_path / name, "nurture")
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).count(b"\n") == 1
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    with pytest.raises(InputError, match="extension"):
        convert_file(Reading(source), tmp_path / "rows.xlsx", "nurture")
