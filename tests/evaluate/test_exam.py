"""Answers are the model's own, grades the oracle's, and a kept grade is used only for the same model and exam."""

import json

import pytest
import torch

from nurture.data.template import Template
from nurture.errors import InputError
from nurture.evaluate.answers import CRITERIA, draw_answers, grade_answers, open_to_talk, summary
from nurture.evaluate.exam import Exam, Examined, examine, report_json
from nurture.evaluate.statistics import pass_at_k
from nurture.lab.datasets import open_dataset
from nurture.lab.oracle import grade
from nurture.models.load import lab_model, load_model
from nurture.models.save import save_model

CONFIG = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random model with the lab's tokenizer."""
    model = {"config": CONFIG, "tokenizer": str(lab_model())}
    loaded = load_model(model, dtype=torch.float32, device=torch.device("cpu"), seed=3)
    out = tmp_path_factory.mktemp("models") / "tiny"
    stops = Template(loaded.tokenizer).stop_ids
    save_model(
        loaded.model, loaded.tokenizer, out, state=None, dtype=torch.float32, card="", original_dropout=None,
        stop_ids=stops,
    )  # fmt: skip
    return out


def gold(wrong_every: int, samples: int = 1):
    """Gold answers, with a wrong one now and then."""
    tasks = open_dataset("lab/test", n=56)[:]
    answers = [
        [t.info["wrong"][0] if (i * samples + k) % wrong_every == 0 else t.answer for k in range(samples)]
        for i, t in enumerate(tasks)
    ]
    return tasks, answers


def test_answers_are_what_generate_writes(folder):
    loaded, template = open_to_talk(str(folder), precision="fp32")
    tasks = open_dataset("lab/test", n=6)[:]
    ours = draw_answers(loaded.model, template, tasks, max_tokens=12)
    for task, (text,) in zip(tasks, ours, strict=True):
        ids = torch.as_tensor(template.encode_prompt(task.prompt))[None]
        plain = load_model(folder, dtype=torch.float32, device=torch.device("cpu"), seed=0).model
        plain.set_attn_implementation("eager")
        out = plain.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=list(template.stop_ids))
        theirs = [int(i) for i in out[0, ids.shape[1] :]]
        if theirs and theirs[-1] in template.stop_ids:
            theirs.pop()
        assert text == template.tokenizer.decode(theirs)


def test_an_answer_with_control_tokens_inside_keeps_them(folder):
    _, template = open_to_talk(str(folder))
    ids = template.tokenizer("no<|im_start|>yes")["input_ids"]
    assert template.tokenizer.decode(ids) == "no<|im_start|>yes"


def test_the_summary_is_the_mean_of_the_oracles_grades():
    tasks, answers = gold(wrong_every=4)
    found = summary(grade_answers(tasks, answers))
    grades = [grade(t, a) for t, (a,) in zip(tasks, answers, strict=True)]
    for of in CRITERIA:
        assert found[of]["mean"] == pytest.approx(sum(getattr(g, of) for g in grades) / len(grades))
        assert found[of]["n"] == 56
    assert set(found["families"]) == {t.family for t in tasks} and "pass_at" not in found
    assert found["declines"]["harmful"]["mean"] > found["declines"]["benign"]["mean"]


def test_several_answers_count_as_one_task_and_give_pass_at_k():
    tasks, answers = gold(wrong_every=3, samples=4)
    found = summary(grade_answers(tasks, answers))
    right = [sum(grade(t, a).overall > 0.999 for a in some) for t, some in zip(tasks, answers, strict=True)]
    assert found["overall"]["n"] == 56
    assert set(found["pass_at"]) == {"1", "2", "4"}
    for k in (1, 2, 4):
        assert found["pass_at"][str(k)]["mean"] == pytest.approx(sum(pass_at_k(4, c, k) for c in right) / 56)


def test_the_report_pairs_task_with_task():
    tasks, good = gold(wrong_every=7)
    _, bad = gold(wrong_every=2)
    report = report_json([Examined("base", grade_answers(tasks, bad)), Examined("sft", grade_answers(tasks, good))], 9)
    difference = report["differences"]["sft"]["overall"]
    means = [report["models"][name]["overall"]["mean"] for name in ("base", "sft")]
    assert difference["mean"] == pytest.approx(means[1] - means[0]) and difference["p"] < 0.01
    assert report["seconds"] == 9
    json.dumps(report, allow_nan=False)


def test_kept_grades_are_used_for_the_same_model_and_exam_only(folder, tmp_path):
    exam = Exam(n=14, max_tokens=8)
    first = examine("tiny", str(folder), exam, cache=tmp_path)
    kept = tmp_path / "tiny.json"
    known = json.loads(kept.read_text())
    known["answers"][0]["reason"] = "read from the cache"
    kept.write_text(json.dumps(known))
    again = examine("tiny", str(folder), exam, cache=tmp_path)
    assert again.graded[0].reason == "read from the cache" and list(again.graded)[1:] == list(first.graded)[1:]
    other = examine("tiny", str(folder), Exam(n=14, max_tokens=9), cache=tmp_path)
    assert other.graded[0].reason != "read from the cache"


def test_only_tasks_can_be_examined():
    with pytest.raises(InputError, match=r"lab/demonstrations holds no tasks .* lab/prompts-test, lab/test"):
        Exam(data="lab/demonstrations", n=3).tasks()
