"""Whole runs of stages that begin with a model's own answers: ReST, rejection sampling, online DPO, a curriculum."""

import json

import pytest
from rich.console import Console
from shorter import shorter
from test_run_online import SHORT, TINY

from nurture import api
from nurture.errors import InputError
from nurture.lab.datasets import open_dataset
from nurture.runs import rows_of

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def few_rows():
    with shorter({"lab/prompts": 28, "lab/reasoning": 28}):
        yield


def run(tmp_path, stages, **words):
    recipe = {"name": "drawn", "stages": stages}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    return api.run(tmp_path / "recipe.yaml", (), tmp_path / "run", console=QUIET)


COMMON = {"precision": "fp32", "steps": 2, "batch_size": 4, "learning_rate": 1e-2, "samples": {"count": 0}}
START = {**COMMON, "method": "sft", "data": "lab/reasoning", "model": {
    "config": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
               "num_attention_heads": 2}, "tokenizer": "lab"}}  # fmt: skip


def drawn(keep, model="start", **more):
    reward = {"name": "regex", "pattern": "e.*e"}
    settings = {"model": model, "n": 4, "max_completion_length": 6, "reward": reward, "keep": keep, **more}
    return {"path": "lab/prompts", "draw": settings}


def test_grow_once_and_improve_twice(tmp_path):
    """ReST: both improving stages learn from the same answers, drawn once; each row scores above the threshold."""
    rest = {
        "start": START,
        "first": {**COMMON, "method": "sft", "model": "start", "data": drawn("all", above=-0.5)},
        "second": {**COMMON, "method": "sft", "model": "first", "data": [drawn("all", above=0.5), "lab/reasoning"]},
    }
    run(tmp_path, rest)
    out = tmp_path / "run"
    (answers,) = (out / "first" / "drawn").glob("*.jsonl")
    assert not (out / "second" / "drawn").exists(), "the second stage reads what the first one drew"
    rows = [json.loads(line) for line in answers.read_text().split("\n")[1:-1]]
    assert len(rows) == 28 and all(len(r["answers"]) == 4 for r in rows)
    scores = {(r["prompt"][-1]["content"], a["text"]): a["score"] for r in rows for a in r["answers"]}
    for stage, floor in (("first", -0.5), ("second", 0.5)):
        learnt = [r["messages"] for r in rows_of(out / stage / "drawn-0.jsonl")]
        pairs = [(m[-2]["content"], m[-1]["content"]) for m in learnt]
        assert sorted(pairs) == sorted(
            pair for pair, score in scores.items() if score > floor and pair[1].strip() and "\0" not in pair[1]
        )
    report = json.loads((out / "second" / "data_report.json").read_text())
    assert report[0]["source"] == "lab/prompts answered by start" and report[1]["source"] == "lab/reasoning"
    models = [(out / s / "model" / "model.safetensors").read_bytes() for s in rest]
    assert len(set(models)) == 3
    run(tmp_path, rest)
    assert [(out / s / "model" / "model.safetensors").read_bytes() for s in rest] == models, "finished stages stay"


def test_online_dpo_in_two_rounds(tmp_path):
    dpo = {**COMMON, "method": "dpo", "beta": 0.1}
    run(tmp_path, {
        "start": START,
        "one": {**dpo, "model": "start", "data": drawn("pairs")},
        "two": {**dpo, "model": "one", "data": drawn("pairs", "one")},
    })  # fmt: skip
    for stage in ("one", "two"):
        rows = list(rows_of(tmp_path / "run" / stage / "drawn-0.jsonl"))
        assert rows and all(r["margin"] == 1.0 for r in rows)
        assert list((tmp_path / "run" / stage / "drawn").iterdir()), "each round draws from its own model"


def test_all_answers_to_a_task_are_a_ranking(tmp_path):
    """As people order K answers for InstructGPT's reward model; a method of rated groups learns from the same."""
    common = {**COMMON, "model": "start", "data": drawn("rankings")}
    run(tmp_path, {"start": START, "judge": {**common, "method": "reward"}, "stable": {**common, "method": "stable"}})
    out = tmp_path / "run"
    rows = list(rows_of(out / "judge" / "drawn-0.jsonl"))
    assert len({row["prompt"][0]["content"] for row in rows}) == len(rows) and max(len(r["ranks"]) for r in rows) > 2
    for stage in ("judge", "stable"):
        (told,) = (event["data"] for event in rows_of(out / stage / "events.jsonl") if event["event"] == "start")
        assert f"{len(rows)} rows of format ranking, {len(rows)} kept" in told and "records made" not in told


def test_a_curriculum_shows_the_easiest_tasks_first(tmp_path):
    grpo = {**COMMON, "method": "grpo", "model": "start", "num_generations": 2, "max_completion_length": 6}
    data = drawn("tasks", above=-0.5, below=0.9)
    grpo |= {"reward": {"name": "regex", "pattern": "e"}, "data": data, "steps": 3, "samples": {"count": 0}}
    run(tmp_path, {"start": START, "grpo": grpo})
    out = tmp_path / "run" / "grpo"
    ease = {r["task"]: r["score"] for r in rows_of(out / "drawn-0.jsonl")}
    texts = {row.origin: row.prompt[0].content for row in open_dataset("lab/prompts")}
    told = {texts[name]: score for name, score in ease.items()}
    rows = rows_of(out / "samples.jsonl")
    shown = [row["prompt"].removeprefix("<|im_start|>user\n").partition("<|im_end|>")[0] for row in rows]
    asked = list(dict.fromkeys(shown))
    assert [told[text] for text in asked] == sorted(ease.values(), reverse=True)[: len(asked)]


def test_a_killed_drawing_goes_on(tmp_path):
    """(The bytes are tested where they are drawn.) Half the file, and the stage is as it was."""
    stages = {"start": START, "sft": {**COMMON, "method": "sft", "model": "start", "data": drawn("all")}}
    run(tmp_path, stages)
    out = tmp_path / "run" / "sft"
    (path,) = (out / "drawn").glob("*.jsonl")
    whole, model = path.read_bytes(), (out / "model" / "model.safetensors").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    run(tmp_path, stages)
    assert path.read_bytes() == whole and (out / "model" / "model.safetensors").read_bytes() == model


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data={path: lab/prompts, draw: {model: lab, keep: pairs}}"], "draw.keep is pairs, which method 'sft'"),
        (["data={path: rows.jsonl, draw: {model: lab}}"], "data: draw: reward is missing"),
        (["data={path: lab/demonstrations, draw: {model: lab}}"], "holds Conversation records, but what is wanted"),
        (["data={path: lab/prompts, draw: {model: lab, below: 1}}"], "below chooses tasks"),
        (
            ["data={path: lab/prompts, kind: task, draw: {model: lab}}"],
            "kind: what a model drew becomes what draw.keep",
        ),
        (["data={path: lab/prompts, draw: {model: lab, most: 1}}"], "most limits how many answers"),
        (["data=lab/reasoning", "eval.data={path: lab/prompts, draw: {model: lab}}"], "draw makes training data"),
        (["data={path: lab/prompts, draw: {model: lab, max_completion_length: 9000}}"], "leaves no room for any"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path, words, sentence):
    with pytest.raises(InputError) as error:
        api.train("sft", [TINY, *SHORT[:3], *words, f"out={tmp_path / 'refused'}"], console=QUIET)
    assert sentence in str(error.value)
    assert not (tmp_path / "refused").exists()


def test_a_method_is_offered_what_it_learns_from():
    words = ["data={path: lab/prompts, draw: {model: lab, keep: all}}"]
    for method, keep in (("stable", "rankings"), ("dpo", "pairs"), ("reward", "pairs or keep: rankings")):
        with pytest.raises(InputError, match=rf"method '{method}' cannot learn from; set keep: {keep}\.$"):
            api.train(method, [TINY, *words], console=QUIET)


def test_a_dry_run_draws_nothing(tmp_path):
    words = [TINY, "data={path: lab/prompts, draw: {model: lab}}", f"out={tmp_path / 'dry'}"]
    assert api.train("sft", words, dry_run=True, console=QUIET) is None
    assert not (tmp_path / "dry").exists()
