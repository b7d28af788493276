"""From files to records: each bad row has its code and line, and every row is counted."""

import json
from dataclasses import asdict

import pytest

from nurture.data.formats import FORMATS
from nurture.data.load import BadRows, Reading, load_records, write_rejected
from nurture.data.read import BadRow
from nurture.errors import DataError, InputError
from nurture.records import Completion, Conversation, Message, Text


def write(path, rows):
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def chat(*turns, **more):
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


GOOD = chat(("user", "Hi"), ("assistant", "Hello."))
ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}
PROMPT = {"prompt": "Once", "completion": " upon a time"}

BAD = [
    (GOOD, {"messages": None}, "NULL_FIELD"),
    (GOOD, {"messages": "Hi"}, "WRONG_TYPE"),
    (GOOD, {"messages": ["Hi"]}, "WRONG_TYPE"),
    (GOOD, {"messages": []}, "NO_ASSISTANT"),
    (GOOD, chat(("user", "Hi")), "NO_ASSISTANT"),
    (GOOD, chat(("user", "Hi"), ("asistant", "Hello.")), "UNKNOWN_ROLE"),
    (GOOD, {"messages": [{"content": "Hi"}, {"role": "assistant", "content": "Hello."}]}, "MISSING_ROLE"),
    (GOOD, {"messages": [{"role": None, "content": "Hi"}]}, "MISSING_ROLE"),
    (GOOD, {"messages": [{"role": 3, "content": "Hi"}]}, "WRONG_TYPE"),
    (GOOD, {"messages": [{"role": "user"}]}, "MISSING_FIELD"),
    (GOOD, {"messages": [{"role": "user", "content": None}]}, "NULL_FIELD"),
    (GOOD, {"messages": [{"role": "user", "content": 7}]}, "WRONG_TYPE"),
    (GOOD, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "WRONG_TYPE"),
    (GOOD, {"messages": [{"role": "user", "contnet": "Hi"}]}, "MISSPELT_COLUMN"),
    (GOOD, {"messages": [{"role": "assistant", "content": "Hi", "train": "no"}]}, "WRONG_TYPE"),
    (GOOD, {"messages": [{"role": "user", "content": "Hi", "tool_calls": [{"name": "f"}]}]}, "WRONG_TYPE"),
    (GOOD, chat(("system", "A"), ("system", "B"), ("user", "Hi"), ("assistant", "Hello.")), "SECOND_SYSTEM"),
    (GOOD, chat(("user", "Hi"), ("system", "B"), ("assistant", "Hello.")), "LATE_SYSTEM"),
    (GOOD, chat(("user", "Hi"), ("assistant", " \n")), "EMPTY_ANSWER"),
    (GOOD, GOOD | {"tools": "[{"}, "WRONG_TYPE"),
    (GOOD, GOOD | {"tools": ["f"]}, "WRONG_TYPE"),
    (GOOD, {"mesages": GOOD["messages"]}, "MISSPELT_COLUMN"),
    (GOOD, ALPACA, "MIXED_FORMATS"),
    (GOOD, {"id": 3}, "MISSING_FIELD"),
    (PROMPT, {"prompt": "Once"}, "MISSING_FIELD"),
    (PROMPT, {"prompt": "Once", "completion": None}, "NULL_FIELD"),
    (PROMPT, {"prompt": "Once", "completion": 7}, "WRONG_TYPE"),
    (PROMPT, {"prompt": "Once", "completion": ""}, "EMPTY_ANSWER"),
    (PROMPT, {"prompt": GOOD["messages"], "completion": "text"}, "WRONG_TYPE"),
    (PROMPT, {"prompt": "Once", "completion": GOOD["messages"]}, "WRONG_TYPE"),
    (ALPACA, {"instruction": "Add.", "input": "1 2"}, "MISSING_FIELD"),
    (ALPACA, ALPACA | {"output": None}, "NULL_FIELD"),
    (ALPACA, ALPACA | {"output": 3}, "WRONG_TYPE"),
    (ALPACA, ALPACA | {"output": " "}, "EMPTY_ANSWER"),
    (ALPACA, ALPACA | {"sytem": "Be kind."}, "MISSPELT_COLUMN"),
    (ALPACA, {"instruction": "Add.", "ouptut": "3"}, "MISSPELT_COLUMN"),
    (ALPACA, ALPACA | {"history": [["a"]]}, "WRONG_TYPE"),
    (ALPACA, ALPACA | {"history": "a"}, "WRONG_TYPE"),
]


@pytest.mark.parametrize("good, bad, code", BAD)
def test_a_bad_row_is_an_error_with_its_code_and_line(tmp_path, good, bad, code):
    path = write(tmp_path / "rows.jsonl", [good, good, bad, good])
    with pytest.raises(BadRows) as caught:
        load_records(path, wants="conversation")
    assert [(row.where, row.code) for row in caught.value.bad] == [(f"{path}:3", code)]
    assert str(caught.value).startswith(f"{path}:3 {code} ")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("good, bad, code", BAD)
def test_a_quarantined_row_is_kept_aside_as_it_was_written(tmp_path, good, bad, code):
    path = write(tmp_path / "rows.jsonl", [good, good, bad, good])
    loaded = load_records(path, wants="conversation", on_bad_row="quarantine", max_bad_fraction=0.25)
    assert list(tmp_path.iterdir()) == [path]
    aside = tmp_path / "out" / "rejected.jsonl"
    write_rejected(aside, loaded.rejected)
    (rejected,) = map(json.loads, aside.read_text().splitlines())
    assert json.loads(rejected["raw"]) == bad
    assert (rejected["where"], rejected["code"]) == (f"{path}:3", code)
    assert [r.origin for r in loaded.records] == ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:4"]
    assert loaded.report.rejected == {code: 1}
    assert loaded.report.rows == loaded.report.kept + sum(loaded.report.rejected.values()) == 4
    assert list(aside.parent.iterdir()) == [aside]


def test_twenty_are_listed_and_all_are_counted(tmp_path):
    rows = [GOOD, '{"messages": }', *[chat(("user", "Hi"))] * 30, '{"messages": NaN}']
    with pytest.raises(BadRows) as caught:
        load_records(write(tmp_path / "rows.jsonl", rows), wants="conversation")
    message = str(caught.value).splitlines()
    assert "rows.jsonl:2:14 BAD_JSON" in message[0] and "rows.jsonl:3 NO_ASSISTANT" in message[1]
    assert len(message) == 22 and message[20] == "... and 12 more"
    assert "32 of 33 rows are bad (1 BAD_JSON, 1 NOT_FINITE, 30 NO_ASSISTANT)" in message[21]
    assert caught.value.totals == {"BAD_JSON": 1, "NO_ASSISTANT": 30, "NOT_FINITE": 1}


def test_too_many_bad_rows_are_not_set_aside(tmp_path):
    path = write(tmp_path / "rows.jsonl", [GOOD] * 98 + ["nonsense"] * 2)
    with pytest.raises(BadRows, match="only where at most 1% of the rows are bad"):
        load_records(path, wants="conversation", on_bad_row="quarantine")
    loaded = load_records(path, wants="conversation", on_bad_row="quarantine", max_bad_fraction=0.02)
    assert len(loaded.records) == 98 and loaded.report.rejected == {"BAD_JSON": 2}
    write(path, ["nonsense"])
    with pytest.raises(BadRows, match="No row can be used"):
        load_records(path, wants="conversation", on_bad_row="quarantine", max_bad_fraction=1.0)


def test_a_misspelt_role_gets_a_suggestion(tmp_path):
    path = write(tmp_path / "rows.jsonl", [chat(("user", "Hi"), ("asistant", "Hello."))])
    with pytest.raises(InputError, match="Did you mean 'assistant'"):
        load_records(path, wants="conversation")


def test_an_unknown_format_lists_what_was_seen_and_what_is_known(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"frage": "1+1", "antwort": "2"}] * 3)
    with pytest.raises(DataError) as caught:
        load_records(path, wants="conversation")
    assert caught.value.code == "UNKNOWN_FORMAT"
    for word in ["'frage'", "'antwort'", *(f.name for f in FORMATS), *(c for f in FORMATS for c in f.required)]:
        assert word in str(caught.value)
    loaded = load_records(path, wants="conversation", columns={"prompt": "frage", "completion": "antwort"})
    assert loaded.records[0] == Completion("1+1", "2", "rows.jsonl:1")
    loaded = load_records(
        path, wants="conversation", format="alpaca", columns={"instruction": "frage", "output": "antwort"}
    )
    assert loaded.records[0].messages == (Message("user", "1+1"), Message("assistant", "2"))
    with pytest.raises(InputError, match="Did you mean 'alpaca'"):
        load_records(path, wants="conversation", format="alpacca")


def test_the_format_is_that_of_most_rows_over_the_whole_file(tmp_path):
    path = write(tmp_path / "rows.jsonl", [ALPACA] + [GOOD] * 3)
    with pytest.raises(BadRows) as caught:
        load_records(path, wants="conversation")
    assert [(row.where.rsplit(":")[-1], row.code) for row in caught.value.bad] == [("1", "MIXED_FORMATS")]


def test_other_columns_are_counted(tmp_path):
    rows = [GOOD | {"id": 1, "note": "n"}, GOOD | {"id": 2}, GOOD]
    rows[2] = {"messages": [{**turn, "score": 1} for turn in GOOD["messages"]]}
    report = load_records(write(tmp_path / "rows.jsonl", rows), wants="conversation").report
    assert report.ignored == {"id": 2, "note": 1, "messages[].score": 1}
    assert "id (2 rows)" in "\n".join(report.lines())
    assert json.loads(json.dumps(report.to_json()))["ignored"]["note"] == 1


def test_a_row_with_the_columns_of_two_formats_goes_by_what_is_wanted(tmp_path):
    path = write(tmp_path / "rows.jsonl", [GOOD | {"text": "Hi Hello."}])
    assert isinstance(load_records(path, wants="conversation").records[0], Conversation)
    assert load_records(path, wants="text").records == [Text("Hi Hello.", "rows.jsonl:1")]


def test_the_wrong_kind_of_data_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="use method sft"):
        load_records(write(tmp_path / "chat.jsonl", [GOOD]), wants="text")
    with pytest.raises(InputError, match="use method lm"):
        load_records(write(tmp_path / "text.jsonl", [{"text": "Once."}]), wants="conversation")


@pytest.mark.parametrize("wants", ["steps", None], ids=["train", "check"])
@pytest.mark.parametrize("column", ["steps", "completions"])
def test_steps_whose_labels_were_forgotten_are_still_steps(tmp_path, column, wants):
    row = {"prompt": "Add.", column: ["1 + 2 = 3", "3 + 3 = 6"]}
    path = write(tmp_path / "rows.jsonl", [row, row])
    found = [bad for bad in Reading(path, wants=wants) if isinstance(bad, BadRow)]
    assert [(b.where, b.code) for b in found] == [(f"{path}:{n}", "MISSING_FIELD") for n in (1, 2)]
    assert "has no 'labels'" in found[0].message
    (slip, _) = Reading(write(path, [row | {"label": [1, 0]}] * 2), wants=wants)
    assert isinstance(slip, BadRow) and "'label', which looks like 'labels'" in slip.message
    mixed = [row, row, row | {"labels": [1, 0]}]
    assert [isinstance(r, BadRow) for r in Reading(write(path, mixed), wants=wants)] == [True, True, False]
    assert len(load_records(write(path, [row]), wants="task").records) == 1, "the prompts are there"


@pytest.mark.parametrize("row", [{"steps": 5}, {"steps": []}, {"completions": [{"text": "a"}]}, {"answer": "6"}])
def test_a_prompt_with_a_column_of_that_name_is_still_a_task(tmp_path, row):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "Add.", **row}])
    assert Reading(path).kind == "task"
    with pytest.raises(InputError, match="this method learns from steps"):
        load_records(path, wants="steps")


def test_a_task_with_its_working_is_taken_for_steps_only_where_they_are_wanted(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "Add.", "answer": "6", "steps": ["1 + 2 = 3", "3 + 3 = 6"]}])
    assert len(load_records(path, wants="task").records) == 1 and Reading(path).kind == "task"
    with pytest.raises(BadRows, match=r"rows.jsonl:1 MISSING_FIELD has no 'labels'"):
        load_records(path, wants="steps")


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        (None, "NULL_FIELD"),
        ([1, None], "NULL_FIELD"),
        ("yes", "WRONG_TYPE"),
        ([1, 2], "WRONG_TYPE"),
        ([1], "LENGTHS_DIFFER"),
    ],
)
def test_bad_labels_of_steps(tmp_path, labels, code):
    row = {"prompt": "Add.", "steps": ["1 + 2 = 3", "3 + 3 = 6"], "labels": labels}
    with pytest.raises(BadRows, match=rf"rows.jsonl:1 {code} "):
        load_records(write(tmp_path / "rows.jsonl", [row]), wants="steps")


def test_messages_with_tools_parts_and_overrides(tmp_path):
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    row = {
        "tools": json.dumps([{"type": "function", "function": {"name": "add"}}]),
        "messages": [
            {"role": "system", "content": "Be kind."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Add "}, {"type": "text", "text": "one."}],
                "name": "Al",
            },
            {"role": "assistant", "content": None, "tool_calls": [call], "train": False},
            {"role": "tool", "content": "2", "tool_call_id": "c1"},
            {"role": "assistant", "content": "Two."},
        ],
    }
    (record,) = load_records(write(tmp_path / "rows.jsonl", [row]), wants="conversation").records
    assert record.tools == ({"type": "function", "function": {"name": "add"}},)
    assert record.messages == (
        Message("system", "Be kind."),
        Message("user", "Add one.", name="Al"),
        Message(
            "assistant", "", tool_calls=({**call, "function": {"name": "add", "arguments": {"a": 1}}},), train=False
        ),
        Message("tool", "2", tool_call_id="c1"),
        Message("assistant", "Two."),
    )


def test_alpaca_and_lists_of_messages(tmp_path):
    row = ALPACA | {"system": "Be kind.", "history": [["Hi", "Hello."]]}
    (record,) = load_records(write(tmp_path / "a.jsonl", [row]), wants="conversation").records
    assert [(m.role, m.content) for m in record.messages] == [
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "Add.\n1 2"),
        ("assistant", "3"),
    ]
    bare = ALPACA | {"input": "", "system": None, "history": None}
    (record,) = load_records(write(tmp_path / "a.jsonl", [bare]), wants="conversation").records
    assert [(m.role, m.content) for m in record.messages] == [("user", "Add."), ("assistant", "3")]
    turns = {"prompt": GOOD["messages"][:1], "completion": GOOD["messages"][1:]}
    (record,) = load_records(write(tmp_path / "p.jsonl", [turns]), wants="conversation").records
    assert record.messages == (Message("user", "Hi"), Message("assistant", "Hello."))


def test_one_file_in_every_clothing_gives_the_same_records(tmp_path):
    import gzip

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [chat(("user", f"Hi {i}"), ("assistant", "Hé.")) for i in range(5)]
    lines = write(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    loaded = [
        [asdict(r)["messages"] for r in load_records(path, wants="conversation").records]
        for path in sorted(tmp_path.iterdir())
    ]
    assert len(loaded) == 4 and all(records == loaded[0] for records in loaded)


def test_the_digest_follows_the_content_alone(tmp_path):
    def digest(name, rows):
        return load_records(write(tmp_path / name, rows), wants="conversation").report.sha256

    assert digest("a.jsonl", [GOOD, GOOD]) == digest("b.jsonl", [GOOD, GOOD])
    assert digest("a.jsonl", [GOOD, GOOD]) != digest("b.jsonl", [GOOD])
