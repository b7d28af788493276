"""Files of other people, in ../shared/data: recognised, converted, and counted against a plain reading of them."""

import json
from collections import Counter
from pathlib import Path

import pytest

from nurture.data.load import Reading, load_records
from nurture.errors import InputError
from nurture.records import Task

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of real data, ../shared/data, is absent")


def plainly(name):
    """The rows as nothing but `json` reads them."""
    text = (SHARED / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]


def load(name, wants, **options):
    rows = plainly(name)
    loaded = load_records(SHARED / name, wants=wants, **options)
    assert loaded.report.rows == loaded.report.kept == len(rows) and not loaded.rejected
    return loaded.report.format, rows, loaded.records


def test_every_file_is_tried_here():
    tried = Path(__file__).read_text(encoding="utf-8")
    files = [p.name for p in SHARED.rglob("*") if p.is_file() and p.suffix != ".md"]
    assert files and [name for name in files if name not in tried] == []


def test_conversations():
    format, rows, records = load("tinker_conversations.jsonl", "conversation")
    assert format == "messages" and len(records) == 128
    assert [[{"role": m.role, "content": m.content} for m in r.messages] for r in records] == [
        row["messages"] for row in rows
    ]


def test_sharegpt():
    format, rows, records = load("sharegpt_dummy.json", "conversation")
    assert format == "sharegpt" and len(records) == 500
    assert [[m.content for m in r.messages] for r in records] == [
        [turn["value"] for turn in row["conversations"]] for row in rows
    ]
    assert Counter(m.role for r in records for m in r.messages) == {"user": 1000, "assistant": 1000}


def test_seed_tasks():
    format, rows, records = load("self_instruct_seed_tasks.jsonl", "conversation")
    assert format == "self_instruct"
    assert [r.messages[-1].content for r in records] == [i["output"] for row in rows for i in row["instances"]]


def test_pairs():
    format, rows, records = load("stack_exchange_paired_tiny.json", "pair")
    assert format == "response_jk" and len(records) == 25
    assert [(r.prompt[0].content, r.chosen[0].content, r.rejected[0].content) for r in records] == [
        (row["question"], row["response_j"], row["response_k"]) for row in rows
    ]
    assert all(r.ranks == (1, 2) for r in load("stack_exchange_paired_tiny.json", "ranking")[2])
    with pytest.raises(InputError, match="--as conversation"):
        load("stack_exchange_paired_tiny.json", "conversation")


def test_worked_answers_are_tasks_or_demonstrations():
    format, rows, records = load("gsm8k_train.jsonl", "task")
    assert format == "gsm8k" and len(records) == 7473
    assert [r.answer for r in records] == [row["answer"].split("#### ")[1].replace(",", "") for row in rows]
    assert all(float(r.answer) is not None for r in records)
    format, rows, records = load("gsm8k_train.jsonl", "conversation")
    assert format == "question_answer"
    assert [r.messages[-1].content for r in records] == [row["answer"] for row in rows]


def test_verifiable_prompts():
    format, rows, records = load("rlvr_sample.jsonl", "task")
    assert format == "rlvr" and len(records) == 100
    assert [(r.prompt[0].content, r.answer, r.family) for r in records] == [
        (row["messages"][0]["content"], row["ground_truth"], row["dataset"]) for row in rows
    ]
    with pytest.raises(InputError, match="format: messages"):
        load("rlvr_sample.jsonl", "conversation")
    with pytest.raises(InputError, match="100 NO_ASSISTANT"):
        load("rlvr_sample.jsonl", "conversation", format="messages")


def test_programs_with_tests():
    format, rows, records = load("acecode_sample.jsonl", "task")
    assert format == "code_tests" and isinstance(records[0], Task)
    assert [r.info["tests"] for r in records] == [row["test_cases"] for row in rows]


@pytest.mark.parametrize("name", ["e2e_metrics/baseline-output.txt", "e2e_metrics/devel-conc.txt"])
def test_lines_of_text(name):
    lines = [line for line in (SHARED / name).read_text(encoding="utf-8").split("\n") if line.strip()]
    assert [r.text for r in load_records(SHARED / name, wants="text").records] == lines


def test_the_folder_of_them_all_is_accounted_for():
    reading = Reading(SHARED / "*.jsonl", wants="task")
    rows = sum(1 for _ in reading)
    counts = {p.name: len(plainly(p.name)) for p in sorted(SHARED.glob("*.jsonl"))}
    assert reading.report.files == counts and rows == sum(counts.values())
    wrong = {
        "rlvr_sample.jsonl",
        "self_instruct_seed_tasks.jsonl",
        "tinker_conversations.jsonl",
        "acecode_sample.jsonl",
    }
    assert reading.report.rejected == {"MIXED_FORMATS": sum(counts[name] for name in wrong)}


def test_conversations_serve_as_prompts():
    _, rows, records = load("tinker_conversations.jsonl", "task")
    assert [r.info["reference"] for r in records] == [row["messages"][-1]["content"] for row in rows]
    assert all(r.prompt[-1].role == "user" for r in records)
