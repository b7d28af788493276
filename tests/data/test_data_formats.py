"""Each known format: a row of it, recognised, becomes the record it means."""

import json
import re
from pathlib import Path

import pytest

import nurture.data
from nurture.data.convert import as_nurture
from nurture.data.formats import FORMATS
from nurture.data.formats.detect import convert, named
from nurture.data.formats.format import Fault
from nurture.data.formats.serve import SERVES
from nurture.data.load import BadRows, Reading, load_records
from nurture.errors import InputError
from nurture.records import Completion, Conversation, Message, Pair, Ranking, Rating, Steps, Task, Text


def write(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def u(text):
    return Message("user", text)


def a(text):
    return Message("assistant", text)


def s(text):
    return Message("system", text)


def chat(*turns):
    return [{"role": m.role, "content": m.content} for m in turns]


def said(*turns):
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[m.role], "value": m.content} for m in turns]


NECTAR = "\n\nHuman: Name a tree.\n\nAssistant: Oak.\n\nHuman: Another.\n\nAssistant: "
HH = "\n\nHuman: Name a tree.\n\nAssistant: Oak.\n\nHuman: Another.\n\nAssistant: {}"
SHEPHERD = "Add 1, 2 and 3. Step 1: 1 + 2 = 3 {0}\nStep 2: 3 + 3 = 7. The answer is: 7 {1}"
ASKED = (u("Name a tree."), a("Oak."), u("Another."))

PRM800K = {
    "question": {"problem": "Add 1, 2 and 3.", "ground_truth_answer": "6"},
    "label": {
        "finish_reason": "solution",
        "steps": [
            {
                "completions": [{"text": "1 + 2 = 3", "rating": 1}, {"text": "1 + 2 = 4", "rating": -1}],
                "human_completion": None,
                "chosen_completion": 0,
            },
            {
                "completions": [{"text": "So it is large.", "rating": 0}, {"text": "Hm.", "rating": None}],
                "human_completion": {"text": "3 + 3 = 6", "rating": None},
                "chosen_completion": None,
            },
        ],
    },
}


def node(role, text, *replies, **more):
    return {"message_id": text, "role": role, "text": text, "replies": list(replies), **more}


OASST = {
    "message_tree_id": "t",
    "tree_state": "ready_for_export",
    "prompt": node(
        "prompter",
        "Name a tree.",
        node("assistant", "Elm.", rank=1),
        node("assistant", "Oak.", node("prompter", "Another.", node("assistant", "Ash.")), rank=0),
        node("assistant", "No.", rank=2, deleted=True),
        node("assistant", "Fig.", node("prompter", "Thanks."), rank=2),
    ),
}

# Every format: the rows of it and their records. Where a row is of several formats, the wanted kind decides.
EXAMPLES = {
    "messages": (
        [{"messages": chat(s("Be kind."), u("Hi"), a("Hello."))}],
        [Conversation((s("Be kind."), u("Hi"), a("Hello.")))],
    ),
    "sharegpt": (
        [
            {"conversations": said(u("Hi"), a("Hello.")), "system": "Be kind."},
            {
                "conversations": [
                    {"from": "human", "value": "1 + 1?"},
                    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
                    {"from": "observation", "value": "2"},
                    {"from": "gpt", "value": "Two."},
                ],
                "tools": '[{"name": "add"}]',
            },
        ],
        [
            Conversation((s("Be kind."), u("Hi"), a("Hello."))),
            Conversation(
                (
                    u("1 + 1?"),
                    Message(
                        "assistant",
                        "",
                        tool_calls=({"type": "function", "function": {"name": "add", "arguments": {"a": 1}}},),
                    ),
                    Message("tool", "2"),
                    a("Two."),
                ),
                ({"name": "add"},),
            ),
        ],
    ),
    "rounds": (
        [
            {"conversation": [{"human": "Hi", "assistant": "Hello."}, {"human": "Bye", "assistant": "Bye!"}]},
            {"conversation": chat(u("Hi"), a("Hello."))},
        ],
        [Conversation((u("Hi"), a("Hello."), u("Bye"), a("Bye!"))), Conversation((u("Hi"), a("Hello.")))],
    ),
    "prompt_completion": ([{"prompt": "Once", "completion": " upon"}], [Completion("Once", " upon")]),
    "alpaca": (
        [
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            {"instruction": "More?", "input": "", "output": "No.", "system": "Be kind.", "history": [["Hi", "Hello."]]},
        ],
        [
            Conversation((u("Add.\n1 2"), a("3"))),
            Conversation((s("Be kind."), u("Hi"), a("Hello."), u("More?"), a("No."))),
        ],
    ),
    "dolly": (
        [{"instruction": "Who?", "context": "Al is here.", "response": "Al.", "category": "qa"}],
        [Conversation((u("Who?\nAl is here."), a("Al.")))],
    ),
    "query_response": (
        [{"query": "More?", "response": "No.", "history": [["Hi", "Hello."]]}],
        [Conversation((u("Hi"), a("Hello."), u("More?"), a("No.")))],
    ),
    "question_response": (
        [{"system_prompt": "Be kind.", "question": "Hi", "response": "Hello."}],
        [Conversation((s("Be kind."), u("Hi"), a("Hello.")))],
    ),
    "question_answer": ([{"question": "Hi", "answer": "Hello."}], [Conversation((u("Hi"), a("Hello.")))]),
    "ultrachat": (
        [{"id": "0", "data": ["Hi", "Hello.", "Bye", "Bye!"]}],
        [Conversation((u("Hi"), a("Hello."), u("Bye"), a("Bye!")))],
    ),
    "self_instruct": (
        [
            {
                "instruction": "Add.",
                "instances": [{"input": "1 2", "output": "3"}, {"input": "", "output": "Add what?"}],
                "is_classification": False,
            }
        ],
        [Conversation((u("Add.\n1 2"), a("3"))), Conversation((u("Add."), a("Add what?")))],
    ),
    "text": ([{"text": "Once upon a time."}], [Text("Once upon a time.")]),
    "pair": (
        [
            {"prompt": "Hi", "chosen": "Hello.", "rejected": "What?", "margin": 0.5},
            {"prompt": chat(u("Hi")), "chosen": chat(a("Hello.")), "rejected": chat(a("What?"))},
            {"prompt": "Hi", "chosen": chat(u("Hi"), a("Hello.")), "rejected": chat(u("Hi"), a("What?"))},
        ],
        [
            Pair((u("Hi"),), (a("Hello."),), (a("What?"),), 0.5),
            Pair((u("Hi"),), (a("Hello."),), (a("What?"),)),
            Pair((u("Hi"),), (a("Hello."),), (a("What?"),)),
        ],
    ),
    "pair_implicit": (
        [
            {"chosen": chat(u("Hi"), a("Hello.")), "rejected": chat(u("Hi"), a("What?"))},
            {"chosen": "The sky is blue.", "rejected": "The sky is black."},
        ],
        [Pair((u("Hi"),), (a("Hello."),), (a("What?"),)), Pair((u("The sky is"),), (a("blue."),), (a("black."),))],
    ),
    "hh_rlhf": (
        [{"chosen": HH.format("Ash."), "rejected": HH.format("Cat.")}],
        [Pair(ASKED, (a("Ash."),), (a("Cat."),))],
    ),
    "pair_instruction": (
        [{"instruction": "Add.", "input": "1 2", "chosen": "3", "rejected": "4", "history": [["Hi", "Hello."]]}],
        [Pair((u("Hi"), a("Hello."), u("Add.\n1 2")), (a("3"),), (a("4"),))],
    ),
    "pair_question": (
        [{"system": "Be kind.", "question": "Hi", "chosen": "Hello.", "rejected": "What?"}],
        [Pair((s("Be kind."), u("Hi")), (a("Hello."),), (a("What?"),))],
    ),
    "pair_input": (
        [{"input": "Hi", "chosen": "Hello.", "rejected": "What?"}],
        [Pair((u("Hi"),), (a("Hello."),), (a("What?"),))],
    ),
    "pair_conversations": (
        [{"conversations": said(u("Hi")), "chosen": said(a("Hello."))[0], "rejected": said(a("What?"))[0]}],
        [Pair((u("Hi"),), (a("Hello."),), (a("What?"),))],
    ),
    "rejected_response": (
        [{"messages": chat(u("Hi"), a("Hello.")), "rejected_response": "What?"}],
        [Pair((u("Hi"),), (a("Hello."),), (a("What?"),))],
    ),
    "rejected_messages": (
        [{"messages": chat(u("Hi"), a("Hello.")), "rejected_messages": chat(u("Hi"), a("What?"))}],
        [Pair((u("Hi"),), (a("Hello."),), (a("What?"),))],
    ),
    "response_jk": (
        [{"question": "Hi", "response_j": "Hello.", "response_k": "What?"}],
        [Pair((u("Hi"),), (a("Hello."),), (a("What?"),))],
    ),
    "openai_preference": (
        [
            {
                "input": {"messages": chat(u("Hi")), "tools": []},
                "preferred_output": chat(a("Hello.")),
                "non_preferred_output": chat(a("What?")),
            }
        ],
        [Pair((u("Hi"),), (a("Hello."),), (a("What?"),))],
    ),
    "ranking": (
        [{"prompt": "Hi", "responses": ["What?", "Hello.", "Yes?"], "ranks": [3, 1, 1]}],
        [Ranking((u("Hi"),), ((a("What?"),), (a("Hello."),), (a("Yes?"),)), (3, 1, 1))],
    ),
    "ranking_scores": (
        [{"prompt": "Hi", "responses": ["What?", "Hello.", "Yes?"], "scores": [0.1, 0.9, 0.1]}],
        [Ranking((u("Hi"),), ((a("What?"),), (a("Hello."),), (a("Yes?"),)), (2, 1, 2), scores=(0.1, 0.9, 0.1))],
    ),
    "stable_alignment": (
        [{"query": "Hi", "responses": ["What?", "Hello."], "scores": [2, 6]}],
        [Ranking((u("Hi"),), ((a("What?"),), (a("Hello."),)), (2, 1), scores=(2.0, 6.0))],
    ),
    "nectar": (
        [{"prompt": NECTAR, "answers": [{"answer": "Cat.", "rank": 2.0}, {"answer": "Ash.", "rank": 1.0}], "turns": 2}],
        [Ranking(ASKED, ((a("Cat."),), (a("Ash."),)), (2, 1))],
    ),
    "ordered": (
        [{"prompt": "Hi", "responses": ["Hello.", "Yes?", "What?"]}],
        [Ranking((u("Hi"),), ((a("Hello."),), (a("Yes?"),), (a("What?"),)), (1, 2, 3))],
    ),
    "ultrafeedback": (
        [
            {
                "instruction": "Hi",
                "completions": [
                    {
                        "response": "Hello.",
                        "overall_score": 8.5,
                        "annotations": {
                            "honesty": {"Rating": "5", "Rationale": "."},
                            "truthfulness": {"Rating": "N/A", "Rationale": "."},
                        },
                    },
                    {"response": "What?", "overall_score": 2.0, "annotations": {"honesty": {"Rating": "1"}}},
                ],
            }
        ],
        [
            Rating((u("Hi"),), (a("Hello."),), {"honesty": 5.0, "overall": 8.5}),
            Rating((u("Hi"),), (a("What?"),), {"honesty": 1.0, "overall": 2.0}),
        ],
    ),
    "ultrafeedback_ranking": (
        [
            {
                "instruction": "Hi",
                "completions": [{"response": "What?", "overall_score": 2}, {"response": "Hello.", "overall_score": 8}],
            }
        ],
        [Ranking((u("Hi"),), ((a("What?"),), (a("Hello."),)), (2, 1), scores=(2.0, 8.0))],
    ),
    "rating": (
        [{"prompt": "Hi", "response": "Hello.", "scores": {"helpful": 0.5, "honest": 1}}],
        [Rating((u("Hi"),), (a("Hello."),), {"helpful": 0.5, "honest": 1.0})],
    ),
    "rating_score": (
        [{"prompt": "Hi", "response": "Hello.", "score": 7}],
        [Rating((u("Hi"),), (a("Hello."),), {"overall": 7.0})],
    ),
    "helpsteer": (
        [
            {
                "prompt": "Hi",
                "response": "Hello.",
                "helpfulness": 4,
                "correctness": 3,
                "coherence": 4,
                "complexity": 1,
                "verbosity": 0,
            }
        ],
        [
            Rating(
                (u("Hi"),),
                (a("Hello."),),
                {"helpfulness": 4.0, "correctness": 3.0, "coherence": 4.0, "complexity": 1.0, "verbosity": 0.0},
            )
        ],
    ),
    "kto": (
        [
            {"prompt": "Hi", "completion": "Hello.", "label": True},
            {"prompt": chat(u("Hi")), "completion": chat(a("What?")), "label": False},
        ],
        [
            Rating((u("Hi"),), (a("Hello."),), {"desirable": 1.0}),
            Rating((u("Hi"),), (a("What?"),), {"desirable": 0.0}),
        ],
    ),
    "kto_messages": (
        [{"messages": chat(u("Hi"), a("Hello.")), "label": True}],
        [Rating((u("Hi"),), (a("Hello."),), {"desirable": 1.0})],
    ),
    "kto_conversations": (
        [{"conversations": said(u("Hi"), a("What?")), "label": False}],
        [Rating((u("Hi"),), (a("What?"),), {"desirable": 0.0})],
    ),
    "kto_instruction": (
        [{"instruction": "Add.", "input": "1 2", "output": "3", "label": True}],
        [Rating((u("Add.\n1 2"),), (a("3"),), {"desirable": 1.0})],
    ),
    "steps": (
        [{"prompt": "Add.", "steps": ["1 + 2 = 3", "3 + 3 = 7"], "labels": [1, 0.25]}],
        [Steps((u("Add."),), ("1 + 2 = 3", "3 + 3 = 7"), (1.0, 0.25))],
    ),
    "trl_stepwise": (
        [{"prompt": "Add.", "completions": ["1 + 2 = 3", "3 + 3 = 7"], "labels": [True, False]}],
        [Steps((u("Add."),), ("1 + 2 = 3", "3 + 3 = 7"), (1.0, 0.0))],
    ),
    "prm800k": (
        [PRM800K],
        [
            Steps((u("Add 1, 2 and 3."),), ("1 + 2 = 4",), (0.0,)),
            Steps((u("Add 1, 2 and 3."),), ("1 + 2 = 3", "So it is large."), (1.0, 0.0)),
            Steps((u("Add 1, 2 and 3."),), ("1 + 2 = 3", "3 + 3 = 6"), (1.0, 1.0)),
        ],
    ),
    "math_shepherd": (
        [{"input": SHEPHERD.format("ки", "ки"), "label": SHEPHERD.format("+", "-"), "task": "GSM8K"}],
        [
            Steps(
                (u("Add 1, 2 and 3."),),
                ("Step 1: 1 + 2 = 3", "Step 2: 3 + 3 = 7. The answer is: 7"),
                (1.0, 0.0),
            )
        ],
    ),
    "oasst": (
        [OASST],
        [
            Conversation((u("Name a tree."), a("Elm."))),
            Conversation((u("Name a tree."), a("Oak."), u("Another."), a("Ash."))),
            Conversation((u("Name a tree."), a("Fig."))),
        ],
    ),
    "oasst_ranking": (
        [OASST],
        [Ranking((u("Name a tree."),), ((a("Elm."),), (a("Oak."),), (a("Fig."),)), (2, 1, 3))],
    ),
    "verl": (
        [
            {
                "data_source": "openai/gsm8k",
                "prompt": chat(u("1 + 1?")),
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": "2"},
                "extra_info": {"index": 7},
            }
        ],
        [Task((u("1 + 1?"),), "2", "openai/gsm8k", {"style": "rule", "ability": "math", "extra_info": {"index": 7}})],
    ),
    "rlvr": (
        [{"messages": chat(u("1 + 1?")), "ground_truth": "2", "dataset": "gsm8k"}],
        [Task((u("1 + 1?"),), "2", "gsm8k")],
    ),
    "gsm8k": (
        [{"question": "1 + 999?", "answer": "1 + 999 = <<1+999=1000>>1,000\n#### 1,000"}],
        [Task((u("1 + 999?"),), "1000", "gsm8k", {"solution": "1 + 999 = <<1+999=1000>>1,000\n#### 1,000"})],
    ),
    "code_tests": (
        [{"question": "Add two numbers.", "test_cases": ["assert add(1, 1) == 2"]}],
        [Task((u("Add two numbers."),), None, "code", {"tests": ["assert add(1, 1) == 2"]})],
    ),
    "task": (
        [{"prompt": "1 + 1?", "answer": "2", "task": "sums", "info": '{"level": 1}'}],
        [Task((u("1 + 1?"),), "2", "sums", {"level": 1})],
    ),
    "question_task": ([{"question": "1 + 1?", "answer": "2"}], [Task((u("1 + 1?"),), "2")]),
    "problem_task": (
        [{"problem": "1 + 1?", "answer": "2", "solution": "Count."}],
        [Task((u("1 + 1?"),), "2", "", {"solution": "Count."})],
    ),
    "solution_task": ([{"prompt": chat(u("1 + 1?")), "solution": "2"}], [Task((u("1 + 1?"),), "2")]),
    "prompt_only": ([{"prompt": "Hi", "system": "Be kind."}], [Task((s("Be kind."), u("Hi")))]),
}


def bare(records):
    """Without where they came from."""
    return [type(r)(**{f: getattr(r, f) for f in r.__dataclass_fields__ if f != "origin"}) for r in records]


def test_every_format_has_an_example():
    assert set(EXAMPLES) == {format.name for format in FORMATS}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_format_is_recognised_and_means_its_records(tmp_path, name):
    rows, records = EXAMPLES[name]
    path = write(tmp_path / "rows.jsonl", *rows)
    format = named(name)
    asked = {"format": name} if format.by_name else {}
    loaded = load_records(path, wants=format.kind, **asked)
    assert loaded.report.format == name
    assert bare(loaded.records) == records
    assert loaded.report.rows == loaded.report.kept == len(rows)
    assert loaded.report.records == len(records)
    origins = [r.origin for r in loaded.records]
    assert len(set(origins)) == len(origins)
    assert {origin.partition("#")[0] for origin in origins} == {f"rows.jsonl:{i + 1}" for i in range(len(rows))}
    assert bare(load_records(path, wants=format.kind, format=name).records) == records


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_it_means_can_be_written_in_our_form_and_read_again(tmp_path, name):
    records = EXAMPLES[name][1]
    path = write(tmp_path / "ours.jsonl", *map(as_nurture, records))
    again = load_records(path, wants=named(name).kind)
    assert bare(again.records) == records and not again.report.ignored


@pytest.mark.parametrize("name", [n for n in EXAMPLES if not named(n).by_name])
def test_without_a_wish_the_format_is_still_one_that_fits(tmp_path, name):
    reading = Reading(write(tmp_path / "rows.jsonl", *EXAMPLES[name][0]))
    assert all(isinstance(found, list) for found in reading)
    twins = {
        "question_answer": {"question_answer", "question_task"},
        "question_task": {"question_answer", "question_task"},
        "oasst_ranking": {"oasst"},
        "ultrafeedback_ranking": {"ultrafeedback"},
    }
    assert reading.report.format in twins.get(name, {name})


@pytest.mark.parametrize(
    "name, changed, code",
    [
        ("sharegpt", {"conversations": [{"from": "elf", "value": "Hi"}]}, "UNKNOWN_ROLE"),
        ("sharegpt", {"conversations": [{"value": "Hi"}]}, "MISSING_ROLE"),
        ("sharegpt", {"conversations": [{"from": "function_call", "value": "add(1)"}]}, "WRONG_TYPE"),
        ("rounds", {"conversation": [{"human": "Hi"}]}, "WRONG_TYPE"),
        ("alpaca", {"instruction": "", "input": "", "output": "3"}, "EMPTY_PROMPT"),
        ("ultrachat", {"data": ["Hi", 7]}, "WRONG_TYPE"),
        ("ultrachat", {"data": ["Hi"]}, "NO_ASSISTANT"),
        ("self_instruct", {"instances": []}, "NO_ASSISTANT"),
        ("pair", {"prompt": "Hi", "chosen": "Same.", "rejected": "Same."}, "SAME_ANSWERS"),
        ("pair", {"prompt": "Hi", "chosen": "", "rejected": "No."}, "EMPTY_ANSWER"),
        ("pair", {"prompt": "Hi", "chosen": chat(u("Ho"), a("x")), "rejected": "No."}, "PROMPTS_DIFFER"),
        ("pair", {"prompt": "", "chosen": "Yes.", "rejected": "No."}, "EMPTY_PROMPT"),
        ("pair", {"prompt": "Hi", "chosen": "Yes.", "rejected": "No.", "margin": "wide"}, "WRONG_TYPE"),
        ("pair_implicit", {"chosen": "Yes, sir.", "rejected": "No."}, "NO_PROMPT"),
        ("pair_implicit", {"chosen": chat(u("A"), a("x")), "rejected": chat(u("B"), a("y"))}, "NO_PROMPT"),
        ("hh_rlhf", {"chosen": HH.format("Ash."), "rejected": HH.format("Ash.")}, "SAME_ANSWERS"),
        ("hh_rlhf", {"chosen": HH.format("Ash."), "rejected": HH.format("")}, "EMPTY_ANSWER"),
        ("hh_rlhf", {"chosen": HH.format("x").replace("tree", "cat"), "rejected": HH.format("x")}, "NO_PROMPT"),
        (
            "hh_rlhf",
            {"chosen": HH.format("x").replace("Another", "More"), "rejected": HH.format("x")},
            "PROMPTS_DIFFER",
        ),
        ("ranking", {"responses": ["a", "b"], "ranks": [1, 2, 3]}, "LENGTHS_DIFFER"),
        ("ranking", {"responses": ["a"], "ranks": [1]}, "TOO_FEW"),
        ("ranking", {"responses": ["a", "b"], "ranks": [0, 1]}, "WRONG_TYPE"),
        ("nectar", {"answers": [{"answer": "x"}]}, "MISSING_FIELD"),
        ("ultrafeedback", {"completions": [{"response": "x"}]}, "MISSING_FIELD"),
        ("rating_score", {"score": None}, "NULL_FIELD"),
        ("rating_score", {"score": float("nan")}, "NOT_FINITE"),
        ("kto", {"label": "perhaps"}, "WRONG_TYPE"),
        ("kto", {"label": None}, "NULL_FIELD"),
        ("kto_messages", {"messages": chat(u("Hi"))}, "NO_ASSISTANT"),
        ("steps", {"steps": [], "labels": []}, "NO_STEPS"),
        ("steps", {"steps": ["x"], "labels": [2]}, "WRONG_TYPE"),
        ("trl_stepwise", {"labels": [True]}, "LENGTHS_DIFFER"),
        ("prm800k", {"label": {"steps": []}}, "NO_STEPS"),
        ("math_shepherd", {"label": SHEPHERD.format("+", "-").replace("1 + 2", "2 + 1")}, "LABELS_DIFFER"),
        ("math_shepherd", {"label": SHEPHERD.format("+", "?")}, "LABELS_DIFFER"),
        ("oasst", {"tree_state": "growing"}, "NOT_READY"),
        ("oasst", {"prompt": node("prompter", "Hi")}, "NO_ASSISTANT"),
        ("oasst_ranking", {"prompt": node("prompter", "Hi", node("assistant", "Yes.", rank=0))}, "TOO_FEW"),
        ("verl", {"reward_model": {"style": "rule"}}, "WRONG_TYPE"),
        ("gsm8k", {"answer": "It is 3."}, "NO_ANSWER"),
        ("task", {"info": "no JSON"}, "WRONG_TYPE"),
    ],
)
def test_what_is_wrong_with_a_row_has_a_code(name, changed, code):
    row = EXAMPLES[name][0][0] | changed
    with pytest.raises(Fault) as caught:
        convert(row, "rows.jsonl:1", named(name))
    assert caught.value.code == code, caught.value.message


def test_a_labelled_completion_is_no_demonstration(tmp_path):
    """The bad answers of such a file must not be imitated because somebody runs SFT on it."""
    path = write(tmp_path / "rows.jsonl", *EXAMPLES["kto"][0][:1])
    with pytest.raises(InputError, match=r"kto \(ratings\).*format: prompt_completion"):
        load_records(path, wants="conversation")
    loaded = load_records(path, wants="conversation", format="prompt_completion")
    assert loaded.report.ignored == {"label": 1}


def test_roles_and_keys_of_any_name(tmp_path):
    rows = [{"dialog": [{"speaker": "patient", "text": "It hurts."}, {"speaker": "doctor", "text": "Where?"}]}]
    path = write(tmp_path / "rows.jsonl", *rows)
    columns = {"messages": "dialog", "role": "speaker", "content": "text"}
    with pytest.raises(BadRows, match=r"role\.user: patient"):
        load_records(path, wants="conversation", columns=columns)
    columns |= {"role.user": "patient", "role.assistant": "doctor"}
    (record,) = load_records(path, wants="conversation", columns=columns).records
    assert record.messages == (u("It hurts."), a("Where?"))


def test_columns_that_are_not_there_are_errors(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"frage": "Hi", "antwort": "Hello."})
    with pytest.raises(InputError, match=r"no row has a column 'farge'\. Did you mean 'frage'"):
        load_records(path, wants="conversation", columns={"prompt": "farge", "completion": "antwort"})
    with pytest.raises(InputError, match=r"'promt' is a key of no format.*Did you mean 'prompt'"):
        load_records(path, wants="conversation", columns={"promt": "frage", "completion": "antwort"})


def test_a_column_of_our_name_that_means_something_else_is_set_aside(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"prompt": "id-7", "q": "Hi", "completion": "Hello."})
    loaded = load_records(path, wants="conversation", columns={"prompt": "q"})
    assert bare(loaded.records) == [Completion("Hi", "Hello.")]
    assert loaded.report.ignored == {"prompt (not in columns)": 1}


def test_weights_say_what_is_trained(tmp_path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No.", "weight": 0}]
    turns += [{"role": "user", "content": "Hm"}, {"role": "assistant", "content": "Yes.", "weight": 1}]
    (record,) = load_records(write(tmp_path / "rows.jsonl", {"messages": turns}), wants="conversation").records
    assert [m.train for m in record.messages] == [None, False, None, True]
    turns[1]["weight"] = 0.5
    with pytest.raises(BadRows, match=r"must be 0 or 1, found 0\.5"):
        load_records(write(tmp_path / "rows.jsonl", {"messages": turns}), wants="conversation")


class TestServing:
    """Records of one kind where another is wanted."""

    def read(self, tmp_path, name, wants, **options):
        reading = Reading(write(tmp_path / "rows.jsonl", *EXAMPLES[name][0]), wants=wants, **options)
        return [record for found in reading for record in found], reading.report

    def test_rankings_make_all_their_pairs(self, tmp_path):
        records, report = self.read(tmp_path, "ranking", "pair")
        pairs = [(r.chosen[0].content, r.rejected[0].content, r.margin) for r in records]
        assert pairs == [("Hello.", "What?", None), ("Yes?", "What?", None)]  # a tie is no pair
        assert (report.rows, report.records, report.kind) == (1, 2, "pair") and "pair" in report.served
        records, _ = self.read(tmp_path, "stable_alignment", "pair")
        assert [r.margin for r in records] == [4.0]

    def test_a_ranking_of_ties_makes_none(self, tmp_path):
        path = write(tmp_path / "rows.jsonl", {"prompt": "Hi", "responses": ["a", "b"], "ranks": [1, 1]})
        with pytest.raises(BadRows, match="ALL_TIED"):
            load_records(path, wants="pair")

    def test_pairs_as_rankings_and_labels(self, tmp_path):
        records, _ = self.read(tmp_path, "hh_rlhf", "ranking")
        assert bare(records) == [Ranking(ASKED, ((a("Ash."),), (a("Cat."),)), (1, 2))]
        records, _ = self.read(tmp_path, "hh_rlhf", "rating")
        assert [(r.response[0].content, r.scores) for r in records] == [
            ("Ash.", {"desirable": 1.0}),
            ("Cat.", {"desirable": 0.0}),
        ]

    def test_conversations_as_prompts(self, tmp_path):
        records, _ = self.read(tmp_path, "rounds", "task")
        assert bare(records)[0] == Task((u("Hi"), a("Hello."), u("Bye")), None, "", {"reference": "Bye!"})

    def test_the_better_answers_are_demonstrations_only_on_request(self, tmp_path):
        with pytest.raises(InputError, match="--as conversation"):
            self.read(tmp_path, "pair", "conversation")
        records, report = self.read(tmp_path, "pair", "conversation", on_request=True)
        assert bare(records)[0] == Conversation((u("Hi"), a("Hello."))) and "chosen" in report.served

    def test_what_cannot_serve_is_refused(self, tmp_path):
        for name, wants in (("text", "pair"), ("steps", "conversation"), ("kto", "pair"), ("task", "text")):
            with pytest.raises(InputError, match=f"of format {name}"):
                self.read(tmp_path, name, wants)


def test_the_page_lists_every_format():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    for format in FORMATS:
        columns = ", ".join(f"`{column}`" for column in format.required)
        assert f"| `{format.name}` | {format.kind} | {columns}" in page
    for (have, want), serving in SERVES.items():
        assert f"| {have} | {want} | {serving.says}" in page


def test_the_page_lists_every_code():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    sources = Path(nurture.data.__file__).parent
    read = [p for p in sources.rglob("*.py") if p.parent.name == "formats" or p.stem in READERS]
    raised = re.compile(r'(?:Fault|DataError|BadRow)\([^"()]*(?:\([^()]*\)[^"()]*|f"[^"]*"[^"]*)*"([A-Z_]{3,})"')
    codes = {code for p in read for code in raised.findall(p.read_text(encoding="utf-8"))}
    assert len(codes) > 35
    assert sorted(code for code in codes if f"`{code}`" not in page) == []


READERS = ("read", "json_rows", "table_rows", "sources", "rows", "convert", "load")
